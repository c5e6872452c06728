"""The sweep itself, with trials that train nothing, so that it can be stopped at any place."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from luthier.config.load import from_dict, load
from luthier.errors import EXIT_REFUSED, EXIT_WRONG_REQUEST, CheckpointError, ConfigError, RunError
from luthier.errors.extras import install
from luthier.events.read import read
from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Evaluated, RunFinished, RunStarted
from luthier.sweep import process
from luthier.sweep.folder import CONFIG, STUDY, folder_of, write_best
from luthier.sweep.losses import is_over
from luthier.sweep.picture import draw
from luthier.sweep.space import read_space
from luthier.sweep.study import Sweep
from tests.cli.support import run_here

RATE = "learning_rate=log:1e-5..1e-1"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(Path(__file__).with_name("quick_trial.py"))))
    path = tmp_path / "c.yaml"
    path.write_text(f"training: {{output_dir: {tmp_path}/out, max_steps: 40}}\ndata: {{datasets: rows.jsonl}}\n")
    return path


def sweep(config, *words, trials=None, stop=lambda: False, place=None):
    return Sweep(read_space(config, words), trials, (), stop, place or process.Here())


def ends(*arguments, **options):
    return list(sweep(*arguments, **options).run())[-1]


def told(standing):
    """What may not depend on interruptions."""
    return [(row.values, row.state, row.losses) for row in standing.rows]


@pytest.mark.slow
def test_it_finds_the_lowest_and_ends_the_hopeless_early(config):
    work = sweep(config, RATE, "lora.r=4,8", trials=16)
    standings = list(work.run())
    rows = standings[-1].rows
    assert len(rows) == 16 and not standings[-1].stopped
    best = standings[-1].best
    assert 10**-3.5 < best.values["training.learning_rate"] < 10**-2.5
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned and {len(row.losses) for row in pruned} <= {2, 3}  # never by the first evaluation, nor at the last
    assert all(row.eval_loss > best.eval_loss for row in pruned)
    assert any(s.rows[-1].state == "running" and s.rows[-1].step for s in standings if s.rows)
    path = write_best(work.space, best, work.folder, 16)
    again = load(path)
    assert again.config.training.learning_rate == best.values["training.learning_rate"]
    assert again.config.lora.r == best.values["lora.r"]
    assert again.config.training.output_dir.endswith("/out") and again.config.training.max_steps == 40
    picture = draw(standings[-1], work.folder, frozenset({"training.learning_rate"}))
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_interruptions_at_every_place_change_nothing(config, tmp_path):
    straight = ends(config, RATE, "lora.r=4,8", trials=6)
    words = (RATE, "lora.r=4,8", f"output_dir={tmp_path}/other")
    for broken_off in range(1, 400, 7):
        standings = sweep(config, *words, trials=6).run()
        for _ in range(broken_off):  # each sweep gets a little further, and is dropped as a kill drops it
            last = next(standings, None)
            if last is None:
                break
        standings.close()
        if last is None:
            break
    assert last is None and told(ends(config, *words, trials=6)) == told(straight)


def test_trials_of_a_named_run_have_names_of_their_own(config):
    work = sweep(config, "lora.r=4,8", "logging.run_name='first: try'")
    list(work.run())
    names = [next(iter(read(folder / "events.jsonl")))[0].run for folder in sorted(work.folder.glob("trial-???"))]
    assert names == ["first: try-trial-000", "first: try-trial-001"]


def test_e_ckpt_006_the_same_sweep_twice_at_a_time(config):
    """The second one would take the trials of the first for ones that a kill has cut off."""
    first = sweep(config, "lora.r=4,8").run()
    next(standing for standing in first if standing.rows and standing.rows[0].step)
    with pytest.raises(CheckpointError, match="E-CKPT-006") as caught:
        ends(config, "lora.r=4,8")
    assert "out-sweep is in use by this program" in str(caught.value)
    assert [row.state for row in list(first)[-1].rows] == ["done", "done"]
    assert not ends(config, "lora.r=4,8").stopped


def test_a_kill_while_the_config_is_written_leaves_none(config, monkeypatch):
    def cut(draft, place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", cut)
        sweep(config, "lora.r=4,8")
    assert not sweep(config, "lora.r=4,8").standing().rows


def test_a_stop_leaves_a_trial_that_goes_on(config):
    asked = []
    work = sweep(config, RATE, trials=3, stop=lambda: bool(asked))
    for standing in work.run():
        if standing.rows and standing.rows[-1].number == 1 and standing.rows[-1].step:
            asked.append(True)
    assert standing.stopped and standing.rows[1].state == "running"
    standing = ends(config, RATE, trials=3)
    assert [row.state for row in standing.rows] == ["done"] * 3


def test_a_trial_that_had_done_all_its_steps_when_the_power_went_is_done(config, tmp_path):
    """Its last evaluation alone is above the median, and stops nothing any more."""
    words = ("lora.r=8,10,12,21", "seed=9")  # in this order
    work = sweep(config, *words)
    standings = work.run()
    last = next(s for s in standings if len(s.rows) == 4 and len(s.rows[3].losses) == 4)
    assert last.rows[3].state == "running" and not work._at_work[3].pruned
    shutil.copytree(work.folder, tmp_path / "then")
    straight = list(standings)[-1]
    assert [row.state for row in straight.rows] == ["done"] * 4
    shutil.rmtree(work.folder)
    (tmp_path / "then").rename(work.folder)
    log = last.rows[3].folder / "events.jsonl"  # the copy may have been made before its last line, or after it
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "run_finished" not in line))
    assert told(ends(config, *words)) == told(straight)


def test_a_folder_with_a_name_that_yaml_would_read_as_something_else(config, tmp_path):
    folder = f"{tmp_path}/a: [b] #1? {{x}} \N{GRINNING FACE}"
    config.write_text(config.read_text().replace(f"{tmp_path}/out", json.dumps(folder, ensure_ascii=False)))
    standing = ends(config, "lora.r=4,8", place=process.Here(2))
    assert [row.state for row in standing.rows] == ["done"] * 2
    assert all((Path(f"{folder}-sweep") / name / "events.jsonl").is_file() for name in ("trial-000", "trial-001"))


def test_a_sweep_lies_beside_any_folder(tmp_path, monkeypatch):
    (tmp_path / "here" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "in")
    beside = {".": tmp_path / "here" / "in-sweep", "..": tmp_path / "here-sweep", "/": Path("/-sweep"),
              "runs/a": Path("runs/a-sweep"), "../b/": Path("../b-sweep")}  # fmt: skip
    for output_dir, folder in beside.items():
        asked = {"training": {"output_dir": output_dir}, "data": {"datasets": "rows.jsonl"}}
        assert folder_of(from_dict(asked)) == folder


@pytest.mark.parametrize(("status", "over"), [("done", True), ("stopped", False), ("failed", False)])
def test_a_run_that_ended_early_by_itself_is_over(tmp_path, status, over):
    sink = JsonlSink(tmp_path / "events.jsonl")
    sink.write(RunStarted("run", 40, 0, 1.0, {}))
    sink.write(Evaluated(20, 0.5, 1.0, 10, 1.0, False))
    assert not is_over(tmp_path)
    sink.write(RunFinished(status, 20, 0.5, 1.0, 1.0, 1, 1.0, ""))
    assert is_over(tmp_path) is over


@pytest.mark.long
@pytest.mark.slow
def test_two_at_a_time_broken_off_anywhere_do_what_one_does(config, tmp_path):
    straight = ends(config, "lora.r=4,8,32")
    words = ("lora.r=4,8,32", f"output_dir={tmp_path}/other")
    for broken_off in range(2, 400, 9):
        standings = sweep(config, *words, place=process.Here(2)).run()
        last = [next(standings, None) for _ in range(broken_off)][-1]
        standings.close()
        if last is None:
            break
    assert last is None and told(ends(config, *words)) == told(straight)


@pytest.mark.parametrize("missing", ["both", "one", "the question"])
def test_a_trial_that_was_cut_off_before_it_had_its_values(config, missing):
    """A kill falls between any two writes into study.db."""
    ranges = ("learning_rate=1e-4,1e-3", "lora.r=4,8") if missing == "the question" else (RATE, "lora.r=4..8")
    work = sweep(config, *ranges, trials=2)
    if missing == "the question":
        work._enqueue(0)
    else:
        work._seed(0)
        trial = work.study.ask()
        if missing == "one":
            trial.suggest_float("training.learning_rate", 1e-5, 1e-1, log=True)
    standings = list(sweep(config, *ranges, trials=2).run())
    assert [row.state for row in standings[-1].rows] == ["done"] * 2
    assert all(len(row.values) == 2 for standing in standings for row in standing.rows)


def test_they_run_at_the_same_time(config):
    standing = ends(config, "lora.r=17", "learning_rate=1e-4,1e-3", place=process.Here(2))  # each waits for the other
    assert [row.state for row in standing.rows] == ["done"] * 2


@pytest.mark.long
@pytest.mark.slow
def test_random_values_do_not_depend_on_how_many_run_at_a_time(config, tmp_path):
    one = ends(config, RATE, "lora.r=4,8", trials=3)
    three = ends(config, RATE, "lora.r=4,8", f"output_dir={tmp_path}/other", trials=3, place=process.Here(3))
    assert told(one) == told(three)


def test_a_wrong_request_leaves_no_other_trial_behind(config):
    with pytest.raises(ConfigError, match="E-SWEEP-003"):
        ends(config, "lora.r=14,20", place=process.Here(2))
    assert not [child for child in psutil.Process().children() if "trial" in " ".join(child.cmdline())]


def test_where_machines_come_and_go_a_lost_trial_is_begun_again(config):
    place = process.Here(2)
    place.loses = True
    rows = {row.values["lora.r"]: row for row in ends(config, "lora.r=4,18,19", place=place).rows}
    assert (rows[4].state, rows[18].state, rows[19].state) == ("done", "done", "failed")
    assert len(list(rows[19].folder.glob("stopped-*"))) == 4 and rows[19].reason == "exit code 75"


def test_each_trial_has_the_gpu_that_the_fewest_use(config, monkeypatch, tmp_path):
    program = (
        "import json, os; e = os.environ.get; print(json.dumps([e('CUDA_VISIBLE_DEVICES'), e('OMP_NUM_THREADS')]))"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", program + "; input()"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def begin(place):
        heard = queue.SimpleQueue()
        trial = place.begin([], tmp_path / "log", heard.put)
        return trial, heard.get(timeout=60)

    place = process.Here(4)
    begun = [begin(place) for _ in range(4)]
    assert [gpu for _, (gpu, _) in begun] == ["3", "5", "3", "5"]
    assert {threads for _, (_, threads) in begun} == {str(max(1, os.cpu_count() // 4))}
    begun[1][0].answer(True)
    begun[1][0].end()
    begun.append(begin(place))
    assert begun[-1][1][0] == "5"
    begun.append(begin(process.Here(1)))
    assert begun[-1][1] == ["3, 5", None]
    for trial, _ in begun[:1] + begun[2:]:
        trial.kill()
        trial.end()


@pytest.mark.slow
def test_lists_are_tried_once_each(config):
    standing = ends(config, "lora.r=4,8", "use_dora=true,false", trials=9)
    values = [tuple(row.values.values()) for row in standing.rows]
    assert sorted(values) == [(4, False), (4, True), (8, False), (8, True)]
    assert standing.best.values["lora.r"] == 8


@pytest.mark.slow
def test_more_trials_are_added(config):
    assert len(ends(config, RATE, trials=2).rows) == 2
    standing = ends(config, RATE, trials=4)
    assert len(standing.rows) == 4 and told(standing)[:2] == told(ends(config, RATE, trials=2))[:2]


@pytest.mark.parametrize(
    ("rank", "reason"), [(13, "E-RUN-001 learning_rate: rank 13 is unlucky"), (15, "ended by signal 9")]
)
def test_a_trial_that_fails_is_told_and_the_others_go_on(config, rank, reason):
    standing = ends(config, f"lora.r=4,{rank},8")
    (failed,) = [row for row in standing.rows if row.state == "failed"]
    assert failed.values["lora.r"] == rank and failed.reason == reason
    assert standing.best.values["lora.r"] == 8


def test_e_sweep_003_all_of_them_fail(config):
    with pytest.raises(RunError, match="E-SWEEP-003") as caught:
        ends(config, "lora.r=13,15")
    assert "all of 2 trials failed" in str(caught.value)


def test_a_wrong_request_of_a_trial_after_another_one_is_told(config):
    standing = ends(config, "lora.r=14,4,8")
    assert [(row.values["lora.r"], row.state) for row in standing.rows] == [(4, "done"), (14, "failed"), (8, "done")]
    assert standing.rows[1].reason == "E-RUN-001 learning_rate: rank 14 is unlucky"


def test_e_sweep_003_a_wrong_request_ends_the_sweep_and_is_done_again(config):
    with pytest.raises(ConfigError, match="E-SWEEP-003") as caught:
        ends(config, "lora.r=14", "learning_rate=1e-4,1e-3")
    assert "rank 14 is unlucky" in str(caught.value) and caught.value.exit_code == EXIT_WRONG_REQUEST != EXIT_REFUSED
    assert [row.state for row in sweep(config, "lora.r=14", "learning_rate=1e-4,1e-3").standing().rows] == ["running"]


@pytest.mark.slow
def test_e_sweep_004_another_sweep_lies_there(config):
    ends(config, "lora.r=4,8")
    for words, said in ((["lora.r=4,16"], "other ranges"), (["lora.r=4,8", "seed=7"], "another config")):
        with pytest.raises(ConfigError, match="E-SWEEP-004") as caught:
            sweep(config, *words)
        assert said in str(caught.value)
    study = folder_of(load(config)) / STUDY
    with sqlite3.connect(study) as database:
        database.execute("update alembic_version set version_num = 'v999'")
    database.close()
    with pytest.raises(ConfigError, match="E-SWEEP-004"):
        sweep(config, "lora.r=4,8")
    study.write_text("no database")
    with pytest.raises(ConfigError, match="E-SWEEP-004"):
        sweep(config, "lora.r=4,8")


@pytest.mark.slow
def test_the_finder_finds_the_rate(capsys, config, tmp_path):
    done = run_here(capsys, "sweep", config, "learning_rate", "--json", tmp_path / "s.json")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "s.json").read_text())
    assert [row["state"] for row in content["trials"]] == ["done"] * 7  # all of them are wanted
    assert content["trials"][content["best"]]["values"] == {"training.learning_rate": 1e-3}
    best = load(tmp_path / "out-sweep" / "best.yaml").config.training
    assert (best.learning_rate, best.max_steps) == (1e-3, 40)  # not the 60 steps of the finder's runs
    assert "training.max_steps" not in (tmp_path / "out-sweep" / CONFIG).read_text()


def test_a_stop_before_the_finder_knows_the_steps(config):
    with pytest.raises(KeyboardInterrupt):
        sweep(config, "learning_rate", stop=lambda: True)  # before the process that is asked hears signals


@pytest.mark.slow
def test_the_command_line(capsys, config, tmp_path, monkeypatch):
    command = ("sweep", config, RATE, "lora.r=4,8", "--trials", "3", "--json", tmp_path / "s.json")
    done = run_here(capsys, *command)
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if line][:3] == ["trial"] * 3
    for words in ("eval_loss", "best      luthier train", "picture   ", "its run   "):
        assert words in done.out
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["keys"] == ["training.learning_rate", "lora.r"] and len(content["trials"]) == 3
    done = run_here(capsys, "sweep", config, "lora.r=4,8", "--json", tmp_path / "no" / "s.json")
    assert done.code == EXIT_WRONG_REQUEST and "E-ENV-002" in done.err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "optuna" else found(name, *a))
    done = run_here(capsys, *command)
    assert done.code == EXIT_WRONG_REQUEST and "E-SWEEP-005" in done.err and install("sweep") in done.err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else found(name, *a))
    done = run_here(capsys, *command, "--on", "ray")
    assert done.code == EXIT_WRONG_REQUEST and install("sweep", "ray") in done.err


def test_the_sweep_itself_imports_no_torch():
    program = "import sys, luthier.sweep.study, luthier.sweep.screen; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
