"""Damaged files end in rows or in a LuthierError, never in anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError
from tests.data.support import CHATML, TALK, alpaca, make_tokenizer, run

LINES = [
    json.dumps(row).encode() + b"\n" for row in [*alpaca(4), {"instruction": "Ü \u2028", "input": "x", "output": "é"}]
]
TALKS = [json.dumps({"messages": TALK}).encode() + b"\n"] * 3
BYTES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from(
        [b"\n", b"\0", b'"', b"\\", b"{", b"}", b"[", b"]", b"\xff\xfe", b"\xe9", b"null", b"NaN", b"\\ud83d"]
    ),
    st.sampled_from(
        [b"1" * 5000, b"[" * 3000, b'"a":' * 2, b"\xef\xbb\xbf", b"\r", b"<s>", b"\x1f\x8b", b"1e999", b"-"]
    ),
)
EDIT = st.tuples(st.sampled_from(["put", "cut", "over"]), st.integers(0, 10_000), st.integers(1, 40), BYTES)


def edited(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for how, where, length, new in edits:
        at = where % (len(content) + 1)
        rest = {"put": at, "cut": at + length, "over": at + len(new)}[how]
        content = content[:at] + (b"" if how == "cut" else new) + content[rest:]
    return content


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(chat_template=CHATML)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.sampled_from([LINES, TALKS]),
    suffix=st.sampled_from([".jsonl", ".jsonl", ".json", ".csv", ".parquet"]),
    edits=st.lists(EDIT, min_size=1, max_size=4),
)
def test_damaged_files(
    tmp_path: Path, tokenizer: Any, lines: list[bytes], suffix: str, edits: list[tuple[str, int, int, bytes]]
) -> None:
    content = b"".join(lines)
    if suffix == ".json":
        content = b"[" + b",".join(line.strip() for line in lines) + b"]"
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(edited(content, edits))
    try:
        prepared = run(tokenizer, path)
    except LuthierError as error:
        assert all(problem.fix and problem.found for problem in error.problems)
        str(error).encode()
    else:
        assert prepared.report.eos_share == 1.0
        assert all(prepared.train.trained > 0)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_damaged_templates(tmp_path: Path, tokenizer: Any, edits: list[tuple[str, int, int, bytes]]) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"".join(LINES))
    (tmp_path / "mine.jinja").write_bytes(edited(CHATML.encode(), edits))
    try:
        prepared = run(tokenizer, tmp_path / "rows.jsonl", prompt_template=str(tmp_path / "mine.jinja"))
    except LuthierError as error:
        assert all(problem.fix and problem.found for problem in error.problems)
    else:
        assert prepared.report.eos_share == 1.0
