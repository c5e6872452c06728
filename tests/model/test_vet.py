"""No JSON file of a model, a tokenizer or an adapter brings code, on any way in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luthier.config.schema import ModelSection
from luthier.errors import ModelError
from luthier.generate.load import load
from luthier.generate.weights import Base, load_base
from luthier.model.hub import load_config, load_tokenizer
from luthier.model.vet import check_code, vet
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
HOSTILE = {
    "config.json": [
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"auto_map": {"AutoModelForCausalLM": "owner/repo--evil.Model"}},
        {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}},
        {"_attn_implementation_internal": "owner/kernel"},
        {"attn_implementation": "owner/kernel:attention"},
        {"_attn_implementation": {"text_config": "owner/kernel"}},
        {"experts_implementation": "owner/experts"},
        {"sub": [{"deeper": {"_experts_implementation_internal": "sdpa"}}]},
        {"architectures": ["evil.module.Model"]},
    ],
    "tokenizer_config.json": [
        {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
        {"tokenizer_class": "evil.Tokenizer"},
        {"processor_class": "owner/repo--evil.Processor"},
    ],
    "adapter_config.json": [
        {"auto_mapping": {"base_model_class": "Model", "parent_library": "evil.module"}},
        {"auto_mapping": ["evil"]},
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
    ],
    "generation_config.json": [{"auto_map": {"x": "evil.f"}}],
}
CASES = [(file, change) for file, changes in HOSTILE.items() for change in changes]


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))


def changed(path, change):
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **change}))


@pytest.mark.parametrize(("file", "change"), CASES)
def test_e_model_005_each_of_them_is_refused(file, change, folder):
    changed(folder / file, change)
    for way in (check_code, vet):
        with pytest.raises(ModelError, match="E-MODEL-005") as caught:
            way(str(folder))
        assert file in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {}},
        {"attn_implementation": "sdpa"},
        {"_attn_implementation": {"text_config": "flash_attention_2", "": "eager"}},
        {"auto_mapping": None, "megatron_core": "megatron.core", "megatron_config": None},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.llama.modeling_llama"}},
        {"architectures": ["LlamaForCausalLM"], "tokenizer_class": "PreTrainedTokenizerFast"},
    ],
)  # fmt: skip
def test_what_libraries_write_themselves_passes(change, folder):
    changed(folder / "config.json", change)
    changed(folder / "adapter_config.json", change)
    check_code(str(folder))


def test_e_model_005_on_the_way_into_training(folder):
    section = ModelSection(model_name_or_path=str(folder))
    changed(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    with pytest.raises(ModelError, match="E-MODEL-005"):
        load_config(section)
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    with pytest.raises(ModelError, match="E-MODEL-005"):
        load_tokenizer(ModelSection(tokenizer_name_or_path=str(other)), None)
    changed(folder / "tokenizer_config.json", {"auto_map": None})
    assert load_config(section).model_type == "llama"


def test_code_that_the_user_trusts_is_the_users(folder):
    changed(folder / "config.json", {"auto_map": {"AutoConfig": "evil.Config"}})
    (folder / "evil.py").write_text("raise SystemExit('it was loaded')")
    with pytest.raises((SystemExit, ModelError), match=r"it was loaded|evil"):
        load_config(ModelSection(model_name_or_path=str(folder), trust_remote_code=True))


@pytest.mark.parametrize("file", ["adapter_config.json", "tokenizer_config.json", "base"])
def test_e_model_005_on_the_way_out_of_a_run(file, folder, alpaca_file, tmp_path):
    """load, chat, compare, merge and export all come through here."""
    train_tiny(tmp_path / "run", folder, alpaca_file, {"training": {"max_steps": 1}})
    final = tmp_path / "run" / "final_model"
    place, change = final / file, {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}}
    if file == "adapter_config.json":
        change = {"auto_mapping": {"parent_library": "evil"}}
    if file == "base":
        place = folder / "config.json"
    changed(place, change)
    with pytest.raises(ModelError, match="E-MODEL-005"):
        load(tmp_path / "run")
    if file == "base":
        with pytest.raises(ModelError, match="E-MODEL-005"):
            load_base(Base(str(folder)))
