"""`luthier watch`: the dashboard or the live page, beside a run that goes on or on a log of long ago."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.cli.log_file import NO_LOG, NOT_THERE, no_log, trouble, usual_log
from luthier.cli.until_told import until_told
from luthier.errors import MissingError

if TYPE_CHECKING:
    from luthier.monitor.dashboard.scene import Scene, WatchedRun

SHORTEST_SECONDS, LONGEST_SECONDS = 0.25, 60.0
SLOWEST, FASTEST, USUAL = 0.01, 100_000.0, 20.0
WIDTH_ELSEWHERE = 100
HOST, PORT = "127.0.0.1", 8090


def watch(
    paths: list[Path] = typer.Argument(None, metavar="[LOG]...", help="Folders of runs, or logs. Several: overlaid."),
    log: list[Path] = typer.Option([], "--log", metavar="FILE", help="The same; may be given several times."),
    replay: bool = typer.Option(False, "--replay", help="Tell what happened again, from the beginning."),
    speed: float = typer.Option(None, "--speed", help=f"How many times as fast to replay; {USUAL:g} unless given."),
    once: bool = typer.Option(False, "--once", help="Print where the run stands, and end."),
    refresh: float = typer.Option(0.5, "--refresh", metavar="SECONDS", help="Between two looks at the log."),
    web: bool = typer.Option(False, "--web", help="The same as a page in a browser, up to date as long as it is open."),
    port: int | None = typer.Option(
        None, "--port", min=0, max=65535, help=f"Of the page; {PORT} unless given, 0: any free."
    ),
    host: str | None = typer.Option(
        None, "--host", help=f"Address of the page; {HOST} unless given. 0.0.0.0: anyone on the network can read it."
    ),
) -> None:
    """Watch a run: progress, loss, time left, statistics, and what the doctor finds. Reads files, touches nothing.

    Example: luthier watch --log training.log

    Without LOG: the run in checkpoints or below checkpoints*/, or training.log, whichever was written last. A log that
    is not there yet is waited for.
    """
    _check(refresh, speed, replay, once, web, port is not None or host is not None)
    logs = [*(paths or ()), *log] or [usual_log()]
    if web:
        _insist(logs, "watch", waits=not replay)
        _serve(_runs(logs), (speed or USUAL) if replay else None, refresh, host or HOST, PORT if port is None else port)
        return
    from rich.console import Console

    from luthier.monitor.panel import Panel

    console = Console()
    live = not once and Panel.suits(console) and sys.stdin.isatty() and sys.stderr.isatty()
    _insist(logs, "watch", waits=live and not replay)
    logs = _runs(logs)
    if live:
        _show(logs, (speed or USUAL) if replay else None, refresh, console.width)
    else:
        from luthier.monitor.dashboard.report import report

        scene = _scene(logs, "watch")
        width = console.width if console.is_terminal else WIDTH_ELSEWHERE
        console.print(report(scene, width), soft_wrap=True)


def _check(refresh: float, speed: float | None, replay: bool, once: bool, web: bool, placed: bool) -> None:
    """Options that do not go together, or are out of range."""
    if not SHORTEST_SECONDS <= refresh <= LONGEST_SECONDS:
        raise typer.BadParameter(f"--refresh {refresh} is not from {SHORTEST_SECONDS} to {LONGEST_SECONDS:g} seconds")
    if speed is not None and not replay:
        raise typer.BadParameter("--speed is for --replay")
    if speed is not None and not SLOWEST <= speed <= FASTEST:
        raise typer.BadParameter(f"--speed {speed} is not from {SLOWEST} to {FASTEST:,.0f}")
    if web and once:
        raise typer.BadParameter("--once prints and ends; --web goes on")
    if placed and not web:
        raise typer.BadParameter("--port and --host are for --web")


def settled(log: Path, command: str) -> WatchedRun:
    """One run as far as its log goes.

    Args:
        log: Folder of a run, or its log.
        command: For the fix of an error.

    Raises:
        MissingError: E-RUN-005, nothing is a log there, or there are several.
    """
    from luthier.events.follow import runs_in

    _insist([log], command)
    if runs_in(log):
        raise MissingError(no_log(log, command, NO_LOG))
    return _scene([log], command).run


def _scene(logs: list[Path], command: str) -> Scene:
    from luthier.monitor.dashboard.watching import Watch
    from luthier.monitor.state import RunState

    watched = Watch(logs)
    watched.settle()
    scene = watched.scene()
    # An empty file is the log of a run that has just been started.
    silent = [run for run in scene.runs if run.state == RunState() and not Path(run.path).is_file()]
    if silent:
        found = [NO_LOG if run.source.startswith("waiting") else run.source for run in silent]
        raise MissingError(*(no_log(Path(r.path), command, what) for r, what in zip(silent, found, strict=True)))
    return scene


def _insist(logs: list[Path], command: str, *, waits: bool = False) -> None:
    """What can be no log is an error, and what is not there where nobody can wait for it."""
    found = {path: trouble(path) for path in logs}
    wrong = [
        no_log(path, command, words) for path, words in found.items() if words and not (waits and words == NOT_THERE)
    ]
    if wrong:
        raise MissingError(*wrong)


def _runs(logs: list[Path]) -> list[Path]:
    """A folder of runs is all of them; what a trial's process wrote beside the folder of its run is none."""
    from luthier.events.follow import runs_in

    runs = [run for path in logs for run in runs_in(path) or [path]]
    return [run for run in runs if not (run.suffix == ".log" and run.with_suffix("") in runs)]


def _show(logs: list[Path], speed: float | None, refresh: float, width: int) -> None:
    """The dashboard until the reader quits; what stays behind is where the runs stood."""
    from rich.console import Console

    from luthier.monitor.dashboard.app import Dashboard
    from luthier.monitor.dashboard.watching import Watch, this_machine
    from luthier.monitor.view import summary

    dashboard = Dashboard(Watch(logs, speed, machine=this_machine), refresh)
    dashboard.run()
    if dashboard.failure is not None:
        raise dashboard.failure
    console = Console()
    for run in dashboard.scene.runs:
        for line in summary(run.state, width):
            console.print(line, soft_wrap=True)


def _serve(logs: list[Path], speed: float | None, refresh: float, host: str, port: int) -> None:
    """The live page until Ctrl-C."""
    from luthier.errors.trace import keep_trace
    from luthier.machine.listening import is_local, listen, url_of
    from luthier.monitor.dashboard.watching import Watch, this_machine
    from luthier.report.live_server import LiveServer

    def report(error: BaseException) -> None:
        typer.echo(f"the page could not be drawn; the traceback is in {keep_trace(error)}", err=True)

    listening = listen(host, port)
    address = listening.getsockname()
    watch = Watch(logs, speed, machine=this_machine)
    with until_told(), LiveServer(watch, listening, host, refresh, report) as server:
        if not is_local(address[0]):
            said = "anyone on the network can read this run: there is no password"
            typer.echo(f"warning: {said}. For yourself alone leave --host out, and use ssh -L.", err=True)
        typer.echo(f"open {url_of(*address[:2])}/ in a browser; Ctrl-C ends the page, and leaves the run alone")
        sys.stdout.flush()
        server.serve_forever()
    typer.echo("ended; the run was not touched")
