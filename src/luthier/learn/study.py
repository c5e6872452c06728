"""Runs a lesson: each arm is an ordinary training run in a folder of its own, and what came of it is read from there.

    lesson --api.train--> FOLDER/ARM/events.jsonl --fold--> Outcome

Arms that were run before by the same version, with the same keys, are not run again.

Not covered: GPUs make the runs no shorter worth mentioning; a lesson's model is small enough for any CPU.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from luthier import api
from luthier.config.keys import keys
from luthier.config.load import Loaded, changed, from_dict, load
from luthier.config.outputs import EVENTS
from luthier.config.render import dump_config_yaml
from luthier.config.values import PACKAGED, packaged
from luthier.doctor.evidence import yaml_value
from luthier.doctor.history import History, fold
from luthier.errors import ConfigError, Problem
from luthier.events.read import read
from luthier.events.types import Architecture, Event, RunFinished
from luthier.learn.lesson import EXERCISE, YOURS, Begun, Exercise, Lesson, Outcome, Results
from luthier.version import __version__

COMMON = (
    "model_name_or_path=luthier:quickstart/base",
    "data.datasets=[{path: 'luthier:quickstart/rows/train.jsonl', format: alpaca, split: 'train[:1200]'}]",
    "val_set_size=40", "max_seq_length=256", "max_steps=40", "per_device_train_batch_size=16", "r=16", "lora_alpha=32",
    "gradient_accumulation_steps=1", "learning_rate=2e-3", "min_learning_rate=0", "warmup_steps=4", "adam_beta2=0.98",
    "eval_steps=10", "logging_steps=1", "histogram_steps=0", "report_to=[]", "sample_prompts=[]", "save_steps=0",
    "load_best_model_at_end=false", "rehearsal=false", "load_in_4bit=false", "seed=42",
)  # fmt: skip
"""Of all runs: a Llama of 5.8 million parameters, 1,200 rows, 40 steps of 16 rows, and a log line for each step."""
_MARK = "lesson.json"
"""In the folder of each run: that it is a lesson's, and of which keys."""


def study(
    lesson: Lesson, folder: Path, mine: Loaded | None = None, stop: Callable[[], bool] = lambda: False
) -> Iterator[Begun | Event | Outcome]:
    """Run the arms of a lesson; yields what begins, each event, and each outcome.

    Args:
        lesson: Which.
        folder: Where its runs go; each has a folder there.
        mine: What the learner made of the exercise (`checked`); run last.
        stop: Polled while training; True ends it there.

    Raises:
        LuthierError: What training raises.
    """
    for number, arm in enumerate(lesson.arms):
        wanted, place = keys_of(lesson, arm.changes), folder / arm.name
        yield Begun(number, arm.name)
        if not _is_kept(place, wanted):
            _make_room(place, wanted)
            yield from _trained(from_dict({}, [*wanted, f"output_dir={place}"]), arm.stop_at, stop)
        if stop():
            return
        yield outcome(arm.name, place)
    if mine is not None:
        yield Begun(len(lesson.arms), YOURS)
        _make_room(folder / EXERCISE, ())
        yield from _trained(mine, 0, stop)
        if not stop():
            yield outcome(YOURS, folder / EXERCISE)


def _trained(loaded: Loaded, stop_at: int, stop: Callable[[], bool]) -> Iterator[Event]:
    """A run; with `stop_at` stopped after that step, and gone on with."""
    enough = threading.Event()
    for event in api.train(loaded, stop=lambda: stop() or enough.is_set()):
        if 0 < stop_at <= (getattr(event, "step", None) or 0):
            enough.set()
        yield event
    if stop_at and not stop():
        yield from api.train(loaded, resume="auto", stop=stop)


def _make_room(place: Path, wanted: Sequence[str]) -> None:
    """Make room for a run: what an earlier one of a lesson left there goes, and nothing else."""
    if (place / _MARK).is_file():
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    (place / _MARK).write_text(_mark(wanted), encoding="utf-8")


def outcome(name: str, folder: Path) -> Outcome:
    """What came of the run in a folder."""
    history, trained, done = History(), 0, False
    for event, extra in read(folder / EVENTS):
        history = fold(history, event, float(extra.get("time") or 0))
        if isinstance(event, Architecture):
            trained = event.trainable_parameters
        elif isinstance(event, RunFinished):
            done = event.status == "done"
    return Outcome(name, history, trained, done)


def exercise_file(lesson: Lesson, folder: Path) -> Path:
    """The file that the learner changes; written where there is none yet."""
    assert lesson.exercise is not None
    path = folder / f"{EXERCISE}.yaml"
    if not path.is_file():
        text = dump_config_yaml(_start(lesson, lesson.exercise, folder).written)
        text = text.replace(packaged(f"{PACKAGED}quickstart"), f"{PACKAGED}quickstart")
        may = ", ".join(key.partition(".")[2] for key in lesson.exercise.may_change)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {lesson.exercise.task}\n# You may change {may}; nothing else.\n\n{text}", encoding="utf-8")
    return path


def checked(lesson: Lesson, path: Path, folder: Path) -> Loaded:
    """The learner's config, if it changes only what it may.

    Raises:
        ConfigError: It is none; E-LEARN-001, the lesson has no exercise; E-LEARN-002, it changes other keys.
    """
    if lesson.exercise is None:
        raise ConfigError(
            Problem("E-LEARN-001", f"{lesson.name} has no exercise", "luthier learn lists them", "--check")
        )
    start = _start(lesson, lesson.exercise, folder)
    mine = load(path, [f"output_dir={start.config.training.output_dir}"])
    problems = []
    for key in keys():
        was, now = start.config.value(key), mine.config.value(key)
        if was != now and key not in lesson.exercise.may_change:
            back = f"put {keys()[key].name}: {yaml_value(was)} back"
            fix = f"{back}; to be changed: {', '.join(lesson.exercise.may_change)}"
            problems.append(Problem("E-LEARN-002", f"{key} is {yaml_value(now)} here", fix, mine.sources[key]))
    if problems:
        raise ConfigError(*problems)
    return mine


def judged(lesson: Lesson, came: Results) -> tuple[bool, str]:
    """Whether the exercise is solved by the learner's run, and what shows it."""
    assert lesson.exercise is not None
    mine = came[YOURS]
    return lesson.exercise.solved(came, mine) if mine.done else (False, "the run did not come to its end")


def keys_of(lesson: Lesson, own: Sequence[str]) -> list[str]:
    """The overrides of a run of a lesson."""
    return changed(changed(COMMON, *lesson.common), *own)


def _start(lesson: Lesson, exercise: Exercise, folder: Path) -> Loaded:
    return from_dict({}, [*keys_of(lesson, exercise.start), f"output_dir={folder / EXERCISE}"])


def _is_kept(place: Path, wanted: Sequence[str]) -> bool:
    """Whether these keys were run there, by this version, to the end."""
    mark, events = place / _MARK, place / EVENTS
    there = mark.is_file() and events.is_file() and mark.read_text(encoding="utf-8") == _mark(wanted)
    return there and outcome("", place).done


def _mark(wanted: Sequence[str]) -> str:
    return json.dumps({"luthier": __version__, "keys": [*wanted]})
