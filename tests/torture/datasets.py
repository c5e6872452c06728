"""Damaged datasets: a correct run or a `DataError` at the right line, never anything else, and never for long.

    seed file  --a row spoilt / bytes spoilt / another kind of file-->  prepare  -->  DataError, or rows

Rows that come out are compared with the file read by the plainest means: the trained tokens of each must decode to the
answers of its row, and no row may be missing that was not counted as left out. Where one row was spoilt on purpose,
the error must name its line. A share of what is accepted is trained on for two steps.

Not covered: the hub's datasets; files larger than memory (`huge`).
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.errors import DataError, RefusedError
from tests.torture import damage
from tests.torture.dataset_files import BAD, DAMAGES, FINE, Seed, answers, jsonl, read_back, seeds
from tests.torture.limits import LONGEST_SECONDS, TookTooLongError, bad_form, limited, peak_mib
from tests.torture.outcome import COUNTS, bench, dice

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any library reads it: nothing is to be fetched

NAME = "datasets"
DEFAULT = 10_000
FAST = 150
MOST_MIB = 400
"""What one trial may add to the memory of its process."""
ONE_IN = 10
"""This share of what is accepted is trained on."""


@dataclass
class Case:
    """A dataset on disk, and what must become of it.

    Attributes:
        path: What `data.datasets` names.
        file: The file in it with the rows.
        verdict: `bad`: refused (rows of `bad_rows: drop` left out), `fine`: accepted, empty: either.
        place: Where the error must point to; empty: anywhere.
        what: What was done to it.
        settings: Keys of the data section.
    """

    path: Path
    file: Path
    verdict: str = ""
    place: str = ""
    what: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def trial(number: int, seed: int) -> str:
    """One damaged dataset."""
    rng = dice(NAME, seed, number)
    folder = bench() / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case = rng.choice(WAYS)(folder, rng.choice(all_seeds()), rng)
    case.settings = settings(rng) | case.settings
    warm()
    before = peak_mib()
    try:
        with limited(LONGEST_SECONDS):
            wrong = outcome(case, rng)
    except TookTooLongError:
        wrong = f"took longer than {LONGEST_SECONDS} s"
    grown = peak_mib() - before
    COUNTS["most_mib_grown"] = int(grown)
    if not wrong and grown > MOST_MIB:
        wrong = f"memory grew by {grown:.0f} MiB"
    told = f"{case.what} ({case.path.name}, {case.settings}): {wrong}".encode("ascii", "backslashreplace").decode()
    return told if wrong else ""


def outcome(case: Case, rng: random.Random) -> str:
    """What is wrong with what comes of a case."""
    from tests.data.support import run

    tokenizer = make_tokenizer(rng.random() < 0.7, rng.random() < 0.5)
    try:
        prepared = run(tokenizer, case.path, **case.settings)
    except DataError as error:
        COUNTS["errors"] += 1
        return bad_form(error, with_place=True) or misplaced(error, case)
    COUNTS["accepted"] += 1
    if case.verdict == BAD and case.settings["bad_rows"] == "error":
        return "accepted"
    wrong = not_the_answers(prepared, case, tokenizer)
    if not wrong and rng.randrange(ONE_IN) == 0:
        COUNTS["trained"] += 1
        wrong = two_steps(case)
    if not wrong and rng.random() < 0.1:
        wrong = spoilt_cache(prepared, case, tokenizer, rng)
    return wrong


# What is done to a dataset -------------------------------------------------------------------------------------------


def one_row(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """One row is not what it ought to be."""
    rows = list(seed.rows)
    at, (verdict, change) = rng.randrange(len(rows)), rng.choice(DAMAGES)
    rows[at] = change(rows[at], seed.format, rng)
    try:
        raw, places = seed.write(rows, rng.random() < 0.5)
    except Exception:  # this kind of file cannot hold such a row
        return rotten_bytes(folder, seed, rng)
    if seed.suffix in (".csv", ".parquet"):  # types and missing columns are those of all rows there
        verdict = ""
    file = folder / f"rows{seed.suffix}"
    file.write_bytes(raw)
    if not is_utf8(raw) and seed.suffix != ".parquet":  # half of a pair, written as it is
        verdict = BAD if seed.suffix == ".jsonl" else ""
    begins_as_lines = seed.suffix != ".json" or seed.write is not jsonl or at > 0  # else it is read as one value
    place = f"{file}{places[at]}" if verdict == BAD and begins_as_lines else ""
    return Case(file, file, verdict, place, f"{seed.format}: row {at + 1} is {str(rows[at])[:80]!r}")


def rotten_bytes(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """Bytes are flipped, cut off, zeroed, added, or lines change places."""
    raw, _ = seed.write(list(seed.rows), rng.random() < 0.5)
    way = rng.choice(damage.WAYS)
    file = folder / f"rows{seed.suffix}"
    file.write_bytes(way(raw, rng))
    return Case(file, file, what=f"{seed.format}: bytes {way.__name__}")


def harmless(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """What editors and programs do to text files, and what does not change a row."""
    raw, _ = seed.write(list(seed.rows), rng.random() < 0.5)
    file = folder / f"rows{seed.suffix}"
    if seed.suffix != ".parquet":
        raw = rng.choice(HARMLESS)(raw) if seed.suffix == ".jsonl" else rng.choice(HARMLESS[:2])(raw)
    file.write_bytes(raw)
    path = file
    if rng.random() < 0.3:
        path = folder / "link.d"
        path.mkdir()
        shutil.copy(file, path / file.name)
        file = path / file.name
        (path / "notes.txt").write_text("no rows")
    return Case(path, file, FINE, what=f"{seed.format}: harmless")


HARMLESS = (
    lambda raw: b"\xef\xbb\xbf" + raw,
    lambda raw: raw,
    lambda raw: raw.replace(b"\n", b"\r\n"),
    lambda raw: raw.replace(b"\n", b"\n\n \t\n"),
    lambda raw: raw.removesuffix(b"\n"),
    lambda raw: b"\n" + raw + b"\r\n  ",
)


def another_encoding(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """Text that is not UTF-8, a packed file, or another kind of file than its name says."""
    raw, _ = seed.write(list(seed.rows), False)
    suffix = seed.suffix
    if suffix == ".parquet":
        suffix = rng.choice((".jsonl", ".json", ".csv"))
    else:
        ways = [gzip.compress, lambda raw: b"", lambda raw: b"\n \r\n", lambda raw: bytes(len(raw))]
        ways += [lambda raw: b"\x80\x02}q\x00." + raw]
        ways += [lambda raw, name=name: raw.decode().encode(name) for name in ("utf-16", "utf-16-le", "utf-32")]
        if any(byte > 127 for byte in raw):
            ways.append(lambda raw: raw.decode().encode("latin-1", "replace") + b"\xe9\n")
        raw = rng.choice(ways)(raw)
        if rng.random() < 0.2:
            suffix = rng.choice((".parquet", ".txt", ".jsonl.gz", ".arrow", ""))
    file = folder / f"rows{suffix}"
    file.write_bytes(raw)
    return Case(file, file, BAD, what=f"{seed.format}: another kind of file", settings={"bad_rows": "error"})


def no_file(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """A folder, a pipe, a device, a link to nowhere or to itself, nothing at all, or a name that is no name."""
    path = folder / f"rows{seed.suffix}"
    kind = rng.randrange(8)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(folder / "nowhere")
    elif kind == 3:
        path.symlink_to(path)
    elif kind == 4:
        path = Path("/dev/null")
    elif kind == 5:
        path = folder / rng.choice(("x" * 300 + ".jsonl", "a\0b.jsonl", "a\nb.jsonl", "rows.jsonl/x", "\udc80"))
    elif kind == 6:
        path = folder / "deep" / "rows.jsonl"
    else:
        path.mkdir()
        (path / "rows.jsonl").mkdir()
        (path / "more.jsonl").symlink_to(folder / "nowhere")
    return Case(path, path, BAD, what="no file", settings={"bad_rows": "error", "cache_dir": str(folder / "cache")})


def bombs(folder: Path, seed: Seed, rng: random.Random) -> Case:
    """Rows that nest without end, numbers of thousands of digits, names that stand twice, other rows among these."""
    lines = [json.dumps(row).encode() for row in seed.rows]
    at = rng.randrange(len(lines) + 1)
    bomb, verdict = rng.choice(BOMBS)
    lines.insert(at, bomb)
    file = folder / "rows.jsonl"
    file.write_bytes(b"\n".join(lines))
    place = f"{file}:{at + 1}" if verdict == BAD else ""
    return Case(file, file, verdict, place, f"{seed.format}: {bomb[:40]!r}", {"bad_rows": "error"})


BOMBS = (
    (b'{"instruction": ' + b"[" * 100_000, BAD), (b'{"a":' * 50_000, BAD), (b"9" * 5000, BAD),
    (b"-" + b"9" * 4400, BAD),
    (b'{"instruction": "a", "instruction": "b", "output": "c"}', BAD), (b'{"text": "a", "text": "a"}', BAD),
    (b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}', BAD), (b"NaN", BAD), (b"[]", BAD),
    (b"\x00", BAD),
    (b'{"instruction": NaN, "output": Infinity}', BAD), (b'{"output": "\xff"}', BAD), (b'{"x": "\x01"}', BAD),
    (b"<html>", BAD), (b"...", BAD), (b'{"a": 1}}', BAD), (b"{'a': 1}", BAD),
    (b'{"text": "' + b"x" * 2**24 + b'"}', BAD),
    (b'{"text": "x", "unused": ' + b"[" * 200 + b"]" * 200 + b"}", ""), (b'{"text": "' + b"x" * 2**21 + b'"}', ""),
    (b'{"instruction": "q", "output": "a"}', ""), (b'{"prompt": "q", "completion": "a"}', ""), (b'{"text": "t"}', ""),
)  # fmt: skip

WAYS = (*[one_row] * 4, *[rotten_bytes] * 3, harmless, another_encoding, no_file, bombs)


def settings(rng: random.Random) -> dict[str, Any]:
    """Keys of the data section that change what happens to rows, not which rows there are."""
    return {
        "bad_rows": rng.choice(("error", "error", "drop")),
        "overlong_rows": rng.choice(("drop", "truncate", "error")),
        "max_seq_length": rng.choice((8, 256, 2048, 100_000)),
        "completion_only_loss": rng.random() < 0.9,
    }


# What must come of it ------------------------------------------------------------------------------------------------


def misplaced(error: DataError, case: Case) -> str:
    """Whether something harmless was refused, or another line named than the one that was spoilt."""
    codes = {problem.code for problem in error.problems}
    about_lengths = codes <= {"E-DATA-040", "E-DATA-041", "E-DATA-042"}
    if case.verdict == FINE and not about_lengths:
        return f"refused: {error}"
    dropping = case.settings["bad_rows"] == "drop"
    if case.verdict == BAD and case.place and not dropping and not about_lengths:
        places = [problem.where for problem in error.problems]
        return "" if case.place in places else f"{case.place} is not among {places}: {error}"
    return ""


def not_the_answers(prepared: Any, case: Case, tokenizer: Any) -> str:
    """Whether the trained tokens of the rows are other texts than the answers in the file."""
    name = prepared.report.sources[0].format
    rows, left_out = read_back(case.file), sum(drop.rows for drop in prepared.report.dropped)
    if len(rows) != len(prepared.train) + left_out:
        return f"{len(rows)} rows in the file, {len(prepared.train)} kept, {left_out} counted as left out"
    waiting = iter(rows)
    for number in range(len(prepared.train)):
        row = prepared.train.members(number)[0]
        if not row.trained.any():
            return f"{row.place}: nothing is trained"
        if not case.settings["completion_only_loss"]:
            if not row.trained[1:].all():
                return f"{row.place}: a token is not trained"
            continue
        cut = len(row.input_ids) == case.settings["max_seq_length"] and case.settings["overlong_rows"] == "truncate"
        if not any(same(row, candidate, name, tokenizer, cut) for candidate in waiting):
            return f"{row.place}: trained on {trained_texts(tokenizer, row)}, which no row says (format {name})"
    return ""


def same(row: Any, candidate: Any, name: str, tokenizer: Any, cut: bool) -> bool:
    """Whether a row of tokens trains the answers of a row of the file, each with its end.

    Nothing predicts the first token of a row: where an answer begins with it, the rest is trained.
    """
    try:
        wanted = answers(candidate, name)
        wanted[0] + ""
    except (KeyError, TypeError, IndexError, AttributeError):
        return False
    trained = row.trained.copy()
    trained[:1] = trained[1:2]
    from_the_start = replace(row, trained=trained)
    return any(as_wanted(trained_texts(tokenizer, each), wanted, cut) for each in (row, from_the_start))


def as_wanted(got: list[str], wanted: list[str], cut: bool) -> bool:
    """Whether trained texts are the answers."""
    if cut:
        whole, part = "".join(map(core, wanted)), "".join(map(core, got)).rstrip("\ufffd")
        return whole.startswith(part)
    # An answer may itself begin or end with such a token; then training adds no second one.
    pairs = zip(got, wanted, strict=False)
    return len(got) == len(wanted) and all(core(g) in (w.removeprefix("<s>"), core(w)) for g, w in pairs)


def core(text: str) -> str:
    """A text without the tokens that begin and end one."""
    text = text.removeprefix("<s>")
    return next((text.removesuffix(end) for end in ("</s>", "<|im_end|>") if text.endswith(end)), text)


def trained_texts(tokenizer: Any, row: Any) -> list[str]:
    """The trained stretches of a row, decoded."""
    from tests.data.support import pieces

    return [text for text, trained in pieces(tokenizer, row) if trained]


def spoilt_cache(prepared: Any, case: Case, tokenizer: Any, rng: random.Random) -> str:
    """Tokenized rows that rot on disk are made again, and are the same."""
    from tests.data.support import run

    before = [prepared.train.members(number)[0].input_ids.tolist() for number in range(len(prepared.train))]
    for file in sorted((case.path.parent / "cache").iterdir()):
        if rng.random() < 0.7:
            raw = file.read_bytes()
            file.unlink()
            file.write_bytes(damage.spoilt(raw, rng))
    again = run(tokenizer, case.path, **case.settings)
    after = [again.train.members(number)[0].input_ids.tolist() for number in range(len(again.train))]
    COUNTS["spoilt_caches"] += 1
    return "" if before == after else "a spoilt cache gave other tokens"


def two_steps(case: Case) -> str:
    """Train on it for two steps: it ends, with finite losses."""
    import luthier
    from luthier.events.types import Log, RunFinished

    data = {"datasets": [{"path": str(case.path)}], "val_set_size": 0, "cache_dir": str(case.path.parent / "cache2")}
    training = {"output_dir": str(bench() / "run"), "max_steps": 2, "per_device_train_batch_size": 2}
    config = {
        "model": {"model_name_or_path": str(tiny_model()), "dtype": "float32"},
        "data": {**case.settings, **data, "max_seq_length": 256, "overlong_rows": "truncate"},
        "training": training | {"gradient_accumulation_steps": 1, "max_tokens_per_micro_batch": 1024},
        "logging": {"report_to": [], "histogram_steps": 0, "logging_steps": 1},
    }
    shutil.rmtree(bench() / "run", ignore_errors=True)
    try:
        events = list(luthier.train(config))
    except (DataError, RefusedError) as error:
        COUNTS["refused_by_the_gate"] += isinstance(error, RefusedError)
        return bad_form(error)
    losses = [event.loss for event in events if isinstance(event, Log)]
    done = isinstance(events[-1], RunFinished) and events[-1].status == "done"
    return "" if done and losses and all(map(math.isfinite, losses)) else f"training ended with {events[-1]}, {losses}"


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


# The bench --------------------------------------------------------------------------------------------------------


@functools.cache
def all_seeds() -> list[Seed]:
    return seeds()


@functools.cache
def make_tokenizer(bos: bool, chat: bool) -> Any:
    from tests.data.support import CHATML
    from tests.data.support import make_tokenizer as make

    return make(bos=bos, chat_template=CHATML if chat else None)


@functools.cache
def tiny_model() -> Path:
    from transformers.utils.logging import disable_progress_bar

    from tests.tiny import build_model

    disable_progress_bar()
    build_model(bench() / "model")
    return bench() / "model"


@functools.cache
def warm() -> None:
    """Import and start what trials need, so that it does not count as theirs."""
    import torch

    torch.set_num_threads(1)
    file = bench() / "warm.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n' * 3)
    assert not two_steps(Case(file, file))
