"""Checkpoints: whole or not there, kept and deleted in the right order, refused when they do not belong."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier import api
from luthier.config.record import load_record
from luthier.config.schema import ModelSection
from luthier.errors import CheckpointError
from luthier.events.types import CheckpointSaved, Evaluated, Log, Notice, Resumed, RunFinished
from luthier.model.hashes import base_hashes
from luthier.training.checkpoint import _flatten, _unflatten, checkpoints, find_checkpoint
from luthier.training.commit import commit, verify
from luthier.training.folder import open_folder
from luthier.training.identity import check_identity
from tests.training.test_resume import config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_dir, alpaca_file):
    """A finished run of 12 steps, saved every 2, two kept; and its events."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, list(api.train(config(folder, tiny_model_dir, alpaca_file)))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that a test may damage."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def codes(error) -> set[str]:
    return {problem.code for problem in error.value.problems}


def test_the_newest_and_the_best_are_kept(finished):
    folder, events = finished
    best = [event.step for event in events if isinstance(event, Evaluated) and event.best][-1]
    kept = {int(path.name.split("-")[1]) for path in checkpoints(folder)}
    assert {10, 12} <= kept <= {10, 12, best}
    assert best in kept
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert all(verify(path) == "" for path in checkpoints(folder))
    assert saved[-1].bytes > 10_000


def test_every_damage_is_seen(copy):
    """Truncations, flipped bytes, zeroed blocks, missing and exchanged files: none is taken for whole."""
    rng = random.Random(3)
    path = checkpoints(copy)[-1]
    files = sorted(p for p in path.iterdir())
    for _ in range(300):
        victim = rng.choice(files)
        original = victim.read_bytes()
        damage = rng.choice(["cut", "flip", "zero", "append", "delete"])
        data = bytearray(original)
        at = rng.randrange(len(data))
        if damage == "cut":
            del data[at:]
        elif damage == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif damage == "zero":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data += b"\\0"
        if damage == "delete":
            victim.unlink()
        else:
            victim.write_bytes(data)
        if bytes(data) != original or damage == "delete":
            assert verify(path), (victim.name, damage)
        victim.write_bytes(original)
    assert verify(path) == ""


def test_damaged_and_half_checkpoints_are_passed_over(copy, tiny_model_dir, alpaca_file):
    newest = checkpoints(copy)[-1]
    with (newest / "optimizer.safetensors").open("r+b") as file:
        file.truncate(100)
    (copy / ".inflight-checkpoint-99-dead").mkdir()
    (copy / "checkpoint-99").mkdir()
    (copy / "checkpoint-100").write_text("a file, not a folder")
    events = list(api.train(config(copy, tiny_model_dir, alpaca_file), resume="auto"))
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert resumed.step == 10
    assert [reason.split(":")[0] for reason in resumed.passed_over] == ["checkpoint-99", "checkpoint-12"]
    assert not list(copy.glob(".inflight-*"))
    kept = [path.name.rpartition("-")[0] for path in copy.glob("damaged-*")]
    assert sorted(kept) == ["damaged-checkpoint-12", "damaged-checkpoint-99"], "nothing is deleted"
    found = find_checkpoint(copy, "auto")
    assert found is not None
    assert (found.step, found.passed_over) == (12, ())


def test_a_failing_write_leaves_the_old_checkpoint_alone(tmp_path):
    commit(tmp_path / "checkpoint-2", lambda folder: (folder / "a").write_text("old") and None)

    def fail(folder):
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        commit(tmp_path / "checkpoint-2", fail)
    assert (tmp_path / "checkpoint-2" / "a").read_text() == "old"
    assert verify(tmp_path / "checkpoint-2") == ""
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_failing_write_leaves_alone_what_is_written_beside_it(tmp_path):
    """`m` and `m-2` begin alike."""

    def fail(folder):
        raise OSError(28, "No space left on device")

    def beside(folder):
        with pytest.raises(OSError, match="No space"):
            commit(tmp_path / "m", fail)
        (folder / "a").write_text("new")

    commit(tmp_path / "m-2", beside)
    assert [p.name for p in tmp_path.iterdir()] == ["m-2"]


def test_no_pickle_is_in_a_checkpoint(finished):
    names = {path.suffix for path in checkpoints(finished[0])[-1].iterdir()}
    assert names == {".safetensors", ".json"}


def test_wrong_resume_requests(copy, tiny_model_dir, alpaca_file, tmp_path):
    values = config(copy, tiny_model_dir, alpaca_file)
    with pytest.raises(CheckpointError) as error:
        list(api.train(values, resume=str(tmp_path / "nowhere")))
    assert codes(error) == {"E-CKPT-001"}
    for path in checkpoints(copy):
        (path / "rng.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rng\.safetensors is missing") as error:
        list(api.train(values, resume="auto"))
    assert codes(error) == {"E-CKPT-002"}
    with pytest.raises(CheckpointError) as error:
        list(api.train(values, resume=str(checkpoints(copy)[-1])))
    assert codes(error) == {"E-CKPT-002"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("{}/final_model", "is a result, not a checkpoint"),
        ("{}", "no trainer_state.json"),
        ("checkpoint-7", "no folder checkpoint-7"),
    ],
)
def test_what_is_no_checkpoint_is_said_with_the_newest_one(finished, wanted, found):
    with pytest.raises(CheckpointError, match=found) as error:
        find_checkpoint(finished[0], wanted.format(finished[0]))
    assert codes(error) == {"E-CKPT-001"}
    assert str(checkpoints(finished[0])[-1]) in error.value.problems[0].fix


def test_e_ckpt_001_where_there_is_none_nobody_is_told_to_resume(tmp_path):
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(tmp_path, "checkpoint-7")
    assert codes(error) == {"E-CKPT-001"}
    assert "leave --resume out" in error.value.problems[0].fix and "auto" not in error.value.problems[0].fix


def test_a_run_that_is_done_is_not_loaded_again(copy, finished, tiny_model_dir, alpaca_file):
    values, record = config(copy, tiny_model_dir, alpaca_file), (copy / "events.jsonl").read_bytes()
    events = list(api.train(values, resume="auto"))
    assert {type(event) for event in events} == {Notice, RunFinished}
    assert "this run is already done" in [e.text for e in events if isinstance(e, Notice)][-1]
    assert repr(events[-1]) == repr(finished[1][-1])
    assert (copy / "events.jsonl").read_bytes() == record
    shutil.rmtree(copy / "final_model")
    again = list(api.train(values, resume="auto"))
    assert any(isinstance(event, Resumed) for event in again) and (copy / "final_model").is_dir()


def test_a_checkpoint_is_found_by_its_name_in_the_output_folder(finished):
    last = checkpoints(finished[0])[-1]
    assert find_checkpoint(finished[0], last.name) == find_checkpoint(finished[0], str(last))


def test_an_earlier_run_is_never_overwritten_by_accident(copy, tiny_model_dir, alpaca_file):
    values = config(copy, tiny_model_dir, alpaca_file)
    with pytest.raises(CheckpointError) as error:
        list(api.train(values))
    assert codes(error) == {"E-CKPT-005"}
    before = (copy / "final_model" / "adapter_model.safetensors").read_bytes()
    values["training"]["max_steps"] = 4
    list(api.train(values, overwrite=True))
    (old,) = copy.parent.glob("run.old-*")
    assert (old / "final_model" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("section", "change", "code"),
    [
        ("training", {"learning_rate": 5e-4}, "E-CKPT-003"),
        ("training", {"max_steps": 20}, "E-CKPT-003"),
        ("data", {"max_seq_length": 150}, "E-CKPT-003"),
        ("data", {"prompt_template": "TEMPLATE"}, "E-CKPT-003"),
        ("lora", {"r": 8}, "E-CKPT-004"),
        ("quantization", {"load_in_4bit": True}, "E-CKPT-004"),
    ],
)
def test_what_changed_since_the_checkpoint_is_named(copy, tiny_model_dir, alpaca_file, tmp_path, section, change, code):
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['role'] }}> {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
        "{% endif %}\\n{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"
    )
    values = config(copy, tiny_model_dir, alpaca_file)
    values[section] = {**values.get(section, {}), **change}
    if change == {"prompt_template": "TEMPLATE"}:
        values["data"]["prompt_template"] = str(template)
    with pytest.raises(CheckpointError) as error:
        list(api.train(values, resume="auto"))
    assert codes(error) == {code}
    assert next(iter(change)) in str(error.value) or "template" in str(error.value) or "rows" in str(error.value)
    if code == "E-CKPT-003":
        events = list(api.train(values, resume="auto", allow_changes=True))
        assert any(isinstance(e, Notice) and "you allowed" in e.text for e in events)
    else:
        with pytest.raises(CheckpointError):
            list(api.train(values, resume="auto", allow_changes=True))


def test_half_the_batch_is_told_how_many_make_as_many_examples_again(copy, tiny_model_dir, alpaca_file):
    """As after a run that had no memory: halved alone, steps are half as large and twice as many."""
    values = config(copy, tiny_model_dir, alpaca_file)
    batch, times = (
        values["training"][f"{key}"] for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    values["training"]["per_device_train_batch_size"] = batch // 2
    with pytest.raises(
        CheckpointError, match=f"write gradient_accumulation_steps: {2 * times} for {batch * times} again"
    ):
        list(api.train(values, resume="auto"))
    values["training"]["gradient_accumulation_steps"] = 2 * times
    assert list(api.train(values, resume="auto"))[-1].status == "done"


def test_changed_rows_are_named(copy, tiny_model_dir, alpaca_file, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(alpaca_file.read_bytes().replace(b"number 3 ", b"number three "))
    with pytest.raises(CheckpointError, match="training rows") as error:
        list(api.train(config(copy, tiny_model_dir, rows), resume="auto"))
    assert codes(error) == {"E-CKPT-003"}


def other_weights(file):
    save_file({name: tensor.flip(0) for name, tensor in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.parametrize("knows", ["checkpoint", "record"])
def test_e_ckpt_003_another_base_is_refused_and_the_record_keeps_what_it_was_trained_on(
    tmp_path, tiny_model_dir, alpaca_file, knows
):
    base, run = shutil.copytree(tiny_model_dir, tmp_path / "base"), tmp_path / "run"
    values, steps = config(run, base, alpaca_file), [0]
    for event in api.train(values, stop=lambda: steps[-1] >= 4):
        steps.append(getattr(event, "step", None) or steps[-1])
    last = checkpoints(run)[-1]
    assert read_state(last)["identity"]["base"] == base_hashes(ModelSection(model_name_or_path=str(base)))
    if knows == "record":  # as checkpoints were written before
        rewrite_state(last, lambda state: state["identity"].pop("base"))
    before = (run / "plan.yaml").read_bytes()
    other_weights(base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the base model changed: model\.safetensors") as error:
        list(api.train(values, resume="auto"))
    assert codes(error) == {"E-CKPT-003"} and (run / "plan.yaml").read_bytes() == before
    events = list(api.train(values, resume="auto", allow_changes=True))
    text = next(e.text for e in events if isinstance(e, Notice) and "base model changed" in e.text)
    then, now = (load_record(folder).record.facts for folder in (_with(before, tmp_path / "then"), run))
    assert now["resumed_with"] == [text] and now["started"] == then["started"]
    assert now["inputs"]["base"] == base_hashes(ModelSection(model_name_or_path=str(base))) != then["inputs"]["base"]


def _with(record, folder):
    folder.mkdir()
    (folder / "plan.yaml").write_bytes(record)
    return folder


def read_state(path):
    return json.loads((path / "trainer_state.json").read_text())


def rewrite_state(path, change):
    """Change a checkpoint as if it had been written so."""
    state = read_state(path)
    change(state)

    def fill(folder):
        for file in path.iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, folder / file.name)
        (folder / "trainer_state.json").write_text(json.dumps(state))

    commit(path, fill)


def test_a_resume_extends_a_run_when_asked_and_says_so(copy, tiny_model_dir, alpaca_file):
    values = config(copy, tiny_model_dir, alpaca_file)
    values["training"]["max_steps"] = 14
    events = list(api.train(values, resume="auto", allow_changes=True))
    assert [event.step for event in events if isinstance(event, Log)] == [13, 14]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].status == "done"


def test_other_threads_or_versions_are_said_to_break_bit_identity(copy, tiny_model_dir, alpaca_file):
    rewrite_state(checkpoints(copy)[-1], lambda state: state["identity"]["surrounding"].update(threads=77))
    events = list(api.train(config(copy, tiny_model_dir, alpaca_file), resume="auto"))
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any("not bit-identical" in text and "threads: 77 then" in text for text in texts)


def test_a_checkpoint_that_names_more_keys_than_today_decide_goes_on(copy, tiny_model_dir, alpaca_file):
    path = max(copy.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    state = json.loads((path / "trainer_state.json").read_text())
    state["identity"]["config"] |= {"training.gradient_checkpointing": False, "training.packing": True}
    then = state["identity"]
    now = json.loads(json.dumps(then))
    del now["config"]["training.gradient_checkpointing"], now["config"]["training.packing"]
    assert check_identity(then, now, "here", allow_changes=False) == []


@pytest.mark.parametrize(
    ("ranks", "batch", "accumulation", "same"), [(1, 1, 4, True), (2, 2, 1, True), (2, 2, 2, False), (1, 2, 1, False)]
)
def test_a_step_of_as_many_examples_is_the_same_step(copy, ranks, batch, accumulation, same):
    """However ranks and passes share them. `max_steps` says nothing of that."""
    then = json.loads((checkpoints(copy)[-1] / "trainer_state.json").read_text())["identity"]
    now = json.loads(json.dumps(then))
    now["surrounding"]["world_size"] = ranks
    now["config"]["training.per_device_train_batch_size"] = batch
    now["config"]["training.gradient_accumulation_steps"] = accumulation
    if same:
        said = check_identity(then, now, "here", allow_changes=False)
        assert bool(said) == (ranks == 2) and all("not bit-identical" in text for text in said)
        return
    with pytest.raises(CheckpointError, match=r"ranks\): 4 then, [28] now") as error:
        check_identity(then, now, "here", allow_changes=False)
    assert codes(error) == {"E-CKPT-003"}


def test_overwrite_leaves_a_run_in_progress_and_its_neighbours_alone(copy, tiny_model_dir, alpaca_file):
    neighbour = copy / "other" / "final_model"
    neighbour.mkdir(parents=True)
    values = config(copy, tiny_model_dir, alpaca_file)
    before = sorted(path.name for path in copy.iterdir())
    with open_folder(copy, resume=True, overwrite=False), pytest.raises(CheckpointError) as error:
        list(api.train(values, overwrite=True))
    assert codes(error) == {"E-CKPT-006"} and "in use by this program" in str(error.value)
    assert "run.close()" in str(error.value)
    assert sorted(path.name for path in copy.iterdir()) == before
    with pytest.raises(CheckpointError) as error:
        list(api.train(values, overwrite=True, resume="auto"))
    assert codes(error) == {"E-CKPT-007"}
    values["training"]["max_steps"] = 4
    first = next(iter(api.train(values, overwrite=True)))
    assert isinstance(first, Notice)
    assert ".old-" in first.text
    assert neighbour.is_dir()


def test_the_nested_state_of_8_bit_optimizers_comes_back(tmp_path):
    """bitsandbytes keeps its tensors one level deeper than torch."""
    from bitsandbytes.optim import AdamW8bit

    def trained(steps, saved=None):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(128, 64))
        optimizer = AdamW8bit([parameter], lr=1e-2)
        if saved is not None:
            parameter.data = saved["parameter"].clone()
            optimizer.load_state_dict(_unflatten(saved["tensors"], json.loads(saved["plain"])))
        for _ in range(steps):
            optimizer.zero_grad()
            (parameter.sin().square().sum()).backward()
            optimizer.step()
        tensors, plain = _flatten(optimizer.state_dict())
        return {"parameter": parameter.detach().clone(), "tensors": tensors, "plain": json.dumps(plain)}

    straight = trained(6)
    resumed = trained(3, trained(3))
    assert len(straight["tensors"]) > 2
    assert torch.equal(straight["parameter"], resumed["parameter"])


def test_a_run_that_nobody_read_to_its_end_is_closed_without_a_word(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    program = f"from luthier import api\nrun = api.train({values!r})\nfor event in run:\n    break\nprint('left')\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")
