"""`--columns NAME=YOURS`: columns of a file under the names that the formats expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

OPTION = "--columns"
Columns: Any = typer.Option([], OPTION, metavar="NAME=YOURS", help="Renames one, as in instruction=question.")


def as_names(columns: Sequence[str]) -> dict[str, str]:
    """{expected: yours} of what stands behind the options.

    Raises:
        typer.BadParameter: One is no NAME=YOURS.
    """
    names = {}
    for text in columns:
        name, equals, yours = text.partition("=")
        if not (name and equals and yours):
            raise typer.BadParameter(f"{text!r} is no NAME=YOURS, such as instruction=question", param_hint=OPTION)
        names[name] = yours
    return names
