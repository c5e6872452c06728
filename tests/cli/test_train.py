"""`luthier train` as users run it: what it prints, what it leaves behind, how it stops and goes on."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time

import pytest

from luthier.events.line import parse_line
from tests.cli.support import LUTHIER, ROOT, environment, process, run_here, start, write_config

# TensorBoard and bitsandbytes warn at import; a user sees none of it, and the tests of whole processes prove that.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def setting(tiny_model_dir, alpaca_file, tmp_path_factory):
    """Makes a config in a folder of its own; returns it and its output folder."""

    def make(**training):
        folder = tmp_path_factory.mktemp("run")
        return write_config(folder / "c.yaml", tiny_model_dir, alpaca_file, folder / "out", **training), folder / "out"

    return make


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory):
    """A whole run by the launcher, started in another folder, its output redirected; its config, folder and result."""
    config, out = setting(max_steps=6)
    cwd = tmp_path_factory.mktemp("elsewhere")
    result = process(
        config, "sample_prompts=[Reverse a string]", "sample_max_new_tokens=4", "load_in_4bit=true",
        cwd=cwd, command=[sys.executable, str(ROOT / "src" / "training" / "train.py")],
    )  # fmt: skip
    return config, out, result, cwd


def losses(text):
    values = [parse_line(line) or {} for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in values if "loss" in line}


def steps_on_disk(out):
    return sorted(int(p.name.split("-")[1]) for p in out.glob("checkpoint-*"))


def test_the_log_has_one_dict_a_step_and_nothing_of_the_libraries(finished):
    _, out, result, _ = finished
    assert result.code == 0
    assert result.err == ""
    assert list(losses(result.out)) == [1, 2, 3, 4, 5, 6]
    (last,) = [v for v in map(parse_line, result.out.splitlines()) if v and "train_loss" in v]
    assert last["step"] == 6
    first = next(v for v in map(parse_line, result.out.splitlines()) if v and "loss" in v)
    assert {"loss", "grad_norm", "learning_rate", "epoch", "step", "num_tokens"} <= first.keys()
    word = f"warning: The first loss is not that of this model on this text: luthier doctor {out}"  # a random base
    assert result.out.endswith(f"\nresult: {out}/final_model; ask it: luthier chat {out}\n{word}\n")
    known = r"\{'|result: |run out|warning: |info[: ]|model: |memory: |rehearsal of |saved |sample at step|  > |    "
    known += r"|  change: |  record: "
    strangers = [line for line in result.out.splitlines() if not re.match(known, line)]
    assert strangers == []
    for name in ("transformers", "bitsandbytes", "UserWarning", "FutureWarning", "it/s"):
        assert name not in result.out + result.err


def test_the_log_falls(finished):
    values = losses(finished[2].out)
    assert values[6] < values[1]


def test_everything_promised_lies_in_the_output_folder(finished):
    _, out, _, cwd = finished
    names = {p.name for p in out.iterdir()}
    assert {"plan.yaml", "events.jsonl", "logs", "final_model", "checkpoint-4", "checkpoint-6"} <= names
    assert not any(name.startswith((".inflight", ".trash")) for name in names)
    assert list(cwd.iterdir()) == [], "nothing is written outside the output folder"


def test_the_launcher_without_arguments_finds_the_default_config(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "src" / "training" / "train.py"), run_name="__main__")
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "meta-llama/Llama-3.2-1B is not on this machine" in errors
    assert "luthier quickstart" in errors


def test_a_second_run_in_the_same_folder_is_refused(capsys, finished):
    config, out, _, _ = finished
    before = sorted(p.name for p in out.iterdir())
    result = run_here(capsys, "train", config)
    assert result.code == 2
    assert "E-CKPT-005" in result.err and "--resume auto" in result.err and "--overwrite" in result.err
    assert sorted(p.name for p in out.iterdir()) == before


HOLD = """import fcntl, os, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("process", os.getpid(), file=lock, flush=True)
print("held", flush=True)
sys.stdin.read()"""


def test_a_locked_folder_is_refused_and_names_the_holder(capsys, setting):
    config, out = setting(max_steps=1)
    out.mkdir()
    command = [sys.executable, "-c", HOLD, str(out / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        result = run_here(capsys, "train", config)
        other.stdin.close()
    assert result.code == 2
    assert "E-CKPT-006" in result.err and f"process {other.pid}" in result.err
    assert run_here(capsys, "train", config).code == 0, "the lock goes with its process"


def test_an_output_folder_that_cannot_be_written(capsys, tmp_path, setting):
    config, _ = setting()
    (tmp_path / "file").write_text("not a folder")
    result = run_here(capsys, "train", config, f"output_dir={tmp_path / 'file' / 'out'}")
    assert result.code == 2
    assert "E-ENV-002" in result.err and "Traceback" not in result.err
    result = run_here(capsys, "train", config, f"output_dir={tmp_path / 'file'}")
    assert result.code == 2 and f"{tmp_path / 'file'} is a file, not a folder" in result.err


def test_overwrite_moves_the_old_run_aside(capsys, setting):
    config, out = setting(max_steps=1)
    for count in (1, 2):
        result = run_here(capsys, "train", config, *(["--overwrite"] if count == 2 else []))
        assert result.code == 0, result.err
    (aside,) = out.parent.glob("out.old-*")
    assert (aside / "final_model").is_dir() and (out / "final_model").is_dir()


def test_an_unknown_failure_leaves_a_traceback_in_a_file_not_on_the_screen(capsys, monkeypatch, tmp_path, setting):
    config, out = setting(max_steps=1)
    (out / "plan.yaml").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "train", config)
    assert result.code == 1
    assert "E-RUN-004" in result.err and "IsADirectoryError" in result.err
    assert "Traceback" not in result.err + result.out
    kept = out / "error.log"
    assert str(kept) in result.err
    assert "Traceback" in kept.read_text() and "plan.yaml" in kept.read_text()
    assert not (tmp_path / "luthier-error.log").exists()


def test_a_reader_that_goes_away_does_not_stop_the_run(setting, tmp_path):
    config, out = setting(max_steps=2)
    done = subprocess.run(
        f"{' '.join(LUTHIER)} train {config} | head -1; echo ended ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "info: reading the model's configuration and the rows\nended 0\n"
    assert "BrokenPipe" not in done.stderr.replace("(BrokenPipeError: [Errno 32] Broken pipe)", "")
    assert "Traceback" not in done.stderr
    assert (out / "final_model").is_dir()


def test_sigterm_finishes_the_step_saves_and_resume_ends_as_if_nothing_had_been(capsys, setting):
    config, out = setting(max_steps=40, gradient_accumulation_steps=1)
    run = start("train", config, cwd=config.parent)
    seen = read_until(run, "'step': 2,")
    run.send_signal(signal.SIGTERM)
    rest, errors = run.communicate(timeout=100)
    assert run.returncode == 75
    assert errors == "stopping: this step is finished and saved first (Ctrl-C again: now)\n"
    assert re.search(r"stopped at step \d+: .*--resume auto", rest)
    last = max(losses(seen + rest))
    assert 2 <= last < 40
    assert steps_on_disk(out)[-1] == last, "the finished step is saved"
    assert not (out / "final_model").exists()
    resumed = run_here(capsys, "train", config, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert f"resumed at step {last} from" in resumed.out
    assert (out / "final_model").is_dir()
    other, _ = setting(max_steps=40, gradient_accumulation_steps=1)
    whole = losses(run_here(capsys, "train", other).out)
    assert losses(seen + rest) | losses(resumed.out) == pytest.approx(whole, abs=2e-4)


def test_sigint_does_the_same(capsys, setting):
    config, out = setting(max_steps=100_000, gradient_accumulation_steps=1)

    def interrupt():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (out / "checkpoint-4").is_dir():
                return os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    helper = threading.Thread(target=interrupt)
    helper.start()
    result = run_here(capsys, "train", config)
    helper.join()
    assert result.code == 75
    assert "--resume auto" in result.out
    assert steps_on_disk(out)[-1] == max(losses(result.out))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_stops_at_once_and_says_how_to_go_on(setting):
    config, out = setting(num_train_epochs=1000, per_device_train_batch_size=64)
    run = start("train", config, "save_steps=1", "save_total_limit=1", cwd=config.parent)
    seen = read_until(run, "'step': 2,")
    run.send_signal(signal.SIGSTOP)  # both interrupts arrive within one step
    run.send_signal(signal.SIGINT)
    time.sleep(0.05)
    run.send_signal(signal.SIGCONT)
    run.send_signal(signal.SIGINT)
    rest, errors = run.communicate(timeout=100)
    assert run.returncode == 75
    assert "--resume auto" in rest + errors
    assert "Traceback" not in errors
    assert max(losses(seen + rest)) < 10
    assert steps_on_disk(out)


def read_until(run, words):
    """Output up to the line that holds `words`."""
    seen = ""
    for line in run.stdout:
        seen += line
        if words in line:
            return seen
    pytest.fail(f"the run ended early: {seen}{run.stderr.read()}")
