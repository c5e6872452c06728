"""`luthier quickstart`: a model that visibly learns, in minutes, on a CPU."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from luthier.cli.json_file import file_to_write, write_json
from luthier.cli.libraries import import_libraries
from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE
from luthier.errors.terminal import columns, hanging

CONFIG = Path("configs/quickstart.yaml")


def quickstart(
    changes: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help=f"Keys of {CONFIG} to change."),
    json_file: Path = file_to_write("--json", "Write what was measured to a file."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Start over, also where a stopped run could go on."),
    plain: bool = typer.Option(False, "--plain", help="One log line a step, also on a terminal."),
    unsafe: bool = typer.Option(
        False, "--unsafe-local-execution", help="Run generated code although nothing here can isolate it."
    ),
) -> None:
    """See a small model learn: examined, trained, examined again. Needs no GPU and no network.

    Example: luthier quickstart --json result.json

    Ctrl-C leaves a run that the same command goes on with.
    """
    from luthier.config.load import load

    changes = changes or []
    loaded = load(CONFIG, changes)
    import_libraries()
    from luthier.evaluate.screen import PLAIN_WIDTH
    from luthier.events.console import open_console
    from luthier.quickstart.screen import Screen, table, what_next
    from luthier.quickstart.story import Chapter, Result, tell
    from luthier.training.signals import stop_on_signals

    console, chapter = open_console(plain_width=PLAIN_WIDTH), ""
    result: Result | None = None
    try:
        with stop_on_signals() as stop, Screen(console, plain, stop) as screen:
            for told in tell(loaded, overwrite=overwrite, unsafe=unsafe, stop=stop, progress=screen.progress):
                screen.show(told)
                chapter = told.name if isinstance(told, Chapter) else chapter
                result = told if isinstance(told, Result) else None
    except KeyboardInterrupt:
        pass
    if result is None:
        done = chapter == "after"
        said = f"stopped; {_how_to_go_on(done, changes, loaded.config.training.output_dir)}"
        typer.echo("\n" + hanging(said, "", columns(sys.stderr)), err=True)
        raise typer.Exit(EXIT_FAILED if done else EXIT_RESUMABLE)
    console.print(table(result), what_next(result.plan.config.training.output_dir, console.width))
    if json_file:
        write_json(json_file, result.as_dict())


def _how_to_go_on(trained: bool, changes: list[str], output_dir: str) -> str:
    if trained:
        return f"the training is done; its examination: {shlex.join(['luthier', 'compare', output_dir])}"
    return f"`{shlex.join(['luthier', 'quickstart', *changes])}` goes on from the newest checkpoint, if there is one"
