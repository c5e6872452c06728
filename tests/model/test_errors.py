"""Each way in which a base model can be wrong: one named error, before any row is tokenized where that is possible."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DogeConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4TextConfig,
    NemotronConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    T5Config,
)

import luthier
from luthier.config.schema import ModelSection
from luthier.errors import ConfigError, LuthierError, ModelError
from luthier.model.hub import explain_failure, load_config, load_tokenizer
from luthier.model.load import load_model, prove_isolation
from tests.model.support import described, loaded_model, our_loss, planned
from tests.tiny import build_tokenizer


@pytest.fixture
def folder(tiny_model_dir, tmp_path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def problem_of(call) -> tuple[str, str, str]:
    """Code, what was found and the fix of the one problem that `call` ends with."""
    with pytest.raises(LuthierError) as caught:
        call()
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem.code, problem.found, problem.fix


def opened(folder, **section):
    """What happens before any weights are read."""
    settings = ModelSection(model_name_or_path=str(folder), **section)
    config = load_config(settings)
    return load_tokenizer(settings, config)


def edit(folder, name="config.json", **changes):
    path = folder / name
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def test_a_whole_folder_opens(folder):
    assert len(opened(folder)) == 400


# The hub -------------------------------------------------------------------------------------------------------------


def test_offline_says_what_is_missing_how_to_get_it_and_what_runs_now():
    code, found, fix = problem_of(lambda: load_config(ModelSection(model_name_or_path="meta-llama/Llama-3.2-1B")))
    assert code == "E-MODEL-001"
    assert "meta-llama/Llama-3.2-1B is not on this machine, and HF_HUB_OFFLINE is set" in found
    assert "hf download meta-llama/Llama-3.2-1B" in fix
    assert "luthier quickstart" in fix


def response(status: int):
    """An answer of the hub, in the HTTP library that this version of huggingface_hub uses."""
    http = importlib.import_module(hub.Response.__module__.partition(".")[0])
    return http.Response(status, request=http.Request("GET", "https://huggingface.co/owner/name"))


HUB_FAILURES = {
    "gated": (hub.GatedRepoError("403 Client Error", response=response(403)), "E-MODEL-002"),
    "no such model": (hub.RepositoryNotFoundError("404 Client Error", response=response(404)), "E-MODEL-003"),
    "no such revision": (hub.RevisionNotFoundError("404 Client Error", response=response(404)), "E-MODEL-003"),
    "not in the cache": (hub.LocalEntryNotFoundError("cannot find the requested files"), "E-MODEL-001"),
    "no network": (ConnectionError("Failed to resolve 'huggingface.co', cannot connect"), "E-MODEL-001"),
    "a repository without config.json": (OSError("it does not appear to have a file named config.json"), "E-MODEL-004"),
}


@pytest.mark.parametrize("kind", HUB_FAILURES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "inside an OSError of transformers"])
def test_failures_of_the_hub_are_told_apart(monkeypatch, kind, wrapped):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    error, code = HUB_FAILURES[kind]
    if wrapped:
        try:
            raise OSError("There was a problem.") from error
        except OSError as outer:
            error = outer
    problem = explain_failure("owner/name", error)
    assert problem.code == code
    assert "owner/name" in problem.found
    if code == "E-MODEL-002":
        assert "https://huggingface.co/owner/name" in problem.fix and "hf auth login" in problem.fix


# The folder ----------------------------------------------------------------------------------------------------------


def spoil_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def spoil_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


NOT_COMPLETE = {
    "no config.json": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "only pickled weights": (spoil_pickle, "only pytorch_model.bin, a pickle"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no *.safetensors"),
    "no tokenizer": (spoil_tokenizer, "no usable tokenizer"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
    "a file of several is missing": (spoil_index, "1 of 2 weights files"),
    "a broken index": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "cannot be read"),
    "an index that is nested too deeply": (
        lambda f: (f / "model.safetensors.index.json").write_text("[" * 200_000),
        "cannot be read",
    ),
    "config.json is no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config.json is a number": (lambda f: (f / "config.json").write_text("5"), "cannot be read"),
    "config.json is empty": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "an unknown architecture": (lambda f: edit(f, model_type="frobnicate"), "frobnicate"),
    "a million layers": (lambda f: edit(f, num_hidden_layers=10**6), "asks for 1,000,000 layers"),
    "a text_config that is none": (lambda f: edit(f, text_config={"a": 1}), "is no configuration"),
    "a size that is a word": (lambda f: edit(f, hidden_size="wide"), "'hidden_size' expected int"),
    "the folder is gone": (shutil.rmtree, "no folder"),
}


@pytest.mark.parametrize("kind", NOT_COMPLETE)
def test_what_is_wrong_with_a_folder_is_named(folder, kind):
    spoil, words = NOT_COMPLETE[kind]
    spoil(folder)
    code, found, _ = problem_of(lambda: opened(folder))
    assert code == "E-MODEL-004"
    assert words in found
    assert str(folder) in found


@pytest.mark.parametrize("inside", ["", "final_model", "checkpoint-2"])
def test_a_run_as_the_base_is_told_to_be_merged(tmp_path, inside):
    run = tmp_path / "run"
    for made in ("final_model", "checkpoint-2"):
        (run / made).mkdir(parents=True)
        (run / made / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    code, found, fix = problem_of(lambda: opened(run / inside))
    assert code == "E-MODEL-004" and "holds an adapter of owner/base" in found
    assert fix == f"luthier merge {run} --to my_model, then model_name_or_path: my_model"


def test_a_fully_fine_tuned_run_as_the_base_is_told_where_its_model_is(tmp_path):
    final = tmp_path / "final_model"
    final.mkdir()
    (final / "config.json").touch()
    code, _, fix = problem_of(lambda: opened(tmp_path))
    assert (code, fix) == ("E-MODEL-004", f"model_name_or_path: {final}")


def test_impossible_sizes_are_found_when_the_model_is_described(folder):
    edit(folder, hidden_size=-64)
    code, found, _ = problem_of(lambda: described(folder))
    assert code == "E-MODEL-004" and "negative dimension" in found


def test_code_in_the_repository_is_not_run(folder):
    edit(folder, model_type="custom", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('this ran')\n")
    code, _, fix = problem_of(lambda: opened(folder))
    assert code == "E-MODEL-005"
    assert "model.trust_remote_code: true" in fix


def test_a_tokenizer_without_eos_is_refused(folder):
    edit(folder, "tokenizer_config.json", eos_token=...)
    assert problem_of(lambda: opened(folder))[0] == "E-MODEL-006"


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    opened(folder)  # a placeholder that no text needs to have
    tokenizer.add_special_tokens({"pad_token": "<image>"})
    tokenizer.save_pretrained(folder)
    code, found, _ = problem_of(lambda: opened(folder))
    assert code == "E-MODEL-007"
    assert "401 tokens, the model 400 embeddings" in found


# The weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 200, -1], ids=["empty", "5 bytes", "within the header", "the last byte lost"])
def test_a_cut_off_weights_file_is_found_before_anything_is_loaded(folder, keep):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    code, found, _ = problem_of(lambda: opened(folder))
    assert code == "E-MODEL-010"
    assert str(file) in found


def test_missing_tensors_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, found, _ = problem_of(lambda: loaded_model(folder))
    assert code == "E-MODEL-009"
    assert "1 tensors" in found and "model.layers.1.mlp.up_proj.weight" in found


def test_a_model_of_impossible_size_is_refused_before_it_fills_the_memory(folder):
    edit(folder, vocab_size=10**9)
    code, found, _ = problem_of(lambda: described(folder))
    assert code == "E-MODEL-009"
    assert "describes 64,0" in found


def test_weights_that_are_not_in_the_4_bits_that_config_json_claims(folder):
    edit(folder, quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"})
    code, _, _ = problem_of(lambda: loaded_model(folder))
    assert code == "E-MODEL-008"


def test_a_generation_config_that_makes_no_sense_is_named(folder):
    edit(folder, "generation_config.json", pad_token_id="x")
    code, found, _ = problem_of(lambda: loaded_model(folder))
    assert code == "E-MODEL-004" and str(folder) in found


def test_what_libraries_quote_from_a_file_is_safe_on_a_terminal(folder):
    edit(folder, model_type="\x1b[31mred")
    with pytest.raises(ModelError, match="·\\[31mred") as caught:
        opened(folder)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


@pytest.mark.parametrize("how", ["mkdir", "touch", "loop"])
def test_weights_that_are_no_file_are_named(folder, how):
    file = folder / "model.safetensors"
    file.unlink()
    {"mkdir": file.mkdir, "touch": file.touch, "loop": lambda: file.symlink_to(file)}[how]()
    code, found, _ = problem_of(lambda: opened(folder))
    assert code == "E-MODEL-010" and "model.safetensors" in found


def test_tensors_of_another_shape_are_named(folder):
    edit(folder, intermediate_size=96)
    code, found, _ = problem_of(lambda: loaded_model(folder))
    assert code == "E-MODEL-009"
    assert "mlp.down_proj.weight" in found and "(64, 128) in the file and (64, 96)" in found


# The adapter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words", "key"),
    [
        ({"target_modules": "[q_proj, query]"}, "called query", "lora.target_modules"),
        ({"target_modules": ".*nothing"}, "does not fit LlamaForCausalLM", "lora.target_modules"),
        ({"target_modules": "'(['"}, "does not fit LlamaForCausalLM", "lora.target_modules"),
        ({"target_modules": "[norm]"}, "does not fit LlamaForCausalLM", "lora.target_modules"),
        ({"modules_to_save": "[head]"}, "called head", "lora.modules_to_save"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_names_that_would(tiny_model_dir, keys, words, key):
    with pytest.raises(ModelError) as caught:
        described(tiny_model_dir, **keys)
    (problem,) = caught.value.problems
    assert problem.code == "E-MODEL-008"
    assert words in problem.found and problem.where == key
    assert "q_proj" in problem.fix and "down_proj" in problem.fix


def test_a_misspelt_layer_is_recognised(tiny_model_dir):
    with pytest.raises(ModelError) as caught:
        described(tiny_model_dir, target_modules="[q_proj, v_prj]")
    (problem,) = caught.value.problems
    assert problem.fix == (
        "did you mean v_proj? write names out of: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


# The kind of model ---------------------------------------------------------------------------------------------------


@pytest.fixture
def soft_capped(tmp_path):
    """A Gemma 2, whose attention scores are soft-capped."""
    build_tokenizer(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8}
    config = Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, attn_logit_softcapping=5.0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_packing_by_force_is_refused_where_attention_is_soft_capped(soft_capped):
    with pytest.raises(ConfigError) as caught:
        planned(soft_capped, packing=True)
    assert [problem.code for problem in caught.value.problems] == ["E-CFG-024"]


def test_the_proof_itself_refuses_soft_capped_attention(soft_capped):
    _, model = loaded_model(soft_capped, packing=False)
    model.get_base_model().set_attn_implementation("luthier_documents")
    code, found, fix = problem_of(lambda: prove_isolation(model))
    assert code == "E-MODEL-011"
    assert "softcap" in found and fix == "write packing: false"


def test_the_proof_refuses_a_model_whose_documents_see_each_other():
    """A convolution across positions runs over the border of two documents."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = Lfm2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    model = Lfm2ForCausalLM(config)
    model.set_attn_implementation("luthier_documents")
    code, found, _ = problem_of(lambda: prove_isolation(model))
    assert code == "E-MODEL-011"
    assert "document 2 moves by" in found


SMALL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
MASKED = {
    "window": (PhimoeConfig, {"num_local_experts": 2, "sliding_window": 5}, "a window of 5 tokens"),
    "window of a layer": (Qwen2MoeConfig, {"num_experts": 2, "use_sliding_window": True, "sliding_window": 5,
                                           "max_window_layers": 1}, "a window of 5 tokens"),
    "own mask": (DogeConfig, {}, "a mask of its own"),
    "not told of documents": (NemotronConfig, {}, "nothing of what it is told"),
    "chunks": (Llama4TextConfig, {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2,
                                  "attention_chunk_size": 7}, "a window of 7 tokens"),
    "both directions": (Gemma3TextConfig, {"head_dim": 8, "use_bidirectional_attention": True}, "what comes after"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKED)
def test_the_proof_refuses_masks_that_packed_attention_does_not_get(kind):
    """Found in no other way: two short documents stay apart, and a long one would see more than it does unpacked."""
    config, special, why = MASKED[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SMALL, **special))
    model.set_attn_implementation("luthier_documents")
    code, found, fix = problem_of(lambda: prove_isolation(model))
    assert code == "E-MODEL-011" and why in found and fix == "write packing: false"


def test_a_window_that_no_row_reaches_is_no_obstacle(tmp_path):
    build_tokenizer(tmp_path)
    AutoModelForCausalLM.from_config(
        PhimoeConfig(**SMALL, num_local_experts=2, sliding_window=64, max_position_embeddings=256)
    ).save_pretrained(tmp_path)
    _, model = loaded_model(tmp_path, max_seq_length=64, finetuning_type="full")
    assert model.config._attn_implementation == "luthier_documents"
    code, found, _ = problem_of(lambda: loaded_model(tmp_path, max_seq_length=65, finetuning_type="full"))
    assert code == "E-MODEL-011" and "a window of 64 tokens" in found


@pytest.mark.parametrize("kind", ["encoder-decoder", "encoder"])
def test_what_is_no_causal_language_model_is_refused(tmp_path, kind):
    if kind == "encoder":
        config = BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        BertForMaskedLM(config).save_pretrained(tmp_path)
    else:
        T5Config(vocab_size=400, d_model=32).save_pretrained(tmp_path)
        save_file({"shared.weight": torch.zeros(400, 32)}, tmp_path / "model.safetensors")
    assert problem_of(lambda: described(tmp_path))[0] == "E-MODEL-013"


# Using a run ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_cannot_be_loaded(tmp_path):
    code, found, _ = problem_of(lambda: luthier.load(tmp_path))
    assert code == "E-MODEL-012" and "no adapter and no model" in found


def test_a_checkpoint_is_not_a_finished_run(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    code, found, _ = problem_of(lambda: luthier.load(tmp_path))
    assert code == "E-MODEL-012" and "checkpoints are for --resume" in found


def test_a_base_that_has_moved_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/gone"}))
    for name in ("tokenizer_config.json", "generation_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    code, found, fix = problem_of(lambda: luthier.load(tmp_path))
    assert code == "E-MODEL-001" and "owner/gone" in found and "base=PATH" in fix


def test_from_scratch_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    plan = planned(folder, from_scratch=True, finetuning_type="full")
    model = load_model(plan, load_config(plan.config.model))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert our_loss(plan, model).item() > 1
