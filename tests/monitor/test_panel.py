import io
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Notice
from luthier.monitor.panel import Panel
from tests.events.stream import log, started, whole_run

SCRIPT = """
import sys, time
from rich.console import Console
from luthier.events.sinks import Sinks
from luthier.monitor.panel import Panel
from tests.events.stream import log, started
with Sinks() as sinks:
    sinks.add("panel", Panel(Console()))
    sinks.write(started())
    for step in range(1, 4):
        sinks.write(log(step))
        time.sleep(0.2)
    print("a word from a library")
    raise KeyboardInterrupt
"""


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=30)


def run_on_a_terminal(script):
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=subprocess.DEVNULL, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(master)
    process.wait(timeout=30)
    return seen.decode()


def test_the_cursor_comes_back_after_ctrl_c_and_the_summary_stays():
    seen = run_on_a_terminal(SCRIPT)
    assert seen.count("\x1b[?25l") == 1
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l")
    assert "lower is better" in seen
    assert "a word from a library" in seen
    assert seen.rstrip().endswith("left at step 3")


def test_after_a_resume_it_shows_the_run_and_not_the_attempt(tmp_path):
    plan = {"training.output_dir": str(tmp_path)}
    first = [replace(started(), plan=plan), *(log(step, 3.0 - step / 100) for step in range(1, 41))]
    sink = JsonlSink(tmp_path / "events.jsonl")
    for event in first:
        sink.write(event)
    sink.close()
    again = replace(started(), plan=plan, first_step=30)
    panel = Panel(terminal())
    panel.write(Notice("info", "reading the rows"))
    sink = JsonlSink(tmp_path / "events.jsonl")
    sink.write(again)
    sink.close()
    panel.write(again)
    panel.write(log(31, 2.5))
    panel.close()
    assert panel.state.first_loss == 2.99 and [point.step for point in panel.state.history] == [*range(1, 32)]
    assert panel.state.first_step == 30 and panel.state.notices[-1].text == "reading the rows"
    unread = Panel(terminal())
    unread.write(replace(again, plan={"training.output_dir": str(tmp_path / "gone")}))
    unread.close()
    assert unread.state.history == () and unread.state.first_step == 30


def test_events_only_change_the_state():
    console = terminal()
    panel = Panel(console)
    panel.write(started())
    try:
        time.sleep(0.05)
        drawn = console.file.tell()
        begin = time.perf_counter()
        for step in range(200):
            panel.write(log(step))
        seconds = time.perf_counter() - begin
        # Two drawings a second at most; 200 events must not make 200 of them.
        assert console.file.getvalue().count("Luthier") <= 2 + 2 * (seconds + 1)
        assert drawn > 0
        assert seconds < 1
        assert panel.state.step == 199
    finally:
        panel.close()


def test_it_says_that_a_stop_was_asked_for_and_leaves_room_for_what_the_terminal_writes():
    console, asked = terminal(), []
    panel = Panel(console, lambda: bool(asked))
    panel.write(started())
    try:
        before = lines_of(panel, console)
        asked.append(True)
        after = lines_of(panel, console)
    finally:
        panel.close()
    assert not any("stopping" in line for line in before)
    assert any("stopping: this step is finished and saved first" in line for line in after)
    assert {len(line) for line in after} == {console.width - len("^C^C")}


def lines_of(panel, console):
    paper = Console(file=io.StringIO(), width=console.width)
    paper.print(panel._render())
    return paper.file.getvalue().splitlines()


def test_close_leaves_the_summary_and_may_be_called_twice():
    console = terminal()
    panel = Panel(console)
    for event in whole_run(""):
        panel.write(event)
    panel.close()
    panel.close()
    assert console.file.getvalue().count("final_model") == 1


def test_a_panel_that_saw_nothing_leaves_nothing():
    console = terminal()
    Panel(console).close()
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("suits", "options", "term"),
    [
        (True, {"force_terminal": True, "width": 80}, "xterm"),
        (False, {"force_terminal": False, "width": 80}, "xterm"),
        (False, {"force_terminal": True, "width": 30}, "xterm"),
        (False, {"force_terminal": True, "width": 80}, "dumb"),
    ],
)
def test_where_a_panel_suits(suits, options, term):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8"), height=30, _environ={"TERM": term}, **options)
    assert Panel.suits(console) is suits


def test_a_terminal_without_utf8_gets_the_text_log():
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "latin-1"), width=80, height=30, force_terminal=True)
    assert not Panel.suits(console)
