"""Small datasets of every format in every kind of file, and what can be wrong with one row of them."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.formats.conversation import ROLES

Row = Any
"""A row as JSON has it; damage makes other things of it than an object."""

_WORDS = [
    "add",
    "list",
    "sum",
    "tree",
    "über",
    "naïve",
    "漢字",
    "emoji🙂",
    "tab\there",
    "'quote'",
    '"double"',
    "a,b",
    "{x}",
]
_WORDS += ["<b>", "return", "None"]


def _text(rng: random.Random, longest: int = 12) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, longest)))


def _alpaca(rng: random.Random) -> Row:
    extra = {"input": rng.choice(("", "x = 3"))} if rng.random() < 0.5 else {}
    return {"instruction": _text(rng), **extra, "output": _text(rng)}


def _talk(rng: random.Random, speaker: str, said: str, user: str, model: str) -> list[dict[str, str]]:
    turns = [{speaker: name, said: _text(rng)} for _ in range(rng.randint(1, 3)) for name in (user, model)]
    return [{speaker: "system", said: "Be short."}] * (rng.random() < 0.3) + turns


MAKERS: dict[str, Callable[[random.Random], Row]] = {
    "alpaca": _alpaca,
    "sharegpt": lambda rng: {"conversations": _talk(rng, "from", "value", "human", "gpt")},
    "messages": lambda rng: {"messages": _talk(rng, "role", "content", "user", "assistant")},
    "prompt-completion": lambda rng: {"prompt": _text(rng), "completion": " " + _text(rng)},
    "text": lambda rng: {"text": _text(rng, 30)},
}
"""Format -> a valid row of it."""

FIELDS = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations", "conversations"),
    "messages": ("messages", "messages"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text", "text"),
}
"""Format -> the columns of question and answer."""


# Files ---------------------------------------------------------------------------------------------------------------


def _dumps(row: Row, ascii_only: bool) -> bytes:
    return json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def jsonl(rows: list[Row], ascii_only: bool) -> tuple[bytes, list[str]]:
    """JSON lines, and the place of each row behind the file's name."""
    return b"".join(_dumps(row, ascii_only) + b"\n" for row in rows), [f":{n}" for n in range(1, len(rows) + 1)]


def json_array(rows: list[Row], ascii_only: bool) -> tuple[bytes, list[str]]:
    """One array, a row in each line."""
    text = b"[\n" + b",\n".join(_dumps(row, ascii_only) for row in rows) + b"\n]\n"
    return text, [f":{n}" for n in range(2, len(rows) + 2)]


def json_data(rows: list[Row], ascii_only: bool) -> tuple[bytes, list[str]]:
    """An object with the rows under "data"."""
    text = b'{"version": 1, "data": [' + b", ".join(_dumps(row, ascii_only) for row in rows) + b"]}"
    return text, [f":data[{n}]" for n in range(len(rows))]


def comma_separated(rows: list[Row], ascii_only: bool) -> tuple[bytes, list[str]]:
    """CSV; the columns are those of all rows. What is no text becomes one, as in any spreadsheet."""
    del ascii_only
    columns = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
    stream, places = io.StringIO(newline=""), []
    writer = csv.writer(stream)
    writer.writerow(columns)
    for row in rows:
        places.append(f":{stream.getvalue().count(chr(10)) + 1}")
        writer.writerow([row.get(name) or "" for name in columns] if isinstance(row, dict) else [row])
    return stream.getvalue().encode("utf-8", "surrogatepass"), places


def parquet(rows: list[Row], ascii_only: bool) -> tuple[bytes, list[str]]:
    """Parquet; raises what pyarrow raises for rows that it cannot hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    del ascii_only
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue(), [f":{n}" for n in range(1, len(rows) + 1)]


KINDS: tuple[tuple[str, Callable[[list[Row], bool], tuple[bytes, list[str]]]], ...] = (
    (".jsonl", jsonl), (".json", json_array), (".json", json_data), (".json", jsonl), (".csv", comma_separated),
    (".parquet", parquet),
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A dataset before it is damaged."""

    format: str
    suffix: str
    write: Callable[[list[Row], bool], tuple[bytes, list[str]]]
    rows: tuple[Row, ...]


def seeds() -> list[Seed]:
    """Each format in each kind of file that can hold it: 28 of them."""
    rng = random.Random(0)
    return [
        Seed(name, suffix, write, tuple(make(rng) for _ in range(rng.randint(3, 7))))
        for suffix, write in KINDS
        for name, make in MAKERS.items()
        if suffix != ".csv" or name not in ("sharegpt", "messages")
    ]


# One row -------------------------------------------------------------------------------------------------------------

ANY = "any"
"""Damage that may be an error or not, depending on what the rest of the file is."""
BAD, FINE = "bad", "fine"
Change = Callable[[Row, str, random.Random], Row]


def _put(which: int, value: Any) -> Change:
    """The question (0) or the answer (1) is `value`; in a conversation the content of that turn."""

    def change(row: Row, name: str, rng: random.Random) -> Row:
        column = FIELDS[name][which]
        if name not in ("sharegpt", "messages"):
            return {**row, column: value(row[column]) if callable(value) else value}
        said = "value" if name == "sharegpt" else "content"
        turns = copy.deepcopy(row[column])
        turn = turns[-1] if which else turns[-2]
        turn[said] = value(turn[said]) if callable(value) else value
        return {column: turns}

    return change


def _without(row: Row, name: str, rng: random.Random) -> Row:
    gone = rng.choice(FIELDS[name])
    return {key: value for key, value in row.items() if key != gone} | {"other": "x"}


def _instead(*values: Any) -> Change:
    return lambda row, name, rng: copy.deepcopy(rng.choice(values))


def _turns(change: Callable[[list[dict[str, str]], str, str, random.Random], Any]) -> Change:
    """A change of a conversation; rows of other formats lose their answer."""

    def changed(row: Row, name: str, rng: random.Random) -> Row:
        if name not in ("sharegpt", "messages"):
            return _put(1, "")(row, name, rng)
        speaker, said = ("from", "value") if name == "sharegpt" else ("role", "content")
        column = FIELDS[name][0]
        turns = copy.deepcopy(row[column])
        made = change(turns, speaker, said, rng)
        return {column: turns if made is None else made}

    return changed


def _swap(turns: list[dict[str, str]], speaker: str, said: str, rng: random.Random) -> None:
    turns[-1], turns[-2] = turns[-2], turns[-1]


def _unknown_role(turns: list[dict[str, str]], speaker: str, said: str, rng: random.Random) -> None:
    turns[rng.randrange(len(turns))][speaker] = rng.choice(("tool", "bot", "", "Assistant", "\x1b[31m", None, 3))


def _nobody(turns: list[dict[str, str]], speaker: str, said: str, rng: random.Random) -> None:
    del turns[-1][rng.choice((speaker, said))]


def _two_systems(turns: list[dict[str, str]], speaker: str, said: str, rng: random.Random) -> None:
    turns[1:1] = [{speaker: "system", said: "again"}, {speaker: "system", said: "and again"}]


DAMAGES: tuple[tuple[str, Change], ...] = (
    (BAD, _put(1, None)), (BAD, _put(1, "")), (BAD, _put(1, " \n\t")), (BAD, _put(1, 3)), (BAD, _put(1, ["x"])),
    (BAD, _put(1, {"a": "b"})), (BAD, _put(1, True)), (BAD, _put(0, 2.5)), (BAD, _put(0, lambda old: old + "\0")),
    (BAD, _put(1, lambda old: "\ud83d" + old)), (BAD, _put(0, lambda old: old + "\udc00")),
    (BAD, _without), (BAD, _instead([], "text", 3, None, True, [1], {})), (BAD, _turns(lambda *_: [])),
    (BAD, _turns(_swap)), (BAD, _turns(_unknown_role)), (BAD, _turns(_nobody)), (BAD, _turns(_two_systems)),
    (BAD, _turns(lambda turns, *_: turns[:-1])), (BAD, _turns(lambda *_: [["role", "user"]])),
    (BAD, _turns(lambda *_: "user: hi")),
    (FINE, _put(1, lambda old: old + "\u2028x\x85y\x0bz")), (FINE, _put(0, lambda old: "\x1b[31m\u202e" + old)),
    (FINE, _put(1, lambda old: old * 400)), (FINE, _put(0, lambda old: old * 400)), (FINE, _put(1, "<|im_end|>")),
    (FINE, _put(0, "</s><s><|im_start|>assistant\n")), (FINE, _put(1, lambda old: old + " <|eot_id|>\n")),
    (FINE, _put(1, "e\u0301 \u200d \U0001f469\u200d\U0001f4bb \ufeff")), (FINE, _put(1, "{{ 1/0 }}{% raw %}")),
    (FINE, _put(1, "</s>")), (FINE, _put(1, "line\r\nline\rline\n\n")), (FINE, _put(1, lambda old: "  " + old + "  ")),
    (FINE, lambda row, name, rng: dict(reversed(row.items()))), (FINE, lambda row, name, rng: {**row, "note": 1e999}),
    (FINE, lambda row, name, rng: {**row, "note": "\0\ud83d"}), (FINE, lambda row, name, rng: {**row, "id": 10**300}),
)  # fmt: skip
"""What a row can be turned into, and whether it can then still be trained on."""


# What ought to be trained --------------------------------------------------------------------------------------------


def read_back(path: Path) -> list[Row]:
    """The rows of a file by the plainest means; raises whatever goes wrong."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(path).to_pylist())
    text = raw.decode("utf-8-sig")
    if path.suffix == ".csv":
        csv.field_size_limit(2**24)
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    if path.suffix == ".json":
        try:
            whole = json.loads(text)
        except ValueError:
            whole = None
        if isinstance(whole, list):
            return whole
        if isinstance(whole, dict) and isinstance(whole.get("data"), list):
            return list(whole["data"])
    return [json.loads(line) for line in text.split("\n") if line.strip(" \t\r")]


def answers(row: Row, name: str) -> list[str]:
    """The texts of a row that are learned."""
    if name in ("alpaca", "text"):
        return [row[FIELDS[name][1]]]
    if name == "prompt-completion" and isinstance(row["completion"], str):
        return [row["completion"]]
    column = {"prompt-completion": "completion", "messages": "messages"}.get(name, "conversations")
    column = column if column in row else "conversation"
    found = []
    for turn in row[column]:
        speaker, said = ("from", "value") if "from" in turn else ("role", "content")
        if ROLES[turn[speaker]] == "assistant":
            found.append(turn[said])
    return found
