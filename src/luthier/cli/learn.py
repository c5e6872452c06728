"""`luthier learn`: guess, and let small runs decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.errors import EXIT_REFUSED, EXIT_RESUMABLE, ConfigError, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.config.load import Loaded
    from luthier.learn.lesson import Lesson, Outcome


def learn(
    name: str = typer.Argument("", metavar="[LESSON]", help="Which one; without a name, the list of them."),
    guess: str = typer.Option("", "--guess", metavar="LETTER", help="Your answer, before you see that of the runs."),
    check: Path = typer.Option(None, "--check", metavar="FILE", help="Run your config: does it solve the exercise?"),
    folder: Path = typer.Option(Path("lessons"), "--folder", help="Where the runs and the exercises go."),
) -> None:
    """Guess what happens, see small runs decide, and solve an exercise that a run checks. Needs no GPU and no network.

    Example: luthier learn learning-rate
    """
    from luthier.events.console import open_console
    from luthier.learn import screen
    from luthier.learn.lessons import named

    console = open_console()
    if not name:
        console.print(screen.contents())
        return
    lesson = named(name)
    place = folder / lesson.name
    if check:
        _check(lesson, check, place, console)
    else:
        _show(lesson, guess, place, console)


def _show(lesson: Lesson, guess: str, place: Path, console: Console) -> None:
    from luthier.learn import screen

    console.print(screen.question(lesson, console.width))
    if not guess and console.is_terminal:
        guess = console.input(f"[bold]Your guess[/] ({', '.join(lesson.choices)}; Enter: none) ")
    guess = guess.strip().lower()
    if guess and guess not in lesson.choices:
        raise ConfigError(
            Problem("E-LEARN-001", f'"{guess}" is no answer', f"one of {', '.join(lesson.choices)}", "guess")
        )
    from luthier.learn.study import exercise_file  # takes seconds, in which the question can be read

    came = _run(lesson, place, console)
    if len(came) < len(lesson.arms):
        _stopped()
    console.print(screen.results(lesson, came, console.width), screen.answer(lesson, came, guess, console.width))
    if lesson.exercise:
        exercise_file(lesson, place)
    console.print(screen.whats_next(lesson, place, console.width))


def _check(lesson: Lesson, file: Path, place: Path, console: Console) -> None:
    from luthier.learn import screen
    from luthier.learn.lesson import YOURS
    from luthier.learn.study import checked, judged

    came = _run(lesson, place, console, checked(lesson, file, place))
    if YOURS not in came:
        _stopped()
    passed, shows = judged(lesson, came)
    console.print(screen.results(lesson, came, console.width), screen.verdict(passed, shows, console.width))
    if not passed:
        raise typer.Exit(EXIT_REFUSED)


def _run(lesson: Lesson, place: Path, console: Console, mine: Loaded | None = None) -> dict[str, Outcome]:
    """The outcomes of a lesson's runs, of those that ended before a signal."""
    from luthier.learn.screen import follow
    from luthier.learn.study import study
    from luthier.training.signals import stop_on_signals

    with stop_on_signals() as stop:
        stop.shown = console.is_terminal  # a step is short: what is said at the end is soon enough
        return follow(study(lesson, place, mine, stop), console)


def _stopped() -> None:
    typer.echo("stopped; the runs that were done are kept", err=True)
    raise typer.Exit(EXIT_RESUMABLE)
