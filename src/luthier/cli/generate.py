"""`luthier generate`: one prompt, one answer; with `--compare` the base's beside it."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import typer

from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.sampling_options import MaxNewTokens, Seed, Stop, System, Temperature, TopP
from luthier.cli.usual_run import Run, usual_run
from luthier.errors import ConfigError, Problem
from luthier.events.printable import one_line


def generate(
    run: str = Run,
    prompt: str = typer.Argument(None, metavar="[PROMPT]", help="The instruction; without it: what comes by a pipe."),
    file: Path = typer.Option(None, "--file", metavar="FILE", help="Read the instruction from there."),
    compare: bool = typer.Option(False, "--compare", help="The base answers first, then the tuned model."),
    temperature: float = Temperature,
    top_p: float = TopP,
    seed: int | None = Seed,
    max_new_tokens: int = MaxNewTokens,
    stop: list[str] = Stop,
    system: str = System,
    base: str = Base,
    as_json: bool = typer.Option(False, "--json", help="One JSON object with the text as it is and its counts."),
) -> None:
    """Ask RUN one thing. On a terminal the answer shows as it is written.

    RUN comes before PROMPT, and can be left out where the instruction comes from a file or a pipe.

    Example: luthier generate checkpoints "Write a function that reverses a string" --compare
    """
    _check(run, prompt, file)
    text = _instruction(run, prompt, file)
    run = run or usual_run("generate")
    at_terminal = sys.stdout.isatty() and not as_json
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(f"loading {one_line(run)}")) if at_terminal else nullcontext():
        import_libraries()
        import torch

        from luthier.generate.chat import Chat, Speaker, once
        from luthier.generate.choosing import Sampling
        from luthier.generate.load import load
        from luthier.generate.system import in_words
        from luthier.generate.talk import speak
        from luthier.machine.libraries import library_output_to

        with library_output_to(Path(os.devnull)):
            tuned = load(run, base)
    torch.seed()
    speakers: tuple[Speaker, ...] = ("base", "tuned") if compare else ("tuned",)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop))
    with library_output_to(Path(os.devnull)):
        if as_json:
            answers = once(tuned, text, speakers, sampling, system)
            used = tuned.system if system is None else system
            typer.echo(json.dumps({"run": run, "system": used or None, "prompt": text, "answers": answers}))
            return
        chat = Chat(tuned, speakers, sampling, False, system)
        if at_terminal and chat.system:
            Console(stderr=True).print(Text(f"asked {in_words(chat.system)}", "dim"), soft_wrap=True)
        if not speak(chat, text, Console(highlight=False)):
            raise KeyboardInterrupt


def _check(run: str | None, prompt: str | None, file: Path | None) -> None:
    """What was given, as far as it can be wrong by itself."""
    if prompt is not None and file is not None:
        raise _unclear("a PROMPT and --file", "give one of them")
    if run and prompt and os.path.isdir(prompt) and not os.path.exists(run):  # noqa: PTH110, PTH112 (they raise nothing)
        raise _unclear("PROMPT stands before RUN", f"RUN comes first: {_command(prompt, run)}")


def _instruction(run: str | None, prompt: str | None, file: Path | None) -> str:
    """The one instruction that was given, without the line break at its end."""
    if file is not None:
        try:
            prompt = file.read_text("utf-8", errors="replace")
        except OSError as error:
            raise _unclear(
                f"cannot read {file}: {error.strerror}", "give a file with the instruction", "--file"
            ) from error
    if prompt is None and sys.stdin is not None and not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no UTF-8 are a question with a strange letter
            sys.stdin.reconfigure(errors="replace")
        prompt = sys.stdin.read()
    if (prompt or "").strip():
        return str(prompt).strip()
    if run and " " in run and not os.path.exists(run):  # noqa: PTH110 (it raises nothing)
        raise _unclear(
            f"{one_line(run)[:60]!r} is read as RUN, and there is no PROMPT", f"RUN first: {_command('RUN', run)}"
        )
    asked = _command(run or "RUN", "Write a function that reverses a string")
    raise _unclear("no instruction: no PROMPT, no --file, and nothing by a pipe", asked)


def _command(run: str, prompt: str) -> str:
    return f"luthier generate {shlex.quote(run)} {shlex.quote(one_line(prompt))}"


def _unclear(found: str, fix: str, where: str = "command line") -> ConfigError:
    return ConfigError(Problem("E-RUN-011", found, fix, where))
