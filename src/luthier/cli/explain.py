"""`luthier explain`: the long answer, to a key, a number, a word, an error code, a doctor's rule, or a gate's check."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import typer

from luthier.errors import CODES, EXIT_WRONG_REQUEST
from luthier.errors.terminal import width

if TYPE_CHECKING:
    from luthier.config.glossary import Term

_NUMBERS = {
    "loss": "loss",
    "eval_loss": "eval",
    "grad_norm": "gradient",
    "tokens_per_second": "speed",
    "memory_gib": "memory",
    "num_tokens": "tokens",
}
"""What log lines call a number -> what the dashboard calls its explanation."""


def explain(
    words: list[str] = typer.Argument(
        None,
        metavar="[TOPIC]",
        help="A key (learning_rate), a number of the log (eval_loss), a word (perplexity, 'held out'), an error code "
        "(E-CFG-003; E-CFG lists those that begin so), a doctor's rule (loss-stuck), or a gate's check (rows-cut).",
    ),
) -> None:
    """Explain a key, a number, a word, a code, a doctor's rule or a check; without TOPIC, list all keys."""
    room, topic = width(), " ".join(words or ())
    if not topic:
        from luthier.config.docs import list_keys

        hanging = " " * 31
        typer.echo("\n".join(textwrap.fill(line, room, subsequent_indent=hanging) for line in list_keys().splitlines()))
        return
    try:
        typer.echo(_code(topic.upper(), room) if topic.upper().startswith("E-") else _explained(topic, room))
    except KeyError as error:
        typer.echo(f"luthier explain: {error.args[0]}\n{_topics(room)}", err=True)
        raise typer.Exit(EXIT_WRONG_REQUEST) from None


def _code(code: str, room: int) -> str:
    """The text of a code, or the list of those that begin so; KeyError where there is none."""
    if code in CODES:
        explanation = CODES[code]
        why = textwrap.fill(f"Why it matters: {explanation.why.rstrip('.')}.", room)
        return f"{code}  {explanation.title}\n\n{why}\n\n{textwrap.fill(explanation.text, room)}"
    if not (family := [f"{name:<15}{CODES[name].title}" for name in sorted(CODES) if name.startswith(code)]):
        raise KeyError(f"no error code {code}")
    return "\n".join(family)


def _explained(topic: str, room: int) -> str:
    """The text of any other topic; KeyError where there is none."""
    from luthier.config.docs import explain_key
    from luthier.doctor import RULES, report

    if topic in _NUMBERS:
        from luthier.monitor.dashboard.explain import ANSWERS

        told = ANSWERS[_NUMBERS[topic]]
        return "\n\n".join((topic, textwrap.fill(told.idea, room), textwrap.fill(told.care, room)))
    rules = {rule.name: rule for rule in RULES}
    if topic in rules:
        return report.explained(rules[topic], room)
    try:
        lines = explain_key("_".join(topic.split())).splitlines()
    except KeyError:
        return _other(topic, room)
    from luthier.config.glossary import TERMS, find

    key = "\n".join(textwrap.fill(line, room, subsequent_indent="  ") for line in lines)
    return f"{key}\n\n{_word(name, TERMS[name], room)}" if (name := find(topic)) else key


def _word(name: str, term: Term, room: int) -> str:
    """A term, and where there is more."""
    see = [f"luthier explain {other}" for other in term.see if other != name] + [f"docs/{term.page}"] * bool(term.page)
    more = [textwrap.fill(f"More: {', '.join(see)}", room, break_on_hyphens=False)] if see else []
    return "\n\n".join((f"{name} (word)", textwrap.fill(term.text, room), *more))


def _other(topic: str, room: int) -> str:
    """The text of a check or a word; KeyError where it is neither, with what may be meant."""
    from luthier.config.glossary import TERMS, find
    from luthier.config.keys import SECTIONS, by_name, closest
    from luthier.doctor import RULES
    from luthier.gate.gate import BY_NAME, explained

    if topic in BY_NAME:
        return explained(BY_NAME[topic], room)
    if name := find(topic):
        return _word(name, TERMS[name], room)
    topics = (*by_name(), *SECTIONS, *_NUMBERS, *TERMS, *(rule.name for rule in RULES), *BY_NAME)
    near = closest(topic.rpartition(".")[2], dict.fromkeys(topics, 0.0))
    raise KeyError(f'nothing is called "{topic}"' + (f'; did you mean "{near}"?' if near else ""))


def _topics(room: int) -> str:
    """What kinds of topics there are, and what is in each."""
    from luthier.config.glossary import TERMS
    from luthier.doctor import RULES
    from luthier.gate.gate import BY_NAME

    kinds = {
        "a key": "learning_rate; all of them: luthier explain",
        "a number": ", ".join(_NUMBERS),
        "a word": ", ".join(TERMS),
        "an error code": "E-CFG-003; all of them: luthier explain E-",
        "a doctor's rule": ", ".join(rule.name for rule in RULES),
        "a check": ", ".join(BY_NAME),
    }
    rows = (f"  {kind:<17}{names}" for kind, names in kinds.items())
    filled = (textwrap.fill(row, room, subsequent_indent=" " * 19, break_on_hyphens=False) for row in rows)
    return "\n".join(("A topic is", *filled))
