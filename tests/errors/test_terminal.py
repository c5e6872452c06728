"""Text in the width of a terminal, on a real one of 80 columns; elsewhere lines stay whole."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from contextlib import contextmanager

import pytest

from luthier.cli.main import main
from luthier.errors import DataError, Problem
from luthier.errors.terminal import columns, hanging, width

LONG = "there is no log of a run in this folder, and none in those below it that any of the known programs writes"


@contextmanager
def terminal(monkeypatch, columns=80):
    """Both outputs are a terminal of so many columns; gives what is read from it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w", encoding="utf-8") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)

        def read():
            screen.flush()
            return os.read(master, 4096).decode().replace("\r\n", "\n")

        yield read
    os.close(master)


def test_an_error_has_the_width_of_the_terminal(monkeypatch):
    with terminal(monkeypatch):
        lines = Problem("E-RUN-005", LONG, "look elsewhere", "checkpoints").render().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.startswith((" " * 8, "E-RUN", "  why   ", "  fix   ", "  more  ")) for line in lines)
    assert " ".join(" ".join(lines).split()).startswith(f"E-RUN-005 checkpoints: {LONG} why ")


def test_elsewhere_each_part_is_one_line():
    assert columns(sys.stderr) is None
    assert len(Problem("E-RUN-005", LONG * 3, "look elsewhere").render().splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (f"{LONG}: /data/{'deep/' * 20}rows.jsonl", f"/data/{'deep/' * 20}rows.jsonl"),
        (f"{LONG}, write `columns: {{instruction: question, output: answer}}`", "`columns: {instruction: question, "),
        (
            f"{LONG}: luthier train configs/mine.yaml --resume auto",
            "\n        luthier train configs/mine.yaml --resume auto",
        ),
        (f"{LONG[:60]} torchrun --nproc-per-node=2 --standalone", "torchrun --nproc-per-node=2 --standalone"),
    ],
    ids=["path", "backticks", "command", "option"],
)
def test_what_may_be_copied_stays_whole(text, whole):
    wrapped = hanging(f"  fix   {text}", " " * 8, 80)
    assert whole in wrapped
    assert " ".join(wrapped.split()) == f"fix {text}"


def test_a_narrow_terminal_breaks_no_words(monkeypatch):
    with terminal(monkeypatch, columns=44) as read:
        assert width() == 44
        with pytest.raises(SystemExit):
            main(["explain", "E-RUN-005"])
        said = read()
    assert max(map(len, said.splitlines())) <= 44


def test_explain_fits_the_terminal(monkeypatch):
    with terminal(monkeypatch) as read:
        assert width() == 80
        with pytest.raises(SystemExit):
            main(["explain", "E-RUN-005"])
        said = read()
    assert 60 < max(map(len, said.splitlines())) <= 80


def test_problems_of_one_kind_are_one_block():
    alike = [Problem("E-DATA-023", '"output" is null', "write text", f"rows.jsonl:{line}") for line in (1, 2, 7)]
    lines = str(DataError(*alike, Problem("E-DATA-008", "no rows", "give some"))).splitlines()
    assert [line.split()[0] for line in lines if line] == ["E-DATA-023"] * 3 + ["why", "fix", "more"] + [
        "E-DATA-008", "why", "fix", "more"]  # fmt: skip
    assert "rows.jsonl:7" in lines[2] and lines[6] == ""
