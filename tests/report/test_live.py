"""The live page: the dashboard's facts and the report's drawings, and which of its parts are drawn again."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

import luthier.report
from luthier.events.numbers import NUMBERS
from luthier.events.read import read
from luthier.events.types import (
    Checked,
    Log,
    Machine,
    Notice,
    Resumed,
    RunStarted,
    Sampled,
    Timing,
)
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE
from luthier.monitor.dashboard.scene import Scene
from luthier.monitor.dashboard.watching import LONGEST_WAIT, Watch
from luthier.report.curves import WIDTH, figures
from luthier.report.live import SCRIPT, Live, page, title
from luthier.report.page import page as report_page
from luthier.report.run import read_run
from tests.events.stream import PLAN, evaluated, finished, log, started, whole_run
from tests.monitor.dash import RECORDED, Clock, in_the_middle, write
from tests.report.reading import curve, figure, insist_safe, plain
from tests.report.runs import HOSTILE

NOW = 2_000.0


def seen(*paths, now=NOW, **options):
    watch = Watch(paths, now=lambda: now, **options)
    watch.settle()
    return watch.scene()


def parts_of(scene):
    return {name: part.html for name, part in Live().parts(scene).items()}


def words(html):
    """As a reader sees them, white space aside."""
    return " ".join(plain(re.sub(r"<(p|dd|dt|h\d|div|span|details)\b", r" <\1", html)).split())


def insist_live(html):
    """Safe, but for the one script and the links within the page."""
    script = f'<script src="{SCRIPT}" defer></script>'
    assert html.count(script) == 1 and "script-src 'self';" in html
    rest = re.sub(r'<a href="(?:#findings|\?run=\d+)">([^<]*)</a>', r"\1", html.replace(script, ""))
    insist_safe(rest)


def test_every_number_of_the_dashboard_with_its_meaning_and_its_long_answer():
    scene = in_the_middle().scene()
    shown = words(parts_of(scene)["numbers"])
    for metric in (metric for metric in (*LEARNING, *MACHINE) if metric.shown(scene.run)):
        value = metric.value(scene.run)
        longest = value[0] if isinstance(value, tuple) else value
        assert f"{metric.label} {' '.join(longest.plain.split())}" in shown, metric.key
        for said in (metric.meaning(scene.run), metric.answer.idea, metric.answer.here(scene.run)):
            assert " ".join(said.split()) in shown, metric.key


def test_a_run_on_pairs_has_its_own_numbers_and_answers(tmp_path):
    line = replace(log(10, 0.5), reward_chosen=0.1, reward_rejected=-0.4, reward_margin=0.5, reward_accuracy=0.75)
    parts = parts_of(seen(write(tmp_path / "events.jsonl", [replace(started(), plan={}), line])))
    shown = words(parts["numbers"])
    assert "75%" in shown and "0.693 is chance" in shown and "log 2 = 0.693, which is chance" in shown
    assert "perplexity" not in shown and "lowest loss of a log line" not in shown
    assert "margin: reward of chosen less rejected" in parts["curves"] and "nats a token" not in parts["curves"]


def test_the_top_says_how_far_it_is_and_what_is_worst():
    scene = in_the_middle().scene()
    top = parts_of(scene)["top"]
    assert "step 112 of 150 · 75% · epoch 22.40/30 · 19 s left" in words(top)
    assert 'style="width: 74.7%"' in top and "training" in words(top)
    assert "WARNING The model learns the rows by heart, and 1 more" in words(top)
    assert title(scene) == "75% by_heart"


def test_the_curves_are_those_of_the_report():
    events = [event for event, _ in read(RECORDED) if isinstance(event, Log)]
    scene = seen(RECORDED)
    drawn = parts_of(scene)["curves"]
    assert drawn.count("<figure>") == 5
    loss = figure(drawn, "loss, nats a token")
    assert loss == figure(report_page(read_run(RECORDED), NOW), "loss, nats a token")
    assert all(one in drawn for one in figures(scene.run.state, WIDTH // 2))
    speed = curve(figure(drawn, "tokens a second"), "c0")
    assert speed == pytest.approx([event.tokens_per_second for event in events], rel=0.02)
    memory = curve(figure(drawn, "memory, GiB"), "c0")
    assert memory == pytest.approx([event.memory_gib for event in events], abs=0.01)


def test_a_title_fits_into_half_a_picture(tmp_path):
    lines = [replace(log(step), grad_norm=norm) for step, norm in ((10, 0.1), (20, 0.1), (30, 90.0))]
    drawn = parts_of(seen(write(tmp_path / "events.jsonl", [started(), *lines])))["curves"]
    (start,) = re.findall(r'x="(\d+)" y="14" font-weight="600">length of the gradient before clipping \(log', drawn)
    assert 0 <= int(start) < 40


def test_findings_samples_and_time_are_told_as_elsewhere():
    scene = in_the_middle().scene()
    parts = parts_of(scene)
    for one in scene.run.findings:
        assert f"{one.severity.upper()}: {one.title}" in words(parts["findings"]) and one.evidence in parts["findings"]
    assert "- num_train_epochs: 30\n+ num_train_epochs: 4" in parts["findings"]
    assert "forward 47%" in words(parts["time"])
    samples = scene.run.state.samples
    assert samples and all(f"step {one.step:,}" in parts["samples"] for one in samples)
    assert "exactly one BOS: 100% of rows" in words(parts["notices"])
    assert "checkpoint build/measure/by_heart/checkpoint-100" in words(parts["about"])


@pytest.mark.parametrize(
    ("plan", "leads"), [({}, "what to do"), ({"data.prompt_template": "alpaca"}, "what to change")]
)
def test_the_worst_finding_leads_to_what_to_do_or_to_change(tmp_path, plan, leads):
    run = [replace(started(), plan={**PLAN, **plan}), log(1, 7.5)]
    top = parts_of(seen(write(tmp_path / "events.jsonl", run)))["top"]
    assert "The first loss is not that of this model on this text" in top
    assert f'<a href="#findings">{leads}</a>' in top


def test_a_gpu_has_bars_and_their_meanings(tmp_path):
    told = Machine(10, 97.0, 40.0, 80.0, 83.0, 300.0, 40.0, 3.0, 8.0, 100.0)
    ranks = Timing(10, 0.0, 0.2, 0.2, 0.0, 0.0, 0.1, [0.4, 0.5], [11.0, 12.0])
    parts = parts_of(seen(write(tmp_path / "events.jsonl", [started(), log(10), told, ranks])))
    machine = parts["machine"]
    for width in ("50.0", "97.0", "83.0", "40.0", "37.5"):
        assert f'style="width: {width}%"' in machine
    for shown in ("GPU memory 40.0 / 80.0 GiB", "GPU busy 97 %", "GPU temperature 83 °C", "GPU power 300 W"):
        assert shown in words(machine)
    assert NUMBERS["gpu_temperature_c"].care in words(machine)
    assert '<div class="warn" style="width: 83.0%">' in machine, "warm"
    assert "1 0.5 s 12.0 GiB" in " ".join(re.sub("<[^>]+>", " ", parts["time"]).split())


def test_a_box_without_gpu_has_no_bars_for_one(tmp_path):
    machine = parts_of(seen(write(tmp_path / "events.jsonl", whole_run(""))))["machine"]
    assert "processor 40 %" in words(machine) and "GPU" not in words(machine)


def test_a_finished_run_shows_as_finished(tmp_path):
    top = parts_of(seen(write(tmp_path / "events.jsonl", whole_run(""))))["top"]
    assert '<div class="summary done">' in top and "run-1a2b done" in words(top)
    assert "checkpoints/final_model" in top and "352.0 k tokens" in top
    failed = replace(finished("failed", 20), reason="the disk <is> full")
    top = parts_of(seen(write(tmp_path / "failed.jsonl", [started(), log(20), failed])))["top"]
    assert '<div class="summary failed">' in top and "the disk &lt;is&gt; full" in top


def test_a_silent_run_and_one_that_is_not_there(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), *(log(step) for step in range(1, 30))])
    silent = parts_of(seen(path, now=90_000.0))["top"]
    assert "silent for 1 d" in words(silent) and '<div class="summary silent">' in silent
    waiting = parts_of(seen(tmp_path / "later.log"))
    assert "waiting for the file" in words(waiting["top"])
    assert [name for name, html in waiting.items() if html] == ["top"]


def test_a_log_of_another_program(tmp_path):
    path = tmp_path / "training.log"
    lines = [{"loss": 3 / step, "grad_norm": 1.0, "learning_rate": 5e-5, "epoch": step / 100} for step in range(1, 40)]
    path.write_text("\n".join(map(str, lines)) + "\n", "utf-8")
    scene = seen(path)
    parts = parts_of(scene)
    insist_live(page(scene, Live().parts(scene)))
    assert "speed not in this log" in words(parts["numbers"]) and "tokens a second" not in parts["curves"]


def test_several_runs_have_a_row_each_and_one_is_looked_at(tmp_path):
    paths = [write(tmp_path / name, [started(), log(10, loss)]) for name, loss in (("a.jsonl", 2.0), ("b.jsonl", 3.0))]
    scene = seen(*paths)
    second = Scene(scene.runs, 1)
    html = page(second, Live().parts(second))
    insist_live(html)
    parts = parts_of(second)
    assert f'<strong><a href="?run=2">{paths[1]}</a></strong>' in parts["runs"]
    assert "2.0000" in parts["runs"] and "3.0000" in parts["runs"]
    assert "3.0000" in parts["numbers"] and "2.0000" not in parts["numbers"]
    assert parts["together"].count('<polyline class="line c') == 2


def test_what_others_wrote_cannot_reach_the_page(tmp_path):
    folder = tmp_path / "<b onload=x>run"
    folder.mkdir()
    write(folder / "events.jsonl", [
        RunStarted(HOSTILE, 100, 0, 3.0, {**PLAN, HOSTILE: HOSTILE, "training.lr_scheduler_type": HOSTILE}),
        Notice("warning", HOSTILE, HOSTILE, 3),
        Checked(HOSTILE, "warning", HOSTILE, HOSTILE, HOSTILE),
        *(log(step, 2.0 + step) for step in range(10, 40, 10)),
        Timing(30, 0.1, 0.2, 0.3, 0.1, 0.0),
        Sampled(30, HOSTILE, HOSTILE),
        evaluated(30, 1.0),
        Resumed(30, HOSTILE, [HOSTILE]),
        replace(finished("failed", 40), reason=HOSTILE, why=HOSTILE, fix=HOSTILE, code=HOSTILE),
    ])  # fmt: skip
    write(tmp_path / "other.jsonl", [replace(started(), run=HOSTILE), log(10)])
    scene = seen(folder, tmp_path / "other.jsonl")
    html = page(scene, Live().parts(scene))
    insist_live(html)
    assert "alert(&quot;1&quot;)" in html and 'alert("1")' not in html and "<b onload" not in html
    assert html.count("alert(&quot;1&quot;)") > 10


def test_no_secret_of_a_foreign_log_is_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", 'c4n&ry-"value')
    secret = 'c4n&ry-"value'
    path = write(tmp_path / "events.jsonl", [
        replace(started(), run=f"run {secret}"), Notice("warning", f"{secret} https://x.y/?a=b&token=abcdefgh", secret),
        log(10), Sampled(10, secret, f"a\n{secret}"), replace(finished("failed", 20), reason=secret),
    ])  # fmt: skip
    scene = seen(path)
    html = page(scene, Live().parts(scene)) + title(scene)
    assert "c4n" not in html and "abcdefgh" not in html and html.count("&lt;MY_TOKEN&gt;") > 4


def test_only_what_changes_has_another_tag(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), log(10), Sampled(10, "Say hi", "hi")], start=NOW - 10)
    watch, live = Watch([path], now=lambda: NOW), Live()
    watch.settle()
    before = live.parts(watch.scene())
    assert len({part.tag for part in before.values()}) == len(before), "empty parts, too"
    assert live.parts(watch.scene()) == before
    write(path, [Sampled(20, "Say hi", "hello")], start=NOW)
    watch.settle()
    after = live.parts(watch.scene())
    changed = {name for name in before if before[name].tag != after[name].tag}
    assert "samples" in changed and not changed & {"curves", "machine", "time", "notices"}
    assert "hello" in after["samples"].html


def test_curves_wait_for_their_turn_and_then_come(tmp_path):
    """Drawing takes a hundredth of a core: at once only where the last drawing was a while ago."""
    path = write(tmp_path / "events.jsonl", [started(), log(10, 2.0)], start=NOW - 10)
    clock = Clock()
    watch, live = Watch([path], now=lambda: NOW), Live(clock)

    def drawn():
        watch.settle()
        return live.parts(watch.scene())

    first = drawn()
    write(path, [log(20, 1.0)], start=NOW)
    soon = drawn()
    assert soon["curves"] == first["curves"] and soon["numbers"] != first["numbers"]
    clock.seconds += LONGEST_WAIT
    assert drawn()["curves"] != first["curves"]


def test_nan_is_no_reason_to_draw_again(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), replace(log(10), grad_norm=math.nan)])
    clock = Clock()
    watch, live = Watch([path], now=lambda: NOW), Live(clock)
    watch.settle()
    first = live.parts(watch.scene())["curves"]
    clock.seconds += LONGEST_WAIT
    assert live.parts(watch.scene())["curves"] is first


def test_the_script_finds_what_it_looks_for():
    script = (Path(luthier.report.__file__).parent / SCRIPT).read_text("utf-8")
    scene = in_the_middle().scene()
    html = page(scene, Live().parts(scene))
    for name in re.findall(r'getElementById\("(\w+)"\)', script):
        assert f'id="{name}"' in html
    assert "[data-tag]" in script and html.count("data-tag=") == len(Live().parts(scene))
    assert not re.search(r"\beval\(|new Function|document\.write|https?:", script)
