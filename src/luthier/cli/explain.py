"""`luthier explain`: the long answer, to a key, a number, a word, an error code, a doctor's rule, or a gate's check."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.cli.topics import MEANT, listed, nothing
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
        "The folder of a run, or its log, behind a key or a number: also what it is there.",
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
        typer.echo(listed(room))
        return
    try:
        typer.echo(_code(topic.upper(), room) if topic.upper().startswith("E-") else _explained(topic, run, room))
    except KeyError as error:
        every = "luthier explain E-" if topic.upper().startswith("E-") else "luthier explain topics"
        typer.echo(f"luthier explain: {error.args[0]}\nAll that there are: {every}", err=True)
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
        run: The log to look a key or a number up in.
        room: Columns.
    """
    from luthier.events.numbers import NUMBERS

    names = {other: "_".join(other.split()) for other in MEANT.get("_".join(topic.lower().split()), (topic,))}
    runs = {other: run for other, name in names.items() if name in NUMBERS or _dotted(name)}
    if run is not None and not runs:
        raise KeyError(f'"{topic}" is no key and no number of a log, and only those are looked up in a run')
    return "\n\n\n".join(_called(other, runs.get(other), room) for other in names)


def _called(topic: str, run: Path | None, room: int) -> str:
    """As `_explained`, of one topic by its own name."""
    from luthier.config.docs import explain_key
    from luthier.config.glossary import TERMS, find
    from luthier.doctor import RULES, report
    from luthier.events.numbers import NUMBERS
    from luthier.gate.gate import BY_NAME, explained

    name, texts = "_".join(topic.split()), []
    try:
        lines = explain_key(name).splitlines()
        texts.append("\n".join(textwrap.fill(line, room, subsequent_indent="  ") for line in lines))
    except KeyError:
        pass
    if run is not None and (key := _dotted(name)):
        texts[-1] += "\n\n" + textwrap.fill(_in_run(key, run), room, break_on_hyphens=False)
    if name in NUMBERS:
        texts.append(_number(name, run, room))
    texts += [report.explained(rule, room) for rule in RULES if rule.name == topic]
    if topic in BY_NAME:
        texts.append(explained(BY_NAME[topic], room))
    if word := find(topic):
        texts.append(_word(word, TERMS[word], room))
    if not texts:
        raise KeyError(nothing(topic))
    return "\n\n\n".join(texts)


def _dotted(name: str) -> str:
    """The key that is called so, here or in another program; empty: none is."""
    from luthier.config.aliases import RENAMED
    from luthier.config.keys import by_name, keys

    name = RENAMED.get(name, name)
    return name if name in keys() else by_name().get(name, "")


def _in_run(key: str, run: Path) -> str:
    """What a key was in a run, and where its value came from."""
    from luthier.cli.watch import settled
    from luthier.config.tree import shown
    from luthier.events.printable import one_line

    seen = settled(run, f"explain {key.rpartition('.')[2]}")
    plan, where = seen.state.plan, f"In {one_line(seen.name)} ({one_line(seen.source)})"
    if key not in plan:
        return f"{where}: this log does not tell it."
    return f"{where} it is {one_line(shown(plan[key], 200))}{_origin(key, run)}."


def _origin(key: str, run: Path) -> str:
    """Where a value came from, by the plan.yaml beside a log; empty where there is none that tells."""
    from luthier.config.outputs import RECORD
    from luthier.config.record import read_record
    from luthier.errors import ConfigError
    from luthier.events.printable import one_line

    path = (run if run.is_dir() else run.parent) / RECORD
    try:
        record = read_record(path) if path.is_file() else {}
    except ConfigError:
        return ""
    sources, decided = record.get("sources"), record.get("decided")
    source = one_line(str(sources.get(key, ""))) if isinstance(sources, dict) else ""
    if isinstance(decided, list) and key in decided and source in ("default", ""):
        return ", as the plan worked it out"
    words = {
        "default": ", the default",
        "override": ", from the command line",
        "dict": ", from the call in Python",
        "": "",
    }
    return words.get(source, f", from {source}")


def _number(name: str, run: Path | None, room: int) -> str:
    """A number of the log: what it is, what it says in a run, and what to do when it is not well."""
    from luthier.events.numbers import NUMBERS, NUMBERS_OF_PAIRS

    told, pairs = NUMBERS[name], NUMBERS_OF_PAIRS.get(name)
    other = f"Of training on pairs (objective: dpo): {pairs.idea} {pairs.care}" if pairs else ""
    said = []
    if run is not None:
        from luthier.cli.watch import settled
        from luthier.events.printable import one_line
        from luthier.monitor.dashboard.explain import here

        seen = settled(run, f"explain {name}")
        said = [f"In {one_line(seen.name)} ({one_line(seen.source)}): {here(name, seen)}"]
        told, other = (pairs if pairs and seen.state.on_pairs else told), ""
    paragraphs = (told.idea, *said, told.care, other, f"More: docs/{told.page}" if told.page else "")
    filled = (textwrap.fill(text, room, break_on_hyphens=False) for text in paragraphs if text)
    return "\n\n".join((f"{name} (number of the log)", *filled))


def _word(name: str, term: Term, room: int) -> str:
    """A term, and where there is more."""
    see = [f"luthier explain {other}" for other in term.see if other != name] + [f"docs/{term.page}"] * bool(term.page)
    more = [textwrap.fill(f"More: {', '.join(see)}", room, break_on_hyphens=False)] if see else []
    return "\n\n".join((f"{name} (word)", textwrap.fill(term.text, room), *more))
