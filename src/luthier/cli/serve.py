"""`luthier serve`: finished runs and their base behind an HTTP API that OpenAI's clients speak."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path

import typer

from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.sampling_options import System
from luthier.cli.usual_run import WITHOUT, usual_run
from luthier.errors import MissingError, Problem
from luthier.errors.extras import install
from luthier.events.printable import one_line

KEY = "LUTHIER_API_KEY"


def serve(
    runs: list[str] = typer.Argument(
        None, metavar="[RUN]...", help=f"Output folders of finished runs, or NAME=FOLDER. {WITHOUT}"
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on; 0.0.0.0: all of this machine."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0: any that is free."),
    api_key: str = typer.Option(
        "", "--api-key", envvar=KEY, help="What clients have to know. Others can see an option (ps), not the variable."
    ),
    queue: int = typer.Option(64, "--queue", min=1, help="Requests that may wait; more are told to come back (429)."),
    max_tokens: int = typer.Option(1024, "--max-tokens", min=1, help="Longest answer, whatever a request asks for."),
    timeout: float = typer.Option(600.0, "--timeout", min=1, help="Seconds after which an answer is cut short."),
    system: str = System,
    base: str = Base,
    print_vllm: bool = typer.Option(False, "--print-vllm", help="Print the command that serves them with vLLM."),
) -> None:
    """Answer HTTP requests with each RUN and its base by name: OpenAI's chat and completion API.

    Runs on one base share one copy of its weights. Ctrl-C ends it.

    Example: luthier serve checkpoints --port 8000
    """
    runs = runs or [usual_run("serve")]
    if print_vllm:
        from luthier.serve.models import named, vllm_line

        typer.echo(vllm_line(named(runs), base))
        return
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        found = f"{' and '.join(missing)} cannot be found"
        raise MissingError(Problem("E-SERVE-001", found, install("serve")))
    from rich.console import Console
    from rich.text import Text

    from luthier.errors.trace import keep_trace
    from luthier.events.console import open_console
    from luthier.serve.models import load_models, named
    from luthier.serve.screen import greet

    console, notes = open_console(), Console(stderr=True)
    named_runs = named(runs)

    def report(error: BaseException) -> None:
        notes.print(f"a request failed; the traceback is in {keep_trace(error)}", style="red", markup=False)

    with ExitStack() as open_things:
        with notes.status(Text("loading " + one_line(", ".join(named_runs)))) if console.is_terminal else nullcontext():
            import_libraries()
            from luthier.machine.libraries import library_output_to
            from luthier.machine.listening import listen
            from luthier.serve.app import Limits
            from luthier.serve.server import Server, serve_until_told

            listening = open_things.enter_context(listen(host, port))
            open_things.enter_context(library_output_to(Path(os.devnull)))
            models = load_models(named_runs, base, system)
        limits = Limits(max_tokens, timeout)
        shown_key = f"${KEY}" if api_key == os.environ.get(KEY) else "YOUR_KEY" * bool(api_key)

        def ready() -> None:
            greet(console, models, listening.getsockname(), shown_key)

        serve_until_told(
            Server(models, listening, key=api_key, most_waiting=queue, limits=limits, report=report, ready=ready)
        )
    console.print("ended", style="dim")
