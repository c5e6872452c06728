"""`luthier quickstart` as the user types it."""

import json
import signal
import sys

import pytest

from luthier.errors import EXIT_RESUMABLE, EXIT_WRONG_REQUEST

from .support import ROOT, process, run_here, start

EVERY_SIXTH_TASK = """
from luthier.cli.main import main
from luthier.evaluate.tasks import quickstart
load = quickstart.load
quickstart.load = lambda: load()[::6]
main()
"""
COMMAND = [sys.executable, "-c", EVERY_SIXTH_TASK]  # tests/quickstart examines the base on all of them


def few_steps(folder, steps):
    return [f"training.output_dir={folder}/run", f"training.max_steps={steps}", f"data.cache_dir={folder}/cache",
            "logging.logging_steps=1", "data.val_set_size=0", "evaluation.eval_steps=0",
            "evaluation.sample_steps=[]"]  # fmt: skip


def test_a_wrong_request_fails_before_any_work(capsys, tmp_path):
    done = run_here(capsys, "quickstart", "--json", tmp_path / "missing" / "result.json")
    assert (done.code, "E-ENV-002" in done.err) == (EXIT_WRONG_REQUEST, True)
    done = run_here(capsys, "quickstart", "learning_rte=1")
    assert (done.code, "learning_rate" in done.err) == (EXIT_WRONG_REQUEST, True)
    done = run_here(capsys, "quickstart", "model.model_name_or_path=luthier:quickstart/bass")
    assert (done.code, "E-CFG-015" in done.err) == (EXIT_WRONG_REQUEST, True)


@pytest.mark.long
@pytest.mark.slow
def test_without_a_terminal_it_writes_plain_lines_and_the_file(tmp_path):
    done = process("quickstart", "--json", tmp_path / "result.json", *few_steps(tmp_path, 2), cwd=ROOT, command=COMMAND)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    for words in ("1 of 4", "{'loss': ", "held-out tasks", "Try next"):
        assert words in done.out
    content = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert content["steps"] == 2
    assert content["base"]["all"] <= 0.05


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    child = start("quickstart", *few_steps(tmp_path, 500), cwd=ROOT, command=COMMAND)
    for line in child.stdout:
        if line.startswith("{'loss'"):
            child.send_signal(signal.SIGINT)
            break
    _, err = child.communicate(timeout=100)
    assert child.returncode == EXIT_RESUMABLE
    assert f"`luthier quickstart training.output_dir={tmp_path}/run " in err  # with what the run needs to go on
    assert "goes on from the newest checkpoint" in err
    assert list((tmp_path / "run").glob("checkpoint-*"))
