"""The chat's screen: a prompt, commands, answers as they come; or lines in and answers out.

Not covered: questions of several lines (a terminal sends a line at a time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from luthier.events.printable import one_line
from luthier.generate.chat import Chat, Speaker

HELP = """\
/reset   forget the conversation so far
/quit    end (as Ctrl-D does)
/help    this text
Ctrl-C   stop the answer"""
_STYLES: dict[Speaker, str] = {"base": "yellow", "tuned": "cyan"}


def talk(chat: Chat, run: str) -> None:
    """Ask and answer on a terminal until the user ends it.

    Args:
        chat: The conversation.
        run: Its name for the first line.
    """
    console = Console(highlight=False)
    with contextlib.suppress(ImportError):  # line editing and history of `input`; Windows has its own
        import readline  # noqa: F401
    console.print(_greeting(chat, run), soft_wrap=True)
    while (text := _asked(console)) is not None:
        command = text.strip()
        if command == "/quit":
            return
        if command == "/reset":
            chat.reset()
            console.print("forgotten", style="dim")
        elif command == "/help":
            console.print(HELP, style="dim", markup=False)
        elif command.startswith("/"):
            console.print(Text(f"no command {one_line(command)}; /help lists them", "dim"))
        elif command:
            _answer(chat, command, console)
    console.print()


def answer_lines(chat: Chat, lines: Iterable[str]) -> None:
    """Answer each line that is not empty; an empty line follows each answer."""
    console = Console(highlight=False)
    for line in lines:
        if line.strip():
            if not _speak(chat, line.strip(), console):
                raise KeyboardInterrupt
            console.out()


def _greeting(chat: Chat, run: str) -> Text:
    base = one_line(chat.tuned.base.name).rstrip("/").removesuffix("/final_model").rsplit("/", 1)[-1]
    greeting = Text.assemble(("Luthier", "bold cyan"), "  ", (one_line(run), "bold"))
    if base:
        greeting.append(f"  on {base}, {chat.tuned.base.numbers}", "dim")
    memory = "" if chat.remembers else "  Each question stands alone: the run's template holds no conversation."
    return greeting.append(f"\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.{memory}", "dim")


def _asked(console: Console) -> str | None:
    """The next line; None at the end. Ctrl-C at the prompt only clears it."""
    while True:
        try:
            console.print()
            return input("> ")
        except EOFError:
            return None
        except KeyboardInterrupt:
            console.print("\nCtrl-D ends", style="dim")


def _answer(chat: Chat, text: str, console: Console) -> None:
    if not chat.fits(text):
        chat.reset()
        console.print("the conversation is longer than the model can read; it starts over here", style="dim")
    if not chat.fits(text):
        console.print("this question alone is longer than the model can read", style="red")
        return
    _speak(chat, text, console)


def _speak(chat: Chat, text: str, console: Console) -> bool:
    """Everybody answers; a stopped answer is followed by the next speaker's. Returns whether all were whole."""
    all_whole = True
    for speaker in chat.speakers:
        if len(chat.speakers) > 1:
            console.print(speaker, style=f"bold {_STYLES[speaker]}")
        spoke = False

        def write(piece: str) -> None:
            nonlocal spoke
            spoke = True
            console.out(piece, end="", highlight=False)
            console.file.flush()

        whole = chat.answer(speaker, text, write)
        console.print("" if spoke or not console.is_terminal else "(nothing)", style="dim")
        if not whole:
            console.print("(stopped)", style="dim")
            all_whole = False
    return all_whole
