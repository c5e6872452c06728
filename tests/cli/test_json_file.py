"""`--json FILE`: what may stand there, and what is written."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from luthier.cli.json_file import check_writable, keep, write_json
from luthier.errors import MissingError


def test_a_link_stays_a_link_and_numbers_that_json_has_not_are_null(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    check_writable(link)
    write_json(link, {"a": [math.nan, 1.5, (math.inf,)]})
    assert link.is_symlink() and json.loads(target.read_text()) == {"a": [None, 1.5, [None]]}
    assert {path.name for path in tmp_path.iterdir()} == {"link.json", "target.json"}


@pytest.mark.parametrize("name", ["x" * 300, "missing/x.json", ".", "pipe"])
def test_what_cannot_be_written_is_told_before_the_work(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingError) as caught:
        check_writable(tmp_path / name)
    assert caught.value.problems[0].code == "E-ENV-002"


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    check_writable(path)
    write_json(path, 1)
    assert path.read_text() == "1\n"


def test_what_is_hidden_leaves_json_and_only_values_are_hidden(tmp_path):
    """In the text of a JSON file, what looks like a secret may be a quote and its backslash."""
    content = {
        "answers": ['url = "?api_key=\n\n\n" + key', '# authorization: a\n\n\n\n"x"', "token hf_" + "a1" * 20],
    }
    write_json(tmp_path / "answers.json", content)
    answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
    assert answers[0].endswith('" + key') and answers[1].endswith('"x"') and answers[2] == "token <secret>"


@pytest.mark.parametrize("written", ["rows.csv", "./rows.csv", "link.csv", "folder/../rows.csv"])
def test_what_is_read_is_not_written_over(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.csv").write_text("a,b\n")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    with pytest.raises(MissingError) as caught:
        keep("rows.csv", Path(written), "--to")
    assert caught.value.problems[0].code == "E-ENV-002" and "reads" in str(caught.value)


def test_another_file_may_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    keep("rows.csv", Path("other.csv"), "--to")
    keep("rows.csv", None, "--to")
    keep("owner/name", Path("rows.csv"), "--to")
    keep("x" * 5000, Path("rows.csv"), "--to")
    keep("a\0b", Path("rows.csv"), "--to")
