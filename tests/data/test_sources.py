"""Files as they come: what is read, and what every kind of broken file is called."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.schema import DatasetSource
from luthier.data.problems import Problems
from luthier.data.sources import json_rows, open_source
from luthier.errors import DataError
from tests.data.support import alpaca, make_tokenizer, problems, run, write_jsonl

GOOD = b'{"instruction": "Q", "output": "A"}\n'
COMMA = f"column {29 if sys.version_info >= (3, 13) else 30}"
"""Where Python says that a comma is one too many: at it, or behind it."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def read(path: Path, split: str = "train") -> list[tuple[str, Any]]:
    noted = Problems()
    source = open_source(DatasetSource(path=path.name), split, path.parent)
    rows = list(source.rows(noted))
    noted.raise_if_any()
    return rows


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": "1"}\r\n\n  \n{"a": "x\xe2\x80\xa8y\xc2\x85"}\n{"a": NaN}')
    rows = read(path)
    assert [place for place, _ in rows] == ["a.jsonl:1", "a.jsonl:4", "a.jsonl:5"]
    assert rows[1][1] == {"a": "x\u2028y\x85"}


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1},\n {"a": 2}]',
        '{"data": [{"a": 1}, {"a": 2}]}',
        '{"a": 1}\n{"a": 2}\n',
        '\ufeff [ {"a":1} , {"a":2} ] ',
    ],
)
def test_json(tmp_path: Path, text: str) -> None:
    assert [row for _, row in read(write(tmp_path / "a.json", text.encode()))] == [{"a": 1}, {"a": 2}]


def test_json_places_are_lines(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.json", json.dumps([{"a": 1}, {"a": 2}], indent=1).encode()))
    assert [place for place, _ in rows] == ["a.json:2", "a.json:5"]


def test_an_array_is_read_as_it_stands_wherever_a_chunk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": "ü🙂\u2028" * n, "b": [1.5, None, True, {"c": '\\ "'}]} for n in range(9)]
    for text in (json.dumps(rows), json.dumps(rows, ensure_ascii=False), "\ufeff \n" + json.dumps(rows, indent=1)):
        path = write(tmp_path / "a.json", text.encode())
        for size in range(1, 40):
            monkeypatch.setattr(json_rows, "_CHUNK_BYTES", size)
            found = read(path)
            assert [row for _, row in found] == rows
            lines = text.encode().split(b"\n")
            assert all(b"{" in lines[int(place.rpartition(":")[2]) - 1] for place, _ in found)
        for raw, says in ((text.encode()[:-9], "column"), (text.encode()[:-1] + b"\n x", ":")):
            with pytest.raises(ValueError, match=says) as caught:
                read(write(tmp_path / "b.json", raw))
            last = raw.count(b"\n") + 1
            assert f"b.json:{last}" in str(caught.value)


def test_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffq,a\r\n"x\ny","1, 2"\r\n\r\nz,""\r\n'.encode())
    assert read(path) == [("a.csv:2", {"q": "x\ny", "a": "1, 2"}), ("a.csv:5", {"q": "z", "a": ""})]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["x", None], "n": [[{"role": "user"}], []]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        ("a.parquet:1", {"q": "x", "n": [{"role": "user"}]}),
        ("a.parquet:2", {"q": None, "n": []}),
    ]


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "b.jsonl", b'{"a": 2}')
    write(folder / "a.json", b'[{"a": 1}]')
    write(folder / "README.md", b"no rows")
    assert read(folder) == [("rows/a.json:1", {"a": 1}), ("rows/b.jsonl:1", {"a": 2})]


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(root / name, [{"in": name}])
    return root


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"), "train", ["train-00000-of-00001.jsonl"]),
        (("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"), "test", ["test-00000-of-00001.jsonl"]),
        (("train_gen-00000-of-00001.jsonl", "train_sft-00000-of-00001-8b6e.jsonl"), "train_sft[:1]",
         ["train_sft-00000-of-00001-8b6e.jsonl"]),
        (("rows-00000-of-00002.jsonl", "rows-00001-of-00002.jsonl"), "train",
         ["rows-00000-of-00002.jsonl", "rows-00001-of-00002.jsonl"]),
        (("my.train.jsonl", "my_dev.jsonl", "eval 2.jsonl"), "valid", ["my_dev.jsonl"]),
        (("train.jsonl", "more.jsonl", "contest.jsonl"), "train", ["contest.jsonl", "more.jsonl", "train.jsonl"]),
        (("data/train-00000-of-00001.jsonl", ".cache/x.jsonl"), "train", ["data/train-00000-of-00001.jsonl"]),
        (("train/a.jsonl", "test/a.jsonl"), "train", ["train/a.jsonl"]),
        (("data/a.jsonl",), "train", ["data/a.jsonl"]),
    ],
)  # fmt: skip
def test_the_files_of_a_split(tmp_path: Path, names: tuple[str, ...], split: str, expected: list[str]) -> None:
    folder = folder_of(tmp_path / "rows", *names)
    (folder / "dataset_info.json").write_text("{}")
    assert [row["in"] for _, row in read(folder, split)] == expected


@pytest.mark.parametrize(
    ("code", "names", "split", "says"),
    [
        ("E-DATA-005", ("train.jsonl", "test.jsonl"), "validation", 'no "validation" among .*test, train'),
        ("E-DATA-005", ("test.jsonl",), "train", "write `split: test`"),
        ("E-DATA-005", ("a.jsonl", "test.jsonl"), "train", r"`path: rows/a\.jsonl`"),
        ("E-DATA-005", ("a.jsonl",), "test", 'no "test" among .*train'),
        ("E-DATA-008", ("full/train.jsonl", "sanitized/train.jsonl"), "train", "in rows/full, rows/sanitized"),
        ("E-DATA-008", ("main/rows.jsonl",), "train", "`path: rows/main`"),
        ("E-DATA-008", ("a/b/train.jsonl",), "train", "no file with rows"),
    ],
)
def test_folders_that_leave_open_what_is_trained_on(
    tmp_path: Path, code: str, names: tuple[str, ...], split: str, says: str
) -> None:
    with pytest.raises(DataError, match=f"{code}(.|\n)*{says}"):
        read(folder_of(tmp_path / "rows", *names), split)


def test_test_files_are_evaluated_on_and_not_trained_on(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows" / "train.jsonl", alpaca(8))
    write_jsonl(tmp_path / "rows" / "test.jsonl", alpaca(4, 100))
    prepared = run(tokenizer, tmp_path / "rows", eval_split="test")
    assert (prepared.report.train_rows, prepared.report.eval_rows) == (8, 4)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[8:]", range(8, 10)),
        ("train[2:4]", range(2, 4)),
        ("train[10%:20%]", range(1, 2)),
        ("train[:25%]", range(2)),
        ("train[-3:]", range(7, 10)),
        ("train[:-8]", range(2)),
        ("train[7:99]", range(7, 10)),
        ("train[5:2]", range(0)),
    ],
)
def test_slices(tmp_path: Path, split: str, expected: range) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": number} for number in range(10)])
    assert [row["n"] for _, row in read(path, split)] == list(expected)


def test_a_slice_stops_reading_at_its_end(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", GOOD * 3 + b"broken\n")
    assert run(tokenizer, DatasetSource(path=str(path), split="train[:3]")).report.rows_read == 3


@pytest.mark.parametrize(
    "split", ["test", "train[a:b]", "train[1:2:3]", "train[:5]+train[7:]", "", "train[:" + "9" * 5000 + "]"]
)
def test_splits_that_a_file_does_not_have(tmp_path: Path, tokenizer: Any, split: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    assert problems(tokenizer, DatasetSource(path=str(path), split=split))[0][0] == "E-DATA-005"


@pytest.mark.parametrize("content", [b"instruction,output\ncaf\xe9,x\n", "instruction,output\n".encode("utf-16")])
def test_the_command_that_converts_takes_any_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my rows.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "my rows.csv")
    assert caught.value.problems[0].fix.endswith("'my rows.csv' > converted && mv converted 'my rows.csv'")
    (tmp_path / "my rows.csv").write_bytes(gzip.compress(GOOD, mtime=0))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "my rows.csv")
    assert "mv 'my rows.csv' 'my rows.csv'.gz && gunzip 'my rows.csv'.gz" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("code", "name", "content", "says"),
    [
        ("E-DATA-006", "a.jsonl", gzip.compress(GOOD, mtime=0), "gzip"),
        ("E-DATA-006", "a.jsonl", b"PAR1....PAR1", "Parquet"),
        ("E-DATA-006", "a.csv", b"PK\x03\x04....", "zip"),
        ("E-DATA-006", "a.json", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        ("E-DATA-006", "a.parquet", GOOD, "not a Parquet"),
        ("E-DATA-006", "a.jsonl.gz", gzip.compress(GOOD, mtime=0), "compressed"),
        ("E-DATA-006", "a.txt", GOOD, ".txt"),
        ("E-DATA-013", "a.csv", b"instruction;output\nQ, and more;A\n", "separated by semicolons"),
        ("E-DATA-013", "a.csv", b"instruction\toutput\nQ\tA\n", "separated by tabs"),
        ("E-DATA-007", "a.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"),
        ("E-DATA-007", "a.jsonl", GOOD.decode().encode("utf-16-le"), "UTF-16"),
        ("E-DATA-007", "a.jsonl", GOOD.decode().encode("utf-32"), "UTF-32"),
        ("E-DATA-007", "a.jsonl", GOOD + '{"instruction": "caf\xe9"}\n'.encode("latin-1"), "café"),
        ("E-DATA-007", "a.json", '[{"instruction": "caf\xe9"}]'.encode("latin-1"), "café"),
        ("E-DATA-007", "a.csv", 'instruction,output\ncaf\xe9,x\n'.encode("latin-1"), "café"),
        ("E-DATA-008", "a.jsonl", b"", "empty"),
        ("E-DATA-008", "a.jsonl", b"\n \r\n\n", "no rows"),
        ("E-DATA-008", "a.json", b"  ", "no rows"),
        ("E-DATA-008", "a.json", b"[]", "no rows"),
        ("E-DATA-008", "a.csv", b"instruction,output\n", "no rows"),
        ("E-DATA-009", "a.parquet", b"PAR1" + b"x" * 100 + b"PAR1", "damaged"),
        ("E-DATA-010", "a.jsonl", b'{"instruction": "Q" "output": "A"}\n', "at column 21"),
        ("E-DATA-010", "a.jsonl", b'{"instruction": "Q\n", "output": "A"}\n', "control character at column 19"),
        ("E-DATA-010", "a.jsonl", b'[\n{"instruction": "Q", "output": "A"}\n]', "JSON array"),
        ("E-DATA-010", "a.jsonl", b"<!DOCTYPE html>\n", "DOCTYPE"),
        ("E-DATA-010", "a.jsonl", b'{"instruction": "Q", "output"\r\n', "at column 30: "),
        ("E-DATA-010", "a.json", b'[{"text": "x"}, {"text"\n \n', "at column 24: "),
        ("E-DATA-010", "a.json", b'{"rows": [\n{"text": "x"}\n\n', "at column 14: "),
        ("E-DATA-010", "a.json", b'[{"text": "x"}, {"text": "y",}]', COMMA),
        ("E-DATA-010", "a.json", b'[{"text": "x"} {"text": "y"}]', "','"),
        ("E-DATA-010", "a.json", b'[{"text": "x"},', "column 16"),
        ("E-DATA-010", "a.json", b'[{"text": "x"},\n]', "column 1"),
        ("E-DATA-010", "a.json", b'[{"text": "x"}]\n[{"text": "y"}]', "follows the array"),
        ("E-DATA-010", "a.json", b'{"data": [', "column 11"),
        ("E-DATA-011", "a.jsonl", b'["Q", "A"]\n', "a list"),
        ("E-DATA-011", "a.jsonl", b'"Q"\n', "text"),
        ("E-DATA-011", "a.json", b'{\n"rows": []}', "an object"),
        ("E-DATA-011", "a.json", b"[1]", "a number"),
        ("E-DATA-012", "a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "deep"),
        ("E-DATA-012", "a.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "digits"),
        ("E-DATA-012", "a.json", b"[" * 100_000, "deep"),
        ("E-DATA-012", "a.json", b'[{"a": "' + b"x" * (17 * 2**20) + b'"}]', "16 MiB"),
        ("E-DATA-012", "a.jsonl", b'{"text": "' + "ü".encode() * 2**20 + b'"}', "2.0 MiB of text"),
        ("E-DATA-012", "a.csv", b"a,b\n" + b"x" * (17 * 2**20), "16 MiB"),
        ("E-DATA-012", "a.json", b'{"x": "' + b"x" * (65 * 2**20) + b'", "data": []}', "65 MiB"),
        ("E-DATA-012", "a.jsonl", b'{"a": "' + b"x" * (17 * 2**20) + b'"}\n', "16 MiB"),
        ("E-DATA-013", "a.csv", b"instruction,output\nQ,A,B\n", "3 fields"),
        ("E-DATA-013", "a.csv", b"instruction,instruction\nQ,A\n", "used twice"),
        ("E-DATA-013", "a.csv", b"instruction,\nQ,A\n", "without a name"),
        ("E-DATA-013", "a.csv", b'instruction,output\nQ,"A\n', "end of data"),
        ("E-DATA-014", "a.jsonl", b'{"instruction": "Q\\u0000", "output": "A"}\n', "NUL"),
        ("E-DATA-014", "a.jsonl", b'{"instruction": "Q", "output": "A\\ud83d"}\n', "ud83d"),
        ("E-DATA-016", "a.jsonl", b'{"instruction": "Q", "output": "A", "output": "B"}\n', '"output" stands twice'),
        ("E-DATA-016", "a.json", b'[{"messages": [{"role": "user", "role": "user"}]}]', '"role" stands twice'),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, tokenizer: Any, code: str, name: str, content: bytes, says: str) -> None:
    path = write(tmp_path / name, content)
    found = problems(tokenizer, path)
    assert found[0][0] == code
    assert found[0][1].startswith(str(path))
    assert says in found[0][2]


@pytest.mark.parametrize(
    ("name", "fix"),
    [("a.txt", "`format: text`"), ("a.XLSX", "CSV UTF-8"), ("a.ods", "CSV UTF-8"), ("a.tsv", "CSV"), ("a.x", "rename")],
)
def test_e_data_006_says_what_to_make_of_a_file(tmp_path: Path, name: str, fix: str) -> None:
    with pytest.raises(DataError, match="E-DATA-006") as error:
        read(write(tmp_path / name, GOOD))
    assert fix in error.value.problems[0].fix


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"instruction": "Q", "output": "A",}\n', "a comma after the last one"),
        ("a.json", b'[{"instruction": "Q", "output": "A"},]', "a comma after the last one"),
        ("a.jsonl", b"{'instruction': 'Q', 'output': 'A'}\n", "text in single quotes, where JSON has double ones"),
    ],
)
def test_e_data_010_names_the_usual_mistakes(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=f"E-DATA-010(.|\n)*{says}"):
        read(write(tmp_path / name, content))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_e_data_013_says_what_makes_commas_of_semicolons(tmp_path: Path, separator: str) -> None:
    text = f'instruction{separator}price\n"a{separator} b,\nc"{separator}007,50\nNA{separator}\n'
    path = write(tmp_path / "my $rows.csv", b"\xef\xbb\xbf" + text.encode())
    with pytest.raises(DataError, match="E-DATA-013") as error:
        read(path)
    command = shlex.split(error.value.problems[0].fix.partition(": ")[2])
    assert command[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    rows = [row for _, row in read(tmp_path / "converted.csv")]
    assert rows == [{"instruction": f"a{separator} b,\nc", "price": "007,50"}, {"instruction": "NA", "price": ""}]


def test_e_data_020_says_that_line_1_of_a_csv_is_its_header(tmp_path: Path, tokenizer: Any) -> None:
    ((code, _, found),) = problems(tokenizer, write(tmp_path / "a.csv", b"Say 0,Answer 0\nSay 1,Answer 1\n"))
    assert code == "E-DATA-020" and "line 1 of a .csv is read as the names" in found


def test_places_and_counts_of_broken_lines(tmp_path: Path, tokenizer: Any) -> None:
    lines = [GOOD, *[b"{broken}\n"] * 7, GOOD, b'{"instruction": "Q", "output": ""}\n', b"[]\n"]
    path = write(tmp_path / "a.jsonl", b"".join(lines))
    found = problems(tokenizer, path)
    broken = [item for item in found if item[0] == "E-DATA-010"]
    assert [where for _, where, _ in broken] == [f"{path}:{line}" for line in range(2, 7)]
    assert broken[-1][2].endswith("(and 2 more rows like this)")
    assert ("E-DATA-024", f"{path}:10") in [item[:2] for item in found]
    assert ("E-DATA-011", f"{path}:11") in [item[:2] for item in found]


def test_an_excerpt_is_short_and_safe_on_a_terminal(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": "\x1b[31m' + b"x" * 500 + b"\n")
    ((_, _, found),) = problems(tokenizer, path)
    assert "\x1b" not in found
    assert len(found) < 140


def test_what_a_row_says_is_safe_on_a_terminal(tmp_path: Path, tokenizer: Any) -> None:
    talk = {"messages": [{"role": "\x1b[31mred\ud83d", "content": "x"}]}
    ((code, _, found),) = problems(tokenizer, write_jsonl(tmp_path / "a.jsonl", [talk]))
    assert code == "E-DATA-025"
    assert "·[31mred·" in found
    ((code, _, found),) = problems(tokenizer, write_jsonl(tmp_path / "b.jsonl", [{"\x1b[31m\ud83d": "x"}]))
    assert code == "E-DATA-020"
    assert found.isprintable()


def test_sources_report_their_problems_together(tmp_path: Path, tokenizer: Any) -> None:
    first, second = write(tmp_path / "a.jsonl", b"{\n"), tmp_path / "missing.jsonl"
    assert [code for code, _, _ in problems(tokenizer, first, second)] == ["E-DATA-010", "E-DATA-001"]


def test_not_found(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    ((code, where, _),) = problems(tokenizer, tmp_path / "trian.jsonl")
    assert (code, where) == ("E-DATA-001", str(tmp_path / "trian.jsonl"))
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    assert problems(tokenizer, tmp_path / "gone.jsonl")[0][0] == "E-DATA-001"
    for path in ("no-owner", "a/b/c", "", "nul\0.jsonl", "./owner/name", "x" * 300 + ".jsonl"):
        expected = "E-DATA-008" if path == "" else "E-DATA-001"
        source = DatasetSource(path=path)
        ((code, where, _),) = problems(tokenizer, source, cache_dir=str(tmp_path))
        assert code in (expected, "E-DATA-006"), path
        assert len(where) <= 200 and (where or not path)


def test_the_nearest_name_is_suggested(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"did you mean .*train\.jsonl\?"):
        open_source(DatasetSource(path="trian.jsonl"), "train", tmp_path)
    with pytest.raises(DataError) as error:  # only the suffix is alike
        open_source(DatasetSource(path="nosuch.jsonl"), "train", tmp_path)
    assert "did you mean" not in str(error.value)
    write(tmp_path / "train.csv", GOOD)
    with pytest.raises(ValueError, match=r"did you mean .*train\.jsonl\?"):
        open_source(DatasetSource(path="train2.jsonl"), "train", tmp_path)


def test_devices_and_empty_folders(tmp_path: Path, tokenizer: Any) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert problems(tokenizer, tmp_path / "pipe.jsonl")[0][0] == "E-DATA-006"
    (tmp_path / "empty").mkdir()
    assert problems(tokenizer, tmp_path / "empty")[0][0] == "E-DATA-008"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    path.chmod(0)
    assert problems(tokenizer, path)[0][0] == "E-DATA-009"


def test_changed_while_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(3))
    rows = open_source(DatasetSource(path=str(path)), "train", tmp_path).rows(Problems())
    next(rows)
    with path.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(ValueError, match="E-DATA-015"):
        list(rows)


def test_irrelevant_columns_do_not_matter(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"instruction": "Q", "output": "A", "x": None}, {"instruction": "Q2", "output": "A", "x": ["\0", {"y": 1}]}]
    assert len(run(tokenizer, write_jsonl(tmp_path / "a.jsonl", rows)).train) == 2
