"""The quickstart's rows: the generator writes what is shipped, every solution is right, no task is in training."""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from luthier.data.formats import FORMATS, detect
from luthier.evaluate.tasks import quickstart

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src" / "luthier" / "quickstart" / "rows"
sys.path.insert(0, str(ROOT / "recipes" / "quickstart"))

import make_rows  # noqa: E402
from rows.build import FAMILIES  # noqa: E402

from rows import pools, verify  # noqa: E402


def read(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


TRAIN, TASKS = read("train.jsonl"), read("heldout.jsonl")


def of(split):
    return [task for task in TASKS if task["split"] == split]


@pytest.mark.slow
@pytest.mark.long
def test_making_the_rows_again_gives_the_shipped_files_byte_for_byte():
    """Making them also runs every check of `verify`, down to wrong answers that must fail."""
    for name, text in make_rows.files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, name


def test_every_solution_passes_its_tests():
    assert verify.failures([*TRAIN, *TASKS]) == []


def test_a_broken_solution_fails():
    """Each task is answered by a constant (the result of its first test), by nothing, and by a syntax error."""
    answered = [task for task in TASKS if task["tests"][0].startswith("assert")]
    constants = [ast.unparse(ast.parse(task["tests"][0]).body[0].test.comparators[0]) for task in answered]
    broken = []
    for task, value in zip(answered, constants, strict=True):
        name = task["entry_point"]
        for code in (f"def {name}(*given):\n    return {value}", f"def {name}(*given):\n    pass", f"def {name}("):
            broken.append(task | {"output": code})
    assert len(verify.failures(broken)) == len(broken) >= 400


def test_a_program_that_never_ends_fails():
    (said,) = verify.run([("def f():\n    while True:\n        pass", ["assert f() == 1"])])
    assert "OverTime" in said


def test_sizes():
    assert 3600 <= len(TRAIN) <= 9000
    assert Counter(task["split"] for task in TASKS) == {"phrasing": 60, "parameter": 60, "composition": 50}
    assert len({task["task_id"] for task in TASKS}) == len(TASKS)
    assert sum(len(row["instruction"]) + len(row["output"]) for row in TRAIN) < 2_000_000
    assert all(3 <= len(row["tests"]) <= 5 for row in (*TRAIN, *TASKS))
    assert all(len(row["instruction"]) < 200 and len(row["output"]) < 400 for row in (*TRAIN, *TASKS))


def test_families_are_all_there_and_well_filled():
    counts = Counter(row["family"] for row in TRAIN)
    names = {family.name for family in FAMILIES}
    assert len(names) == len(FAMILIES) >= 60
    assert names <= set(counts) and min(counts[name] for name in names) >= 30
    assert {name.split(":")[0] for name in set(counts) - names} == {"list_steps", "list_result", "text_steps"}
    assert all(len(family.train) >= 4 and len(family.held) >= 2 for family in FAMILIES)
    assert len({task["family"] for task in of("phrasing")}) == 60


def test_luthier_reads_the_rows():
    assert detect(frozenset(TRAIN[0])).NAME == "alpaca"
    for row in TRAIN:
        question, answer = FORMATS["alpaca"].read(row)
        assert (question.content, answer.content) == (row["instruction"], row["output"])
    assert len(quickstart.load()) == len(TASKS)


def test_no_two_training_rows_ask_the_same():
    assert len({verify.normal(row["instruction"]) for row in TRAIN}) == len(TRAIN)


def test_no_task_is_in_training():
    assert verify.leaks(TRAIN, TASKS) == []


@pytest.mark.parametrize("split", ["phrasing", "parameter", "composition"])
def test_a_leak_is_found(split):
    task = of(split)[0]
    shouted = task | {"instruction": task["instruction"].upper().replace("`", "") + " "}
    assert len(verify.leaks([*TRAIN, shouted], TASKS)) > 0


def test_a_phrasing_that_differs_in_name_and_literals_only_is_a_leak():
    task = next(task for task in of("phrasing") if "'" in task["instruction"])
    quoted = next(x for x in sorted(verify.literals(task["instruction"])) if x.startswith("'"))
    row = {key: text.replace(task["entry_point"], "other").replace(quoted, "'else'")
           for key, text in task.items() if key in ("instruction", "output", "family")}  # fmt: skip
    assert verify.leaks([*TRAIN, row], TASKS) == [f"{task['task_id']}: the phrasing is in train"]


def test_parameters_are_kept_aside():
    names = {verify.function(row["output"]).name for row in TRAIN}
    kept = {*pools.HELD_VERBS, *pools.HELD_NOUNS}
    assert [name for name in names if kept & set(name.split("_"))] == []
    said = set().union(*(verify.literals(row["instruction"]) for row in TRAIN))
    assert [x for x in said if not x.startswith("'") and pools.is_held_number(int(x))] == []
    new = [task for task in of("parameter") if verify.literals(task["instruction"]) - said]
    assert len(new) >= 40
    assert all(kept & set(task["entry_point"].split("_")) for task in of("parameter"))


def test_compositions_join_operations_that_training_has_in_other_pairs():
    train = {row["family"] for row in TRAIN if ":" in row["family"]}
    firsts = {(kind, pair.split("+")[0]) for kind, pair in (family.split(":") for family in train)}
    seconds = {(kind, pair.split("+")[1]) for kind, pair in (family.split(":") for family in train)}
    for task in of("composition"):
        kind, pair = task["family"].split(":")
        first, second = pair.split("+")
        assert task["family"] not in train and (kind, first) in firsts and (kind, second) in seconds
