"""What a run died of, read back from its log: our own errors, and what torch, rich and shells print."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.doctor import Finding, History, findings
from luthier.doctor import fold as fold_history
from luthier.errors import CODES, LuthierError, Problem, RunError
from luthier.events.follow import open_log
from luthier.events.types import Event, Notice, RunFinished
from luthier.monitor.state import RunState, fold
from luthier.training.failures import named_failures
from tests.rows import MemoryRows, plan_for

HEADER = "run checkpoints: 26 steps, 3 epochs\n"
LINE = "{'loss': 1.318, 'grad_norm': 0.4693, 'learning_rate': 0.0002, 'epoch': 2.5, 'step': 22}\n"
DONE = "{'train_runtime': 9.5, 'train_loss': 1.2, 'epoch': 3.0, 'step': 26}\n"


def printed(*problems: Problem) -> str:
    """As the command line prints it."""
    return f"\n{LuthierError(*problems)}\n\n"


def read(path: Path, text: str) -> tuple[list[Event], RunState, dict[str, Finding]]:
    path.write_text(text, "utf-8")
    events = [told.event for told in open_log(path, whole=True).everything()]
    state, seen = RunState(), History()
    for event in events:
        state, seen = fold(state, event, 1.0), fold_history(seen, event, 1.0)
    return events, state, {finding.rule: finding for finding in findings(seen, 2.0)}


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("before", ["", HEADER + LINE], ids=["at the start", "after a step"])
def test_every_error_is_the_end_of_a_run_and_says_what_to_do(tmp_path, code, before):
    text = before + printed(Problem(code, "what was found", "write num_train_epochs: 2, then go on", "here"))
    events, state, found = read(tmp_path / "training.log", text)
    assert state.status == "failed" and isinstance(events[-1], RunFinished)
    assert (events[-1].code, events[-1].why) == (code, CODES[code].why)
    (finding,) = found.values()
    assert finding.severity == "critical" and f"{code}  here: what was found" in finding.evidence
    assert finding.fix == "write num_train_epochs: 2, then go on"
    assert [(change.key.rpartition(".")[2], change.new) for change in finding.change] == [("num_train_epochs", "2")]
    assert finding.why.casefold().startswith(CODES[code].why.casefold())


def test_several_blocks_of_one_error_all_count(tmp_path):
    problems = [Problem("E-DATA-001", f"row {n} is empty", "fill it", f"a.jsonl:{n}") for n in (3, 4)]
    text = printed(*problems, Problem("E-CFG-003", "unknown key", "write learning_rate: 2e-4", "c.yaml:1"))
    events, _, found = read(tmp_path / "training.log", text)
    assert [event.kind for event in events] == ["run_finished"]
    assert found["run-failed"].fix == "fill it; write learning_rate: 2e-4"
    for words in ("a.jsonl:3: row 3 is empty", "a.jsonl:4: row 4 is empty", "c.yaml:1: unknown key"):
        assert words in found["run-failed"].evidence


def test_a_refused_start_after_the_end_changes_nothing(tmp_path):
    refused = printed(Problem("E-CKPT-005", "checkpoints holds an earlier run", "go on with --resume auto"))
    for end, status in ((DONE, "done"), ("stopped at step 22: by a signal\n", "stopped")):
        events, state, _ = read(tmp_path / "training.log", HEADER + LINE + end + refused)
        assert state.status == status and isinstance(events[-1], Notice) and "E-CKPT-005" in events[-1].text


def test_of_two_starts_that_failed_the_latter_is_told(tmp_path):
    memory = printed(Problem("E-RUN-002", "no memory", "write max_tokens_per_micro_batch: 1024, then --resume auto"))
    refused = printed(Problem("E-CKPT-005", "there is one", "go on with --resume auto"))
    _, _, found = read(tmp_path / "training.log", HEADER + LINE + memory + refused)
    assert found["run-failed"].fix == "go on with --resume auto"
    _, state, found = read(tmp_path / "training.log", HEADER + LINE + memory + HEADER + LINE)
    assert state.status == "training" and found == {}


def test_an_error_that_the_run_survives_is_a_warning(tmp_path):
    other = printed(Problem("E-CKPT-007", "in use by another run", "write another output_dir"))
    for trouble in (other, "CUDA out of memory\n", "[rank1]: torch.OutOfMemoryError: CUDA out of memory.\n"):
        after = LINE.replace("22", "24")
        events, state, _ = read(tmp_path / "training.log", HEADER + LINE + trouble + after)
        (notice,) = [event for event in events if isinstance(event, Notice)]
        assert state.status == "training" and notice.severity == "warning"
        assert notice.text.startswith("an error, and the run went on: ")


def test_a_block_from_a_narrow_terminal_is_read_whole(tmp_path):
    block = "\nE-RUN-002  cuda:0 ran out of memory\n        with 2,048 tokens\n  why   it needs\n        more\n"
    block += "  fix   write max_tokens_per_micro_batch: 1024,\n        then --resume auto\n  more  luthier explain\n"
    _, _, found = read(tmp_path / "training.log", HEADER + LINE + "sample at step 22\n  > a\n    b\n" + block)
    assert found["out-of-memory"].evidence == "E-RUN-002  cuda:0 ran out of memory with 2,048 tokens"
    assert found["out-of-memory"].fix == "write max_tokens_per_micro_batch: 1024, then --resume auto"


def test_memory_that_luthier_itself_misses_is_advised_as_luthier_advises_it(tmp_path):
    plan = plan_for("anywhere", MemoryRows(4), tokens=1000, val_set_size=0, output_dir=tmp_path)
    with pytest.raises(RunError) as caught, named_failures(lambda: plan):
        torch.empty(2**48)
    _, state, found = read(tmp_path / "training.log", f"{HEADER}{LINE}\n{caught.value}\n\n")
    finding = found["out-of-memory"]
    assert state.status == "failed" and finding.fix == caught.value.problems[0].fix
    assert [(change.key.rpartition(".")[2], change.new) for change in finding.change] == [
        ("max_tokens_per_micro_batch", "500")
    ]


@pytest.mark.parametrize(
    "line",
    [
        "CUDA out of memory",
        "RuntimeError: CUDA out of memory. Tried to allocate 1.95 GiB",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 23 GiB",
        "[rank0]: torch.OutOfMemoryError: CUDA out of memory.",
        "torch.cuda.OutOfMemoryError: CUDA out of memory.",
        "RuntimeError: CUDA error: out of memory",
        "2025-05-19 17:03:46 ERROR CUDA out of memory. Tried to allocate 1.95 GiB",
        "[2025-05-19 17:03:46,240] [ERROR] [axolotl.train:461] [PID:99] [RANK:0] CUDA out of memory.",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.",
    ],
)
def test_a_line_that_says_no_more_than_that_the_memory_ran_out(tmp_path, line):
    before = "".join(f"{{'loss': {2 - n / 100}, 'epoch': 0.{n}}}\n" for n in range(10, 40))
    _, state, found = read(tmp_path / "a.log", f"{before}{line}\n")
    assert state.status == "failed" and found["out-of-memory"].severity == "critical"


@pytest.mark.parametrize("line", ["Killed", "bash: line 1: 12345 Killed                  python train.py"])
def test_a_run_that_was_killed(tmp_path, line):
    _, state, found = read(tmp_path / "a.log", HEADER + LINE + line)
    assert state.status == "failed" and "the machine's memory ran out" in found["run-failed"].evidence


@pytest.mark.parametrize(
    "line",
    [
        "UserWarning: gradient checkpointing is off, you may run out of memory",
        "If you see CUDA out of memory, lower the batch size.",
        "Killed 3 stale workers",
        "E-CFG-003 is explained by luthier explain",
    ],
)
def test_words_about_failures_are_none(tmp_path, line):
    _, state, _ = read(tmp_path / "a.log", f"{LINE}{line}\n")
    assert state.status == "training"


ALLOCATES = "import torch; print({'loss': 1.3, 'epoch': 0.1}, flush=True); torch.empty(2**48)"


@pytest.mark.parametrize("first", ["", "from rich.traceback import install; install(); "], ids=["python", "rich"])
def test_what_torch_itself_prints(tmp_path, first):
    done = subprocess.run([sys.executable, "-c", first + ALLOCATES], capture_output=True, text=True, timeout=100)
    assert "allocate" in done.stderr and done.returncode
    for text in (done.stderr, "\n".join(done.stderr.splitlines()[-1 - 3 * bool(first) :])):
        _, state, found = read(tmp_path / "a.log", f"{done.stdout}{text}\n")
        assert state.status == "failed" and "out-of-memory" in found, text


def test_what_a_logger_prints_of_torch(tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        try:
            torch.empty(2**48)
        except RuntimeError as error:
            logging.getLogger("train").error("%s", error)
    form = logging.Formatter("%(asctime)s - %(levelname)s - %(name)s - %(message)s")
    _, _, found = read(tmp_path / "a.log", LINE + form.format(caplog.records[-1]))
    assert "out-of-memory" in found
