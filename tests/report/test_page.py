"""A report of one run: its numbers are those of the events and the record, and nothing from outside gets through."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from luthier.doctor import findings
from luthier.events.read import read
from luthier.events.types import (
    Checked,
    Evaluated,
    Log,
    MemoryForecast,
    Notice,
    Rehearsed,
    Resumed,
    Sampled,
)
from luthier.report.page import page
from luthier.report.run import read_run
from tests.events.stream import forecast
from tests.report.reading import curve, figure, insist_safe, plain, rows
from tests.report.runs import (
    HOSTILE,
    evaluated,
    finished,
    logs,
    plan_of,
    started,
    write_events,
    write_record,
)

BY_HEART = Path(__file__).parents[1] / "monitor" / "runs" / "by_heart"
NOW = 1_767_300_000.0


def whole_run(folder):
    """A run with everything: checks, forecasts, samples, a kill, a resume, and a record."""
    plan = plan_of()
    parts = {"weights": 0.5, "activations": 0.7}
    write_events(
        folder,
        started(plan),
        Notice("info", "rows: 950 to train on, 50 held out"),
        Checked(
            "rows-cut", "warning", "12 of 1,012 rows are left out: longer than 2,048 tokens", "raise max_seq_length"
        ),
        Checked("one-bos", "passed", "each has one"),
        MemoryForecast(1.2, parts, "a step", 1024, 12.0),
        Rehearsed(1024, 400, 120, 1.2, parts, 1.0, 0.2, "resident set", 2.5, 1.0, 0.3, 5_000_000),
        Sampled(0, "Say hi", "zero"),
        logs(1, 30),
        evaluated(10, 2.0),
        Sampled(30, "Say hi", "never was"),
        "second",
        started(plan, 10),
        Resumed(10, "run/checkpoint-10", ["checkpoint-20: a file is missing"]),
        Sampled(20, "Say hi", "twenty"),
        logs(11, 40),
        Notice("warning", "step 33: loss 9.9, usual 1.1", "training.loss_spikes: skip", 33),
        evaluated(30, 1.25),
        evaluated(40, 1.5, best=False),
        Notice("info", "final_model holds step 30, the lowest eval_loss (1.2500)", step=40),
        Sampled(40, "Say hi", "hello"),
        finished(),
    )
    write_record(folder, plan, resumed_with=["torch: 2.12.0 then, 2.13.0 now"])
    (folder / "final_model").mkdir()
    return folder


def test_the_curves_are_the_numbers_of_the_events():
    events = [event for event, _ in read(BY_HEART / "events.jsonl")]
    told = [event for event in events if isinstance(event, Log)]
    html = page(read_run(BY_HEART), NOW)
    drawn = figure(html, "loss, nats a token")
    assert curve(drawn, "raw") == pytest.approx([event.loss for event in told], abs=0.01)
    norms = curve(figure(html, "length of the gradient"), "c0")
    assert norms == pytest.approx([event.grad_norm for event in told], abs=0.01)
    rates = curve(figure(html, "learning rate"), "c0")
    assert rates == pytest.approx([event.learning_rate for event in told], abs=3e-5)
    held_out = [event for event in events if isinstance(event, Evaluated)]
    for event in held_out:
        assert f"<title>step {event.step}: {event.eval_loss:.4f}</title>" in drawn
    table = [row for row in rows(html) if len(row) == 5 and row[3] == f"{held_out[0].eval_tokens:,}"]
    assert [(row[0], row[2]) for row in table] == [(f"{e.step}", f"{e.eval_loss:.4f}") for e in held_out]
    means = curve(drawn, "c0")
    for index in (10, 40, 60):
        around = [event.loss for event in told[index - 2 : index + 3]]
        assert means[index] == pytest.approx(math.fsum(around) / 5, abs=0.01)


def test_the_findings_are_those_of_the_doctor():
    run = read_run(BY_HEART)
    html = page(run, NOW)
    found = findings(run.history, NOW)
    assert [one.rule for one in found] == ["overfitting", "loss-high"]
    for one in found:
        assert plain(f"{one.severity.upper()}: {one.title}") in plain(html) and one.evidence in plain(html)
    assert "- num_train_epochs: 30\n+ num_train_epochs: 4" in html


def test_two_sentences_and_the_verdict(tmp_path):
    html = plain(page(read_run(whole_run(tmp_path / "run")), NOW))
    assert (
        "small/model was fine-tuned (LoRA of rank 8) on 950 rows of rows.jsonl: 40 steps of 16 examples (0.7 epochs) "
        "in 3 min 20 s on a CPU. The loss on held-out rows was 2.0000 at step 10 and 1.2500, the lowest, at step 30; "
        "at the last evaluation (step 40) it was 1.5000; final_model holds step 30, the lowest eval_loss (1.2500)."
    ) in html
    assert "Whether it answers better than its base was not measured." in html
    assert "luthier compare" in html and "comparison.json" in html


def test_what_was_asked_is_what_differs_from_the_defaults(tmp_path):
    run = read_run(whole_run(tmp_path / "run"))
    html = page(run, NOW)
    assert [one.key for one in run.record.asked] == [
        "model.model_name_or_path", "lora.r", "data.datasets", "training.max_steps", "training.learning_rate",
    ]  # fmt: skip
    told = rows(html)
    assert ("lora.r", "8", "16", "Python") in told
    assert ("training.learning_rate", "0.001", "2e-4", "Python") in told
    assert ("total_steps", "40", plan_of().value("total_steps").how) in told
    reasons = {key: how for key, _, how in run.record.decided}
    assert reasons["model.dtype"] == plan_of().value("model.dtype").how != ""
    assert all(reasons.values())
    assert "950 rows to train on, 50 held out" in plain(html), "the plan in words"


def test_a_run_that_memory_lowered_in_its_rehearsal_tells_the_lowered_number_and_all_reasons(tmp_path):
    folder, how = whole_run(tmp_path / "run"), "lowered at step 0, when memory ran out"
    plan = plan_of()
    plan = plan.with_passes(replace(plan.passes, micro_batch_tokens=512, how=how, lowered=True))
    write_record(folder, plan, passes={name: value for name, value in asdict(plan.passes).items() if name != "how"})
    record = read_run(folder).record
    assert ("max_tokens_per_micro_batch", 512, how) in record.derived
    assert ("training.max_tokens_per_micro_batch", 512, how) in record.decided
    assert all(reason for _, _, reason in record.decided)
    assert "at most 512 tokens a pass" in dict(record.in_words)["Step"]


def test_a_plan_of_another_version_has_its_numbers_and_no_reasons(tmp_path):
    folder = whole_run(tmp_path / "run")
    text = (folder / "plan.yaml").read_text().rpartition("sha256: ")[0]
    from luthier.config.record import seal

    (folder / "plan.yaml").write_text(seal(text.replace("dtype: float32", "dtype: bfloat16")))
    record = read_run(folder).record
    assert record.plan is None and record.in_words == []
    assert ("model.dtype", "bfloat16", "") in record.decided
    assert ("total_steps", 40, plan_of().value("total_steps").how) in record.derived


def test_a_record_that_was_changed_is_not_quoted(tmp_path):
    folder = whole_run(tmp_path / "run")
    path = folder / "plan.yaml"
    path.write_text(path.read_text().replace("r: 8", "r: 9"))
    html = plain(page(read_run(folder), NOW))
    assert "What was asked for is not known: plan.yaml was changed since it was written." in html
    assert "It cannot be repeated from its record: plan.yaml was changed since it was written." in html
    assert "LoRA of rank 8" in html, "as the log says"


def test_rows_and_what_was_left_out(tmp_path):
    html = page(read_run(whole_run(tmp_path / "run")), NOW)
    words = plain(html)
    for said in ("rows held out50 (5.0%)", "of them trained30,000 (42.9%)", "longest row120 tokens"):
        assert said in words
    assert (
        "rows-cut",
        "warning",
        "12 of 1,012 rows are left out: longer than 2,048 tokens; raise max_seq_length",
    ) in rows(html)
    assert "1 passed" in words and "rows: 950 to train on, 50 held out" in words


def test_a_resume_forgets_what_was_done_again(tmp_path):
    html = page(read_run(whole_run(tmp_path / "run")), NOW)
    assert "never was" not in html
    for step, text in ((0, "zero"), (20, "twenty"), (40, "hello")):
        assert f"<div>step {step}<pre>{text}</pre></div>" in html
    told = rows(html)
    assert [row[2:] for row in told if len(row) == 5 and "UTC" in row[1]] == [
        ("0", "29", "no last word: killed, or the machine was lost"),
        ("10", "40", "done"),
    ]
    assert "checkpoint-20: a file is missing" in html and "torch: 2.12.0 then, 2.13.0 now" in html
    assert ("33", "warning", "step 33: loss 9.9, usual 1.1", "training.loss_spikes: skip") in told
    assert "It is not of one piece" in html


def test_predicted_beside_taken(tmp_path):
    html = page(read_run(whole_run(tmp_path / "run")), NOW)
    assert "nothing was measured yet" not in plain(html), "a sentence of the plan for who has not begun"
    told = rows(html)
    assert ("memory, before the model was loaded", "1.20 GiB", "1.25 GiB", "-4 %") in told
    assert ("memory of the largest step, in the rehearsal", "1.20 GiB", "1.00 GiB", "+20 %") in told
    assert ("time, after 20 steps", "4 min 10 s", "3 min 20 s", "+25 %") in told
    assert not [row for row in told if row[0] == "time, before step 1"], "said of an attempt, and this run had two"
    write_events(tmp_path / "one", started(plan_of()), forecast(remaining_seconds=240.0), logs(1, 40), finished())
    told = rows(page(read_run(tmp_path / "one"), NOW))
    assert ("time, before step 1", "4 min 00 s", "3 min 20 s", "+20 %") in told


def test_how_to_do_it_again(tmp_path):
    folder = whole_run(tmp_path / "run")
    write_record(folder, plan_of())
    words = plain(page(read_run(folder), NOW))
    assert f"luthier train --from {folder / 'plan.yaml'}" in words
    assert "It was resumed, with nothing changed" in words
    assert "torch2.13.0" in words and "files: rows.jsonl" + "ef" * 32 in words


@pytest.mark.parametrize(
    ("last", "said", "status"),
    [
        ([], "Its log has no end: it goes on, or was killed; the training loss went from", "training"),
        ([finished(20, status="stopped", reason="as asked", final_model="")], "It was stopped (as asked);", "stopped"),
        ([finished(20, status="failed", reason="disk full", final_model="")], "It failed (disk full);", "failed"),
    ],
)  # fmt: skip
def test_a_run_that_is_not_done(tmp_path, last, said, status):
    html = page(read_run(write_events(tmp_path / "run", started(plan_of()), logs(1, 20), *last)), NOW)
    assert said in plain(html) and f'<div class="summary {status}">' in html
    assert f"{19 if not last else 20} of 40 steps" in plain(html)
    assert "no held-out rows were evaluated" in plain(html)


def test_numbers_that_are_none_leave_a_gap(tmp_path):
    lines = logs(1, 20)
    lines[4] = Log(**{**vars(lines[4]), "loss": math.nan, "grad_norm": math.inf})
    html = page(read_run(write_events(tmp_path / "run", started(plan_of()), lines)), NOW)
    drawn = figure(html, "loss, nats a token")
    assert drawn.count('<polyline class="line raw"') == 2 and "nan" not in drawn and "inf" not in drawn
    nothing = [Log(**{**vars(line), "loss": math.nan, "grad_norm": math.nan}) for line in logs(1, 4)]
    insist_safe(page(read_run(write_events(tmp_path / "none", started(plan_of()), nothing)), NOW))


def test_a_wide_range_is_drawn_by_its_logarithm(tmp_path):
    lines = [Log(**{**vars(line), "loss": 50.0 if line.step == 1 else 0.5}) for line in logs(1, 20)]
    html = page(read_run(write_events(tmp_path / "run", started(plan_of()), lines)), NOW)
    drawn = figure(html, "loss, nats a token (logarithmic)")
    assert ">50<" in drawn or ">20<" in drawn


def test_a_log_of_another_program(tmp_path):
    path = tmp_path / "training.log"
    lines = [{"loss": 3 / step, "grad_norm": 1.0, "learning_rate": 5e-5, "epoch": step / 100} for step in range(1, 40)]
    path.write_text("\n".join(map(str, lines)), "utf-8")
    html = page(read_run(path), NOW)
    insist_safe(html)
    assert "this is the log of another program" in html and "training loss went from 3.0000" in html


def test_what_others_wrote_cannot_reach_the_page(tmp_path):
    plan = plan_of(output_dir=HOSTILE.replace("\x1b", "").replace("\u202e", ""))
    folder = write_events(
        tmp_path / "<i>run",
        started(plan, name=HOSTILE),
        Notice("info", HOSTILE),
        Notice("warning", HOSTILE, HOSTILE, 3),
        Checked(HOSTILE, "warning", HOSTILE, HOSTILE),
        MemoryForecast(1.0, {HOSTILE: 1.0}, "a step", 9, 2.0),
        Sampled(0, HOSTILE, HOSTILE),
        logs(1, 20),
        "second",
        started(plan, 10, HOSTILE),
        Resumed(10, HOSTILE, [HOSTILE]),
        finished(20, status="failed", reason=HOSTILE),
    )
    write_record(folder, plan, commands=[HOSTILE], resumed_with=[HOSTILE], surroundings={HOSTILE: HOSTILE},
                 inputs={"rows": HOSTILE, "files": {HOSTILE: HOSTILE}})  # fmt: skip
    html = page(read_run(folder), NOW)
    insist_safe(html)
    assert "<script" not in html and "<b " not in html and "<i>" not in html
    assert html.count("alert(&quot;1&quot;)") > 10


def test_many_milestones_show_the_first_the_last_and_some_between(tmp_path):
    told = [Sampled(step, "Say hi", f"text {step}") for step in range(0, 200, 10)]
    html = page(read_run(write_events(tmp_path / "run", started(plan_of()), told, logs(1, 4))), NOW)
    assert html.count("<div>step ") == 8 and "text 0<" in html and "text 190<" in html and "8 of 20 milestones" in html
