"""`luthier explain`: the long answer, to an error code, a key, a rule of the doctor, or a check of the gate."""

from __future__ import annotations

import textwrap

import typer

from luthier.errors import CODES, EXIT_WRONG_REQUEST
from luthier.errors.terminal import width


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(explain)


def explain(
    topic: str = typer.Argument(
        "", help="An error code (E-CFG-003), a key (learning_rate), a doctor's rule, or a check of the gate (rows-cut)."
    ),
) -> None:
    """Explain a code, a key, a doctor's rule or a check in plain words; without TOPIC, list all keys."""
    room = width()
    if not topic:
        from luthier.config.docs import list_keys

        hanging = " " * 31
        typer.echo("\n".join(textwrap.fill(line, room, subsequent_indent=hanging) for line in list_keys().splitlines()))
        return
    code = topic.upper()
    if code in CODES:
        explanation = CODES[code]
        why = textwrap.fill(f"Why it matters: {explanation.why.rstrip('.')}.", room)
        typer.echo(f"{code}  {explanation.title}\n\n{why}\n\n{textwrap.fill(explanation.text, room)}")
        return
    if code.startswith("E-"):
        typer.echo(f"luthier explain: no error code {code}", err=True)
        raise typer.Exit(EXIT_WRONG_REQUEST)
    from luthier.config.docs import explain_key
    from luthier.doctor import RULES, report

    rules = {rule.name: rule for rule in RULES}
    if topic in rules:
        typer.echo(report.explained(rules[topic], room))
        return
    try:
        text = explain_key(topic)
    except KeyError as error:
        from luthier.gate.gate import BY_NAME, explained

        if topic in BY_NAME:
            typer.echo(explained(BY_NAME[topic], room))
            return
        typer.echo(f"luthier explain: {error.args[0]}", err=True)
        raise typer.Exit(EXIT_WRONG_REQUEST) from None
    typer.echo("\n".join(textwrap.fill(line, room, subsequent_indent="  ") for line in text.splitlines()))
