"""What the guide says for a thesis: its code runs on a real run's files, and what it says of seeds is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import luthier
from luthier import api
from luthier.config.schema import DatasetSource
from luthier.evaluate.compare import record
from tests.data.support import alpaca, make_tokenizer, run, write_jsonl
from tests.evaluate.test_compare import BETTER, WORSE
from tests.torture.runs import config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "guide" / "thesis.md").read_text("utf-8")
FIGURE, TABLE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_version_to_cite_is_the_one_that_runs():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == luthier.__version__ and f"{{{luthier.__version__}}}" in PAGE
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()


def test_the_figure_is_drawn_from_a_run(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    values = config(tmp_path / "checkpoints", tiny_model_dir, alpaca_file)
    events = [event for event in api.train(values) if event.kind in ("log", "evaluated")]
    lines = (tmp_path / "checkpoints" / "events.jsonl").read_text("utf-8").splitlines()
    with (tmp_path / "checkpoints" / "events.jsonl").open("a") as log:  # as a resume leaves it
        log.write("\n".join(line for line in lines if '"event":"log"' in line) + "\n")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(FIGURE, space)
    space["plt"].close("all")
    training, held_out = space["axes"].get_lines()
    assert list(training.get_ydata()) == pytest.approx([event.loss for event in events if event.kind == "log"])
    assert list(held_out.get_ydata()) == pytest.approx([e.eval_loss for e in events if e.kind == "evaluated"])
    assert len(held_out.get_ydata()) and (tmp_path / "loss.pdf").stat().st_size > 1000


def test_the_table_holds_the_numbers_of_the_comparison(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "comparison.json").write_text(json.dumps(record([BETTER, WORSE])))
    monkeypatch.chdir(tmp_path)
    exec(TABLE, {})
    rows = [line for line in (tmp_path / "table.tex").read_text("utf-8").splitlines() if line.startswith("runs/a")]
    change = BETTER.overall
    low, high = (f"{100 * share:.1f}" for share in (change.tuned.low, change.tuned.high))
    assert rows[0].startswith(r"runs/a & 20 & 10.0 [") and f"& 55.0 [{low}, {high}] & +45.0 &" in rows[0]
    assert f"${change.corrected:.3f}$" in rows[0] and len(rows) == 2 and "& -40.0 &" in rows[1]


@pytest.mark.parametrize("fixed", [False, True])
def test_a_seed_draws_the_held_out_rows_unless_they_are_named(tmp_path, fixed):
    path = write_jsonl(tmp_path / "rows.jsonl", alpaca(40))
    source = DatasetSource(path=str(path), split="train[:90%]" if fixed else "train")
    keys = {"eval_split": "train[90%:]"} if fixed else {"val_set_size": 4}
    held = [run(make_tokenizer(), source, seed=seed, **keys).eval for seed in (41, 42, 43)]
    questions = [np.sort(rows.store.prompt_keys[rows.chosen]).tolist() for rows in held]
    assert all(len(rows) == 4 for rows in held)
    assert (questions[0] == questions[1] == questions[2]) == fixed
