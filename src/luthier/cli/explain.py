"""`luthier explain`: the long answer, to a key, a number, a word, an error code, a doctor's rule, or a gate's check."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.errors import CODES, EXIT_WRONG_REQUEST
from luthier.errors.terminal import width

if TYPE_CHECKING:
    from luthier.config.words.term import Term


def explain(
    words: list[str] = typer.Argument(
        None,
        metavar="[TOPIC] [RUN_OR_LOG]",
        help="A key (learning_rate), a number of the log (eval_loss), a word (perplexity, held out), an error code "
        "(E-CFG-003; E-CFG lists those that begin so), a doctor's rule (loss-stuck), or a gate's check (rows-cut). "
        "The folder of a run, or its log, behind a number: also what it says there.",
    ),
) -> None:
    """Explain a key, a number, a word, a code, a doctor's rule or a check; without TOPIC, list all keys.

    Example: luthier explain loss checkpoints
    """
    room, words = width(), [*words] if words else []
    run = Path(words.pop()) if len(words) > 1 and _is_run(words) else None
    topic = " ".join(words)
    if not topic:
        from luthier.config.docs import list_keys

        hanging = " " * 31
        typer.echo("\n".join(textwrap.fill(line, room, subsequent_indent=hanging) for line in list_keys().splitlines()))
        typer.echo("\nAlso numbers of the log, words, rules, checks and error codes: luthier explain topics")
        return
    if topic == "topics":
        typer.echo(_topics(room))
        return
    try:
        typer.echo(_code(topic.upper(), room) if topic.upper().startswith("E-") else _explained(topic, run, room))
    except KeyError as error:
        typer.echo(f"luthier explain: {error.args[0]}\n{_topics(room)}", err=True)
        raise typer.Exit(EXIT_WRONG_REQUEST) from None


def _is_run(words: list[str]) -> bool:
    """Whether the last word is a run, and no part of a word of the field (`held out`)."""
    from luthier.config.glossary import find

    there = os.sep in words[-1] or os.path.exists(words[-1])  # noqa: PTH110 (raises nothing)
    return there and not find(" ".join(words))


def _code(code: str, room: int) -> str:
    """The text of a code, or the list of those that begin so; KeyError where there is none."""
    if code in CODES:
        explanation = CODES[code]
        why = textwrap.fill(f"Why it matters: {explanation.why.rstrip('.')}.", room)
        return f"{code}  {explanation.title}\n\n{why}\n\n{textwrap.fill(explanation.text, room)}"
    if not (family := [f"{name:<15}{CODES[name].title}" for name in sorted(CODES) if name.startswith(code)]):
        raise KeyError(f"no error code {code}")
    return "\n".join(family)


def _explained(topic: str, run: Path | None, room: int) -> str:
    """The texts of everything else that is called so: key, number, rule, check, word; KeyError where nothing is.

    Args:
        topic: As it was typed.
        run: The log to look a number up in.
        room: Columns.
    """
    from luthier.config.docs import explain_key
    from luthier.config.glossary import TERMS, find
    from luthier.doctor import RULES, report
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME, explained

    name, texts = "_".join(topic.split()), []
    if run is not None and name not in NUMBERS:
        raise KeyError(f'"{topic}" is no number of a log, and only those are looked up in a run')
    try:
        lines = explain_key(name).splitlines()
        texts.append("\n".join(textwrap.fill(line, room, subsequent_indent="  ") for line in lines))
    except KeyError:
        pass
    if name in NUMBERS:
        texts.append(_number(name, run, room))
    texts += [report.explained(rule, room) for rule in RULES if rule.name == topic]
    if topic in BY_NAME:
        texts.append(explained(BY_NAME[topic], room))
    if word := find(topic):
        texts.append(_word(word, TERMS[word], room))
    if not texts:
        raise KeyError(_nothing(topic))
    return "\n\n\n".join(texts)


def _number(name: str, run: Path | None, room: int) -> str:
    """A number of the log: what it is, what it says in a run, and what to do when it is not well."""
    from luthier.events.numbers import NUMBERS

    told = NUMBERS[name]
    said = []
    if run is not None:
        from luthier.cli.watch import settled
        from luthier.events.printable import one_line
        from luthier.monitor.dashboard.explain import here

        seen = settled(run, f"explain {name}")
        said = [f"In {one_line(seen.name)} ({one_line(seen.source)}): {here(name, seen)}"]
    paragraphs = (told.idea, *said, told.care, f"More: docs/{told.page}" if told.page else "")
    filled = (textwrap.fill(text, room, break_on_hyphens=False) for text in paragraphs if text)
    return "\n\n".join((f"{name} (number of the log)", *filled))


def _word(name: str, term: Term, room: int) -> str:
    """A term, and where there is more."""
    see = [f"luthier explain {other}" for other in term.see if other != name] + [f"docs/{term.page}"] * bool(term.page)
    more = [textwrap.fill(f"More: {', '.join(see)}", room, break_on_hyphens=False)] if see else []
    return "\n\n".join((f"{name} (word)", textwrap.fill(term.text, room), *more))


def _nothing(topic: str) -> str:
    """That nothing is called so, and what may be meant."""
    from luthier.config.glossary import TERMS
    from luthier.config.keys import SECTIONS, by_name, closest
    from luthier.doctor import RULES
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME

    topics = (*by_name(), *SECTIONS, *NUMBERS, *TERMS, *(rule.name for rule in RULES), *BY_NAME)
    near = closest(topic.rpartition(".")[2], dict.fromkeys(topics, 0.0))
    return f'nothing is called "{topic}"' + (f'; did you mean "{near}"?' if near else "")


def _topics(room: int) -> str:
    """What kinds of topics there are, and what is in each."""
    from luthier.config.glossary import TERMS
    from luthier.doctor import RULES
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME

    kinds = {
        "a key": "learning_rate; all of them: luthier explain",
        "a number": ", ".join(NUMBERS),
        "a word": ", ".join(TERMS),
        "an error code": "E-CFG-003; all of them: luthier explain E-",
        "a doctor's rule": ", ".join(rule.name for rule in RULES),
        "a check": ", ".join(BY_NAME),
    }
    rows = (f"  {kind:<17}{names}" for kind, names in kinds.items())
    filled = (textwrap.fill(row, room, subsequent_indent=" " * 19, break_on_hyphens=False) for row in rows)
    return "\n".join(("A topic is", *filled))
