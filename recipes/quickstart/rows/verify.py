"""What must hold before rows are written: every solution passes its tests, wrong ones fail, and no task is in training.

Compared are texts (`masked`: no case, quoting or spacing; function and argument names, numbers and quoted literals as
placeholders) and programs (`shape`: the syntax tree with names and literals as placeholders).

    split        instruction                       code                        more
    phrasing     its masked text is not in train   a train row may have it     every word occurs in train
    parameter    not in train, even normalised     exact code not in train     name, signed arguments and
                                                                               literals not in that family's train rows
    composition  not in train, even normalised     exact code not in train     the pair of operations not in train

Not covered: likeness in meaning.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from rows.pools import is_held_number

Row = dict[str, Any]
_BATCH = 1500
_QUOTED, _NUMBER = re.compile(r"'[^']*'"), re.compile(r"-?\b\d+\b")


def run(programs: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """For each program, in order, what went wrong, or nothing. Child processes, one for each batch."""
    verdicts: list[str] = []
    for start in range(0, len(programs), _BATCH):
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("child.py"))],
            input=json.dumps(programs[start : start + _BATCH]),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        verdicts += json.loads(done.stdout)
    return verdicts


@cache
def function(code: str) -> ast.FunctionDef:
    """The function of a solution."""
    (found,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return found


@cache
def program(code: str) -> str:
    """A solution without its formatting."""
    return ast.unparse(ast.parse(code))


def arguments(code: str) -> tuple[str, ...]:
    """Names of its arguments."""
    return tuple(arg.arg for arg in function(code).args.args)


def normal(text: str) -> str:
    """Text without case, quoting of names, punctuation between words and spacing."""
    return " ".join(re.sub(r"[`?!]|[.:,](?=\s|$)", " ", text.lower()).split())


def masked(row: Row) -> str:
    """The normalised instruction with placeholders for names and literals."""
    text = _QUOTED.sub("TEXT", row["instruction"])
    text = re.sub(rf"\b{function(row['output']).name}\b", "NAME", text)
    for name in arguments(row["output"]):
        text = (
            re.sub(rf"\b{name}\b(?=\)|,|`)|`{name}`", "ARG", text)
            if f"({name}" in text or f", {name})" in text
            else text
        )
    return normal(_NUMBER.sub("NUMBER", text))


class _Plain(ast.NodeTransformer):
    def __init__(self, names: dict[str, str], literals: bool) -> None:
        self.names, self.literals = names, literals

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self.names.get(node.arg, node.arg))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = "f"
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(type(node.value).__name__) if self.literals else node


def shape(code: str, literals: bool = True) -> str:
    """The program with its function called f and its arguments a0, a1; literals, too, as placeholders if asked."""
    tree, definition = ast.parse(code), function(code)
    local = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names = {} if definition.name in local else {definition.name: "f"}
    names |= {name: f"a{i}" for i, name in enumerate(arguments(code))}
    return ast.unparse(_Plain(names, literals).visit(tree))


def literals(text: str) -> set[str]:
    """Quoted texts and numbers of an instruction."""
    return set(_QUOTED.findall(text)) | set(_NUMBER.findall(_QUOTED.sub("", text)))


def _kept_aside(literal: str) -> bool:
    """Every quoted text, and the numbers of the rule: other numbers may belong to an option or to the task."""
    return literal.startswith("'") or is_held_number(int(literal))


def leaks(train: Sequence[Row], tasks: Sequence[Row]) -> list[str]:
    """What breaks the rules above."""
    said, forms = {normal(row["instruction"]) for row in train}, {masked(row) for row in train}
    codes = {program(row["output"]) for row in train}
    families, known = defaultdict(list), {word for form in forms for word in form.split()}
    for row in train:
        families[row["family"]].append(row)
    found = []
    for task in tasks:
        problems = [("the instruction is", normal(task["instruction"]) in said)]
        if task["split"] == "phrasing":
            problems += [
                ("the phrasing is", masked(task) in forms),
                ("a word is not", not set(masked(task).split()) <= known),
            ]
        else:
            problems.append(("the code is", program(task["output"]) in codes))
        if task["split"] == "parameter":
            problems += _known_parameters(task, families[task["family"]])
        if task["split"] == "composition":
            problems.append(("the pair is", task["family"] in families or "+" not in task["family"]))
        found += [f"{task['task_id']}: {what} in train" for what, bad in problems if bad]
    return found


def _known_parameters(task: Row, rows: Sequence[Row]) -> list[tuple[str, bool]]:
    names = {function(row["output"]).name for row in rows}
    used = {arg for row in rows for arg in arguments(row["output"])}
    signed = f"{task['entry_point']}({', '.join(arguments(task['output']))})" in task["instruction"]
    own = set(arguments(task["output"]))
    known = set().union(*(literals(row["instruction"]) for row in rows))
    return [
        ("the name is", task["entry_point"] in names),
        ("an argument is", signed and bool(used & own)),
        ("a literal is", any(_kept_aside(x) and x in known for x in literals(task["instruction"]))),
    ]


def failures(rows: Sequence[Row]) -> list[str]:
    """Solutions that fail their own tests."""
    verdicts = run([(row["output"], row["tests"]) for row in rows])
    return [f"{row.get('task_id', row['instruction'])}: {bad}" for row, bad in zip(rows, verdicts, strict=True) if bad]


def renamed(code: str, name: str) -> str:
    """The solution under another name."""
    return re.sub(rf"\b{function(code).name}\b", name, code)


@dataclass(frozen=True)
class Tried:
    """Wrong answers, tried on held-out tests.

    Attributes:
        trials: Answers to other tasks that were tried.
        caught: The share of them that failed.
        passed: `parameter` tasks that an answer of their own family passes though its options or literals are others.
    """

    trials: int
    caught: float
    passed: list[str]


def discrimination(train: Sequence[Row], tasks: Sequence[Row], each: int = 20) -> Tried:
    """How well tests tell right from wrong.

    Args:
        train: Where wrong answers come from.
        tasks: Whose tests are tried.
        each: Wrong answers for each task, of any family with as many arguments.

    """
    rng, by_arity, families = Random("wrong answers"), defaultdict(list), defaultdict(list)
    for row in train:
        by_arity[len(arguments(row["output"]))].append(row)
        families[row["family"]].append(row)
    trials: list[tuple[Row, str, bool]] = []
    for task in tasks:
        own = shape(task["output"], literals=False)
        strangers = [r for r in rng.sample(by_arity[len(arguments(task["output"]))], 2 * each)
                     if r["family"] != task["family"]][:each]  # fmt: skip
        kin = [r for r in families[task["family"]] if shape(r["output"], literals=False) != own][:12]
        trials += [(task, row["output"], False) for row in strangers]
        trials += [(task, row["output"], True) for row in kin if task["split"] == "parameter"]
    verdicts = run([(renamed(code, task["entry_point"]), task["tests"]) for task, code, _ in trials])
    other = [bool(bad) for (_, _, kin), bad in zip(trials, verdicts, strict=True) if not kin]
    passed = [task["task_id"] for (task, _, kin), bad in zip(trials, verdicts, strict=True) if kin and not bad]
    return Tried(len(other), sum(other) / len(other), sorted(set(passed)))
