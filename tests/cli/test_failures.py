"""What the machine can do to a run in mid-step: each failure has a name, a line to change, and a way to go on."""

from __future__ import annotations

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from luthier import api
from luthier.errors import RunError
from luthier.events.read import read
from luthier.training.commit import commit
from luthier.training.failures import named_failures
from tests.cli.support import run_here, write_config
from tests.rows import MemoryRows, plan_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def plan(tmp_path):
    return plan_for("anywhere", MemoryRows(4), tokens=1000, val_set_size=0, output_dir=tmp_path)


@pytest.mark.parametrize(
    ("rate", "said", "saved"),
    [
        ("1e25", "E-RUN-001  training.learning_rate: step 2: loss nan", ["checkpoint-1"]),
        ("1e38", "E-RUN-001  training.learning_rate: after step 1 ", []),
    ],
    ids=["the next loss", "the weights at once"],
)
def test_a_loss_that_explodes_stops_before_it_is_applied(
    capsys, tiny_model_dir, alpaca_file, tmp_path, rate, said, saved
):
    options = {"max_grad_norm": 0, "bad_steps_limit": 0}
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", **options)
    result = run_here(capsys, "train", config, f"learning_rate={rate}", "save_steps=1")
    assert result.code == 1
    assert said in result.err
    assert "rows " in result.err or not saved
    assert "--resume auto" in result.err and "Traceback" not in result.err
    assert sorted(p.name for p in (tmp_path / "out").glob("checkpoint-*")) == saved
    assert '"status": "failed"' in (tmp_path / "out" / "events.jsonl").read_text().splitlines()[-1].replace(
        '":"', '": "'
    )


def test_memory_that_is_not_there_halves_the_micro_batch(plan):
    with pytest.raises(RunError) as caught, named_failures(lambda: plan):
        torch.empty(2**48)
    (problem,) = caught.value.problems
    assert problem.code == "E-RUN-002"
    assert "write max_tokens_per_micro_batch: 500" in problem.fix


def test_a_micro_batch_that_only_just_holds_the_longest_row_is_not_halved(tmp_path):
    rows = MemoryRows(4)
    plan = plan_for("anywhere", rows, tokens=int(rows.lengths.max()), val_set_size=0, output_dir=tmp_path)
    with pytest.raises(RunError) as caught, named_failures(lambda: plan):
        torch.empty(2**48)
    (problem,) = caught.value.problems
    assert problem.fix == "write gradient_checkpointing: true, then --resume auto"
    assert problem.where == "training.gradient_checkpointing"


def test_where_the_yaml_decides_the_passes_the_line_is_one_that_changes_them(tmp_path):
    keys = {"val_set_size": 0, "output_dir": tmp_path}
    plan = plan_for("anywhere", MemoryRows(4), tokens=50, auto=False, per_device_train_batch_size=8, **keys)
    with pytest.raises(RunError) as caught, named_failures(lambda: plan):
        torch.empty(2**48)
    (problem,) = caught.value.problems
    assert (problem.fix, problem.where) == ("write auto: true, then --resume auto", "training.auto")
    written = plan_for("anywhere", MemoryRows(4), tokens=50, auto=True, per_device_train_batch_size=8, **keys)
    assert written.max_tokens_per_micro_batch == 50 < plan.max_tokens_per_micro_batch
    assert written.examples_per_step == plan.examples_per_step


def test_other_errors_keep_their_names(plan):
    with pytest.raises(RuntimeError, match="shapes"), named_failures(lambda: plan):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(FileNotFoundError), named_failures(lambda: plan):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")


@contextmanager
def no_room(most_bytes):
    """Files may grow to so many bytes and no further: what a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_a_full_disk_is_named(plan, tmp_path, writer):
    file = tmp_path / "big.safetensors"
    with pytest.raises(RunError) as caught, no_room(1000), named_failures(lambda: plan):
        if writer == "python":
            file.write_bytes(bytes(5000))
        else:
            commit(tmp_path / "folder", lambda folder: save_file({"weights": torch.zeros(5000)}, folder / file.name))
    (problem,) = caught.value.problems
    assert problem.code == "E-RUN-003"
    assert problem.fix == "make room, then --resume auto"


@pytest.fixture
def failing(monkeypatch):
    """Makes the engine raise something after its first events."""

    def fail(error):
        run_engine = api.run_engine

        def run(job):
            for event in run_engine(job):
                yield event
                if event.kind == "log":
                    raise error from KeyError("the reason")

        monkeypatch.setattr(api, "run_engine", run)

    return fail


def test_what_nobody_foresaw_is_an_event_a_file_in_the_runs_folder_and_one_screen(
    capsys, failing, tiny_model_dir, alpaca_file, tmp_path
):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")
    failing(ZeroDivisionError("a library stumbled\nand fell"))
    result = run_here(capsys, "train", config)
    kept = tmp_path / "out" / "error.log"
    assert result.code == 1 and result.err.count("\n") < 8 and "Traceback" not in result.err
    assert "E-RUN-004  ZeroDivisionError: a library stumbled\n" in result.err and str(kept) in result.err
    assert "the reason" in kept.read_text() and kept.read_text().count("Traceback") == 1
    last = [event for event, _ in read(tmp_path / "out" / "events.jsonl")][-1]
    assert (last.kind, last.status, last.step) == ("run_finished", "failed", 1)
    assert last.reason == "ZeroDivisionError: a library stumbled"
    run_here(capsys, "train", config)
    assert kept.read_text().count("ZeroDivisionError: a library stumbled") == 2, "the file of a run is gone on with"


def test_callers_in_python_get_one_kind_of_error_with_the_cause(failing, tiny_model_dir, alpaca_file, tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")
    failing(original := ZeroDivisionError("a library stumbled"))
    with pytest.raises(RunError, match="E-RUN-004") as caught:
        list(api.train(config))
    assert caught.value.__cause__ is original


def test_a_failure_with_a_name_and_a_cause_names_its_trace(capsys, failing, tiny_model_dir, alpaca_file, tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")
    failing(torch.OutOfMemoryError("CUDA out of memory"))
    result = run_here(capsys, "train", config)
    assert result.code == 1 and "E-RUN-002" in result.err
    assert f"  trace {tmp_path / 'out' / 'error.log'}" in result.err
    assert "OutOfMemoryError" in (tmp_path / "out" / "error.log").read_text()


def test_an_interrupt_stays_one(failing, tiny_model_dir, alpaca_file, tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")
    failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(api.train(config))
    assert not (tmp_path / "out" / "error.log").exists()
