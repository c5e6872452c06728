"""Lessons: what they say is computed from what runs measured, and an exercise is solved by a run."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from luthier.config.keys import keys
from luthier.config.load import from_dict
from luthier.doctor.history import History, fold
from luthier.errors import ConfigError
from luthier.events.types import Evaluated
from luthier.learn import screen, study
from luthier.learn.lesson import Arm, Exercise, Lesson, Outcome
from luthier.learn.lessons import LESSONS
from tests.cli.support import run_here
from tests.events.stream import log, started

every_lesson = pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)


def outcome(name, losses, held_out=(1.0,), trained=1000):
    """A run with these losses, one a step, and these on held-out rows."""
    history = fold(History(), started(), 0.0)
    for step, loss in enumerate(losses, 1):
        history = fold(history, replace(log(step, loss), step=step), float(step))
    for loss in held_out:
        history = fold(history, Evaluated(len(losses), 1.0, loss, 100, 1.0, best=True), float(len(losses)))
    return Outcome(name, history, trained, done=True)


@every_lesson
def test_a_lesson_is_whole(lesson, capsys):
    """Its runs are valid configs that differ, its words are explained, and its exercise can be read."""
    configs = [from_dict({}, study.keys_of(lesson, arm.changes)).config for arm in lesson.arms]
    stops = [arm.stop_at for arm in lesson.arms]
    assert len({(config.model_dump_json(), stop) for config, stop in zip(configs, stops, strict=True)}) == len(configs)
    assert lesson.question.endswith(("?", "...")) and len(lesson.choices) >= 2 and lesson.usual in lesson.choices
    for word in lesson.words:
        assert run_here(capsys, "explain", word).code == 0
    if lesson.exercise:
        assert set(lesson.exercise.may_change) <= set(keys())
        from_dict({}, study.keys_of(lesson, lesson.exercise.start))


@pytest.mark.parametrize(
    ("name", "runs", "letter"),
    [
        ("learning-rate", {"small": [3.0] * 12, "middle": [3.0, *[1.0] * 11], "large": [3.0, *[0.5] * 11]}, "a"),
        ("learning-rate", {"small": [3.0] * 12, "middle": [3.0, *[1.0] * 11], "large": [3.0, *[6.0] * 11]}, "b"),
        ("learning-rate", {"small": [3.0] * 12, "middle": [3.0, *[1.0] * 11], "large": [3.0, *[2.0] * 11]}, "c"),
        ("masks", {"answers": [2.0], "everything": [4.0]}, "b"),
        ("masks", {"answers": [4.0], "everything": [2.0]}, "a"),
        ("one-mean", {"16x1": [2.0, 1.0], "4x4": [2.0, 1.00001], "1x16": [2.0, 1.0]}, "a"),
        ("one-mean", {"16x1": [2.0, 1.0], "4x4": [2.0, 1.0], "1x16": [2.0, 1.5]}, "b"),
        ("one-mean", {"16x1": [2.0, 1.0], "4x4": [2.0, 1.0], "1x16": [2.0, 0.5]}, "c"),
        ("stop-and-go-on", {"straight": [2.0, 1.0], "stopped": [2.0, 1.0]}, "a"),
        ("stop-and-go-on", {"straight": [2.0, 1.0], "stopped": [2.0, 1.0000001]}, "b"),
    ],
)
def test_the_right_answer_is_what_the_runs_say(name, runs, letter):
    lesson = LESSONS[name]
    came = {arm: outcome(arm, losses) for arm, losses in runs.items()}
    assert lesson.answer(came) == letter
    assert "nan" not in lesson.why(came)


@pytest.mark.parametrize(
    ("name", "held_out", "letter"),
    [
        ("by-heart", {"many": (0.9,), "few": (1.6, 2.1)}, "a"),
        ("by-heart", {"many": (0.9,), "few": (0.7,)}, "b"),
        ("rank", {"r1": (1.5,), "r8": (1.1,), "r64": (0.8,)}, "b"),
        ("rank", {"r1": (1.5,), "r8": (1.1,), "r64": (0.6,)}, "a"),
        ("rank", {"r1": (1.5,), "r8": (1.5,), "r64": (1.6,)}, "c"),
        ("four-bits", {"whole": (1.0,), "nf4": (1.001,)}, "a"),
        ("four-bits", {"whole": (1.0,), "nf4": (1.1,)}, "b"),
        ("four-bits", {"whole": (1.0,), "nf4": (2.0,)}, "c"),
    ],
)
def test_the_right_answer_is_what_held_out_rows_say(name, held_out, letter):
    losses = {"few": [2.0, 0.1], "many": [2.0, 0.8]}
    came = {arm: outcome(arm, losses.get(arm, [2.0, 1.0]), values) for arm, values in held_out.items()}
    assert LESSONS[name].answer(came) == letter
    assert f"{held_out[next(iter(held_out))][-1]:.2f}"[:3] in LESSONS[name].why(came)


@pytest.mark.parametrize(("held_out", "unusual"), [((0.9, 2.1), False), ((0.9, 0.7), True)])
def test_a_lesson_says_when_it_comes_out_otherwise_than_its_words_tell(held_out, unusual):
    many, few = held_out
    came = {"many": outcome("many", [2.0, 0.8], (many,)), "few": outcome("few", [2.0, 0.1], (few,))}
    console = Console(file=io.StringIO(), width=100)
    console.print(screen.answer(LESSONS["by-heart"], came, "a", 100))
    assert ("Mostly it comes out as a" in console.file.getvalue()) is unusual


def test_exercises_are_judged_by_numbers():
    rate, rank, mean = (LESSONS[name].exercise.solved for name in ("learning-rate", "rank", "one-mean"))
    came = {"middle": outcome("middle", [2.0], (1.0,)), "r64": outcome("r64", [2.0], (0.8,), 4000),
            "16x1": outcome("16x1", [2.0, 1.0])}  # fmt: skip
    assert rate(came, outcome("yours", [2.0], (1.04,)))[0] and not rate(came, outcome("yours", [2.0], (1.06,)))[0]
    assert rank(came, outcome("yours", [2.0], (0.82,), 1000))[0]
    assert not rank(came, outcome("yours", [2.0], (0.82,), 1001))[0]
    mine = outcome("yours", [2.0, 1.0])
    small, large = (
        replace(mine, history=replace(mine.history, plan={"training.per_device_train_batch_size": n})) for n in (2, 16)
    )
    assert mean(came, small)[0] and not mean(came, large)[0]
    assert "16 rows in a pass, and 2 at most" in mean(came, large)[1]


# With real runs ------------------------------------------------------------------------------------------------------

TINY = ("max_steps=3", "per_device_train_batch_size=2", "eval_steps=3", "val_set_size=4", "warmup_steps=0",
        "data.datasets=[{path: 'luthier:quickstart/rows/train.jsonl', split: 'train[:24]'}]")  # fmt: skip
SMALL = Lesson(
    name="small", title="Small", idea="Two rates.", question="Which?", choices={"a": "This.", "b": "That."},
    common=TINY,
    arms=(Arm("low", ("learning_rate=1e-5",)), Arm("high", ("learning_rate=2e-3",), stop_at=2)),
    answer=lambda came: "a" if came["low"].held_out < came["high"].held_out else "b",
    why=lambda came: f"{came['low'].held_out:.3f} and {came['high'].held_out:.3f}",
    usual="b",
    exercise=Exercise(
        "Make it lower.", ("learning_rate=1e-6",), ("training.learning_rate",),
        lambda came, mine: (mine.held_out <= came["high"].held_out, f"{mine.held_out:.3f}")),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("lessons") / "small"


def told(place, mine=None):
    console = Console(file=io.StringIO(), width=100)
    return screen.follow(study.study(SMALL, place, mine), console), console.file.getvalue()


def test_a_lesson_runs_keeps_what_was_run_and_checks_an_exercise(place):
    came, text = told(place)
    assert list(came) == ["low", "high"] and all(one.done and len(one.losses) == 3 for one in came.values())
    assert came["low"].first == came["high"].first and "① low" in text and "3 of 3" in text
    assert len(list((place / "high").glob("checkpoint-2"))) == 1  # it was stopped there, and gone on with
    file = study.exercise_file(SMALL, place)
    text = file.read_text()
    assert (
        text.startswith("# Make it lower.\n# You may change learning_rate; nothing else.")
        and "luthier:quickstart/base" in text
    )
    before = (place / "low" / "events.jsonl").stat().st_mtime_ns
    again, _ = told(place, study.checked(SMALL, file, place))
    assert (place / "low" / "events.jsonl").stat().st_mtime_ns == before, "what was run is not run again"
    assert study.judged(SMALL, again)[0] is False
    file.write_text(text.replace("1.0e-06", "0.002").replace("1e-06", "0.002"))
    again, _ = told(place, study.checked(SMALL, file, place))
    passed, shows = study.judged(SMALL, again)
    assert passed and shows == f"{came['high'].held_out:.3f}"
    assert study.exercise_file(SMALL, place).read_text() == file.read_text(), "what the learner wrote stays"
    console = Console(file=io.StringIO(), width=80)
    console.print(
        screen.results(SMALL, again, 80), screen.answer(SMALL, again, "a", 80), screen.verdict(passed, shows, 80)
    )
    said = console.file.getvalue()
    assert "yours" in said and "you said a" in said and "✔ solved" in said
    assert max(map(len, said.splitlines())) <= 80


def test_on_80_columns_no_number_and_no_rule_is_broken():
    """The widest line that a lesson has: its rate is a ten-thousandth of what is usual."""
    history = History()
    for event in (
        replace(started(), plan={"training.learning_rate": 1e-8}),
        *(log(step, 2.4561) for step in range(1, 130)),
    ):
        history = fold(history, event, 0.0)
    lesson, outcome = LESSONS["learning-rate"], Outcome("small", history, 466_944, done=True)
    two = {"small": outcome, "middle": replace(outcome, name="middle")}
    assert "learning-rate-too-low" in [finding.rule for finding in outcome.found]
    for width, key in ((80, "learning_rate"), (100, "learning_rate=1e-7")):
        console = Console(file=io.StringIO(), width=width)
        console.print(screen.results(lesson, two, width))
        words = console.file.getvalue().split()
        assert words.count("learning-rate-too-low") == 2
        assert {key, "learning-rate-too-low", "466,944", "2.456"} <= {*words}, width


def test_other_keys_have_to_stay(place, tmp_path):
    file = study.exercise_file(SMALL, tmp_path)
    file.write_text(file.read_text() + "lora:\n  r: 64\n" if "lora:" not in file.read_text() else
                    file.read_text().replace("r: 16", "r: 64"))  # fmt: skip
    with pytest.raises(ConfigError, match="E-LEARN-002") as caught:
        study.checked(SMALL, file, tmp_path)
    (problem,) = caught.value.problems
    assert "lora.r is 64" in problem.found and "put r: 16 back" in problem.fix and f"{file}:" in problem.where


# On the command line -------------------------------------------------------------------------------------------------


def test_the_list_and_what_is_no_lesson(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(name in run_here(capsys, "learn").out for name in LESSONS)
    for words, says in (
        (("learning-rat",), "did you mean learning-rate?"),
        (("masks", "--guess", "z"), '"z" is no answer'),
        (("masks", "--check", "x.yaml"), "masks has no exercise"),
    ):
        wrong = run_here(capsys, "learn", *words)
        assert wrong.code == 2 and "E-LEARN-001" in wrong.err and says in wrong.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.long
@every_lesson
def test_the_whole_lesson_as_it_ships(lesson, capsys, tmp_path):
    """Its answer is the one that its text was written for; its exercise begins unsolved, and can be solved."""
    shown = run_here(capsys, "learn", lesson.name, "--guess", lesson.usual, "--folder", tmp_path)
    assert shown.code == 0 and "as you said" in shown.out
    if lesson.exercise is None:
        return
    file = tmp_path / lesson.name / "exercise.yaml"
    check = ("learn", lesson.name, "--folder", tmp_path, "--check", file)
    assert run_here(capsys, *check).code == 3
    text = file.read_text()
    for old, new in SOLUTIONS[lesson.name]:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    done = run_here(capsys, *check)
    assert done.code == 0, done.out


SOLUTIONS = {
    "learning-rate": [("learning_rate: 1.0e-05", "learning_rate: 2e-3")],
    "by-heart": [("max_steps: 80", "max_steps: 24")],
    "one-mean": [("per_device_train_batch_size: 16", "per_device_train_batch_size: 2"),
                 ("gradient_accumulation_steps: 1", "gradient_accumulation_steps: 8")],
    "rank": [("r: 4", "r: 16"), ("lora_alpha: 8.0", "lora_alpha: 128"),
             ("learning_rate: 0.002", "learning_rate: 0.004")],
}  # fmt: skip
