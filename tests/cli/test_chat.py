"""`luthier chat` as users run it: at a terminal and with lines from a pipe."""

from __future__ import annotations

import builtins
import io
import os
import re
import select
import subprocess
import sys

import pytest

from luthier.events.printable import printable
from luthier.generate.chat import Chat
from luthier.generate.choosing import Sampling
from luthier.generate.load import load
from luthier.generate.talk import talk
from tests.cli.support import LUTHIER, environment, process, run_here
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("chat") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def tuned(run):
    return load(run)


def piped(capsys, monkeypatch, lines, *arguments):
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return run_here(capsys, "chat", *arguments)


def typed(monkeypatch, chat, *lines):
    """Run the terminal's loop; each line is what `input` returns, or an exception that it raises."""
    waiting = list(lines)

    def read(prompt=""):
        line = waiting.pop(0) if waiting else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    talk(chat, "runs/mine")
    return waiting


# A pipe --------------------------------------------------------------------------------------------------------------


def test_each_line_is_a_question_of_its_own(capsys, monkeypatch, run, tuned):
    result = piped(capsys, monkeypatch, "Add\n\n  Reverse  \n/quit\n", run, "--max-new-tokens", 12)
    assert result.code == 0 and result.err == ""
    answers = [printable(tuned.generate(text, 12)) for text in ("Add", "Reverse", "/quit")]
    assert result.out == "".join(f"{answer}\n\n" for answer in answers)


def test_a_system_message_is_before_each_of_them(capsys, monkeypatch, run, tuned):
    result = piped(capsys, monkeypatch, "Add\nReverse\n", run, "--max-new-tokens", 12, "--system", "Be a poet.")
    turns = [[{"role": "system", "content": "Be a poet."}, {"role": "user", "content": q}] for q in ("Add", "Reverse")]
    answers = [printable(tuned.stream(messages, lambda piece: None, 12)) for messages in turns]
    assert result.out == "".join(f"{answer}\n\n" for answer in answers)


def test_compare_lets_the_base_answer_first(capsys, monkeypatch, run, tuned):
    result = piped(capsys, monkeypatch, "Add\n", run, "--max-new-tokens", 12, "--compare")
    with tuned.as_base():
        base = printable(tuned.generate("Add", 12))
    assert result.out == f"base\n{base}\ntuned\n{printable(tuned.generate('Add', 12))}\n\n"


def test_a_seed_repeats_a_temperature(capsys, monkeypatch, run):
    options = (run, "--max-new-tokens", 12, "--temperature", 2.0)
    first, again, other = (piped(capsys, monkeypatch, "Add\n", *options, "--seed", seed).out for seed in (1, 1, 2))
    assert first == again != other
    unseeded = {piped(capsys, monkeypatch, "Add\n", *options).out for _ in range(3)}
    assert len(unseeded) > 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere"], "E-MODEL-012"), (["RUN", "--base", "nowhere"], "E-MODEL-001")],
)
def test_wrong_requests(capsys, monkeypatch, run, tmp_path, arguments, code):
    monkeypatch.chdir(tmp_path)
    words = [str(run) if word == "RUN" else word for word in arguments]
    result = piped(capsys, monkeypatch, "Add\n", *words)
    assert result.code == 2 and code in result.err and result.out == ""


def test_a_question_beyond_the_context_is_a_wrong_request(capsys, monkeypatch, run):
    result = piped(capsys, monkeypatch, "x " * 600, run)
    assert result.code == 2 and "E-EVAL-020" in result.err and "Traceback" not in result.err


def test_bytes_that_are_no_text_are_a_question_all_the_same(capsys, monkeypatch, run, tuned):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Add \xff\n"), encoding="utf-8"))
    result = run_here(capsys, "chat", run, "--max-new-tokens", 8)
    answer = tuned.generate("Add \ufffd", 8)
    assert (result.code, result.out) == (0, f"{printable(answer)}\n\n")


@pytest.mark.slow
def test_as_a_process_only_the_answer_shows(run, tuned, tmp_path):
    done = subprocess.run(
        [*LUTHIER, "chat", str(run), "--max-new-tokens", "8"],
        cwd=tmp_path, env=environment(), input="Add\n", capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{printable(tuned.generate('Add', 8))}\n\n"
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy_and_shows_an_example(tmp_path):
    for verb in ("chat", "compare"):
        result = process(verb, "--help", cwd=tmp_path)
        assert result.code == 0 and f"luthier {verb} checkpoints" in result.out


# A terminal ----------------------------------------------------------------------------------------------------------


def test_commands(capsys, monkeypatch, tuned):
    chat = Chat(tuned, sampling=Sampling(8))
    left = typed(monkeypatch, chat, "/help", "/nothing", "", "Add", "/reset", "Add", "/quit", "never asked")
    assert left == ["never asked"]
    out = capsys.readouterr().out
    assert "runs/mine" in out and "float32" in out
    assert "forget the conversation" in out and "no command /nothing" in out and "forgotten" in out
    assert out.count(printable(tuned.generate("Add", 8))) == 2, "after /reset the same answer as at first"


def test_ctrl_d_ends_and_ctrl_c_at_the_prompt_does_not(capsys, monkeypatch, tuned):
    typed(monkeypatch, Chat(tuned, sampling=Sampling(4)), KeyboardInterrupt(), "Add", EOFError())
    out = capsys.readouterr().out
    assert "Ctrl-D ends" in out and printable(tuned.generate("Add", 4)) in out


def test_a_question_that_does_not_fit_starts_over_or_is_refused(capsys, monkeypatch, tuned):
    chat = Chat(tuned, sampling=Sampling(100))
    text = "Write a function number 3 to reverse a list " * 4
    typed(monkeypatch, chat, text, text, text, text, "x " * 600, "Add")
    out = capsys.readouterr().out
    assert "it starts over here" in out and "this question alone is longer" in out


def test_a_template_without_conversations_is_said(capsys, monkeypatch, tuned):
    typed(monkeypatch, Chat(tuned, remembers=False))
    assert "Each question stands alone" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_terminal(run, tmp_path):
    """Ctrl-C stops a long answer and the chat goes on; Ctrl-D ends it."""
    master, slave = pytest.importorskip("pty").openpty()
    child = subprocess.Popen(
        [*LUTHIER, "chat", str(run), "--max-new-tokens", "400"],
        cwd=tmp_path, env=environment(TERM="xterm"), stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(slave)
    try:
        seen = until(master, "> ")
        os.write(master, b"Add\n")
        seen += until(master, "Add\r\n") + os.read(master, 10).decode(errors="replace")
        os.write(master, b"\x03")
        seen += until(master, r"\(stopped\)[\s\S]*> ")  # both may come at once
        os.write(master, b"\x04")
        assert child.wait(60) == 0
    finally:
        child.kill()
        os.close(master)
    assert "Luthier" in seen and "Traceback" not in seen


def take_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def until(master, words):
    text = ""
    while not re.search(words, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)):
        assert select.select([master], [], [], 60)[0], f"nothing more came after {text!r}"
        text += os.read(master, 4096).decode(errors="replace")
    return text
