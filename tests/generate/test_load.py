"""A finished run answers: one or many at once, as itself or as its base, in the numbers of its training."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.config.load import from_dict
from luthier.config.resolve import resolve
from luthier.config.schema import ModelSection
from luthier.data.prepare import prepare
from luthier.errors import ModelError
from luthier.events.types import Evaluated
from luthier.generate import weights
from luthier.generate.load import final_folder, load, load_several
from luthier.generate.plain import is_run, load_any
from luthier.machine.probe import probe
from luthier.model.forward import inference
from luthier.model.hashes import base_hashes, weights_of
from tests.generate.support import tiny_config, train_tiny

INSTRUCTIONS = ["Add", "Write a function number 3 to reverse a list " * 8, "Reverse a string", "def", "sum two numbers"]
KINDS = {
    "lora": {},
    "4-bit": {"quantization": {"load_in_4bit": True}},
    "full": {"training": {"finetuning_type": "full"}},
    "pissa": {"lora": {"init_lora_weights": "pissa", "r": 8}},
    "dora": {"lora": {"use_dora": True, "target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, alpaca_file):
    """Makes a run of a kind once; returns its folder and its events."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("runs") / kind
            made[kind] = folder, train_tiny(folder, tiny_model_dir, alpaca_file, KINDS[kind])
        return made[kind]

    return make


@pytest.fixture(scope="module")
def plain_base(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


def logits(model):
    with inference(model):
        return model(input_ids=torch.tensor([[0, 5, 9, 33, 7]])).logits


def test_loading_says_nothing_and_what_is_loaded_is_one_line(runs, capfd):
    folder = runs("lora")[0]
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        tuned = load(folder)
    assert capfd.readouterr() == ("", "")
    assert repr(tuned).startswith("Tuned(PeftModel") and len(repr(tuned)) < 200 and " parameters)" in repr(tuned)


def test_a_warning_that_is_an_error_is_no_misfit(runs):
    folder = runs("lora")[0] / "final_model"
    with pytest.raises(FutureWarning), weights._reading(folder, weights.Base.of(folder)):
        raise FutureWarning("a library renames something")


def problem_of(call):
    with pytest.raises(ModelError) as caught:
        call()
    (problem,) = caught.value.problems
    return problem


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once_are_the_answers_one_by_one(runs, kind):
    tuned = load(runs(kind)[0])
    heard = []
    many = tuned.generate_many(INSTRUCTIONS, 24, heard=lambda *told: heard.append(told))
    assert many == [tuned.generate(instruction, 24) for instruction in INSTRUCTIONS]
    assert len(set(many)) > 1 and sorted(heard) == [(number, many[number], cut) for number, _, cut in sorted(heard)]
    assert [number for number, _, _ in sorted(heard)] == list(range(5))
    with tuned.as_base():
        base = tuned.generate_many(INSTRUCTIONS, 24)
        assert base == [tuned.generate(instruction, 24) for instruction in INSTRUCTIONS]
    assert base != many


def test_a_temperature_follows_its_seed(runs):
    tuned = load(runs("lora")[0])
    drawn = [tuned.generate_many(INSTRUCTIONS, 12, temperature=2.0, seed=seed) for seed in (1, 1, 2, [1] * 5, [2] * 5)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[3] != drawn[4]
    alone = [tuned.generate_many([instruction], 12, temperature=2.0, seed=1)[0] for instruction in INSTRUCTIONS]
    assert drawn[3] == alone, "one for each makes each what it is alone"


def test_no_question_no_answer(runs):
    assert load(runs("lora")[0]).generate_many([]) == []


# The base ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full", "pissa", "dora"])
def test_as_base_is_the_model_it_started_from_and_afterwards_itself_again(runs, plain_base, kind):
    tuned = load(runs(kind)[0])
    before = logits(tuned.model)
    assert not torch.allclose(before, logits(plain_base), atol=1e-2)
    with tuned.as_base():
        torch.testing.assert_close(logits(tuned.model), logits(plain_base), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(tuned.model), before)
    with pytest.raises(KeyboardInterrupt), tuned.as_base():
        raise KeyboardInterrupt
    assert torch.equal(logits(tuned.model), before), "also after an interruption"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_that_does_not_say_what_it_was_trained_on(runs, tmp_path, tiny_model_dir, kind):
    """An adapter names its base in peft's own file; after full fine-tuning only we know."""
    folder = shutil.copytree(runs(kind)[0] / "final_model", tmp_path / "old")
    (folder / "luthier.json").unlink()
    tuned = load(folder)
    if kind == "full":
        problem = problem_of(lambda: tuned.as_base().__enter__())
        assert problem.code == "E-EVAL-023" and "--base" in problem.fix
        tuned = load(folder, base=str(tiny_model_dir))
    own = tuned.generate("Add", 12)
    with tuned.as_base():
        assert tuned.generate("Add", 12) != own


def test_a_base_that_has_moved(runs, tmp_path, tiny_model_dir):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "copy")
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(tiny_model_dir), "owner/gone"))
    problem = problem_of(lambda: load(folder))
    assert problem.code == "E-MODEL-001" and "owner/gone" in problem.found and "--base PATH" in problem.fix
    assert load(folder, base=str(tiny_model_dir)).generate("Add", 12) == load(runs("lora")[0]).generate("Add", 12)


def test_the_base_that_comes_with_luthier_is_named_as_in_a_config(runs, tmp_path, tiny_model_dir, monkeypatch):
    """On another machine it lies elsewhere."""
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "copy")
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(tiny_model_dir), "/home/anna/luthier/quickstart/base"))
    (tmp_path / "luthier" / "quickstart").mkdir(parents=True)
    shutil.copytree(tiny_model_dir, tmp_path / "luthier" / "quickstart" / "base")
    monkeypatch.setattr("luthier.config.values.PACKAGE", tmp_path / "luthier")
    assert problem_of(lambda: load(folder)).fix == "it comes with Luthier: --base luthier:quickstart/base"
    assert load(folder, "luthier:quickstart/base").generate("Add", 12) == load(runs("lora")[0]).generate("Add", 12)
    assert load_any("luthier:quickstart/base").base.name == ""


@pytest.mark.parametrize("knows", ["final_model", "plan.yaml"])
def test_e_model_017_another_base_than_the_one_it_was_trained_on_is_refused(runs, tmp_path, tiny_model_dir, knows):
    run = shutil.copytree(runs("lora")[0], tmp_path / "run")
    file = run / "final_model" / "luthier.json"
    written = json.loads(file.read_text())
    assert written["base_files"] == weights_of(base_hashes(ModelSection(model_name_or_path=str(tiny_model_dir))))
    if knows == "plan.yaml":  # as runs were written before
        del written["base_files"]
        file.write_text(json.dumps(written))
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    own = load(run, base=str(base)).generate("Add", 12)
    retrain(base / "model.safetensors")
    for alone in (lambda: load(run, base=str(base)), lambda: load_several([run], str(base))):
        problem = problem_of(alone)
        assert problem.code == "E-MODEL-017" and "model.safetensors" in problem.found and problem.where == str(base)
    rewrite(file, base_files={})
    assert load(run, base=str(base)).generate("Add", 12) != own, "on purpose"


def test_e_model_017_after_full_fine_tuning_only_the_base_is_refused(runs, tmp_path, tiny_model_dir):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    retrain(base / "model.safetensors")
    tuned = load(runs("full")[0], base=str(base))
    assert tuned.generate("Add", 4)
    assert problem_of(lambda: tuned.as_base().__enter__()).code == "E-MODEL-017"


def retrain(file):
    """Other weights of the same shapes."""
    tensors = load_file(file)
    save_file({name: tensor.flip(0) for name, tensor in tensors.items()}, file, {"format": "pt"})


# Numbers -------------------------------------------------------------------------------------------------------------


def held_out_loss(model, folder, tiny_model_dir, alpaca_file, tokenizer):
    """Mean loss of the run's held-out rows by plain transformers, each row alone."""
    config = tiny_config(folder, tiny_model_dir, alpaca_file, KINDS["4-bit"])
    rows = prepare(resolve(from_dict(config, []), probe(), None, None).config, tokenizer).eval
    losses = []
    with inference(model):
        for (row,) in map(rows.members, range(len(rows))):
            ids = torch.tensor(row.input_ids, dtype=torch.long)
            nll = torch.nn.functional.cross_entropy(
                model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none"
            )
            losses.append(nll[torch.tensor(row.trained[1:])])
    return torch.cat(losses).mean().item()


def test_a_4_bit_run_is_loaded_in_the_numbers_it_was_trained_in(runs, tiny_model_dir, alpaca_file):
    """Its loss on the held-out rows is the one that the training saw; on the 16- or 32-bit base it is another."""
    folder, events = runs("4-bit")
    (last,) = [event.eval_loss for event in events if isinstance(event, Evaluated)]
    default, plain = load(folder), load(folder, load_in_4bit=False)
    own, others = (held_out_loss(t.model, folder, tiny_model_dir, alpaca_file, t.tokenizer) for t in (default, plain))
    assert own == pytest.approx(last, abs=1e-6)
    assert abs(others - last) > 1e-4


def test_without_4_bits_it_is_what_plain_peft_loads(runs, tiny_model_dir):
    folder, _ = runs("4-bit")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    plain = PeftModel.from_pretrained(base, folder / "final_model").eval()
    assert torch.equal(logits(load(folder, load_in_4bit=False).model), logits(plain))


def test_a_16_bit_format_that_the_device_does_not_compute_becomes_float32(runs, tmp_path):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "half")
    written = folder / "luthier.json"
    assert json.loads(written.read_text())["dtype"] == "float32"
    written.write_text(written.read_text().replace("float32", "float16"))
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


# What can be wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("luthier.json", b"{", "E-MODEL-012"),
        ("luthier.json", b"[]", "E-MODEL-012"),
        pytest.param("luthier.json", b"[" * 200_000, "E-MODEL-012", id="nested too deeply"),
        ("adapter_config.json", b"\xff", "E-MODEL-012"),
        ("adapter_model.safetensors", b"\x08\x00\x00", "E-MODEL-010"),
    ],
)
def test_damaged_files_are_named(runs, tmp_path, name, content, code):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    (folder / name).write_bytes(content)
    problem = problem_of(lambda: load(folder))
    assert problem.code == code and (name in problem.found or str(folder) in problem.found)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_what_goes_with_the_weights_is_named_when_damaged(runs, tmp_path, name):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    (folder / name).write_bytes(b"{")
    problem = problem_of(lambda: load(folder))
    assert (problem.code, problem.where) == ("E-MODEL-012", str(folder))


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_are_those_that_the_run_wrote(runs, tmp_path, kind):
    """A bit that flipped in a copy is no damage that a library sees."""
    folder = shutil.copytree(runs(kind)[0] / "final_model", tmp_path / "copy")
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for open_it in (load, lambda copy: load_several([copy, copy])):
        problem = problem_of(lambda open_it=open_it: open_it(folder))
        assert problem.code == "E-MODEL-010" and f"{weights} is not what the run wrote" in problem.found
    (folder / "manifest.json").unlink()
    load(folder)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("luthier.json", {"dtype": "evil"}, "dtype"),
        ("luthier.json", {"base_files": ["a"]}, "base_files"),
        ("luthier.json", {"dtype": ["float32"], "quantization": 4}, "dtype, quantization"),
        ("generation_config.json", {"eos_token_id": "x"}, "generation config"),
        ("generation_config.json", {"eos_token_id": []}, "eos_token_id"),
        ("adapter_config.json", {"r": 10**6}, "rank above"),
        ("tokenizer_config.json", {"eos_token": "\x1b[31m"}, "the tokenizer has 401 tokens"),
    ],
)
def test_values_that_no_run_writes_are_named(runs, tmp_path, name, changes, says):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    rewrite(folder / name, **changes)
    problem = problem_of(lambda: load(folder))
    assert problem.code == "E-MODEL-012" and says in problem.found and problem.render().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "template", [None, "{% for", "{{ 'a' * 10**10 }}", "{{ ().__class__.__base__.__subclasses__() }}"]
)
def test_a_chat_template_that_is_missing_broken_or_a_bomb_is_named(runs, tmp_path, template):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    (folder / "chat_template.jinja").unlink()
    if template:
        (folder / "chat_template.jinja").write_text(template)
    problem = problem_of(lambda: load(folder))
    assert problem.code == "E-MODEL-012" and "chat template" in problem.found


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_nobody_is_asked_whether_to_run_code_of_the_folder(runs, tmp_path, tiny_model_dir, monkeypatch, name):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    kinds = {"config.json": {"model_type": "evil"}, "tokenizer_config.json": {"tokenizer_class": "Evil"}}
    rewrite((folder if "tokenizer" in name else base) / name, auto_map=auto, **kinds[name])
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    assert problem_of(lambda: load(folder, base=str(base))).code == "E-MODEL-005"
    assert asked == []


def test_an_adapter_that_is_a_pickle_is_not_read(runs, tmp_path):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    problem = problem_of(lambda: load(folder))
    assert problem.code == "E-MODEL-012" and "no adapter_model.safetensors" in problem.found


def test_what_the_bases_generation_config_wishes_changes_no_answer(runs, tmp_path, tiny_model_dir):
    """Whoever is compared with a base is compared with its weights."""
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    wishes = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "do_sample": True, "top_k": 1, "top_p": 0.1}
    rewrite(base / "generation_config.json", bos_token_id={"a": 1}, min_length=30, **wishes)
    for kind in ("lora", "full"):
        answers = []
        for tuned in (load(runs(kind)[0]), load(runs(kind)[0], base=str(base))):
            with tuned.as_base():
                answers.append([*tuned.generate_many(INSTRUCTIONS, 16), *tuned.generate_many(["Add"] * 4, 16, 1.5, 1)])
            answers[-1] += tuned.generate_many(INSTRUCTIONS, 16)
        assert answers[0] == answers[1] and len(set(answers[0])) > 6


def test_a_base_of_impossible_size_is_refused_before_it_fills_the_memory(runs, tmp_path, tiny_model_dir):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    rewrite(base / "config.json", vocab_size=10**9)
    problem = problem_of(lambda: load(runs("lora")[0], base=str(base)))
    assert problem.code == "E-MODEL-009" and "64,0" in problem.found
    rewrite(base / "config.json", vocab_size=400, num_hidden_layers=10**6)
    assert problem_of(lambda: load(runs("lora")[0], base=str(base))).code == "E-MODEL-004"


def test_missing_weights_and_a_base_that_does_not_fit_are_named(runs, tmp_path, tiny_model_dir):
    folder = shutil.copytree(runs("lora")[0] / "final_model", tmp_path / "bad")
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    small = AutoConfig.from_pretrained(other, hidden_size=32, intermediate_size=48)
    AutoModelForCausalLM.from_config(small).save_pretrained(other)
    assert problem_of(lambda: load(folder, base=str(other))).code == "E-MODEL-017"
    rewrite(folder / "luthier.json", base_files={})
    problem = problem_of(lambda: load(folder, base=str(other)))
    assert problem.code == "E-MODEL-012" and "does not fit" in problem.found and "--base" in problem.fix
    (other / "config.json").write_text("{")
    problem = problem_of(lambda: load(folder, base=str(other)))
    assert problem.code == "E-MODEL-004" and str(other) in problem.found
    (folder / "adapter_model.safetensors").unlink()
    assert problem_of(lambda: load(folder)).code == "E-MODEL-012"


@pytest.mark.parametrize("run", ["~nobody-of-that-name/run", "x" * 300])
def test_what_is_no_path_is_no_run(run):
    assert problem_of(lambda: load(run)).code == "E-MODEL-012"


@pytest.mark.parametrize(
    ("run", "found", "fix"),
    [
        ("rum", "there is no such folder", "did you mean run?"),
        ("nothing-like-it", "there is no such folder", "output folder of a finished run"),
        ("base.yaml", "base.yaml is a config, not a run", "training.output_dir"),
        ("owner/model", "looks like a model's name", "output folder of a finished run"),
        ("run/checkpoint-2", "checkpoints are for --resume", "give the run: run"),
    ],
)
def test_what_is_no_run_is_told_apart(tmp_path, monkeypatch, run, found, fix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").touch()
    for folder in ("run/final_model", "run/checkpoint-2"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run/checkpoint-2/adapter_config.json").touch()
    problem = problem_of(lambda: final_folder(run))
    assert problem.code == "E-MODEL-012" and found in problem.found and fix in problem.fix


def test_a_run_that_has_not_ended_is_told_to_go_on(runs, tmp_path):
    folder = shutil.copytree(runs("lora")[0], tmp_path / "run")
    shutil.rmtree(folder / "final_model")
    (folder / "plan.yaml").touch()
    problem = problem_of(lambda: load(folder))
    assert problem.code == "E-MODEL-012" and "has not ended" in problem.found and "--resume auto" in problem.fix
    assert is_run(folder)


def test_after_full_fine_tuning_base_and_tuned_have_the_format_of_the_training(runs, tmp_path):
    folder = shutil.copytree(runs("full")[0] / "final_model", tmp_path / "full")
    written = folder / "luthier.json"
    written.write_text(written.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    tuned = load(folder)
    with tuned.as_base():
        base = {p.dtype for p in tuned.model.parameters()}
    expected = torch.bfloat16 if probe().supports_bfloat16 else torch.float32
    assert base == {p.dtype for p in tuned.model.parameters()} == {expected}


def test_a_damaged_base_is_named(runs, tmp_path, tiny_model_dir):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"\x08\x00\x00")
    problem = problem_of(lambda: load(runs("lora")[0], base=str(base)))
    assert problem.code == "E-MODEL-010" and str(base) in problem.found


def test_a_prompt_beyond_the_context_is_refused(runs):
    tuned = load(runs("lora")[0])
    long = "x " * 600
    assert tuned.fits("Add") and not tuned.fits(long)
    assert problem_of(lambda: tuned.generate(long)).code == "E-EVAL-020"
    assert problem_of(lambda: tuned.generate_many(["Add", long])).code == "E-EVAL-020"


def test_a_prompt_with_a_token_that_has_no_embedding_is_refused(runs):
    tuned = load(runs("lora")[0])
    tuned.tokenizer.add_tokens(["<image>"])
    problem = problem_of(lambda: tuned.generate("What is on <image>?"))
    assert problem.code == "E-MODEL-007" and "the token 400, and the model embeddings up to 399" in problem.found


def test_a_folder_of_runs_names_them(tmp_path):
    for name in ("two", "one"):
        (tmp_path / name / "final_model").mkdir(parents=True)
    for open_it in (load, load_any):
        problem = problem_of(lambda open_it=open_it: open_it(tmp_path))
        assert (problem.code, problem.fix) == ("E-MODEL-012", f"give one: {tmp_path / 'one'}")
        assert f"{tmp_path / 'one'}, {tmp_path / 'two'}" in problem.found
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert problem_of(lambda: load_any(tmp_path)).code == "E-MODEL-004", "a model of its own"
