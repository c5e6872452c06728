"""What a family of tasks is made of: arguments, slots for literals and options, code, words, a second opinion.

Code and words are `string.Template`s: `$a`, `$b` are arguments, `$f` the function's own name, other names are slots. A
verb in brackets is conjugated as the opening needs it: "[return] the sum" becomes "returns the sum" after "that".

A slot's value may come in pieces, `x ~ y`: the first fills `$slot`, the second `$slot2`, in code and in words.

Not covered: which names and values are drawn; see `pools` and `build`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Value:
    """One thing a slot may hold: as Python sees it, as code writes it, as words say it (one of them is drawn)."""

    value: Any
    code: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """Values of training, and values that only the `parameter` tasks have."""

    train: tuple[Value, ...]
    held: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Arg:
    """A kind of argument: its usual name, other names, names kept for held-out tasks, nouns, a sampler.

    `sample` gets the random source and the slots' values, so that examples lie near the borders that matter.
    """

    names: tuple[str, ...]
    held: tuple[str, ...]
    nouns: tuple[str, ...]
    sample: Callable[[Random, list[Any]], Any]


@dataclass(frozen=True)
class Family:
    """One small task with parameters."""

    name: str
    """Also the function's name where an instruction gives none."""
    args: tuple[Arg, ...]
    body: str
    train: tuple[str, ...]
    """Ways to say the task in training."""
    held: tuple[str, ...]
    """Ways to say it that no training row has."""
    expect: Callable[..., Any]
    """Called with the slots' values and the arguments: the right result, computed another way than `body`."""
    slots: dict[str, Slot] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """More names that fit the task."""
    imports: str = ""
    inputs: Callable[[Random, SimpleNamespace], tuple[Any, ...]] | None = None
    """Draws examples where those of the arguments' kinds would not do."""
    where: Callable[[SimpleNamespace], bool] = lambda p: True
    """Whether these values go together."""
    raises: bool = False
    """Whether raising an exception is part of the task."""
    rivals: tuple[Callable[..., Any], ...] = ()
    """Likely wrong answers that the tests must find, called as `expect` is."""
    label: str = ""
    """The family's name in the rows, where it is not `name`."""
