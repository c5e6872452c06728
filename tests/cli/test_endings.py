"""Runs that fail for real, their output redirected as the guide does it: log and folder tell the same."""

from __future__ import annotations

import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.main import main
from tests.cli.support import LUTHIER, environment, run_here, write_config

pytestmark = pytest.mark.slow


def redirected(folder: Path, *words: Any) -> int:
    """`luthier train ... > training.log 2>&1`."""
    with (folder / "training.log").open("w") as log:
        command = [*LUTHIER, "train", *map(str, words)]
        return subprocess.run(
            command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, timeout=200
        ).returncode


def appended(folder: Path, *words: Any) -> int:
    """`luthier train ... >> training.log 2>&1`, in this process."""
    log = (folder / "training.log").open("a")
    with log, redirect_stdout(log), redirect_stderr(log), pytest.raises(SystemExit) as ended:
        main(["train", *map(str, words)])
    return int(ended.value.code or 0)


def diagnosis(capsys, path: Path) -> list[dict[str, Any]]:
    return json.loads(run_here(capsys, "doctor", path, "--json").out)


def test_a_run_that_became_nan_is_told_alike_by_log_and_folder(capsys, tiny_model_dir, alpaca_file, tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_grad_norm=0)
    assert redirected(tmp_path, config, "learning_rate=1e25", "bad_steps_limit=0") == 1
    block = (tmp_path / "training.log").read_text().split("E-RUN-001", 1)[1]
    for path in (tmp_path / "training.log", tmp_path / "out"):
        found = diagnosis(capsys, path)[0]
        assert (found["rule"], found["severity"]) == ("not-finite", "critical")
        assert f"fix   {found['fix']}" in block and found["fix"].startswith("write learning_rate: 0.0002;")
        assert [(change["key"], change["new"]) for change in found["change"]] == [("training.learning_rate", "0.0002")]
        shown = run_here(capsys, "watch", "--once", path).out
        assert "  failed  " in shown and found["fix"] in shown


def test_a_start_that_was_refused_is_told_and_turns_no_end_around(capsys, tiny_model_dir, alpaca_file, tmp_path):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_steps=2)
    assert appended(tmp_path, config, "model_name_or_path=/no/such-model-here") == 2
    log = tmp_path / "training.log"
    (found,) = diagnosis(capsys, log)
    assert found["rule"] == "run-failed" and "no/such-model-here" in found["evidence"] and found["step"] is None
    assert f"fix {found['fix']}" in " ".join(log.read_text().split()) and "checkpoint" not in found["why"]
    assert "  failed  " in run_here(capsys, "watch", "--once", log).out
    assert not (tmp_path / "out").exists(), "of a run that never began nothing stays"

    assert appended(tmp_path, config) == 0
    assert appended(tmp_path, config) == 2  # it is there already
    assert "E-CKPT-005" in log.read_text()
    found = diagnosis(capsys, log)
    assert found == diagnosis(capsys, tmp_path / "out") and "run-failed" not in {one["rule"] for one in found}
    assert "  done  " in run_here(capsys, "watch", "--once", log).out
