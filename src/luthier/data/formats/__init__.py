"""Shapes of a row. A format is one module with a NAME, its REQUIRED columns, `matches(columns)` and `read(row)`.

To add one: write such a module and name it in FORMATS (and in `luthier.config.schema.DatasetFormat`).

Rows of answers are for `training.objective: sft`, pairs of answers (`preference`) for `dpo`, and each of them for
nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from luthier.config.schema import DatasetSource, Objective
from luthier.data.formats import alpaca, messages, preference, prompt_completion, sharegpt, text
from luthier.data.messages import Content, Preferred
from luthier.data.problems import refuse
from luthier.errors import DataError

__all__ = [
    "FORMATS",
    "Format",
    "choose_format",
    "detect",
    "guess",
    "in_your_words",
    "question_column",
    "renamed",
    "require_renamed",
]


class Format(Protocol):
    """What every format module offers."""

    @property
    def NAME(self) -> str: ...  # noqa: D102

    @property
    def REQUIRED(self) -> tuple[str, ...]: ...  # noqa: D102

    def matches(self, columns: frozenset[str]) -> bool:
        """Whether rows with these columns have this shape."""
        ...

    def read(self, row: dict[str, Any]) -> Content | Preferred:
        """Messages or segments of a row, or a pair of conversations.

        Raises:
            RowError: The row does not have the shape.
        """
        ...


_OF_ANSWERS: tuple[Format, ...] = (alpaca, sharegpt, messages, prompt_completion, text)
FORMATS: dict[str, Format] = {format.NAME: format for format in (*_OF_ANSWERS, preference)}


def choose_format(source: DatasetSource, row: dict[str, Any], where: str, objective: Objective = "sft") -> Format:
    """The format that the config names, or the one that a first row's columns show.

    Raises:
        DataError: A column is missing, none or several formats fit, or the rows are made for another objective.
    """
    require_renamed(source.columns, row, where)
    row = renamed(row, source.columns)
    if objective == "dpo":
        return _of_pairs(source, row, where)
    columns = frozenset(row)
    preferences = preference.pair(row)
    if source.format == "preference":
        found = "format preference is one of pairs, and this run learns answers (training.objective: sft)"
        raise refuse("E-DATA-028", *(preferences or (found, "write `training.objective: dpo`")), where)
    if source.format == "auto":
        fits = any(format.matches(columns) for format in _OF_ANSWERS)
        if preferences := preference.labelled(row) or (None if fits else preferences):
            raise refuse("E-DATA-028", *preferences, where)
        return detect(columns, where)
    chosen = FORMATS[source.format]
    if preferences and not chosen.matches(columns):
        raise refuse("E-DATA-028", *preferences, where)
    _require_columns(chosen, source, columns, where)
    return chosen


def _of_pairs(source: DatasetSource, row: dict[str, Any], where: str) -> Format:
    """The format of pairs, if the rows are pairs."""
    columns = frozenset(row)
    if source.format not in ("auto", preference.NAME):
        found = f"format {source.format} is one of answers, and this run compares pairs (training.objective: dpo)"
        fix = "write `training.objective: sft` to learn the answers, or `format: preference`"
        raise refuse("E-DATA-029", found, fix, where)
    if not preference.matches(columns):
        if source.format == preference.NAME:
            _require_columns(preference, source, columns, where)
        found = f"rows of {_listed(columns)}, and this run compares pairs (training.objective: dpo)"
        fix = "write `training.objective: sft` to learn answers, or give rows with prompt, chosen and rejected"
        raise refuse("E-DATA-029", found, fix, where)
    if not preference.lacks_prompt(row):
        return preference
    if question := preference.beginning_of(row):
        found = f'two answers, and no "prompt" that they belong to; found: {_listed(columns)}'
        raise refuse("E-DATA-022", found, f"write `{_mapping(source.columns | {'prompt': question})}`", where)
    if not isinstance(row["chosen"], str):
        found = f'two answers, and no "prompt" that they belong to; found: {_listed(columns)}'
        raise refuse("E-DATA-039", found, "give the rows a column prompt, a text or a list of messages", where)
    found = "two texts without a prompt: where it ends, and the answers begin, cannot be seen from them"
    fix = "part them into prompt, chosen and rejected, or write them as lists of messages"
    raise refuse("E-DATA-039", found, fix, where)


def _require_columns(chosen: Format, source: DatasetSource, columns: frozenset[str], where: str) -> None:
    missing = [column for column in chosen.REQUIRED if column not in columns]
    if missing and not chosen.matches(columns):
        found = f"format {chosen.NAME} needs {_listed(chosen.REQUIRED)}; found: {_listed(columns)}"
        free = columns.difference(chosen.REQUIRED)
        mapped = dict(source.columns)
        for column in missing:
            mapped[column] = _meant(column, free.difference(mapped.values())) or "YOUR_COLUMN"
        raise refuse("E-DATA-022", found, f"write `{_mapping(mapped)}`", where)


def detect(columns: frozenset[str], where: str = "") -> Format:
    """The one format that fits these columns.

    Raises:
        DataError: None fits, or several do.
    """
    fitting = [format for format in _OF_ANSWERS if format.matches(columns)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(format.NAME for format in fitting)
        found = f"the columns {_listed(columns)} fit {names}"
        raise refuse("E-DATA-021", found, f"write `format: {fitting[0].NAME}` or `format: {fitting[-1].NAME}`", where)
    raise _none_fits(columns, where, _suggest(columns))


def _none_fits(columns: frozenset[str], where: str, fix: str) -> DataError:
    needed = "; ".join(f"{format.NAME}: {', '.join(format.REQUIRED)}" for format in _OF_ANSWERS)
    found = f"no format fits the columns {_listed(columns)} (needed for {needed})"
    if ".csv:" in where:
        found += "; line 1 of a .csv is read as the names of its columns"
    return refuse("E-DATA-020", found, fix, where)


def guess(columns: frozenset[str], where: str = "") -> tuple[list[Format], dict[str, str]]:
    """What rows with these columns probably are.

    Returns:
        Formats that fit, the likeliest first; and {expected: yours} where columns have to be renamed for it.

    Raises:
        DataError: E-DATA-020 when no column looks like a question and none like its answer.
    """
    of_pairs: list[Format] = [preference] if preference.matches(columns) else []
    fitting = of_pairs + [format for format in _OF_ANSWERS if format.matches(columns)]
    if fitting:
        question = preference.question_of(columns) if of_pairs else "prompt"
        return fitting, {} if question in ("", "prompt") else {"prompt": question}
    if meant := _question_and_answer(columns):
        return [alpaca], meant
    options = " ".join(f"--columns {expected}={yours}" for expected, yours in _meant_by(columns)[1].items())
    raise _none_fits(columns, where, f"write {options}, or rename them in the file")  # there is no config yet


def require_renamed(columns: Mapping[str, str], row: Mapping[str, Any], where: str, option: str = "") -> None:
    """Refuse what renames a column that a first row has not.

    Args:
        columns: {expected: yours}.
        row: As it is in the file.
        where: Its place.
        option: What they were written behind, on a command line; else they stand in a config.

    Raises:
        DataError: E-DATA-022.
    """
    for expected, yours in columns.items():
        if yours not in row:
            said = f'{option or "`columns`"} renames "{yours}" to {expected}, but there is no such column'
            near = _nearest(yours, row) or "YOUR_COLUMN"
            fix = f"{option} {expected}={near}" if option else f"`{_mapping({**columns, expected: near})}`"
            raise refuse("E-DATA-022", f"{said}; found: {_listed(row)}", f"write {fix}", where)


def renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """The row under the names that the format expects ({expected: yours})."""
    if not columns:
        return row
    taken = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in taken}
    return kept | {expected: row.get(yours) for expected, yours in columns.items()}


def in_your_words(found: str, columns: dict[str, str]) -> str:
    """What is wrong with a row that was `renamed`, with the names that its columns have in the file."""
    return re.sub(r'"(\w+)"', lambda name: f'"{columns.get(name[1], name[1])}"', found)


_QUESTIONS = ("question", "query", "problem", "prompt", "input", "task", "text", "instruction")
_ANSWERS = ("answer", "response", "completion", "solution", "code", "target", "output", "canonical_solution")


def _suggest(columns: frozenset[str]) -> str:
    """The YAML line that probably repairs it."""
    format, mapped = _meant_by(columns)
    return f"write `format: {format.NAME}` and `{_mapping(mapped)}`"


def _meant_by(columns: frozenset[str]) -> tuple[Format, dict[str, str]]:
    """The format that rows with these columns probably have, and {expected: yours} of what has to be renamed for it."""
    if meant := _question_and_answer(columns):
        return alpaca, meant
    for format in _OF_ANSWERS:
        missing = [needed for needed in format.REQUIRED if needed not in columns]
        if 0 < len(missing) < len(format.REQUIRED):
            free = columns.difference(format.REQUIRED)
            return format, {needed: _meant(needed, free) or "YOUR_COLUMN" for needed in missing}
    for format in _OF_ANSWERS:
        for needed in format.REQUIRED:
            close = _nearest(needed, columns, 0.75)
            if close and close != needed:
                return format, {needed: close}
    return alpaca, {"instruction": "YOUR_QUESTION", "output": "YOUR_ANSWER"}


def question_column(columns: frozenset[str]) -> str:
    """The column that is named as a question, in whatever case; empty for none."""
    return _first(_QUESTIONS, columns)


def _question_and_answer(columns: frozenset[str]) -> dict[str, str]:
    """{expected: yours} where one column is named as a question and one as an answer, in whatever case."""
    question, answer = question_column(columns), _first(_ANSWERS, columns)
    return {"instruction": question, "output": answer} if question and answer else {}


def _meant(needed: str, columns: frozenset[str]) -> str:
    """The column that probably is the needed one: by its letters, by what it is called elsewhere; empty for none."""
    usual = {"instruction": _QUESTIONS, "prompt": _QUESTIONS, "output": _ANSWERS, "completion": _ANSWERS}
    near = _nearest(needed, columns, 0.75) or _first(usual.get(needed, ()), columns)
    return near or _nearest(needed, columns)


def _nearest(name: str, columns: Iterable[Any], cutoff: float = 0.5) -> str:
    close = difflib.get_close_matches(name, [str(column) for column in columns], n=1, cutoff=cutoff)
    return close[0] if close else ""


def _first(names: Iterable[str], columns: frozenset[str]) -> str:
    """The first of these names that a column has, in whatever case, as the column writes it; empty for none."""
    written = {str(column).strip().casefold(): str(column) for column in sorted(columns, key=str, reverse=True)}
    return next((written[name] for name in names if name in written), "")


def _mapping(columns: dict[str, str]) -> str:
    return f"columns: {{{', '.join(f'{expected}: {yours}' for expected, yours in columns.items())}}}"


def _listed(columns: Any) -> str:
    names = sorted(str(column)[:40] for column in columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"
