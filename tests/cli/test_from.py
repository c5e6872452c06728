"""`--from RUN/plan.yaml`: a run done again from its record alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from luthier.config.record import load_record, seal
from luthier.report import record as report_record
from luthier.training.record import RunRecord
from tests.cli.support import process, run_here, write_config
from tests.tiny import build_model, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a finished run `out`, its model and rows, and no YAML any more."""
    from luthier import api

    folder = tmp_path_factory.mktemp("recorded")
    build_model(folder / "model")
    write_rows(folder / "rows.jsonl", 64)
    config = write_config(folder / "c.yaml", Path("model"), Path("rows.jsonl"), Path("out"), max_steps=6)
    keys = ["lora.lora_dropout=0.1", "val_set_size=8", "eval_steps=3", "warmup_ratio=0.3", "sample_prompts=[Add]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _ in api.train(config, [*keys, "sample_max_new_tokens=4"]):
            pass
    config.unlink()
    return folder


@pytest.fixture
def run(recorded, tmp_path, monkeypatch):
    """A copy of it that a test may spoil, and that is the folder we run in."""
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    edit(folder / "out" / "plan.yaml", lambda text: text.replace(f"folder: {recorded}", f"folder: {folder}"))
    monkeypatch.chdir(folder)
    return folder


def edit(record, change):
    """Change a record as if it had been written so."""
    text = record.read_text().rpartition("sha256: ")[0]
    assert change(text) != text
    record.write_text(seal(change(text)))


def weights(folder):
    return (folder / "final_model" / "adapter_model.safetensors").read_bytes()


def logged(folder):
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"], r["learning_rate"]) for r in records if r["event"] == "log"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_last_bit_is_promised_where_it_was_shown(recorded, device):
    plan = SimpleNamespace(machine=SimpleNamespace(device=device))
    record = RunRecord(plan, {"resumed_with": []}, then=load_record(recorded / "out").record)
    assert record.promise().endswith("bit for bit" if device == "cpu" else "not yet shown on a GPU")
    record.differs.append("threads")
    assert record.promise() == ""


def test_rows_of_a_recorded_run_are_shown(capsys, run):
    """Without its YAML, as the doctor says to look at them."""
    result = run_here(capsys, "inspect", "--from", "out", "--row", "3")
    assert result.code == 0 and result.err == ""
    assert "row 3" in result.out and "rows.jsonl:3" in result.out and "trained" in result.out
    assert run_here(capsys, "inspect", "--from", "nowhere", "--row", "3").code == 2


def test_the_same_run_again_bit_for_bit(capsys, run):
    result = run_here(capsys, "train", "--from", "out/plan.yaml", "--plain")
    assert result.code == 0, result.err
    assert "records, once more, into out-again" in result.out
    assert "nothing differs from out/plan.yaml: the same numbers are to come, bit for bit" in result.out
    assert weights(run / "out-again") == weights(run / "out")
    assert logged(run / "out-again") == logged(run / "out") and len(logged(run / "out")) == 6
    assert (run / "out-again" / "logs").is_dir()
    again = yaml.safe_load((run / "out-again" / "plan.yaml").read_text())
    assert again["record"]["repeats"] == "out/plan.yaml" and again["record"]["differs"] == []
    before = yaml.safe_load((run / "out" / "plan.yaml").read_text())
    assert values(again["derived"]) == values(before["derived"])
    assert again["config"]["training"] == {**before["config"]["training"], "output_dir": "out-again"}


def values(derived):
    return {name: part["value"] for name, part in derived.items()}


def test_the_record_holds_all_that_the_run_was_made_from(run):
    plan = yaml.safe_load((run / "out" / "plan.yaml").read_text())
    record = plan["record"]
    hashes = [record["inputs"][name] for name in ("rows", "template", "tokenizer")]
    hashes += [*record["inputs"]["files"].values(), *record["inputs"]["base"].values()]
    assert all(len(text) == 64 and int(text, 16) for text in hashes)
    assert set(record["inputs"]["base"]) == {"config.json", "model.safetensors"}
    assert {"python", "torch", "threads", "git_commit", "device", "system"} <= record["surroundings"].keys()
    assert plan["config"]["training"]["seed"] == 42 and record["commands"]


def test_overrides_go_on_top_and_what_follows_from_them_follows(capsys, run):
    result = run_here(capsys, "train", "--from", "out", "max_steps=10", "output_dir=other", "learning_rate=1e-4")
    assert result.code == 0, result.err
    assert "another training.max_steps, training.learning_rate" in result.out
    assert "nothing differs" not in result.out and weights(run / "other") != weights(run / "out")
    plan = yaml.safe_load((run / "other" / "plan.yaml").read_text())
    assert plan["config"]["training"]["warmup_steps"] == 3, "0.3 of 10 steps"
    assert plan["config"]["logging"]["logging_dir"] == "other/logs"


def test_less_memory_on_top_of_a_record(capsys, run):
    result = run_here(capsys, "train", "--from", "out", "memory_gib=0.05", "output_dir=other")
    assert result.code == 0, result.err
    then, now = (
        yaml.safe_load((run / name / "plan.yaml").read_text())["record"]["passes"] for name in ("out", "other")
    )
    assert now["micro_batch_tokens"] == then["micro_batch_tokens"]
    assert now["checkpointed_layers"] > then["checkpointed_layers"] == 0


def other_rows(run):
    text = (run / "rows.jsonl").read_text()
    (run / "rows.jsonl").write_text(text.replace("return sum", "return list", 1).replace("number 3 ", "number 5 ", 1))
    return "the files of the dataset: "


def other_weights(run):
    path = run / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    return "the base model: model.safetensors "


def other_tokenizer(run):
    path = run / "model" / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "unk_token": "<pad>"}))
    return "the tokenizer: "


def other_template(run):
    (run / "model" / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}Q{{ m.content }}A{% endfor %}"
        "{% if messages[-1].role == 'assistant' %}{{ eos_token }}{% endif %}"
    )
    return "the prompt template: "


@pytest.mark.parametrize("change", [other_rows, other_weights, other_tokenizer, other_template])
def test_e_run_020_other_inputs_are_refused_unless_allowed(capsys, run, change):
    said = change(run)
    result = run_here(capsys, "train", "--from", "out/plan.yaml")
    assert result.code == 3, result.err
    assert f"E-RUN-020  out/plan.yaml: {said}" in result.err
    assert result.err.count("E-RUN-020  ") == 1, "one change is told once"
    assert not (run / "out-again" / "final_model").exists() and not list((run / "out-again").glob("checkpoint-*"))
    planned = run_here(capsys, "plan", "--from", "out")
    assert planned.code == 3 and said in planned.err and "Every value" in planned.out
    allowed = run_here(capsys, "train", "--from", "out/plan.yaml", "--allow-changes")
    assert allowed.code == 0, allowed.err
    assert f"Repeated with a change that you allowed: {said}" in allowed.out
    (remark,) = yaml.safe_load((run / "out-again" / "plan.yaml").read_text())["record"]["differs"]
    assert said in remark


def test_rows_that_lie_elsewhere_are_the_same_rows(capsys, run):
    (run / "rows.jsonl").rename(run / "moved.jsonl")
    result = run_here(capsys, "train", "--from", "out", "datasets=[{path: moved.jsonl}]")
    assert result.code == 0, result.err
    assert weights(run / "out-again") == weights(run / "out")


def test_other_surroundings_are_said_and_not_refused(capsys, run):
    edit(
        run / "out" / "plan.yaml",
        lambda t: t.replace("    threads: ", "    threads: 9").replace("torch: ", "torch: 0."),
    )
    for verb, code in (("plan", 0), ("train", 0)):
        result = run_here(capsys, verb, "--from", "out/plan.yaml")
        assert result.code == code, result.err
        text = " ".join(result.out.split())
        assert "threads: 9" in text and "torch: 0." in text and "nothing differs" not in text


def test_a_run_that_went_on_keeps_its_commands_and_says_that_it_is_not_of_one_piece(capsys, run):
    first = ["train", "--from", "out", "output_dir=parts", "logging.report_to=[]"]
    from luthier import api

    seen = []
    for event in api.train(load_record("out", first[3:]), stop=lambda: "log" in seen):
        seen.append(event.kind)
    went_on = run_here(capsys, *first, "--resume", "auto", "learning_rate=1e-4", "--allow-changes")
    assert went_on.code == 0, went_on.err
    record = yaml.safe_load((run / "parts" / "plan.yaml").read_text())["record"]
    assert len(record["commands"]) == 2
    assert any("learning_rate: 0.002 then, 0.0001 now" in text for text in record["resumed_with"])
    again = run_here(capsys, "plan", "--from", "parts")
    assert "was not of one piece" in " ".join(again.out.split())


@pytest.mark.parametrize("at", [1, 4])
def test_passes_that_memory_lowered_are_in_the_record(capsys, run, monkeypatch, at):
    """From the first step on they are the run's; later they make it one of two pieces, for ever."""
    from luthier import api
    from luthier.training import engine

    real, most = engine.backward, []

    def backward(model, batches, *rest):
        backward.step += 1
        if backward.step == at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most.append(max(batch.num_tokens for batch in batches))
        return real(model, batches, *rest)

    backward.step = 0
    with monkeypatch.context() as patch:
        patch.setattr(engine, "backward", backward)
        seen = []
        for event in api.train(load_record("out", ["output_dir=low"]), stop=lambda: seen.count("log") == 5):
            seen.append(event.kind)
    plan = yaml.safe_load((run / "low" / "plan.yaml").read_text())
    tokens = plan["derived"]["max_tokens_per_micro_batch"]
    assert tokens["value"] == plan["record"]["passes"]["micro_batch_tokens"]
    assert (tokens["how"] == "lowered at step 1, when memory ran out") == (at == 1)
    for _ in api.train(load_record("out", ["output_dir=low"]), resume="auto"):
        pass
    plan, _ = report_record.recorded(run / "low")
    assert plan.plan and all(why for _, _, why in plan.decided), "a report of it still has its reasons"
    record = yaml.safe_load((run / "low" / "plan.yaml").read_text())["record"]
    assert record["passes"]["lowered"] and record["passes"]["micro_batch_tokens"] < most[-1] * 2
    told = ["its passes were lowered after step 3, when memory ran out"]
    assert record["resumed_with"] == (told if at == 4 else [])
    again = run_here(capsys, "train", "--from", "low", "--plain")
    assert again.code == 0, again.err
    assert ("nothing differs" in again.out) == (at == 1)
    assert f"not of one piece: {told[0]}" in " ".join(again.out.split()) or at == 1
    if at == 1:
        assert weights(run / "low-again") == weights(run / "low") and logged(run / "low-again") == logged(run / "low")


@pytest.mark.parametrize("text", ["", "training: {learning_rate: 1e-4}\n", "[1, 2]\n", "\x00\x01", "sha256: 00\n"])
def test_e_cfg_040_something_else_is_one_clear_error(capsys, tmp_path, text):
    for content in (text, seal(text)):
        (tmp_path / "plan.yaml").write_text(content)
        for verb in ("train", "plan"):
            result = run_here(capsys, verb, "--from", tmp_path / "plan.yaml")
            assert result.code == 2 and result.err.count("  more  ") == 1, result.err
    assert run_here(capsys, "train", "--from", tmp_path / "nothing.yaml").code == 2


@pytest.mark.long
@pytest.mark.slow
def test_the_same_in_processes_of_their_own(tmp_path, run):
    first = process("train", "--from", "out", "output_dir=one", "load_in_4bit=true", "lora.lora_dropout=0.2", cwd=run)
    assert first.code == 0, first.err
    again = process("train", "--from", "one/plan.yaml", cwd=run)
    assert again.code == 0, again.err
    assert "nothing differs from one/plan.yaml" in again.out
    assert weights(run / "one-again") == weights(run / "one") != weights(run / "out")
    assert logged(run / "one-again") == logged(run / "one")


def test_what_the_gate_let_pass_on_purpose_it_lets_pass_again(capsys, run):
    keys = ["output_dir=cut", "overlong_rows=truncate", "max_seq_length=90"]
    assert run_here(capsys, "train", "--from", "out", *keys).code == 3
    taken = run_here(capsys, "train", "--from", "out", *keys, "--allow", "zero-label-rows")
    assert taken.code == 0, taken.err
    assert yaml.safe_load((run / "cut" / "plan.yaml").read_text())["record"]["allowed"] == ["zero-label-rows"]
    again = run_here(capsys, "train", "--from", "cut")
    assert again.code == 0, again.err
    assert weights(run / "cut-again") == weights(run / "cut")
    known = "- zero-label-rows\n"
    edit(run / "cut" / "plan.yaml", lambda text: text.replace(known, f"{known}  - check-of-another-version\n"))
    assert run_here(capsys, "train", "--from", "cut", "output_dir=third").code == 0
