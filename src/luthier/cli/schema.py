"""`luthier schema`: for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON schema of the YAML, so that editors complete and check it."""
    from luthier.config.docs import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
