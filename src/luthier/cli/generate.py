"""`luthier generate`: one prompt, one answer; with `--compare` the base's beside it."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import typer

from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.sampling_options import MaxNewTokens, Seed, Stop, System, Temperature, TopP
from luthier.cli.usual_run import Run, usual_run
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
    if run and prompt and os.path.isdir(prompt) and not os.path.exists(run):  # noqa: PTH110, PTH112 (they raise nothing)
        raise typer.BadParameter(f"RUN comes first: luthier generate {prompt} {run!r}")
    text = _instruction(prompt, file)
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


def _instruction(prompt: str | None, file: Path | None) -> str:
    """The one instruction that was given, without the line break at its end."""
    if prompt is not None and file is not None:
        raise typer.BadParameter("give a PROMPT or --file, not both")
    if file is not None:
        try:
            prompt = file.read_text("utf-8", errors="replace")
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from error
    if prompt is None and sys.stdin is not None and not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no UTF-8 are a question with a strange letter
            sys.stdin.reconfigure(errors="replace")
        prompt = sys.stdin.read()
    if not (prompt or "").strip():
        raise typer.BadParameter("there is no instruction: give it as PROMPT, with --file, or by a pipe")
    return str(prompt).strip()
