"""JSON schema, reference page, explanations, and the shipped headline config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from luthier.config import aliases, meanings
from luthier.config.docs import explain_key, json_schema
from luthier.config.keys import SECTIONS, keys, source_keys
from luthier.config.load import load
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes
from luthier.config.resolve import resolve
from luthier.errors import CODES

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "training_config.yaml"


def test_the_config_for_ones_own_rows_is_the_headline_job_on_other_rows(plan):
    """Few lines, each with what it is for, and nothing that only suits the small base of the quickstart."""
    path = ROOT / "configs" / "my_rows.yaml"
    mine, headline = load(path), load(SHIPPED)
    for key in ("learning_rate", "min_learning_rate", "warmup_ratio", "num_train_epochs", "adam_beta2"):
        assert getattr(mine.config.training, key) == getattr(headline.config.training, key), key
    assert (mine.config.lora, mine.config.quantization) == (headline.config.lora, headline.config.quantization)
    assert mine.config.model == headline.config.model and mine.config.evaluation.sample_prompts == []
    assert mine.notes == () and plan(config=mine.written).warnings == ()
    said = [line for line in path.read_text("utf-8").splitlines() if line.startswith("  ") and ": " in line]
    assert sum("#" in line for line in said) >= len(said) - 3 and len(said) < 20


def test_the_schema_lists_every_key_with_its_text_and_nothing_else():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(SECTIONS)
    for section, model in SECTIONS.items():
        part = schema["$defs"][model.__name__]
        assert part["additionalProperties"] is False
        assert set(part["properties"]) == {k.name for k in keys().values() if k.section == section}
        assert all(prop["description"] for prop in part["properties"].values())
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "key",
    [*keys(), *aliases.RENAMED, *aliases.DECIDED, *aliases.UNSUPPORTED, *meanings.KEYS, *SECTIONS, "path", "weight"],
)
def test_every_word_that_is_accepted_can_be_explained(key):
    text = explain_key(key)
    assert key.rpartition(".")[2] in text
    assert "None" not in text


def test_explanations_say_what_a_user_needs():
    text = explain_key("lora_rank")
    for words in ("r (section lora)", "lora_rank is its name in other tools", "of at least 1", "`16`", "rank"):
        assert words in text
    with pytest.raises(KeyError, match="no key"):
        explain_key("model.weight")


def test_every_code_of_the_family_is_provoked_by_a_test_and_explained():
    codes = {code for code in CODES if code.startswith("E-CFG-")}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert {code for code in codes if code not in tests} == set()
    for code in codes:
        assert len(CODES[code].text) > 60
        assert CODES[code].why.endswith(".")
    source = "".join(path.read_text() for path in (ROOT / "src" / "luthier" / "config").glob("*.py"))
    assert {code for code in codes if code not in source} == set()


def test_the_shipped_config_is_the_headline_job_and_mentions_every_key():
    text = SHIPPED.read_text()
    assert text.startswith("# yaml-language-server: $schema=../luthier.schema.json\n")
    content = yaml.safe_load(text)
    assert {f"{section}.{key}" for section, part in content.items() for key in part} == set(keys())
    assert set(content["data"]["datasets"][0]) == set(source_keys())
    loaded = load(SHIPPED)
    assert loaded.notes == ()
    assert "default" not in loaded.sources.values()
    config = loaded.config
    assert config.model.model_name_or_path == "meta-llama/Llama-3.2-1B"
    assert config.data.datasets[0].path == "iamtarun/python_code_instructions_18k_alpaca"
    assert (config.training.learning_rate, config.training.min_learning_rate) == (2e-4, 5e-5)
    assert (config.quantization.load_in_4bit, config.quantization.bnb_4bit_quant_type) == (True, "nf4")


def test_the_shipped_config_resolves_to_3315_steps_without_a_warning():
    gpu = MachineFacts("cuda", "NVIDIA L40S", 1, True, 44.4, 43.9, 16, True)
    llama = ModelFacts("LlamaForCausalLM", 1_235_814_400, 11_272_192, 16, 2048, 128_256, 131_072, True)
    rows = DataFacts(17_682, 930, 5_000_000, 3_100_000, 1800, "alpaca", "f00d")
    plan = resolve(load(SHIPPED), gpu, llama, rows, passes=Passes(8192))
    assert plan.total_steps == 3315
    assert plan.value("total_steps").how == "18,612 rows x 0.95 x 3 / 16 = 3,315 steps"
    assert plan.warmup_steps == 100
    assert plan.warnings == ()
