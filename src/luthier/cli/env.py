"""`luthier env`: what to paste into a report of a bug."""

from __future__ import annotations

import json

import typer


def env(as_json: bool = typer.Option(False, "--json", help="One JSON object instead of text.")) -> None:
    """Print versions, devices, memory and number formats, for a report of a bug.

    Nothing in it names you or the machine: no host, no user, no path.

    Example: luthier env --json
    """
    from luthier.errors.terminal import width
    from luthier.machine.environment import as_text, environment

    told = environment()
    typer.echo(json.dumps(told, indent=1) if as_json else as_text(told, width()))
