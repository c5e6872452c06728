"""Hub datasets without a hub: the cache is used, and every refusal says how to get the rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from luthier.config.schema import DatasetSource
from luthier.data.problems import Problems
from luthier.data.sources.hub import HubSource, _explain
from luthier.errors import DataError
from tests.data.support import make_tokenizer, problems

SOURCE = DatasetSource(path="owner/name")


def test_rows_and_places() -> None:
    rows = datasets.Dataset.from_list([{"instruction": f"Q{n}", "output": "A"} for n in range(3)])
    source = HubSource(rows, "owner/name", "train")
    assert list(source.rows(Problems()))[2] == ("owner/name:train:2", {"instruction": "Q2", "output": "A"})
    other = HubSource(rows.select(range(2)), "owner/name", "train")
    assert source.fingerprint != other.fingerprint


PICTURES = [{"bytes": b"not a picture", "path": None}]


def test_pictures_and_sound_are_not_decoded() -> None:
    rows = datasets.Dataset.from_dict({"text": ["Q"], "image": PICTURES, "audio": PICTURES})
    rows = rows.cast_column("image", datasets.Image()).cast_column("audio", datasets.Audio())
    ((place, row),) = HubSource(rows, "owner/name", "train").rows(Problems())
    assert (place, row["text"]) == ("owner/name:train:0", "Q")


def test_e_data_009_a_row_that_datasets_cannot_read_is_named() -> None:
    rows = datasets.Dataset.from_dict({"text": ["Q"] * 1001, "images": [None] * 1000 + [PICTURES]})
    source = HubSource(rows.cast_column("images", datasets.List(datasets.Image())), "owner/name", "train")
    with pytest.raises(DataError, match=r"E-DATA-009") as refusal:
        list(source.rows(Problems()))
    assert refusal.value.problems[0].where == "owner/name:train:1000"


@pytest.mark.parametrize(
    ("code", "error", "fix"),
    [
        ("E-DATA-003", DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub."), "HF_TOKEN"),
        ("E-DATA-004", ValueError("BuilderConfig 'x' not found. Available: ['a', 'b']"), "exists"),
        ("E-DATA-004", ValueError("Unknown split \"x\". Should be one of ['train']."), "exists"),
        (
            "E-DATA-004",
            DatasetNotFoundError("Revision 'x' doesn't exist for dataset 'owner/name' on the Hub."),
            "exists",
        ),
        ("E-DATA-002", ConnectionError("Couldn't reach 'owner/name' on the Hub"), "hf download owner/name"),
        (
            "E-DATA-001",
            DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub or cannot be accessed."),
            "HF_",
        ),
        ("E-DATA-009", RuntimeError("Dataset scripts are no longer supported"), "hf download"),
    ],
)
def test_refusals(code: str, error: Exception, fix: str) -> None:
    problem = _explain(error, SOURCE, "train")
    assert problem.code == code
    assert fix in problem.fix
    assert problem.where == "owner/name"


def test_a_missing_dataset_is_not_called_gated() -> None:
    """The hub answers 401 for what does not exist, with a hint at gated datasets among the causes."""
    error = DatasetNotFoundError("Dataset 'gated/name' doesn't exist on the Hub or cannot be accessed.")
    error.__cause__ = OSError("401 Client Error. If you are trying to access a private or gated repo, ...")
    assert _explain(error, DatasetSource(path="gated/name"), "train").code == "E-DATA-001"


def test_offline(tmp_path: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    source = DatasetSource(path="luthier-no-such-owner/no-such-name")
    ((code, where, found),) = problems(make_tokenizer(), source, cache_dir=str(tmp_path))
    assert (code, where) == ("E-DATA-002", source.path)
    assert "HF_HUB_OFFLINE" in found


@pytest.mark.slow
def test_offline_from_the_cache_of_datasets(tmp_path: Path) -> None:
    """A dataset that was downloaded before is used without a network; a wrong split is named."""
    builder = tmp_path / "datasets"
    script = f"""
import json, shutil, sys
from pathlib import Path
import datasets
datasets.disable_progress_bars()
source = Path({str(tmp_path)!r}) / "rows.jsonl"
source.write_text("".join(json.dumps({{"instruction": f"Q{{n}}", "output": "A"}}) + chr(10) for n in range(4)))
datasets.load_dataset("json", data_files=str(source), split="train")
(made,) = Path({str(builder)!r}).glob("json/default-*")
target = Path({str(builder)!r}) / "owner___name" / "default"
target.parent.mkdir()
shutil.move(made, target)
for file in target.rglob("json-train.arrow"):
    file.rename(file.with_name("name-train.arrow"))
from luthier.config.schema import DatasetSource
from luthier.data.problems import Problems
from luthier.data.sources.hub import open_hub
opened = open_hub(DatasetSource(path="owner/name"), "train[1:3]")
print([place for place, _ in opened.rows(Problems())])
try:
    open_hub(DatasetSource(path="owner/name"), "test")
except Exception as error:
    print(error)
"""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(builder),
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "['owner/name:train[1:3]:0', 'owner/name:train[1:3]:1']" in done.stdout
    assert "E-DATA-004" in done.stdout


def test_progress_bars_stay_as_they_were(tmp_path: Path) -> None:
    tokenizer: Any = make_tokenizer()
    was = datasets.utils.logging.is_progress_bar_enabled()
    problems(tokenizer, DatasetSource(path="luthier-no-such-owner/no-such-name"), cache_dir=str(tmp_path))
    assert datasets.utils.logging.is_progress_bar_enabled() == was
