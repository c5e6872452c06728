"""The quickstart from the first chapter to the table, with the model that comes with Luthier and few steps."""

import io
import json
import shlex
from contextlib import closing

import pytest
from rich.console import Console

import luthier
from luthier.config.load import load
from luthier.config.resolve import resolve
from luthier.evaluate.tasks import quickstart as heldout
from luthier.events.types import Log, Notice, Resumed, RunFinished
from luthier.machine.probe import probe
from luthier.quickstart.screen import NEXT, examined, heading, table, what_next
from luthier.quickstart.story import CHAPTERS, Chapter, Examined, Result, tell


@pytest.fixture(scope="module")
def tasks():
    """One task of each split."""
    return tuple({task.split: task for task in heldout.load()}.values())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    changes = [f"training.output_dir={folder}/run", "training.max_steps=4", "logging.logging_steps=1",
               "data.val_set_size=0", "evaluation.eval_steps=0", "evaluation.sample_steps=[]",
               f"data.cache_dir={folder}/cache", "checkpointing.save_steps=1"]  # fmt: skip
    return load("configs/quickstart.yaml", changes)


@pytest.fixture(scope="module")
def story(config, tasks):
    """Stopped after two steps, told to its end, told once more to the end of its run."""
    first, again = [], []
    for told in tell(config, tasks, stop=lambda: len(of(Log, first)) >= 2):
        first.append(told)
    whole = list(tell(config, tasks))
    with closing(tell(config, tasks)) as story:
        while not of(RunFinished, again):
            again.append(next(story))
    return first, whole, again


def of(kind, story):
    return [told for told in story if isinstance(told, kind)]


def test_chapters_come_in_order_and_the_same_tasks_are_asked_twice(story, tasks):
    _, told, _ = story
    assert tuple(chapter.name for chapter in of(Chapter, told)) == CHAPTERS
    base, tuned = of(Examined, told)
    assert (base.who, tuned.who) == ("base", "tuned")
    assert base.tasks == tuned.tasks == tasks
    assert of(RunFinished, told)[0].status == "done"


def test_a_stopped_story_goes_on_and_a_finished_one_is_moved_aside(story):
    stopped, resumed, again = story
    assert of(RunFinished, stopped)[0].status == "stopped"
    assert not of(Result, stopped)
    step = of(RunFinished, stopped)[0].step
    assert [event.step for event in of(Resumed, resumed)] == [step]
    assert [log.step for log in of(Log, stopped) + of(Log, resumed)] == [1, 2, 3, 4]
    assert not of(Resumed, again)
    assert any("moved to" in notice.text for notice in of(Notice, again))
    assert [log.loss for log in of(Log, again)] == [log.loss for log in of(Log, stopped) + of(Log, resumed)]


def test_the_run_that_is_proposed_next_is_warned_of_nothing():
    (command,) = [line.partition("   ")[0] for line in NEXT.split("\n") if line.startswith("luthier train")]
    _, _, config, *changes = shlex.split(command)
    assert resolve(load(config, changes), probe(), None, None).warnings == ()


def test_the_result_holds_what_was_measured(story):
    _, told, _ = story
    (result,) = of(Result, told)
    content = json.loads(json.dumps(result.as_dict()))
    assert set(content["base"]) == set(content["tuned"]) == {"phrasing", "parameter", "composition", "all"}
    assert set(content["seconds_by_chapter"]) == set(CHAPTERS)
    assert content["seconds"] == pytest.approx(sum(content["seconds_by_chapter"].values()), abs=0.5)
    assert 0.1 < content["peak_memory_gib"] < 4
    assert content["steps"] == 4
    assert len(content["answers"]["tuned"]["outcomes"]) == 3


def test_the_screen_says_it_all(story, tasks):
    _, told, _ = story
    console = Console(width=100, record=True, force_terminal=False, no_color=True, file=io.StringIO())
    for chapter in of(Chapter, told):
        console.print(heading(chapter, console.width))
    for done in of(Examined, told):
        console.print(examined(done))
    (result,) = of(Result, told)
    console.print(table(result), what_next("checkpoints/quick", console.width))
    text = console.export_text()
    for words in ("1 of 4  What will happen", "4 of 4  After", "of 3 tasks solved", "luthier chat checkpoints/quick",
                  "names and numbers it never saw", "95 % interval", "sandbox:"):  # fmt: skip
        assert words in text
    assert all(task.instruction[:40] in text for task in tasks)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_proposed_command_can_be_copied(columns):
    console = Console(width=columns, file=io.StringIO())
    console.print(what_next("checkpoints/quick", columns))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= columns
    pasted = [" ".join(line.split()) for line in shown.replace("\\\n", " ").splitlines()]
    for line in NEXT.format(run="checkpoints/quick").split("\n"):
        assert line.partition("  ")[0] in pasted


def test_the_run_that_is_proposed_next_is_not_warned_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it is proposed wherever the quickstart ran
    (line,) = (line for line in NEXT.split("\n") if " train " in line)
    _, _, path, *overrides = line.partition("  ")[0].split()
    plan, missing = luthier.plan(path, overrides)
    assert (plan.warnings, missing) == ((), ())
    assert repr(plan).startswith("Plan(") and len(repr(plan)) < 100
    assert "The numbers" in str(plan) or "Machine" in str(plan)
