"""`luthier plan`: what would happen, and whether it can go well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.cli.libraries import import_libraries
from luthier.cli.request import Again, Allow, Request, loaded
from luthier.errors import EXIT_REFUSED, EXIT_WRONG_REQUEST, rendered

if TYPE_CHECKING:
    from luthier.config.load import Loaded


def plan(
    request: list[str] = Request,
    check: bool = typer.Option(False, "--check", help="Also look at the rows and prove what training relies on."),
    card: str = typer.Option(
        None, "--for", metavar="CARD", help="Predict it for this card: H100, A100-40, 4090, T4 ..."
    ),
    allow: list[str] = Allow,
    again: Path = Again,
    cite: bool = typer.Option(False, "--cite", help="Print the papers of the methods that the run uses, and BibTeX."),
) -> None:
    """Print what a run would do, each number with where it comes from. Runs nothing.

    Example: luthier plan configs/training_config.yaml --check

    With --check: the plan in words, some rows as tokens, and every check of the gate; 3 when one failed.
    With --for: as if on a card that need not be here. Nothing of such a plan was measured on one.
    With --cite: `luthier plan --from RUN/plan.yaml --cite > methods.bib` for the run that was made.
    """
    if cite and check:
        raise typer.BadParameter("--cite prints papers, and --check looks at rows: one of them")
    if card and check:
        raise typer.BadParameter("--check tries what is here, and a card of --for is not")
    config = loaded(request, again)
    import_libraries()
    from luthier import api
    from luthier.config.render import render_plan
    from luthier.errors.terminal import width
    from luthier.machine.libraries import library_output_to

    if check:
        _check(config, allow)
        return
    with library_output_to(Path(os.devnull)):
        resolved, missing = api.plan(config, card=card)
    if cite:
        from luthier.config.citations import citations

        typer.echo(citations(resolved, width()))
        return
    refused = any(problem.code == "E-RUN-020" for problem in missing)
    typer.echo(render_plan(resolved, width(), values=not missing or refused))
    if missing:
        heading = "Not as in the record" if refused else "In the way"
        typer.echo(f"\n{heading}:\n\n{rendered(missing)}\n", err=True)
        raise typer.Exit(EXIT_REFUSED if refused else EXIT_WRONG_REQUEST)


def _check(config: Loaded, allow: list[str]) -> None:
    from luthier import api
    from luthier.events.console import open_console
    from luthier.gate.gate import known_checks, with_verdict
    from luthier.gate.screen import show_checks, show_plan, show_rows
    from luthier.gate.xray import telling_rows

    known_checks(allow)
    parts = api.gathered(config)
    console = open_console()
    show_plan(console, parts.plan)
    show_rows(console, telling_rows(parts.subject, randoms=1), most_lines=9)
    checks = api.checked(parts, allow)
    show_checks(console, checks)
    if with_verdict("failed", checks):
        raise typer.Exit(EXIT_REFUSED)
