"""The gate in a run and on the command line: what it stops, what is allowed, what is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import luthier
from luthier.errors import ConfigError, RefusedError
from luthier.events.line import format_line
from luthier.events.types import Checked, CheckpointSaved, Notice
from luthier.gate.checks.place import disk_need
from luthier.gate.gate import BY_NAME, as_events, examine, in_words, known_checks, refuse_failed
from tests.cli.support import run_here, write_config
from tests.data.support import alpaca
from tests.gate.support import subject

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

KEEP = "keep the right one, if only one is"
TOO_SHORT = "max_seq_length=88"  # leaves out more than a fifth of the tiny rows


@pytest.fixture
def config(tiny_model_dir: Path, alpaca_file: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_steps=2)


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


# The door ------------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_the_door_shut_and_says_how_to_open_it(tmp_path: Path):
    checks = examine(subject(tmp_path, vocabulary=100))
    with pytest.raises(RefusedError) as error:
        refuse_failed(checks)
    assert error.value.exit_code == 3
    (problem,) = error.value.problems
    assert problem.code == "E-GATE-001" and problem.where == "model.tokenizer_name_or_path"
    assert problem.found.startswith("vocabulary: the rows have token")
    assert problem.fix.startswith("write model.tokenizer_name_or_path: null (use the tokenizer")
    assert problem.fix.endswith("to start all the same: --allow vocabulary")
    assert problem.why == BY_NAME["vocabulary"].why.rstrip(".")


def test_what_is_allowed_opens_it_and_nothing_else(tmp_path: Path):
    what = subject(tmp_path, vocabulary=100)
    allowed = examine(what, frozenset({"vocabulary"}))
    refuse_failed(allowed)
    assert [check.name for check in allowed if check.verdict == "allowed"] == ["vocabulary"]
    assert in_words(allowed) == "18 checks passed, 1 allowed"
    with pytest.raises(RefusedError):
        refuse_failed(examine(what, frozenset({"rows-cut"})))


def test_several_failures_come_in_one_screen(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError) as error:
        refuse_failed(examine(subject(tmp_path, vocabulary=100, output_dir=tmp_path / "file" / "out")))
    assert [problem.found.partition(":")[0] for problem in error.value.problems] == ["vocabulary", "output-writable"]


@pytest.mark.parametrize(
    ("name", "fix"), [("row-cut", 'did you mean "rows-cut"?'), ("zebra", "the checks are one-bos")]
)
def test_a_name_that_no_check_has(name: str, fix: str):
    with pytest.raises(ConfigError) as error:
        known_checks(["rows-cut", name])
    (problem,) = error.value.problems
    assert problem.code == "E-GATE-002" and fix in problem.fix


def test_the_log_has_a_line_for_what_did_not_pass_and_one_for_all(tmp_path: Path):
    what = subject(tmp_path, [*alpaca(20), {"instruction": "Say 3", "output": "No."}], vocabulary=100)
    lines = [line for event in as_events(examine(what, frozenset({"vocabulary"}))) if (line := format_line(event))]
    both = f"{tmp_path / 'rows.jsonl'}:4 and {tmp_path / 'rows.jsonl'}:21"
    assert lines[0] == f"warning: contradictions: 1 question has more than one answer ({both}); {KEEP}"
    assert lines[1].startswith("warning: vocabulary (allowed): ")
    assert lines[1].endswith("\n  change: model.tokenizer_name_or_path: null")
    assert lines[2:] == ["info: gate: 17 checks passed, 1 warning, 1 allowed"]


def test_what_failed_is_told_once_by_the_error(tmp_path: Path):
    failed = [check for check in examine(subject(tmp_path, vocabulary=100)) if check.verdict == "failed"]
    assert [check.notice() for check in failed] == [None]


# In a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_python_a_failure_is_an_error_and_can_be_allowed(config: Path, tmp_path: Path):
    with pytest.raises(RefusedError):
        list(luthier.train(config, [TOO_SHORT]))
    for request in ({"allow": ("row-cut",)}, {"overrides": "learning_rat=1"}):
        with pytest.raises(ConfigError):
            luthier.train(config, **request)  # at once, not when the first event is read
    done = list(luthier.train(config, TOO_SHORT, allow="rows-cut"))
    assert [event.name for event in done if isinstance(event, Checked) and event.verdict == "allowed"] == ["rows-cut"]
    saved = next(event for event in done if isinstance(event, CheckpointSaved))
    need = disk_need(luthier.plan(config)[0])
    # what is foretold is what is written, but for headers, configs and counters, which matter in so small a model only
    written = sum(
        (Path(saved.path) / name).stat().st_size for name in ("adapter_model.safetensors", "optimizer.safetensors")
    )
    assert need.checkpoint_bytes < written < 1.2 * need.checkpoint_bytes
    assert not [event for event in done if isinstance(event, Notice) and "BOS" in event.text], "one fact, one line"


# On the command line -------------------------------------------------------------------------------------------------


def test_a_run_that_would_be_wasted_ends_with_code_3(capsys: Any, config: Path, tmp_path: Path):
    out = tmp_path / "out"
    result = run_here(capsys, "train", config, TOO_SHORT)
    assert result.code == 3
    assert "E-GATE-001  data.max_seq_length: rows-cut: " in result.err and "--allow rows-cut" in result.err
    assert "are left out" not in result.out, "told once"
    assert "loading" not in result.out and not list(out.glob("checkpoint-*")), "before any weights"
    record = events(out)
    verdicts = {event["name"]: event["verdict"] for event in record if event["event"] == "checked"}
    assert list(verdicts) == list(BY_NAME) and verdicts["rows-cut"] == "failed"
    assert (record[-1]["event"], record[-1]["status"]) == ("run_finished", "failed")
    assert "rows-cut" in record[-1]["reason"]

    result = run_here(capsys, "train", config, TOO_SHORT, "--allow", "rows-cut")
    assert result.code == 0
    assert "warning: rows-cut (allowed): " in result.out and "info: gate: 18 checks passed, 1 allowed" in result.out
    assert yaml.safe_load((out / "plan.yaml").read_text())["record"]["allowed"] == ["rows-cut"]


def test_a_healthy_run_says_it_in_one_line(capsys: Any, config: Path, tmp_path: Path):
    result = run_here(capsys, "train", config)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("gate: ") == 1 and "info: gate: 19 checks passed\n" in result.out
    assert yaml.safe_load((tmp_path / "out" / "plan.yaml").read_text())["record"]["allowed"] == []


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_an_unknown_name_is_a_wrong_request(capsys: Any, config: Path, tmp_path: Path, verb: str):
    check = ["--check"] if verb == "plan" else []
    result = run_here(capsys, verb, config, *check, "--allow", "rows-ct")
    assert result.code == 2 and "E-GATE-002" in result.err and 'did you mean "rows-cut"?' in result.err
    assert not (tmp_path / "out").exists()


def test_the_plan_checked(capsys: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "plan", "c.yaml", "--check")
    assert (result.code, result.err) == (0, "")
    assert "What will happen" in result.out and "19 checks passed" in result.out and " trained  " in result.out
    assert not (tmp_path / "out").exists(), "looking writes nothing"
    result = run_here(capsys, "plan", "c.yaml", "--check", TOO_SHORT)
    assert result.code == 3 and "✗ rows-cut" in result.out and "change  data.max_seq_length" in result.out
    result = run_here(capsys, "plan", "c.yaml", "--check", TOO_SHORT, "--allow", "rows-cut")
    assert result.code == 0 and "18 checks passed, 1 allowed" in result.out


def test_inspect_shows_rows(capsys: Any, config: Path, tmp_path: Path):
    result = run_here(capsys, "inspect", config)
    assert (result.code, result.err) == (0, "")
    assert "longest, trained on" in result.out and "shortest, trained on" in result.out and "█" in result.out
    result = run_here(capsys, "inspect", config, "--row", "3", "--row", "5")
    assert result.out.count("asked for, trained on") == 2 and "rows.jsonl:5" in result.out and "█" not in result.out


def test_inspect_does_not_write_over_the_config(capsys: Any, config: Path):
    before = config.read_text("utf-8")
    result = run_here(capsys, "inspect", config, "--html", config)
    assert result.code == 2 and "E-ENV-002" in result.err and config.read_text("utf-8") == before


def test_inspect_refuses_a_row_that_is_not_there(capsys: Any, config: Path):
    result = run_here(capsys, "inspect", config, "--row", "65")
    assert result.code == 2 and "E-GATE-003  --row: row 65 is asked for, and there are 64" in result.err


def test_inspect_writes_a_page(capsys: Any, config: Path, tmp_path: Path):
    target = tmp_path / "rows.html"
    result = run_here(capsys, "inspect", config, "--html", target)
    assert (result.code, result.out) == (0, f"written to {target}\n")
    assert target.read_text().startswith("<!doctype html>") and 'class="trained' in target.read_text()
    result = run_here(capsys, "inspect", config, "--html", tmp_path / "missing" / "rows.html")
    assert result.code == 2 and "E-ENV-002  --html" in result.err


def test_explain_a_check(capsys: Any):
    result = run_here(capsys, "explain", "rows-cut")
    assert result.code == 0 and result.out.startswith("rows-cut  Rows that are too long\n")
    assert max(map(len, result.out.splitlines())) <= 100
