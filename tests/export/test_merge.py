"""Whatever Luthier trains is merged as it was trained, or refused; and the proof sees what is not the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from luthier.config.record import load_record, seal
from luthier.errors import DataError, LuthierError, MissingError, ModelError, RefusedError
from luthier.export import agree
from luthier.export.agree import Reference, agreement, reference
from luthier.export.merge import merged
from luthier.export.prompts import BUILT_IN, choose, read
from luthier.export.run import Options, merge_run
from luthier.generate.load import load
from luthier.training.commit import verify
from tests.generate.support import on_any_base, train_tiny
from tests.tiny import build_model, build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
KINDS = {
    "lora": {},
    "4-bit": {"quantization": {"load_in_4bit": True}},
    "fp4": {"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}},
    "8-bit": {"quantization": {"base_precision": "fp8"}},
    "full": {"training": {"finetuning_type": "full"}},
    "rslora": {"lora": {"use_rslora": True, "r": 4}},
    "pissa": {"lora": {"init_lora_weights": "pissa", "r": 8}},
    "dora": {"lora": {"use_dora": True, "target_modules": ["q_proj", "down_proj"]}},
    "4-bit dora": {"lora": {"use_dora": True, "r": 4}, "quantization": {"load_in_4bit": True}},
    "saved layer": {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}},
    "tied, trained whole": {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}},
    "tied, adapted embedding": {"lora": {"target_modules": ["embed_tokens", "v_proj"], "r": 4}},
    "tied, adapted head": {"lora": {"target_modules": ["lm_head", "v_proj"], "r": 4}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, alpaca_file):
    """Makes a run of a kind once; returns its folder."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / "run"
            train_tiny(made[kind], tiny_model_dir, alpaca_file, KINDS[kind])
        return made[kind]

    return make


@pytest.fixture
def copied(runs, tmp_path):
    """A run that a test may damage."""
    return Path(shutil.copytree(runs("lora"), tmp_path / "run"))


def silent(text):
    pass


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[0, 5, 9, 33, 7, 21, 100]])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_computes_what_was_trained(kind, runs):
    trained = load(runs(kind))
    before = logits(trained.model)
    assert not torch.allclose(before, base_logits(trained), atol=1e-3), "the run learned nothing"
    after = logits(merged(runs(kind)).model)
    torch.testing.assert_close(after, before, rtol=0, atol=2e-4)


OTHERS = {
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4)),
    "transposed layers": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4)),
}
SMALL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers_than_linear_ones(kind, tmp_path, alpaca_file):
    build_tokenizer(tmp_path / "base")
    OTHERS[kind]().save_pretrained(tmp_path / "base")
    train_tiny(tmp_path / "run", tmp_path / "base", alpaca_file, {"lora": {"r": 4}, "training": {"max_steps": 3}})
    trained = load(tmp_path / "run")
    assert not torch.allclose(logits(trained.model), base_logits(trained), atol=1e-3)
    torch.testing.assert_close(logits(merged(tmp_path / "run").model), logits(trained.model), rtol=0, atol=1e-5)


def base_logits(trained):
    with trained.as_base():
        return logits(trained.model)


@pytest.mark.parametrize("kind", ["lora", "4-bit", "8-bit", "full", "tied, adapted head", "tied, trained whole"])
def test_plain_transformers_loads_the_folder(kind, runs, tmp_path):
    done = merge_run(runs(kind), tmp_path / "m", None, Options(), silent)
    (proof,) = done.agreements
    assert proof.passed and proof.mean_kl < 1e-8 and proof.top1 == 1.0 and proof.same_text == proof.prompts == 8
    assert done.folder == tmp_path / "m" and "held-out rows" in done.prompts and verify(tmp_path / "m") == ""
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(logits(plain), logits(load(runs(kind)).model), rtol=0, atol=2e-4)
    own = AutoTokenizer.from_pretrained(tmp_path / "m")
    asked = own.apply_chat_template([{"role": "user", "content": "Add"}], add_generation_prompt=True)["input_ids"]
    assert asked == load(runs(kind)).prompt_ids("Add") and plain.generation_config.eos_token_id == [1]
    assert plain.config.tie_word_embeddings == (kind != "tied, adapted head")
    assert not (tmp_path / "m" / "adapter_config.json").exists()
    again = load(tmp_path / "m")
    assert again.generate("Add", 8) == load(runs(kind)).generate("Add", 8)


def test_a_16_bit_format_is_rounded_to_once(runs):
    """One rounding of the float32 sum; peft's own merge in bfloat16 rounds the difference, and then the sum."""
    exact = merged(runs("lora"), dtype=torch.float32).model.state_dict()
    rounded = merged(runs("lora"), dtype=torch.bfloat16).model.state_dict()
    assert {t.dtype for t in rounded.values()} == {torch.bfloat16}
    for name, tensor in exact.items():
        assert torch.equal(rounded[name], tensor.to(torch.bfloat16)), name


@pytest.mark.parametrize(("kind", "numbers"), [("4-bit", "4-bit nf4"), ("8-bit", "8-bit e4m3")])
def test_runs_of_few_bits_are_merged_onto_the_values_they_were_trained_on(kind, numbers, runs, tmp_path):
    trained = merge_run(runs(kind), tmp_path / "a", None, Options(), silent)
    files = merge_run(runs(kind), tmp_path / "b", None, Options(onto="files"), silent)
    assert numbers in trained.onto and trained.beside == () and numbers in files.beside[0].name
    assert files.agreements[0].mean_kl < 1e-8, "a right merge, onto other weights"
    assert files.beside[0].mean_kl > 1000 * trained.agreements[0].mean_kl
    assert "quantization_config" not in json.loads((tmp_path / "a" / "config.json").read_text())


def test_e_export_002_another_base_is_refused(copied, runs, tmp_path):
    build_model(tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    save_file({n: t + 0.05 * torch.randn_like(t) for n, t in tensors.items()}, tmp_path / "other" / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    known = reference(load(runs("lora")).model, [load(runs("lora")).prompt_ids(text) for text in BUILT_IN[:4]], (1,))
    with pytest.raises(ModelError, match="E-MODEL-017"):
        merge_run(copied, tmp_path / "to", None, Options(base=str(tmp_path / "other")), silent)
    assert not (tmp_path / "to").exists()
    on_any_base(copied)
    found = agreement("other", known, load(copied, base=str(tmp_path / "other")).model)
    assert not found.passed
    with pytest.raises(RefusedError, match="E-EXPORT-002") as caught:
        agree.require([found], "the merged model")
    assert caught.value.exit_code == 3 and "mean KL" in str(caught.value)


def test_e_export_002_leaves_nothing_at_the_destination(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(agree, "MOST_KL", -1.0)
    with pytest.raises(RefusedError, match="E-EXPORT-002"):
        merge_run(runs("lora"), tmp_path / "m", None, Options(), silent)
    assert list(tmp_path.iterdir()) == []


def test_e_export_001_nothing_is_written_over(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(MissingError, match="E-EXPORT-001"):
            merge_run(runs("lora"), tmp_path / "mine", None, Options(overwrite=overwrite), silent)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["final_model", "checkpoint-8"])
def test_e_export_001_a_run_is_no_earlier_export(name, copied, runs):
    before = sorted(path for path in copied.rglob("*") if path.is_file())
    assert verify(copied / name) == "", "it is sealed, as exports are"
    with pytest.raises(MissingError, match="E-EXPORT-001"):
        merge_run(runs("lora"), copied / name, None, Options(overwrite=True), silent)
    assert sorted(path for path in copied.rglob("*") if path.is_file()) == before


def test_an_earlier_export_is_replaced_when_asked(runs, tmp_path):
    (tmp_path / "m").mkdir()
    merge_run(runs("lora"), tmp_path / "m", None, Options(), silent)
    with pytest.raises(MissingError, match="--overwrite"):
        merge_run(runs("lora"), tmp_path / "m", torch.float16, Options(), silent)
    merge_run(runs("lora"), tmp_path / "m", torch.float16, Options(overwrite=True), silent)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_e_export_009_a_number_that_float16_cannot_hold(copied, tiny_model_dir, tmp_path):
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][1, 1] = 1e6
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    on_any_base(copied)
    with pytest.raises(ModelError, match="E-EXPORT-009"):
        merged(copied, base=str(base), dtype=torch.float16)


def test_prompts_of_texts_are_their_first_halves_each_once(tiny_model_dir, tmp_path):
    texts = [f"def f{n}(): return {n}" for n in range(40)]
    rows = tmp_path / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    train_tiny(tmp_path / "run", tiny_model_dir, rows, {"training": {"max_steps": 1}, "evaluation": {"eval_steps": 1}})
    tuned = load(tmp_path / "run")
    prompts = choose(tmp_path / "run", tuned)
    assert prompts.source == "8 prompts of held-out rows" and len(set(map(tuple, prompts.ids))) == 8
    words = [tuned.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts.ids]
    assert all(word and any(text.startswith(word) for text in texts) for word in words)


def test_prompts_are_held_out_rows_or_the_users_or_built_in(copied, tmp_path, monkeypatch):
    tuned = load(copied)
    rows = choose(copied, tuned)
    assert len(rows.ids) == 8 and all(0 < len(ids) < 200 for ids in rows.ids)
    assert "### Response:" in tuned.tokenizer.decode(rows.ids[0])
    (tmp_path / "p.txt").write_text("Add\n\nReverse\n")
    assert choose(copied, tuned, read(tmp_path / "p.txt")).ids == [tuned.prompt_ids("Add"), tuned.prompt_ids("Reverse")]
    monkeypatch.setattr(agree, "MOST_BYTES", 3 * 400 * (agree.NEW_TOKENS + 1) * 4)
    some = choose(copied, tuned, [f"Add {n}" for n in range(1001)])
    assert some.source == "3 of 1,001 prompts of your file"
    assert some.ids == [tuned.prompt_ids(f"Add {n}") for n in (0, 500, 1000)]
    file = Path(load_record(copied).config.data.datasets[0].path)
    text, grown = file.read_text(), tmp_path / "grown.jsonl"
    grown.write_text(text.splitlines()[0].replace("Write", "Now write") + "\n" + text)
    record = (copied / "plan.yaml").read_text().rpartition("sha256: ")[0]
    (copied / "plan.yaml").write_text(seal(record.replace(str(file), str(grown))))
    moved = choose(copied, tuned)
    assert moved.source.startswith("16 built-in prompts (its held-out rows cannot be had: the rows, or how they become")
    (copied / "plan.yaml").write_text("model: 1\n")
    assert "its held-out rows cannot be had: " in choose(copied, tuned).source
    (copied / "plan.yaml").unlink()
    assert choose(copied, tuned).source == "16 built-in prompts"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", None])
def test_e_export_010_prompts_that_cannot_be_read(content, copied, tmp_path):
    said = []
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(DataError, match="E-EXPORT-010"):
        merge_run(copied, None, None, Options(prompts=tmp_path / "p.txt"), said.append)
    assert said == []  # nothing was loaded


def test_kl_is_that_of_the_definition():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    kl, top = agree._compared(p, q)
    assert kl.item() == pytest.approx(0.5 * torch.tensor(2.0).log().item() - 0.25 * torch.tensor(2.0).log().item())
    assert not top.item()
    nothing = agree.summed_up("nan", [torch.tensor([float("nan")])], [torch.tensor([True])], [True])
    assert not nothing.passed


def test_the_reference_is_the_adapter_and_not_the_base(runs):
    tuned = load(runs("lora"))
    known = reference(tuned.model, [tuned.prompt_ids(text) for text in BUILT_IN[:4]], tuned.stop_ids)
    assert isinstance(known, Reference) and isinstance(tuned.model, PeftModel)
    assert agreement("itself", known, tuned.model).mean_kl == 0.0
    with tuned.as_base():
        assert not agreement("base", known, tuned.model).passed


def test_a_run_without_a_base_is_refused_by_name(copied):
    settings = json.loads((copied / "final_model" / "adapter_config.json").read_text())
    (copied / "final_model" / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": "/nowhere/base"})
    )
    with pytest.raises(LuthierError, match="E-MODEL-001"):
        merged(copied)
