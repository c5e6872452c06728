"""What a terminal shows of a sweep that is stopped."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from luthier.errors import EXIT_RESUMABLE

PROGRAM = """
import sys
from luthier.cli.main import main
from luthier.sweep import process
process.COMMAND = (sys.executable, {trial!r})
main(["sweep", {config!r}, "learning_rate=1e-4,1e-3", "lora.r=20", "--jobs", "2"])
"""


def screen(text: str) -> list[str]:
    """The lines that a terminal of endless height holds in the end."""
    lines, y, x = [""], 0, 0
    for match in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|([^\x1b])", text):
        amount, code, letter = match.groups()
        if code == "A":
            y = max(0, y - int(amount or 1))
        elif code == "K":
            lines[y] = ""
        elif letter == "\r":
            x = 0
        elif letter == "\n":
            y += 1
            lines += [""] * (y == len(lines))
        elif letter:
            lines[y] = lines[y].ljust(x)[:x] + letter + lines[y][x + 1 :]
            x += 1
    return [line for line in lines if line.strip()]


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_ctrl_c_leaves_one_table(tmp_path):
    import pty

    config = tmp_path / "c.yaml"
    config.write_text(f"training: {{output_dir: {tmp_path}/out, max_steps: 40}}\ndata: {{datasets: rows.jsonl}}\n")
    program = PROGRAM.format(trial=str(Path(__file__).with_name("quick_trial.py")), config=str(config))
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-c", program])
    written, pressed = b"", False
    try:
        while True:
            written += os.read(terminal, 65536)
            if not pressed and written.count(b"step 2 of 40") > 1:
                pressed = os.write(terminal, b"\x03") == 1
    except OSError:  # Linux says so when the other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_RESUMABLE
    lines = screen(written.decode())
    assert sum("eval_loss" in line for line in lines) == 1, "\n".join(lines)
    assert "stopping: a step is finished" in written.decode() and lines[-1].startswith("stopped; the same command")
