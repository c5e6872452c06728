"""`luthier generate`: one prompt from an argument, a file or a pipe; one answer, or two side by side."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from luthier.events.printable import printable
from luthier.generate.chat import Chat
from luthier.generate.choosing import Sampling
from luthier.generate.load import load
from luthier.generate.talk import WIDE, speak
from tests.cli.support import process, run_here
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("generate") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def tuned(run):
    return load(run)


def asked(capsys, *arguments):
    return run_here(capsys, "generate", *arguments, "--max-new-tokens", 12)


def test_the_prompt_comes_from_an_argument_a_file_or_a_pipe(capsys, monkeypatch, run, tuned, tmp_path):
    expected = f"{printable(tuned.generate('Reverse a string', 12))}\n"
    assert asked(capsys, run, "Reverse a string").out == expected
    file = tmp_path / "prompt.txt"
    file.write_text("Reverse a string\n")
    assert asked(capsys, run, "--file", file).out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("Reverse a string\n"))
    result = asked(capsys, run)
    assert (result.code, result.out, result.err) == (0, expected, "")


def test_an_instruction_of_several_lines_is_one(capsys, run, tuned, tmp_path):
    file, text = tmp_path / "prompt.txt", "Write a function\n\n### Input:\nx = 3"
    file.write_text(text + "\n")
    assert asked(capsys, run, "--file", file).out == printable(tuned.generate(text, 12)) + "\n"


def test_compare_shows_the_base_first(capsys, run, tuned):
    with tuned.as_base():
        base = printable(tuned.generate("Add", 12))
    assert (
        asked(capsys, run, "Add", "--compare").out == f"base\n{base}\ntuned\n{printable(tuned.generate('Add', 12))}\n"
    )


def test_json_holds_the_text_as_it_is_and_its_counts(capsys, run, tuned):
    said = json.loads(asked(capsys, run, "Add", "--compare", "--json").out)
    assert (said["prompt"], [answer["model"] for answer in said["answers"]]) == ("Add", ["base", "tuned"])
    assert said["answers"][1] == {
        "model": "tuned", "text": tuned.generate("Add", 12), "finish_reason": "length",
        "prompt_tokens": len(tuned.prompt_ids("Add")), "completion_tokens": 12,
    }  # fmt: skip


def test_a_system_message_is_asked_with(capsys, run, tuned):
    messages = [{"role": "system", "content": "Be a poet."}, {"role": "user", "content": "Add"}]
    expected = tuned.stream(messages, lambda piece: None, 12)
    assert asked(capsys, run, "Add", "--system", "Be a poet.").out == f"{printable(expected)}\n"
    said = json.loads(asked(capsys, run, "Add", "--system", "Be a poet.", "--json").out)
    assert (said["system"], said["answers"][0]["text"]) == ("Be a poet.", expected)
    assert json.loads(asked(capsys, run, "Add", "--json").out)["system"] is None


def test_draws_and_stops(capsys, run, tuned):
    draws = [asked(capsys, run, "Add", "--temperature", 1.5, "--seed", seed).out for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert asked(capsys, run, "Add", "--temperature", 1.5, "--top-p", 0).out == asked(capsys, run, "Add").out
    whole = tuned.generate("Add", 12)
    stopped = json.loads(asked(capsys, run, "Add", "--stop", whole[4:8], "--json").out)["answers"][0]
    assert stopped["finish_reason"] == "stop" and stopped["text"] == whole[: whole.index(whole[4:8])]


def test_wrong_requests(capsys, monkeypatch, run, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    for arguments, says in (
        ([run], "no instruction"),
        ([run, "a", "--file", tmp_path / "x"], "a PROMPT and --file"),
        ([run, "--file", tmp_path / "x"], "No such file"),
        ([tmp_path / "nowhere", "Add"], "E-MODEL-012"),
        (["Say hi", run], "RUN comes first"),
        ([run, "x " * 600], "E-EVAL-020"),
    ):
        result = asked(capsys, *arguments)
        assert result.code == 2 and says in " ".join(result.err.split()), result


def test_e_run_011_what_to_ask_is_not_clear(capsys, monkeypatch, run, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    for arguments, fix in (
        ([run], f"fix   luthier generate {run} 'Write a function that reverses a string'"),
        ([], "fix   luthier generate RUN 'Write"),
        (["Reverse a string"], "fix   RUN first: luthier generate RUN 'Reverse a string'"),
        (["Say hi", run], f"fix   RUN comes first: luthier generate {run} 'Say hi'"),
        ([run, "a", "--file", tmp_path / "x"], "fix   give one of them"),
        ([run, "--file", tmp_path / "x"], "fix   give a file with the instruction"),
    ):
        result = asked(capsys, *arguments)
        assert result.code == 2 and "E-RUN-011" in result.err and fix in result.err and "│" not in result.err, result


def test_help_imports_nothing_heavy_and_shows_an_example(tmp_path):
    result = process("generate", "--help", cwd=tmp_path)
    assert result.code == 0 and "luthier generate checkpoints" in result.out


# A wide terminal -----------------------------------------------------------------------------------------------------


def shown(tuned, width, **answers):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None)
    chat = Chat(tuned, ("base", "tuned"), Sampling(12))
    whole = speak(chat, "Add", console)
    return whole, console.file.getvalue()


def test_on_a_wide_terminal_base_and_tuned_stand_side_by_side(tuned):
    whole, text = shown(tuned, WIDE)
    own = printable(tuned.generate("Add", 12)).strip()
    with tuned.as_base():
        base = printable(tuned.generate("Add", 12)).strip()
    last = text[text.rindex("base") :]
    assert whole and any("base" in line and "tuned" in line for line in last.splitlines())
    assert base[:20] in last and own[:20] in last
    narrow = shown(tuned, WIDE - 1)[1]
    assert not any("base" in line and "tuned" in line for line in narrow.splitlines())


def test_a_column_that_is_stopped_says_so(tuned, monkeypatch):
    def answer(self, speaker, text, write):
        write(f"{speaker} says")
        return speaker == "base"

    monkeypatch.setattr(Chat, "answer", answer)
    whole, text = shown(tuned, WIDE)
    assert not whole and text.rstrip().endswith("(stopped)") and "base says" in text
