"""What `evaluate` and `compare` share: options, and how a Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from luthier.cli.json_file import file_to_write, keep
from luthier.errors import EXIT_RESUMABLE

if TYPE_CHECKING:
    from luthier.evaluate.tasks import TaskSet

_USUAL = "quickstart"


class Prompt(StrEnum):
    """How a model is asked."""

    auto = "auto"
    template = "template"
    completion = "completion"


Tasks: Any = typer.Option(
    None,
    "--tasks",
    help="`quickstart` (the default: small Python functions), `mbpp[:SPLIT][=FILE]`, `humaneval[=FILE]`, or your own "
    "JSON lines file of questions with `tests` (answers are code, and run) or `answer` (they are text); commas between "
    "several.",
)
Answers: Any = file_to_write("--json", "Write every answer and number there.")
Limit: Any = typer.Option(None, "--limit", min=1, help="Ask only so many tasks of each set, spread evenly over it.")
MaxNewTokens: Any = typer.Option(384, "--max-new-tokens", min=1, help="Longest answer.")
PromptStyle: Any = typer.Option(
    Prompt.auto, "--prompt", help="In its chat template, or as text to go on from. auto: by what the model has."
)
System: Any = typer.Option(
    None, "--system", metavar="TEXT", help="For tasks without a system message; '': none. Default: the training's."
)
General: Any = typer.Option(
    "general", "--forgetting", metavar="FILE", help="General text to read, to see what was forgotten; `none`: no."
)
Fresh: Any = typer.Option(False, "--fresh", help="Ask again what was answered before.")
Unsafe: Any = typer.Option(
    False,
    "--unsafe-local-execution",
    help="Run answers with limits only where no sandbox holds. See: luthier explain E-EVAL-001.",
)


def asked_sets(tasks: str | None, limit: int | None, written: Mapping[str, Path | None]) -> tuple[TaskSet, ...]:
    """The sets that are named; without any the usual one, and that on stderr: a run may know nothing of Python.

    Args:
        tasks: What stands behind `--tasks`.
        limit: At most so many tasks of each.
        written: Where results go, by option: never over the tasks.

    Raises:
        DataError: What `load_sets` raises.
        MissingError: E-ENV-002 when a result would be written over a file of tasks.
    """
    from luthier.evaluate.tasks import load_sets

    for word in (tasks or "").split(","):
        for option, path in written.items():
            keep(word.rpartition("=")[2].strip(), path, option)
    sets = load_sets(_USUAL if tasks is None else tasks, limit)
    if tasks is None:
        count = len(sets[0].tasks)
        said = f"tasks: {count} of {_USUAL}, which ask for Python functions; none were named"
        typer.echo(f"{said}. --tasks FILE asks questions of your own", err=True)
    return sets


@contextmanager
def resumable() -> Iterator[None]:
    """A Ctrl-C ends the command with the code for what can go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nstopped; the answers so far are kept: the same command goes on from here", err=True)
        raise typer.Exit(EXIT_RESUMABLE) from None
