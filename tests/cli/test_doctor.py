"""`luthier doctor` on our runs and on other programs' logs; `luthier explain` of its rules."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from luthier.config.load import load
from luthier.doctor import RULES
from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import RunFinished
from tests.cli.support import ROOT, run_here
from tests.doctor.runs_of import curve, evaluated, failed, falling, log, started, steps


def write(folder, *events):
    folder.mkdir(exist_ok=True)
    sink = JsonlSink(folder / "events.jsonl")
    for item in events:
        for event in item if isinstance(item, list) else [item]:
            sink.write(event)
    sink.close()
    return folder


def test_a_sick_run_shows_evidence_reason_and_the_line_to_change(tmp_path, capsys):
    logs = curve(steps(), lambda step: falling(step) if step < 20 else 6.0)
    done = run_here(capsys, "doctor", write(tmp_path, started(**{"training.learning_rate": 0.02}), logs))
    assert done.code == 0
    source, _, head, seen, *_ = done.out.splitlines()
    assert source == f"{tmp_path} (Luthier events.jsonl)"
    assert head.startswith("CRITICAL  The learning rate is too high  (learning-rate-too-high, ")
    assert "learning rate 0.02" in seen
    lines = "  change  training:\n          - learning_rate: 0.02\n          + learning_rate: 0.0002\n"
    assert lines in done.out
    words = " ".join(done.out.split())
    assert re.search(r"\b(\d+) of (\d+) rules judged; luthier doctor \S+ --all says why not the others$", words)
    assert "readings" not in words


def test_a_healthy_run_is_said_to_be_healthy(tmp_path, capsys):
    done = run_here(capsys, "doctor", write(tmp_path, started(), curve(steps()), [evaluated(400, 0.9)]))
    assert done.code == 0 and "\n\nhealthy: 400 steps seen\n" in done.out


GUIDE = "{'loss': 2.451, 'epoch': 0.1}\n{'loss': 2.447, 'epoch': 0.2}\n{'loss': 2.445, 'epoch': 0.3}\n"


def test_what_is_too_short_to_judge_is_not_called_healthy(tmp_path, capsys):
    """The guide's own lines for a loss that does not fall, given as they stand there."""
    (tmp_path / "training.log").write_text(GUIDE, "utf-8")
    words = " ".join(run_here(capsys, "doctor", tmp_path / "training.log").out.split())
    doubt = "too little seen to judge the loss (3 of 8 log lines): wait until there are 8 log lines, about epoch 0.8"
    assert "healthy" not in words and doubt in words
    assert "So far it is flat" in words and "If it still is then: learning_rate: 0.0002" in words
    shown = " ".join(run_here(capsys, "watch", "--once", tmp_path / "training.log").out.split())
    assert "too little seen to judge the loss" in shown and "The doctor has found nothing" not in shown
    warming = [replace(line, learning_rate=2e-4 * line.step / 300) for line in curve(steps(last=160))]
    words = " ".join(run_here(capsys, "doctor", write(tmp_path / "warming", started(), warming)).out.split())
    assert "(10 of 50 steps, 2 of 8 log lines after the warm-up): wait until step 220, and look again" in words
    assert "it is flat" not in words


def test_the_guides_own_lines_for_a_loss_that_falls_are_not_called_flat(tmp_path, capsys):
    lines = "{'loss': 2.451, 'learning_rate': 0.0002, 'epoch': 0.01}  Step 10\n"
    lines += "{'loss': 2.387, 'learning_rate': 0.00019998, 'epoch': 0.02}  Step 20\n"
    lines += "{'loss': 2.301, 'learning_rate': 0.00019995, 'epoch': 0.03}  Step 30\n"
    (tmp_path / "training.log").write_text(lines, "utf-8")
    words = " ".join(run_here(capsys, "doctor", tmp_path / "training.log").out.split())
    assert "So far: loss 2.451 at step 10, 2.301 at step 30" in words


def test_the_guides_own_lines_for_a_loss_that_goes_up_are_a_finding(tmp_path, capsys):
    (tmp_path / "training.log").write_text(
        "{'loss': 1.234, 'epoch': 0.5}\n{'loss': 1.456, 'epoch': 0.6}  Going up!\n{'loss': 1.789, 'epoch': 0.7}\n",
        "utf-8",
    )
    done = run_here(capsys, "doctor", tmp_path / "training.log")
    assert done.code == 0 and "WARNING   The loss rises  (loss-rising, confidence low)" in done.out
    assert "1.234 at epoch 0.5, 1.789 at epoch 0.7" in " ".join(done.out.split())
    assert "+ learning_rate: 7e-05\n" in done.out and "third of the usual 0.0002" in " ".join(done.out.split())


def test_all_tells_what_each_rule_lacks_and_names_none_that_cannot_apply(tmp_path, capsys):
    plan = started(**{"machine.device": "cpu", "machine.world_size": 1})
    done = RunFinished("done", 100, 3.0, 1.0, 1.0, 1, 1.0, "final_model")
    run = write(tmp_path / "run", plan, curve(steps(last=100)), done)
    short, long = (run_here(capsys, "doctor", run, *options).out for options in ((), ("--all",)))
    assert "overfitting" not in short and re.search(r"(?m)^  overfitting +0 of 3 evaluations$", long)
    judged, count = map(int, re.search(r"(\d+) of (\d+) rules judged", short).groups())
    assert count - judged == len(re.findall(r"(?m)^  [a-z-]+  +\S", long)) > 0
    never = {"gpu-idle", "gpu-hot", "checkpointing-needless", "straggler", "slowing-down", "stalled", "resume-jump"}
    never |= {"margins-flat", "chosen-displaced", "pairs-by-heart", "too-few-steps"}
    assert not never & {*re.findall(r"[a-z-]+", long)} and count == len(RULES) - len(never)


@pytest.mark.parametrize(("rate", "lines"), [(0.5, 1), (3e-4, 2)])
def test_the_lines_for_a_log_of_luthier_can_be_written_into_its_yaml(tmp_path, capsys, rate, lines):
    """Also where the new rate lies below the end of the shipped schedule."""
    path = tmp_path / "training.log"
    logs = curve(steps(), lambda step: falling(step) if step < 20 else 6.0, learning_rate=rate)
    path.write_text("\n".join(map(str, (started(), *logs))), "utf-8")
    section, *added = run_here(capsys, "doctor", path).out.split("  change  ")[1].split("\n\n")[0].splitlines()
    assert section == "training:" and len(added) == lines and all(line.startswith(" " * 10 + "+ ") for line in added)
    shipped = (ROOT / "configs/training_config.yaml").read_text("utf-8")
    for line in added:
        key, _, value = line.strip("+ ").partition(": ")
        shipped, found = re.subn(rf"(?m)^  {key}: .*", f"  {key}: {value}", shipped)
        assert found == 1
    (tmp_path / "c.yaml").write_text(shipped, "utf-8")
    assert load(tmp_path / "c.yaml").config.training.learning_rate == pytest.approx(min(2e-4, rate / 10))


def test_without_a_log_the_usual_one_is_examined(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "E-RUN-005" in run_here(capsys, "doctor").err
    (tmp_path / "training.log").write_text(GUIDE, "utf-8")
    assert run_here(capsys, "doctor").out.startswith("training.log (")


def test_findings_come_worst_first_and_as_json(tmp_path, capsys):
    logs = curve(steps(), lambda step: 1.3, grad_norm=0.5)
    plan = started(**{"training.max_grad_norm": 0.001})
    run = write(tmp_path, plan, logs, failed(400, "GPU ran out of memory with 8,192 tokens in a micro-batch"))
    done = run_here(capsys, "doctor", run, "--json")
    found = json.loads(done.out)
    assert done.code == 0 and [item["rule"] for item in found] == ["out-of-memory", "loss-stuck", "always-clipped"]
    assert set(found[0]) == {"rule", "severity", "step", "title", "evidence", "why", "change", "confidence", "fix"}
    assert found[0]["change"] == [{"key": "training.max_tokens_per_micro_batch", "old": "8192", "new": "4096"}]
    text = run_here(capsys, "doctor", run).out
    assert [line.split()[0] for line in text.splitlines() if line[:1].isupper()] == ["CRITICAL", "WARNING", "INFO"]


def test_a_log_of_another_program(tmp_path, capsys):
    path = tmp_path / "training.log"
    lines = [{"loss": 6.0 if step > 50 else 1.2, "grad_norm": 1.0, "learning_rate": 0.05, "epoch": step / 1000}
             for step in range(10, 400, 10)]  # fmt: skip
    path.write_text("\n".join(map(str, lines)), "utf-8")
    done = run_here(capsys, "doctor", path)
    assert done.code == 0 and "0.05" in done.out
    assert "(Trainer log, steps are numbers of log lines)" in " ".join(done.out.split("\n\n")[0].split())
    assert "- learning_rate: 0.05" in done.out or "- learning_rate (or" in done.out


def test_a_resume_that_went_wrong_in_a_log_of_another_program(tmp_path, capsys):
    def run(first, last, loss):
        lines = [str({"loss": loss(step), "grad_norm": 1.0, "learning_rate": 2e-4, "epoch": step / 100})
                 for step in range(first, last + 1)]  # fmt: skip
        return "\n".join(["  Total optimization steps = 100", *lines, ""])

    stopped = "Traceback (most recent call last):\n  File x\nKeyboardInterrupt\n"
    path = tmp_path / "training.log"
    path.write_text(run(1, 30, lambda step: 2 - 0.8 * step / 30) + stopped + run(31, 40, lambda _: 2.6), "utf-8")
    done = run_here(capsys, "doctor", path, "--json")
    assert [(item["rule"], item["step"]) for item in json.loads(done.out)] == [("resume-jump", 31)]


def test_what_a_log_says_cannot_reach_the_terminal(tmp_path, capsys):
    hostile = "\x1b[31mout of memory\x1b]0;title\x07\u202e"
    for options in ([], ["--json"]):
        done = run_here(capsys, "doctor", write(tmp_path, started(), log(1, 1.3), failed(1, hostile)), *options)
        assert done.code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out)


def test_nothing_to_read_is_a_wrong_request(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("bread, milk\n", "utf-8")
    for path in (tmp_path / "missing", tmp_path / "notes.txt", tmp_path / ("n" * 300)):
        done = run_here(capsys, "doctor", path)
        assert done.code == 2 and "E-RUN-005" in done.err and not done.out


@pytest.mark.parametrize("command", [("doctor",), ("watch", "--once")])
def test_a_folder_inside_a_run_is_told_the_run(tmp_path, capsys, command):
    write(tmp_path, started())
    (tmp_path / "final_model").mkdir()
    done = run_here(capsys, *command, tmp_path / "final_model")
    assert done.code == 2 and "E-RUN-005" in done.err and "waiting" not in done.err
    assert f"luthier {command[0]} {tmp_path}\n" in done.err


def test_a_folder_of_runs_is_told_the_one_that_was_written_last(tmp_path, capsys):
    for name, when in (("trial-000", 9e8), ("trial-001", 1e9)):
        (tmp_path / "a sweep" / name).mkdir(parents=True)
        os.utime(write(tmp_path / "a sweep" / name, started()) / "events.jsonl", (when, when))
    (tmp_path / "a sweep" / "trial-000.log").write_text("x.py:1: UserWarning: something\n", "utf-8")
    done = run_here(capsys, "doctor", tmp_path / "a sweep")
    assert done.code == 2 and "E-RUN-005" in done.err and "a folder of 2 runs" in done.err
    assert f"luthier doctor '{tmp_path / 'a sweep' / 'trial-001'}'" in done.err


def test_a_run_without_a_step_is_not_called_healthy(tmp_path, capsys):
    done = run_here(capsys, "doctor", write(tmp_path, started()))
    assert done.code == 0 and "\n\nnothing to judge yet" in done.out


def test_a_loss_of_exactly_0_is_examined(tmp_path, capsys):
    path = tmp_path / "training.log"
    lines = [{"loss": 0.0, "grad_norm": 0.0, "learning_rate": 1e-8, "epoch": step / 100} for step in range(1, 13)]
    path.write_text("\n".join(map(str, [*lines, {"eval_loss": 2.3, "epoch": 0.12}])), "utf-8")
    done = run_here(capsys, "doctor", path)
    assert (done.code, done.err) == (0, "") and "nothing-trained" in done.out


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_explain_tells_each_rule(rule, capsys):
    done = run_here(capsys, "explain", rule.name)
    assert done.code == 0
    assert rule.title in done.out and " ".join(rule.why.split()[:6]) in done.out.replace("\n", " ")
