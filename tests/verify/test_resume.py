"""`luthier verify resume`: a true resume passes, and one that forgets something is found."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from luthier.config.load import load
from luthier.errors import RunError
from luthier.training import engine
from luthier.verify import child, resume
from luthier.verify.resume import verify_resume
from tests.cli.support import process, run_here, write_config
from tests.torture.outcome import FORKS
from tests.training.test_resume import forgetful

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
KEYS = ["lora.lora_dropout=0.1", "val_set_size=6", "max_steps=20", "warmup_steps=3", "learning_rate=0.05"]


@pytest.fixture
def config(tmp_path, tiny_model_dir, alpaca_file):
    return write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "runs" / "out")


EVERYTHING = "everything"


def attempt(request, forgotten):
    """In a fork: a run of the verification, whose resume forgets something, or finds no checkpoint."""
    torch.set_num_threads(1)
    if forgotten == EVERYTHING and request["resume"]:
        shutil.rmtree(Path(request["config"]["training"]["output_dir"]) / "checkpoint-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "restore", forgetful(forgotten))
        child.train(request)


@pytest.fixture
def forks(monkeypatch):
    """Runs of the verification as forks, which start fast; returns how to make their resume forget something."""
    forgotten = [""]

    def in_process(path: Path, request):
        run = FORKS.Process(target=attempt, args=(request, forgotten[0]))
        run.start()
        run.join(120)
        assert run.exitcode == (-child.SIGKILL if request["kill_after"] else 0)

    monkeypatch.setattr(resume, "_in_process", in_process)
    return lambda what: forgotten.__setitem__(0, what)


@pytest.mark.slow
def test_a_resume_is_exact_and_the_users_folder_is_left_alone(capsys, config, tmp_path, forks):
    (tmp_path / "runs").mkdir()
    result = run_here(capsys, "verify", "resume", config, *KEYS, "--steps", "6", "--json", tmp_path / "v.json")
    assert result.code == 0, result.err + result.out
    assert "bit for bit" in result.out and "killed with SIGKILL after step 4" in result.out
    assert "the same in every step" in result.out
    assert list((tmp_path / "runs").iterdir()) == []
    told = json.loads((tmp_path / "v.json").read_text())
    assert told["equal"] is True and told["steps"] == 6 and told["resumed_from"] == 3
    assert told["comparison"]["rows"] == {"3": True, "6": True}
    assert {q["name"]: q["compared"] for q in told["comparison"]["quantities"]}["eval loss"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forgotten", "named"),
    [
        ("random generators", {"loss", "trained weights", "optimizer", "random generators"}),
        ("optimizer", {"trained weights", "optimizer"}),
        ("position", {"rows that trained", "loss"}),
        ("best evaluation", {"counters"}),
    ],
)
def test_a_resume_that_forgets_something_is_found(capsys, config, forks, forgotten, named):
    forks(forgotten)
    result = run_here(capsys, "verify", "resume", config, *KEYS, "--steps", "6")
    assert result.code == 3, result.out + result.err
    text = " ".join(result.out.split())
    listed = set(text.partition("NOT the straight one: ")[2].partition(" differ.")[0].split(", "))
    assert named <= listed
    assert "it is the resume that loses something" in text


@pytest.mark.slow
def test_e_run_021_a_resume_that_did_not_happen(config, forks):
    forks(EVERYTHING)
    with pytest.raises(RunError, match=r"E-RUN-021.*was to go on from step 2, and went on from no checkpoint"):
        verify_resume(load(config, KEYS), 4, lambda _: None)


def test_e_run_021_a_kill_before_there_was_a_checkpoint(config, monkeypatch):
    monkeypatch.setattr(resume, "_in_process", lambda path, request: None)  # as the killer of full memories leaves it
    with pytest.raises(RunError, match=r"E-RUN-021.*killed run left no whole checkpoint-2: it is not there"):
        verify_resume(load(config, KEYS), 4, lambda _: None)


@pytest.mark.slow
def test_the_plan_is_the_real_one(config, forks, monkeypatch):
    seen = {}
    compare = resume.compare

    def look(first, second, step):
        import yaml

        for folder in (first, second):
            seen[folder.name] = yaml.safe_load((folder / "plan.yaml").read_text())["derived"]["total_steps"]["value"]
        return compare(first, second, step)

    monkeypatch.setattr(resume, "compare", look)
    said = []
    verified = verify_resume(load(config, KEYS), 4, said.append)
    assert seen == {"straight": 20, "killed": 20} and verified.comparison.equal
    assert [text.partition(":")[0] for text in said] == ["1 of 3", "2 of 3", "3 of 3"]


def test_e_run_021_a_run_that_fails_is_named(config, monkeypatch):
    monkeypatch.setattr(resume, "CHILD", ("-c", "import sys; sys.exit('\\nE-RUN-002  there: no memory\\n  why')"))
    with pytest.raises(RunError) as caught:
        verify_resume(load(config, KEYS), 4, lambda _: None)
    (problem,) = caught.value.problems
    assert problem.code == "E-RUN-021" and "straight run ended with exit code 1: E-RUN-002  there" in problem.found


def test_e_run_021_a_run_that_was_to_be_killed_and_is_not(config, monkeypatch):
    monkeypatch.setattr(resume, "CHILD", ("-c", "pass"))
    with pytest.raises(RunError, match="killed run ended with exit code 0"):
        verify_resume(load(config, KEYS), 4, lambda _: None)


def test_what_the_gate_may_let_pass(capsys, config, forks, tmp_path):
    cut = [*KEYS, "overlong_rows=truncate", "max_seq_length=90"]
    result = run_here(capsys, "verify", "resume", config, *cut, "--steps", "2", "--allow", "zero-label-row")
    assert result.code == 2 and "E-GATE-002" in result.err and "zero-label-rows" in result.err
    refused = run_here(capsys, "verify", "resume", config, *cut, "--steps", "2")
    result = run_here(capsys, "verify", "resume", config, *cut, "--steps", "2", "--allow", "zero-label-rows")
    assert (refused.code, result.code) == (1, 0), refused.err + result.err


def test_e_run_021_a_single_step_has_no_middle(capsys, config):
    result = run_here(capsys, "verify", "resume", config, "max_steps=1")
    assert result.code == 1 and "E-RUN-021" in result.err and "nothing to interrupt" in result.err


def test_what_is_wrong_with_the_config_is_said_as_ever(capsys, config):
    result = run_here(capsys, "verify", "resume", config, "datasets=[{path: nothing.jsonl}]")
    assert result.code == 2 and "E-DATA-001" in result.err


@pytest.mark.long
@pytest.mark.slow
def test_the_real_command_with_real_processes(config, tmp_path):
    result = process("verify", "resume", config, *KEYS, "--steps", "4", cwd=tmp_path)
    assert result.code == 0, result.err + result.out
    assert "bit for bit" in result.out and result.err.count("\n") == 3
