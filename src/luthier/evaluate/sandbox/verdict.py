"""Tests, split into what the program may see and what only the judge knows.

    assert f(3) == [1, 2]      ->  value      f(3)          the program is asked what it is worth
                                   judge      == [1, 2]     stays here; compared here
    assert f(3), or all else   ->  statements run beside the program; they must end without an exception

A program that never sees the expected value cannot claim it. So the tests of one text are cut into single statements,
and a `check(candidate)` function that only asserts, as in HumanEval, is unrolled first.

Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (the form of `check`); Austin et al. 2021,
"Program Synthesis with Large Language Models" (asserts with a literal).
Not covered: tolerance (`math.isclose`, `abs(a - b) < c`) and comparisons of two calls; they run as statements.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], tuple[str, Callable[[object, object], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Is: ("is", operator.is_),
    ast.IsNot: ("is not", operator.is_not),
}
_SIGNS = dict(_COMPARE.values())
_NOT_PLAIN_PASSES = {"!=", "is not"}
_SHOWN = 80


class BadTestError(ValueError):
    """A test that is not Python."""


@dataclass(frozen=True)
class Item:
    """One thing to ask of the program.

    Attributes:
        source: An expression, or statements.
        shown: The test as the user wrote it, for the verdict's detail.
        sign: The comparison of an expression; empty for statements.
        literal: What the expression is compared with. Never sent.
    """

    source: str
    shown: str
    sign: str = ""
    literal: object = None

    @property
    def is_value(self) -> bool:
        """Whether it is an expression."""
        return bool(self.sign)

    def holds(self, value: object) -> bool:
        """Whether a value of plain types is the right one."""
        return bool(_SIGNS[self.sign](value, self.literal))

    def holds_for_other(self) -> bool:
        """Whether a value that is not of plain types is right: it differs from every literal."""
        return self.sign in _NOT_PLAIN_PASSES

    def contradiction(self, value: object) -> str:
        """One line: what the expression was worth and what was expected."""
        return f"{_short(self.source)} gave {_shown(value)}, expected {self.sign} {_shown(self.literal)}"


def parsed(text: str) -> list[ast.stmt]:
    r"""The statements of a text; what Python warns of (a `"\d"` for `"\\d"`) is its author's matter.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: It is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text).body


def read_tests(tests: Sequence[str]) -> tuple[Item, ...]:
    """The items of all tests, in order; empty when there is nothing in them that could fail.

    Raises:
        BadTestError: A test is not Python.
    """
    statements: list[ast.stmt] = []
    for number, text in enumerate(tests, 1):
        try:
            statements += parsed(text.strip())
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadTestError(f"test {number}: {type(error).__name__}: {error}") from error
    try:
        statements = _unroll(statements)
        return tuple(_items(statements)) if _can_fail(statements) else ()
    except RecursionError as error:
        raise BadTestError("the tests are nested too deep") from error


def _items(statements: Sequence[ast.stmt]) -> list[Item]:
    items: list[Item] = []
    run: list[ast.stmt] = []

    def flush() -> None:
        if run:
            source = "\n".join(map(ast.unparse, run))
            items.append(Item(source, _short(source.splitlines()[-1])))
            run.clear()

    for statement in statements:
        value = _value(statement)
        if value is None:
            run.append(statement)
            if isinstance(statement, ast.Assert):
                flush()
        else:
            flush()
            items.append(value)
    flush()
    return items


def _value(statement: ast.stmt) -> Item | None:
    """The item of an assert that compares something with a literal."""
    if not isinstance(statement, ast.Assert):
        return None
    match statement.test:
        case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _COMPARE:
            name = _COMPARE[type(sign)][0]
            for side, other in ((right, left), (left, right)):
                literal = _literal(side)
                if literal and not _literal(other) and (not name.startswith("is") or _single(literal[0])):
                    return Item(ast.unparse(other), ast.unparse(statement), name, literal[0])
    return None


def _literal(node: ast.expr) -> tuple[object] | None:
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError):
        return None


def _single(value: object) -> bool:
    return value is None or value is True or value is False


def _unroll(statements: list[ast.stmt]) -> list[ast.stmt]:
    """`def check(f): assert f(1) == 2; check(add)` as `assert add(1) == 2`, when check only asserts and is not used."""
    functions = [s for s in statements if isinstance(s, ast.FunctionDef)]
    names = [function.name for function in functions]
    checks = {f.name: f for f in functions if _only_asserts(f) and names.count(f.name) == 1}
    unrolled: list[ast.stmt] = []
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) if name in checks:
                continue
            case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=[ast.Name(id=entry)], keywords=[])) if (
                name in checks
            ):
                check = checks[name]
                asserts = [ast.unparse(s) for s in check.body if isinstance(s, ast.Assert)]
                renamed = _Renamed(check.args.args[0].arg, entry)
                unrolled += [renamed.visit(ast.parse(text).body[0]) for text in asserts]
            case _:
                unrolled.append(statement)
    still_used = checks.keys() & _names(unrolled)
    return statements if still_used else unrolled


def _only_asserts(function: ast.FunctionDef) -> bool:
    """One plain parameter, and a body of asserts and texts in which no name is bound."""
    one = [*function.args.posonlyargs, *function.args.kwonlyargs, *function.args.defaults, *function.decorator_list]
    plain = len(function.args.args) == 1 and not one and not function.args.vararg and not function.args.kwarg
    texts = all(
        isinstance(s, ast.Assert) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in function.body
    )
    binds = (ast.Lambda, ast.comprehension, ast.NamedExpr)
    return plain and texts and not any(isinstance(node, binds) for node in ast.walk(function))


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """The same name, or the entry point's."""
        return ast.Name(self._new, node.ctx) if node.id == self._old else node


def _can_fail(statements: Sequence[ast.stmt]) -> bool:
    """Whether something is asserted at the top, or in a function or class that something else there names."""
    for place, statement in enumerate(statements):
        if any(isinstance(node, (ast.Assert, ast.Raise)) for node in ast.walk(statement)):
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                return True
            if statement.name in _names([*statements[:place], *statements[place + 1 :]]):
                return True
    return False


def _names(statements: Sequence[ast.stmt]) -> set[str]:
    return {node.id for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _shown(value: object) -> str:
    try:
        return _short(repr(value))
    except ValueError:
        return "an integer of thousands of digits"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
