"""The chat's screen: a prompt, commands, answers as they come; or lines in and answers out.

On a wide terminal two speakers have a column each. They still write one after the other: they share their weights.

Not covered: questions of several lines (a terminal sends a line at a time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from luthier.events.printable import one_line, short_name
from luthier.generate.chat import Chat, Speaker
from luthier.generate.system import in_words

HELP = """\
/reset   forget the conversation so far
/quit    end (as Ctrl-D does)
/help    this text
Ctrl-C   stop the answer"""
WIDE = 120
"""Columns from which on two answers stand side by side: code has room in half of it."""
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
            if not speak(chat, line.strip(), console):
                raise KeyboardInterrupt
            console.out()


def _greeting(chat: Chat, run: str) -> Text:
    base = short_name(chat.tuned.base.name)
    greeting = Text.assemble(("Luthier", "bold cyan"), "  ", (one_line(run), "bold"))
    if base:
        greeting.append(f"  on {base}, {chat.tuned.base.numbers}", "dim")
    if chat.system:
        greeting.append(f"\nIt is asked {in_words(chat.system)}.", "dim")
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
    speak(chat, text, console)


def speak(chat: Chat, text: str, console: Console) -> bool:
    """Everybody answers; a stopped answer is followed by the next speaker's. Returns whether all were whole."""
    if len(chat.speakers) > 1 and console.is_terminal and console.width >= WIDE:
        return _side_by_side(chat, text, console)
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


def _side_by_side(chat: Chat, text: str, console: Console) -> bool:
    """As `speak`; while an answer is longer than the screen, its beginning shows, and in the end all of it."""
    said = {speaker: Text() for speaker in chat.speakers}

    def table() -> Table:
        grid = Table.grid(padding=(0, 4, 0, 0), expand=True)
        for _ in said:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*(Text(speaker, f"bold {_STYLES[speaker]}") for speaker in said))
        grid.add_row(*said.values())
        return grid

    all_whole = True
    with Live(console=console, transient=True, refresh_per_second=12, get_renderable=table):
        for speaker, shown in said.items():
            whole = chat.answer(speaker, text, lambda piece, shown=shown: shown.append(piece))  # type: ignore[misc]
            shown.append("" if shown else "(nothing)", "dim")
            shown.append("" if whole else "\n(stopped)", "dim")
            all_whole = all_whole and whole
    console.print(table())
    return all_whole
