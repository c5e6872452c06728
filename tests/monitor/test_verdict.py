"""What is said of a run that is done and whose model is ruined."""

from __future__ import annotations

from luthier.events.types import RunFinished
from luthier.monitor.verdict import Verdict
from luthier.notebook import show
from tests.doctor.runs_of import curve, falling, started, steps

DONE = RunFinished("done", 400, 3.0, 1.0, 60.0, 1000, 60.0, "my runs/a/final_model")
RUINED = curve(steps(), lambda step: falling(step) if step < 20 else 6.0)


class Screen:
    def write(self, event):
        pass

    def close(self):
        print("the screen's last line")


def test_a_run_that_is_done_and_has_blown_up_does_not_end_without_a_word(capsys):
    assert show([started(), *RUINED, DONE], Screen()) == DONE
    screen, word = capsys.readouterr().out.splitlines()
    assert screen == "the screen's last line"
    assert word == "warning: The learning rate is too high: luthier doctor 'my runs/a'"


def test_it_says_nothing_of_a_healthy_run_nor_of_one_that_goes_on(capsys):
    stopped = RunFinished("stopped", 400, 3.0, 1.0, 60.0, 1000, 60.0, "", "stop requested")
    for events in ([started(), *curve(steps()), DONE], [started(), *RUINED, stopped], [started(), *RUINED], []):
        verdict = Verdict()
        for event in events:
            verdict.write(event)
        verdict.close()
    assert capsys.readouterr().out == ""
