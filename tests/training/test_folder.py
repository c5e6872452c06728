"""The output folder of a run: what a refused request leaves there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from luthier import api
from luthier.errors import DataError, Problem, RunError
from luthier.machine.libraries import library_output_to
from luthier.training.folder import open_folder
from tests.training.test_resume import config

REFUSED = DataError(Problem("E-DATA-008", "no row", "give rows"))


def fail(folder: Path, error: Exception, said: int = 0) -> None:
    """A run of which libraries say something, and which then fails."""
    run, log = open_folder(folder, resume=False, overwrite=False), library_output_to(folder / "library.log")
    with pytest.raises(type(error)), run, log:
        if said:
            logging.getLogger("transformers").log(said, "a library\nspeaks")
        raise error


@pytest.mark.parametrize("said", [0, logging.WARNING])
def test_a_refused_request_leaves_no_folder_that_was_not_there(tmp_path, said):
    fail(tmp_path / "checkpoints" / "odd" / "run", REFUSED, said)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path):
    (tmp_path / "checkpoints" / "other").mkdir(parents=True)
    fail(tmp_path / "checkpoints" / "odd", REFUSED, logging.WARNING)
    fail(tmp_path / "checkpoints", REFUSED, logging.WARNING)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"other", ".lock"}
    (tmp_path / "checkpoints" / "library.log").write_text("of an earlier run\n", "utf-8")
    fail(tmp_path / "checkpoints", REFUSED)
    assert (tmp_path / "checkpoints" / "library.log").read_text("utf-8") == "of an earlier run\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [(REFUSED, logging.ERROR), (RunError(Problem("E-RUN-004", "it fell", "mend it")), logging.WARNING)],
)
def test_what_failed_keeps_the_log_of_it(tmp_path, error, said):
    fail(tmp_path / "run", error, said)
    assert "speaks" in (tmp_path / "run" / "library.log").read_text("utf-8")


def test_rows_that_are_refused_leave_nothing(tmp_path, tiny_model_dir):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Q", "output"\n', "utf-8")
    with pytest.raises(DataError, match="E-DATA-010"):
        list(api.train(config(tmp_path / "checkpoints" / "run", tiny_model_dir, rows)))
    assert not (tmp_path / "checkpoints").exists()
