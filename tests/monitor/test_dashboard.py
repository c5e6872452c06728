"""The dashboard on a terminal: what it shows of a recorded run, what the keys do, and what it withstands."""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import replace

import pytest
from rich.cells import cell_len

from luthier.events.types import Machine, Notice, RunStarted, Sampled
from luthier.monitor.dashboard.watching import Watch
from luthier.monitor.dashboard.widgets import Chart, Number
from tests.events.stream import ESCAPES, evaluated, finished, log, started, whole_run
from tests.monitor.dash import (
    RECORDED,
    SIZES,
    VIEWS,
    Clock,
    drive,
    flat,
    in_the_middle,
    look,
    name,
    screen,
    settled,
    tour,
    write,
)

STILL = {"now": lambda: 2_000.0}


@pytest.fixture
def run_file(tmp_path):
    return write(tmp_path / "events.jsonl", whole_run(""))


PROMISED = ["step 112/", "epoch", "75%", "left", "gone", "smoothed", "eval loss", "learn rate", "gradient", "tokens/s",
            "memory", "trend", "spread", "in words", "best", "checkpoint", "spent on"]  # fmt: skip
MEANINGS = ["on rows it never trains on", "usual words for", "how strongly the data pulls", "it writes at step"]


@pytest.mark.parametrize(("size", "promised"), [("80x24", PROMISED), ("200x60", PROMISED + MEANINGS)])
def test_the_screens_of_the_recorded_run(size, promised):
    """`python -m tests.monitor.dash` renews them."""
    width, height = SIZES[size]
    shown = tour(in_the_middle(), VIEWS, SIZES[size])
    for view, text in shown.items():
        lines = text.split("\n")
        assert len(lines) == height and max(map(cell_len, lines)) <= width
        assert text + "\n" == name(view, size).read_text("utf-8"), view
    assert [words for words in promised if words not in shown["overview"]] == []


@pytest.mark.parametrize("size", [(120, 40), (140, 44), (150, 45), (200, 60)])
def test_no_meaning_of_a_number_is_cut_on_a_wide_terminal(size):
    rows = look(in_the_middle(), size=size).split("\n")
    numbers = [row.rpartition("│")[2] for row in rows] if size[0] >= 140 else rows
    assert not [row for row in numbers if row.rstrip().endswith("…")]
    wide = [row for row in numbers if "on rows it never trains on; rising = overfitting" in row]
    assert bool(wide) == (size[0] >= 140)


def test_charts_without_a_number_in_the_log_are_not_there(tmp_path):
    path = tmp_path / "training.log"
    path.write_text("\n".join(str({"loss": 2 - step / 50, "epoch": step / 50}) for step in range(1, 20)), "utf-8")
    watch = Watch([path])
    watch.settle()
    shown = look(watch, "2", size=(140, 44))
    assert "loss" in shown and "not in this log" not in shown
    assert "gradient norm" not in shown and "GPU busy" not in shown
    shown = look(watch, size=(140, 44))
    assert "tokens a second" not in shown and "checkpoint not in this log" in " ".join(shown.split())


def test_what_is_too_short_to_judge_says_how_long_to_wait_in_two_lines(tmp_path):
    path = tmp_path / "training.log"
    path.write_text(
        "{'loss': 2.451, 'epoch': 0.1}\n{'loss': 2.447, 'epoch': 0.2}\n{'loss': 2.445, 'epoch': 0.3}\n", "utf-8"
    )
    watch = Watch([path])
    watch.settle()
    shown = " ".join(look(watch).split())
    assert "(3 of 8 log lines): wait until there are 8 log lines, about epoch 0.8, and look again" in shown


def test_a_narrow_terminal_has_one_column_of_whole_numbers():
    seen = tour(in_the_middle(), {"overview": (), "findings": ("3",)}, (40, 40))
    shown = seen["overview"]
    assert "   training.num_train_epochs: 4\n" in seen["findings"] and "   training.num_train_epochs: 4\n" in shown
    for words in ("loss       2.7611  smoothed 2.7611\n", "eval loss  4.2162  best 3.8604 at 20\n", "19 s left\n",
                  "learn rate 0.000503  falling\n", "tokens     176.8 k seen\n", "Samples Run\n"):  # fmt: skip
        assert words in shown, words
    assert max(map(cell_len, shown.split("\n"))) <= 40


def test_it_stands_on_any_terminal():
    async def act(pilot, app):
        for size in [(1, 1), (40, 10), (140, 44), (80, 24)]:
            await pilot.resize_terminal(*size)
            for key in ("1", "question_mark", "escape", "2", "3", "4", "5"):
                await pilot.press(key)
            await pilot.pause()
        await pilot.press("1")
        return await settled(pilot, app)

    shown = drive(in_the_middle(), act, (20, 5))
    assert shown.split("\n")[1:4] == name("overview", "80x24").read_text("utf-8").split("\n")[1:4]


def test_before_the_file_is_there_it_waits_and_then_shows_what_comes(tmp_path):
    path = tmp_path / "training.log"

    async def act(pilot, app):
        before = screen(app)
        path.write_text("{'loss': 2.451, 'grad_norm': 0.9, 'learning_rate': 0.0002, 'epoch': 0.01, 'step': 10}\n")
        for _ in range(4):
            app.look()
        return before, await settled(pilot, app)

    before, after = drive(Watch([path], **STILL), act)
    assert "waiting for the file" in before and "training.log" in before
    assert "2.4510" in after and "step 10" in after


def test_the_keys_of_the_panes_and_arrows(run_file):
    steps = {
        ("2",): "tokens a second",
        ("3",): "What the run itself said",
        ("4",): "Add two numbers.",
        ("5",): "learning_rate: 0.0002",
        ("right", "right"): "tokens a second",
        ("left", "left"): "learning_rate: 0.0002",
        ("1",): "loss  ━ each line",
        ("down", "down"): "› eval loss",
        ("up",): "› loss",
        ("3", "question_mark"): "quit; the run goes on",
    }
    shown = tour(Watch([run_file], **STILL), {" ".join(keys): keys for keys in steps}, (100, 40))
    assert [keys for keys, words in steps.items() if words not in shown[" ".join(keys)]] == []


def test_zoom_smoothing_logarithm(run_file):
    async def act(pilot, app):
        seen = {}
        for key in ("plus", "plus", "minus", "minus", "minus", "s", "S", "S", "S", "S", "S", "l", "l"):
            await pilot.press(key)
            seen[key, len(seen)] = app.scene.settings, await settled(pilot, app)
        return list(seen.values())

    settings = drive(Watch([run_file], **STILL), act)
    assert [one.span for one, _ in settings[:5]] == [50, 20, 50, None, None]
    assert "last 50 steps" in settings[0][1] and "last" not in settings[3][1]
    assert [one.weight for one, _ in settings[5:11]] == [0.05, 0.1, 0.2, 0.5, 1.0, 1.0]
    assert "each line" not in settings[10][1]
    assert [one.logarithmic for one, _ in settings[11:]] == [True, False]
    assert "log\n" in settings[11][1]


def test_pause_holds_the_screen_and_go_on_catches_up(run_file):
    async def act(pilot, app):
        await pilot.press("space")
        held = await settled(pilot, app)
        write(run_file, [log(90, 0.5)], start=1_900.0)
        app.look()
        still = await settled(pilot, app)
        await pilot.press("space")
        app.look()
        return held, still, await settled(pilot, app)

    held, still, after = drive(Watch([run_file], **STILL), act)
    assert "paused" in held and still == held
    assert "paused" not in after and "step 90" in after


def test_help_explains_what_has_the_focus_with_the_numbers_of_this_run(run_file):
    async def act(pilot, app):
        answers = {}
        for number in app.query(Number):
            if number.key in expected:
                number.focus()
                await settled(pilot, app)
                await pilot.press("question_mark")
                answers[number.key] = flat(await settled(pilot, app))
                await pilot.press("escape")
        return answers

    expected = {
        "loss": "minus the logarithm",
        "eval": "It has risen by 0.0500",
        "gradient": "shortened to it",
        "checkpoint": "The newest is of step 100",
    }
    answers = drive(Watch([run_file], **STILL), act, size=(100, 40))
    assert [key for key, words in expected.items() if words not in answers[key]] == []


def test_the_mouse_gets_the_same_answers(run_file):
    async def act(pilot, app):
        number = next(widget for widget in app.query(Number) if widget.key == "memory")
        await pilot.hover(number)
        await pilot.pause(0.5)
        over = screen(app)
        await pilot.press("question_mark")
        return over, await settled(pilot, app)

    over, asked = drive(Watch([run_file], **STILL), act, size=(120, 40))
    assert "The most memory that the run has held at once" in flat(over)
    assert "Halve max_tokens_per_micro_batch" in flat(asked)


def test_enter_gives_a_chart_the_whole_pane(run_file):
    async def act(pilot, app):
        await pilot.press("2")
        await settled(pilot, app)
        chart = app.focused
        small = chart.size
        await pilot.press("enter")
        await settled(pilot, app)
        large = chart.size
        await pilot.press("enter")
        await settled(pilot, app)
        return isinstance(chart, Chart), small, large, chart.size

    is_chart, small, large, after = drive(Watch([run_file], **STILL), act)
    assert is_chart and large.area > 3 * small.area and after == small


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_ends(run_file, key):
    async def act(pilot, app):
        await pilot.press(key)
        await pilot.pause()
        return app.is_running

    assert drive(Watch([run_file], **STILL), act) is False


def test_several_runs_share_the_charts_and_have_a_legend(tmp_path):
    first = write(tmp_path / "one.jsonl", [replace(started(), run="calm"), *(log(s, 2.0) for s in range(0, 90, 10))])
    second = write(tmp_path / "two.jsonl", [replace(started(), run="wild"), *(log(s, 9.0) for s in range(0, 50, 10))])
    seen = tour(Watch([first, second], now=lambda: 1_010.0), {"": (), "n": ("n",), "nn": ("n",)})
    shown = seen[""]
    assert "▸1 calm 2" in shown and "2 wild 9" in shown and "step 80/100" in shown and "n Run" in shown
    curve = shown.split("\n")[6:13]
    assert [row for row in curve if row.endswith("1")] and [row for row in curve if row.endswith("2")]
    assert "▸2 wild 9" in seen["n"] and "step 40/100" in seen["n"] and "step 80/100" in seen["nn"]
    assert "n Run" not in look(Watch([first], now=lambda: 1_010.0))


def assert_plain(shown):
    assert not [char for char in shown if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs"}]


@pytest.mark.parametrize("hostile", [ESCAPES, "[red]x[/] [@click=app.quit]go[/] [link=https://x]y[/link] \\[b] [/]"])
def test_what_a_log_says_is_shown_and_does_nothing(tmp_path, hostile):
    stream = list(whole_run(hostile))
    stream[0] = RunStarted(hostile, 100, 0, 3.0, {hostile: hostile, "model.model_name_or_path": hostile})
    path = write(tmp_path / "events.jsonl", stream[:-1])
    markup = hostile.startswith("[red]")
    for view, shown in tour(Watch([path], **STILL), VIEWS, (200, 60)).items():
        assert_plain(shown)
        assert not markup or view in ("charts", "help") or "[red]x[/]" in shown, view


def test_a_torn_and_hostile_log_is_survived(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, [started(), log(10), log(20, math.nan), log(30, math.inf), log(40, 1e308), log(50, -1e308)])
    record = json.loads(path.read_text("utf-8").splitlines()[1])
    with path.open("a", encoding="utf-8") as file:
        for broken in ({"step": 10**400}, {"step": -5}, {"epoch": 1e308}, {"time": "NaN"}, {"time": 1e300},
                       {"num_tokens": 10**30}, {"loss": 1e-320}, {"loss": "x"}, {"step_seconds": 1e308}):  # fmt: skip
            file.write(json.dumps(record | broken) + "\n")
        file.write('{"event":"log","ti\n[1,2]\n\x00\x01\n{"event":"evaluated"}\n{"event": "log", "time": 1')
    keys = {**VIEWS, "1": ("1",), "l": ("l",), "zoom": ("plus", "plus"), "2": ("2",), "linear": ("l",)}
    clock = Clock()
    replay = Watch([path], 1000.0, clock=clock)
    clock.seconds = 5.0
    replay.advance()
    for watch in (Watch([path], **STILL), replay):
        assert "step " in tour(watch, keys, (100, 30))["linear"]


def test_a_finding_shows_its_evidence_and_the_line_to_change():
    watch = Watch([RECORDED], now=lambda: 0.0)
    watch.advance()
    found = watch.scene().run.findings
    assert found, "the recorded run learns by heart; the doctor should see it"
    seen = tour(watch, {"overview": (), "findings": ("3",)}, (120, 40))
    overview, findings = seen["overview"], seen["findings"]
    assert found[0].title[:40] in overview and f"Findings {len(found)}" in overview
    change = found[0].change[0]
    assert f"{change.key}: {change.new}" in findings and f"# was {change.old}" in findings
    assert " ".join(found[0].evidence.split())[:60] in " ".join(findings.split())


def test_a_silent_run_is_told_from_one_that_trains(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), *(log(step) for step in range(10, 60, 10))])
    assert "training" in look(Watch([path], now=lambda: 1_010.0))
    shown = look(Watch([path], now=lambda: 9_000.0))
    assert "silent for 2 h 13 min" in shown and "left" not in shown.split("\n")[1]


def test_a_run_that_evaluates_is_not_silent(tmp_path):
    start = replace(started(), plan={"plan.eval_every": 50})
    path = write(tmp_path / "events.jsonl", [start, *(log(step) for step in range(10, 60, 10))])
    assert "silent" not in look(Watch([path], now=lambda: 1_600.0))
    write(path, [evaluated(50, 1.0)], start=1_600.0)
    assert "silent" in look(Watch([path], now=lambda: 9_000.0))


def test_a_log_without_a_machine_gets_this_one(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), log(10)])
    here = Machine(0, 97.0, 6.8, 44.4, 45.0, 280.0, math.nan, math.nan, math.nan, math.nan)
    watch = Watch([path], machine=lambda: here, **STILL)
    assert "97 %  45 °C  280 W" in look(watch)
    own = replace(here, step=10, gpu_utilization=12.0)
    write(path, [own], start=1_500.0)
    watch.advance()
    assert "12 %  45 °C" in look(watch)


def test_nothing_is_drawn_twice(run_file):
    """Idle looks cost no repaint; the clocks cost their lines only."""

    async def act(pilot, app):
        drawn = []
        for widget in app.query("Drawn"):
            repaint = widget.refresh

            def counted(*args, widget=widget, repaint=repaint, **options):
                drawn.append(widget.id or widget.key)
                return repaint(*args, **options)

            widget.refresh = counted
        app.look()
        idle = list(drawn)
        clock.seconds += 1.0
        wall.seconds += 1.0
        app.look()
        return idle, list(drawn)

    clock, wall = Clock(), Clock(1_030.0)
    path = run_file.with_name("going.jsonl")
    write(path, [started(), *(log(step) for step in range(10, 60, 10))])
    idle, drawn = drive(Watch([path], now=wall), act, clock=clock)
    assert idle == []
    assert set(drawn) <= {"progress", "left"} and "progress" in drawn


def test_a_newer_version_may_say_what_this_one_does_not_know(tmp_path):
    path = write(
        tmp_path / "events.jsonl", [started(), log(10), Notice("info", "x"), Sampled(10, "p", "t"), finished()]
    )
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "teleported", "time": 1010.0, "attempt": "a1", "to": "the moon"}\n')
    write(path, [evaluated(100, 1.5)], start=1_020.0)
    assert "1.5000" in look(Watch([path], **STILL))
