"""`luthier chat`: talk to a finished run, and to its base beside it."""

from __future__ import annotations

import io
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


def chat(
    run: str = Run,
    compare: bool = typer.Option(False, "--compare", help="The base answers first, then the tuned model."),
    temperature: float = Temperature,
    top_p: float = TopP,
    seed: int | None = Seed,
    max_new_tokens: int = MaxNewTokens,
    stop: list[str] = Stop,
    system: str = System,
    base: str = Base,
) -> None:
    """Talk to RUN. In the chat: /reset forgets, /quit ends, /help explains.

    When the input is no terminal, each line is a question that stands alone, and only answers are printed.

    Example: luthier chat checkpoints --compare
    """
    run = run or usual_run("chat")
    from rich.console import Console
    from rich.text import Text

    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no UTF-8 are a question with a strange letter
        sys.stdin.reconfigure(errors="replace")
    questions = sys.stdin or io.StringIO()  # None when it was closed before the start
    at_terminal = questions.isatty() and sys.stdout.isatty()
    with Console(stderr=True).status(Text(f"loading {one_line(run)}")) if at_terminal else nullcontext():
        import_libraries()
        import torch

        from luthier.generate.chat import Chat
        from luthier.generate.choosing import Sampling
        from luthier.generate.load import load
        from luthier.generate.talk import answer_lines, talk
        from luthier.machine.libraries import library_output_to

        with library_output_to(Path(os.devnull)):
            tuned = load(run, base)
    torch.manual_seed(seed) if seed is not None else torch.seed()
    sampling = Sampling(max_new_tokens, temperature, top_p, stop=tuple(stop))  # each answer draws anew
    partner = Chat(tuned, ("base", "tuned") if compare else ("tuned",), sampling, at_terminal, system)
    with library_output_to(Path(os.devnull)):
        if at_terminal:
            talk(partner, run)
        else:
            answer_lines(partner, questions)
