"""The `luthier` command: its verbs, and the one place where an error becomes a screen and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from collections.abc import Sequence

import typer

from luthier.cli.bench import bench
from luthier.cli.chat import chat
from luthier.cli.compare import compare
from luthier.cli.doctor import doctor
from luthier.cli.env import env
from luthier.cli.evaluate import evaluate
from luthier.cli.explain import explain
from luthier.cli.export import export
from luthier.cli.generate import generate
from luthier.cli.gpu import gpu
from luthier.cli.init import init
from luthier.cli.inspect import inspect
from luthier.cli.launch import launch
from luthier.cli.learn import learn
from luthier.cli.libraries import leave_quickly
from luthier.cli.merge import merge
from luthier.cli.plan import plan
from luthier.cli.predict import predict
from luthier.cli.quickstart import quickstart
from luthier.cli.report import report
from luthier.cli.request import Verbs
from luthier.cli.runs import runs
from luthier.cli.schema import schema
from luthier.cli.serve import serve
from luthier.cli.sweep import sweep
from luthier.cli.train import train
from luthier.cli.verify import verify
from luthier.cli.watch import watch
from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_WRONG_REQUEST, LuthierError, Problem
from luthier.errors.trace import keep_trace, summary
from luthier.events.printable import one_line
from luthier.version import __version__

_LONGEST_REASON = 120

app = typer.Typer(
    cls=Verbs,
    help="Fine-tunes language models and shows why each step does what it does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    quickstart, learn, init, train, chat, generate, predict, serve, evaluate, compare, merge, export, sweep, launch,
    plan, inspect, schema, explain, gpu, watch, doctor, report, runs, env, bench,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(verify, name="verify")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options before any verb."""
    if version:
        typer.echo(f"luthier {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; never shows a traceback."""
    leave_quickly()
    try:
        _main(arguments)
    except SystemExit as ending:
        if ending.code and os.environ.get("WORLD_SIZE", "1") != "1":  # torch would wait for messages of other ranks
            _end_at_once(ending.code)
        raise


def _main(arguments: Sequence[str] | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 gets escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments is None:
            app()
        else:
            app(args=list(arguments), prog_name="luthier")  # a launcher's file is no command
    except SystemExit as ending:
        _leave_threads_behind(ending.code)
        raise
    except LuthierError as error:
        said = "\n".join((str(error), *getattr(error, "__notes__", ())))
        typer.echo(f"\n{said}\n", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG  # a path that nobody had to check
        if too_long:
            problem = Problem("E-CFG-015", one_line(str(error))[:_LONGEST_REASON], "write a shorter name")
        else:
            problem = Problem("E-RUN-004", summary(error), f"the traceback is in {keep_trace(error)}")
        typer.echo(f"\n{problem.render()}\n", err=True)
        sys.exit(EXIT_WRONG_REQUEST if too_long else EXIT_FAILED)
    finally:
        _flush()


def _leave_threads_behind(code: object) -> None:
    """End at once after a stop while a thread reads or loads: it may be deep in a library that nothing interrupts."""
    if code == EXIT_RESUMABLE and any(t.daemon and t.name.startswith("luthier-") for t in threading.enumerate()):
        _end_at_once(EXIT_RESUMABLE)


def _end_at_once(code: int | str) -> None:
    _flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else EXIT_FAILED)


def _flush() -> None:
    """Send what is left. When the reader is gone (`luthier plan | head`), drop it without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
