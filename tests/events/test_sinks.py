import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import MissingError
from luthier.errors.extras import install
from luthier.events.line import parse_line
from luthier.events.read import read
from luthier.events.sinks import Named, Sinks, open_sinks
from luthier.events.sinks.extra import EXTRAS, missing_extras, require_extras, starting
from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.sinks.metrics import metrics
from luthier.events.sinks.text import TextSink
from luthier.events.types import Notice
from tests.events.stream import evaluated, log, started, whole_run


class Recorder:
    def __init__(self):
        self.events = []
        self.closed = 0

    def write(self, event):
        self.events.append(event)

    def close(self):
        self.closed += 1


def two_sinks(name, failing):
    said = []
    recorder = Recorder()
    sinks = Sinks(said.append)
    sinks.add(name, failing)
    sinks.add("recorder", recorder)
    return sinks, recorder, said


def assert_dropped_once(sinks, recorder, said, name):
    for step in (1, 2, 3):
        sinks.write(log(step))
    assert sinks.names == ("recorder",)
    assert len(said) == 1
    assert name in said[0]
    notices = [event for event in recorder.events if isinstance(event, Notice)]
    assert [(notice.severity, notice.text) for notice in notices] == [("warning", said[0])]
    assert [event for event in recorder.events if event not in notices] == [log(1), log(2), log(3)]
    sinks.close()
    assert recorder.closed == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_drops_the_log_and_not_the_run():
    sinks, recorder, said = two_sinks("events.jsonl", JsonlSink("/dev/full"))
    assert_dropped_once(sinks, recorder, said, "events.jsonl")
    assert "No space left" in said[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_text_log():
    with Path("/dev/full").open("w") as stream:
        sinks, recorder, said = two_sinks("training.log", TextSink(stream))
        assert_dropped_once(sinks, recorder, said, "training.log")
        with pytest.raises(OSError, match="No space left"):
            stream.close()


def test_a_closed_stream():
    stream = io.StringIO()
    stream.close()
    assert_dropped_once(*two_sinks("training.log", TextSink(stream)), "training.log")


def test_a_sink_that_cannot_even_close():
    class Broken(Recorder):
        def close(self):
            raise RuntimeError("jammed")

    said = []
    with Sinks(said.append) as sinks:
        sinks.add("broken", Broken())
        sinks.write(log(1))
    assert len(said) == 1


def test_ctrl_c_goes_through():
    class Interrupted(Recorder):
        def write(self, event):
            raise KeyboardInterrupt

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), Sinks() as sinks:
        sinks.add("recorder", recorder)
        sinks.add("interrupted", Interrupted())
        sinks.write(log(1))
    assert recorder.closed == 1


def test_by_default_failures_go_to_stderr(capsys):
    class Broken(Recorder):
        def write(self, event):
            raise RuntimeError("\x1b[31mjammed")

    sinks = Sinks()
    sinks.add("broken", Broken())
    sinks.write(log(1))
    assert capsys.readouterr().err == (
        "warning: broken cannot be written any more and is left out from here on; training goes on "
        "(RuntimeError: [31mjammed)\n"
    )


def test_a_torn_line_is_ended_before_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    first = JsonlSink(path)
    first.write(started())
    first.write(log(10))
    first.close()
    path.write_bytes(path.read_bytes()[:-30])
    second = JsonlSink(path)
    second.write(started(5))
    second.close()
    second.close()
    assert path.read_bytes().count(b"\n") == 3
    assert [event for event, _ in read(path)] == [started(), started(5)]
    assert first.attempt != second.attempt


def test_each_event_is_on_disk_at_once_in_one_line(tmp_path):
    sink = JsonlSink(tmp_path / "events.jsonl")
    for number, event in enumerate(whole_run(), start=1):
        sink.write(event)
        assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") == number
    sink.close()


def test_the_text_log_has_a_dict_a_line_and_survives_an_ascii_stream():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    sink = TextSink(stream)
    for event in whole_run("naïve ☃"):
        sink.write(event)
    sink.close()
    lines = raw.getvalue().decode("ascii").split("\n")
    assert [values["step"] for line in lines if (values := parse_line(line)) and "loss" in values] == list(
        range(10, 101, 10)
    )
    assert any("na\\xefve \\u2603" in line for line in lines)


def test_metrics_have_the_names_of_tensorboard():
    assert metrics(log(10))["train/loss"] == 1.5
    assert metrics(evaluated(10, 1.0, best=True)) == {
        "eval/loss": 1.0,
        "eval/runtime_seconds": 1.234,
        "eval/best_loss": 1.0,
    }
    assert metrics(started()) == {}
    assert all(hasattr(event, "step") for event in whole_run() if metrics(event))


def test_open_sinks_writes_the_files_of_a_run(tmp_path):
    with open_sinks(["tensorboard"], tmp_path / "run", None, Named()) as sinks:
        assert sinks.names == ("events.jsonl", "tensorboard")
        for event in whole_run():
            sinks.write(event)
    assert len(list(read(tmp_path / "run" / "events.jsonl"))) == len(list(whole_run()))
    assert [path.name[:20] for path in (tmp_path / "run" / "logs").iterdir()] == ["events.out.tfevents."]


@pytest.mark.parametrize("name", EXTRAS)
def test_e_env_001_a_tracker_that_is_not_installed(name, tmp_path, monkeypatch):
    # Without the folders of installed packages no tracker is to be found, whatever this environment has.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    # What a tracker leaves behind looks like a package; it is none.
    (tmp_path / name).mkdir()
    with pytest.raises(MissingError) as caught:
        open_sinks(["tensorboard", name], tmp_path / "run", None, Named())
    (problem,) = caught.value.problems
    assert (problem.code, problem.fix) == ("E-ENV-001", install(name))
    assert not (tmp_path / "run").exists()


def test_e_env_001_names_every_missing_tracker_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingError) as caught:
        require_extras(["wandb", "mlflow", "wandb"])
    assert [problem.code for problem in caught.value.problems] == ["E-ENV-001", "E-ENV-001"]


def test_e_env_002_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(MissingError, match="E-ENV-002") as caught:
        open_sinks([], tmp_path / "run", None, Named())
    assert caught.value.problems[0].where == str(tmp_path / "run")


def test_e_env_002_a_file_where_the_tensorboard_folder_should_be(tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(MissingError, match="E-ENV-002"):
        open_sinks(["tensorboard"], tmp_path, tmp_path / "logs", Named())


def test_a_project_is_that_of_the_config_of_the_environment_or_luthier(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert Named().project_or("WANDB_PROJECT") == "luthier"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert Named().project_or("WANDB_PROJECT") == "theirs"
    assert Named(project="mine").project_or("WANDB_PROJECT") == "mine"


TRIED = """
import os, sys
from pathlib import Path
from luthier.events.sinks import Named, open_sinks
name, folder = sys.argv[1:3]
os.chdir(folder)
with open_sinks([name], "run", None, Named("first try", "lutes")) as sinks:
    assert sinks.names == ("events.jsonl", name)
    if name == "wandb":
        import wandb
        assert (wandb.run.name, wandb.run.project) == ("first try", "lutes")
    elif name == "mlflow":
        import mlflow
        active = mlflow.active_run().info
        assert active.run_name == "first try"
        assert mlflow.get_experiment(active.experiment_id).name == "lutes"
    else:
        import trackio
        run = trackio.context_vars.current_run.get()
        assert (run.name, run.project) == ("first try", "lutes")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_trackers_call_the_run_and_its_project_as_the_config_does(name, tmp_path):
    """In a process of its own, on this machine alone."""
    if missing_extras([name]):
        pytest.skip(f"{name} is not installed")
    alone = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    command = [sys.executable, "-c", TRIED, name, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_e_env_003_a_tracker_that_does_not_start():
    with pytest.raises(MissingError, match="E-ENV-003") as caught, starting("wandb", "run `wandb login`"):
        raise RuntimeError("api_key not configured\nsecond line")
    assert caught.value.problems[0].found == "wandb did not start: RuntimeError: api_key not configured second line"


def test_watching_imports_neither_torch_nor_transformers_nor_tensorflow():
    code = """
import sys
import luthier.events.read, luthier.events.line, luthier.events.record
import luthier.events.sinks, luthier.events.sinks.text
import luthier.monitor.panel, luthier.monitor.state, luthier.monitor.view
assert "tensorboard" not in sys.modules, "TensorBoard is read in only when it is named"
import luthier.events.sinks.tensorboard
heavy = {"torch", "transformers", "tensorflow", "datasets", "peft"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
