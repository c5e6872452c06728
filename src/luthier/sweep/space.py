"""What is tried: `KEY=RANGE` on the command line, checked by the config's own schema and rules before the first trial.

    learning_rate=log:1e-4..1e-3     a number; equal factors are equally likely
    lora.lora_dropout=0..0.2         a number; a whole one where the key wants one
    warmup_steps=int:0..100          a whole number, both ends included
    lora.r=8,16,32                   one of these
    seed=7                           no range: holds for every trial, as with `luthier train`
    learning_rate                    no value: the learning-rate finder (`luthier.sweep.finder`)

Trials are compared by their loss on the held-out rows, so only keys that leave these rows and this loss as they are
can be tried.

Not covered: which value comes next (`luthier.sweep.study`); rules that need the machine, the model or the rows.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from luthier.config.keys import keys
from luthier.config.load import Loaded, load
from luthier.config.numbers import wants_evaluation
from luthier.config.placing import place_settings
from luthier.config.plan import MachineFacts
from luthier.config.resolve import resolve
from luthier.config.tree import Node, from_python, printable, read_yaml, scalar, shown
from luthier.errors import ConfigError, LuthierError, Problem

FINDER = "learning_rate"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BETWEEN = re.compile(rf"(?:(log|int):)?({_NUMBER})\.\.({_NUMBER})")
_SECTIONS = ("lora.", "quantization.", "training.", "model.dtype")
_OTHER_ROWS = ("training.output_dir", "training.seed")
_OTHER_LOSS = ("training.objective", "dpo.")
"""How the loss is formed: lower with another beta is not better."""
_MOST_COMBINATIONS = 200
"""That are looked at before the first trial: about a millisecond each."""
_MACHINES = tuple(
    MachineFacts(
        device=device,
        device_name=device,
        world_size=1,
        supports_bfloat16=True,
        memory_gib=0.0,
        free_memory_gib=0.0,
        cpu_cores=1,
        has_bitsandbytes=True,
        supports_fp8=True,
        is_here=False,
    )
    for device in ("cuda", "cpu")
)
"""Two that can do everything between them: where a trial runs is not known yet, and asking needs torch."""
_GRAMMAR = "write log:1e-4..1e-3, 0..0.2, int:0..100 or 8,16,32"


@dataclass(frozen=True)
class Range:
    """The values of one key.

    Attributes:
        key: Dotted.
        text: As the user wrote it.
        choices: What is tried, as YAML; empty for a range of numbers.
        low: Smallest value.
        high: Largest value, included.
        log: Equal factors are equally likely.
        whole: Whole numbers only.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def name(self) -> str:
        """The key without its section."""
        return self.key.partition(".")[2]

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that are checked: all choices, or both ends."""
        return self.choices or tuple(json.dumps(int(end) if self.whole else end) for end in (self.low, self.high))


@dataclass(frozen=True)
class Space:
    """A sweep as it was asked for.

    Attributes:
        loaded: The config with the overrides that hold for every trial.
        ranges: What is tried.
        finder: Whether the learning rate is to be found; `luthier.sweep.finder` fills in the ranges then.
        fixed: More overrides for every trial, which do not belong into the best config.
    """

    loaded: Loaded
    ranges: tuple[Range, ...]
    finder: bool = False
    fixed: tuple[str, ...] = ()

    @property
    def combinations(self) -> int | None:
        """How many there are; None where a range has no end of values."""
        return prod(len(r.choices) for r in self.ranges) if all(r.choices for r in self.ranges) else None


def read_space(path: Path, words: Sequence[str]) -> Space:
    """Read the command line of a sweep.

    Args:
        path: The config.
        words: ``KEY=RANGE`` and ``KEY=VALUE``, or ``learning_rate`` alone.

    Raises:
        ConfigError: E-SWEEP-001 for what is no range, E-SWEEP-002 when no rows are held out, and whatever the config
            says to a value.
    """
    finder = FINDER in words
    found: dict[str, Range] = {}
    fixed: list[str] = []
    problems: list[Problem] = []
    for word in words:
        if word == FINDER:
            continue
        try:
            one = _read(word)
            if one is None:
                fixed.append(word)
            elif one.key in found:
                raise _wrong(f"{one.key} stands twice", "keep one range for a key", word)
            else:
                found[one.key] = one
        except LuthierError as error:
            problems += error.problems
    if not (problems or found or finder):
        found_none = f"there is no range to try{' in ' + ', '.join(map(printable, fixed)) if fixed else ''}"
        problems.append(Problem("E-SWEEP-001", found_none, _GRAMMAR, "command line"))
    if finder and found:
        fix = "give learning_rate a range too, or sweep it alone"
        problems.append(Problem("E-SWEEP-001", "learning_rate has no range beside other ranges", fix, "command line"))
    if problems:
        raise ConfigError(*problems)
    loaded = load(path, fixed)
    _check(path, fixed, loaded, [*found.values()] or [finder_range(loaded)])
    return Space(loaded, tuple(found.values()), finder)


def finder_range(loaded: Loaded) -> Range:
    """From which rate to which one the finder looks: no schedule begins below its own floor."""
    low, high = (1e-6, 1e-3) if loaded.config.training.objective == "dpo" else (1e-5, 1e-2)
    low = max(low, loaded.config.training.min_learning_rate)
    return Range("training.learning_rate", FINDER, low=low, high=high, log=True)


def _read(word: str) -> Range | None:
    """The range that a word of the command line is; None where it is an ordinary override."""
    name, equals, text = word.partition("=")
    name, text = name.strip(), text.strip()
    if not equals:
        return None  # the config says what is wrong with it
    match = _BETWEEN.fullmatch(text)
    if match:
        return _between(name, text, match)
    if text.startswith(("log:", "int:")):
        raise _wrong(f"{shown(text)} is no range", _GRAMMAR, name)
    try:
        values = read_yaml(f"[{text}]", lambda _: _place(name)).plain()
    except ConfigError:
        return None
    if len(values) < 2:
        return None
    choices = tuple(json.dumps(value) for value in values)
    if len(set(choices)) < len(choices):
        raise _wrong(f"{shown(text)} holds a value twice", "write each value once", name)
    return Range(_dotted(name, *values), text, choices)


def _between(name: str, text: str, match: re.Match[str]) -> Range:
    low, high = scalar(match[2]), scalar(match[3])
    key = _dotted(name, low, high)
    whole = match[1] == "int" or keys()[key].expects.startswith("a whole number")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise _wrong(f"{shown(text)} has an end that is no whole number", f"{name}=8..64", name)
    if low >= high:
        raise _wrong(f"{shown(text)} does not rise", f"{name}={match[3]}..{match[2]}, or other ends", name)
    if match[1] == "log" and low <= 0:
        raise _wrong(f"{shown(text)}: equal factors never lead to {match[2]}", f"{name}=log:1e-5..{match[3]}", name)
    return Range(key, text, low=low, high=high, log=match[1] == "log", whole=whole)


def _dotted(name: str, *values: Any) -> str:
    """The key that an override sets.

    Raises:
        ConfigError: It sets none, several, or one that cannot be tried.
    """
    named: set[str] = set()
    for value in values:
        placed = place_settings(Node({name: from_python(value, _place(name))}, _place(name)))
        if placed.problems:
            raise ConfigError(*placed.problems)
        named |= {key if setting.node.plain() == value else "" for key, setting in placed.settings.items()} or {""}
    if len(named) != 1 or "" in named:
        raise _wrong(
            f"{printable(name)} is no single key here", "name the key itself: luthier explain lists them", name
        )
    (key,) = named
    if not key.startswith(_SECTIONS) or key in _OTHER_ROWS or key.startswith(_OTHER_LOSS):
        fix = "try keys of lora, quantization and training; luthier compare compares other runs"
        other_rows = key.startswith("data.")
        why = "losses on other held-out rows cannot be compared" if other_rows else "no loss depends on it"
        if key == "training.seed":
            why = "the lowest loss of several seeds is luck, and a seed draws the held-out rows, too"
            fix = "train a run with each, in an output_dir of its own, and tell the mean and range of all"
        why = "losses that are formed in another way cannot be compared" if key.startswith(_OTHER_LOSS) else why
        raise _wrong(f"{key} cannot be tried: {why}", fix, name)
    return key


def _check(path: Path, fixed: Sequence[str], loaded: Loaded, ranges: Sequence[Range]) -> None:
    """Every choice and every end alone; where these are right, what stands together in a trial."""
    problems: dict[str, Problem] = {}
    values: dict[str, list[Any]] = {one.key: [] for one in ranges}
    for one in ranges:
        if loaded.sources[one.key] == "override":
            fix = "keep the range or the value"
            problems[one.key] = _problem(f"{one.key} has a value and a range", fix, one.name)
            continue
        for value in one.ends:
            try:
                values[one.key].append(load(path, [*fixed, f"{one.key}={value}"]).config.value(one.key))
            except ConfigError as error:
                problems |= {problem.render(): problem for problem in error.problems}
    if not wants_evaluation(loaded.config):
        fix = "write data.val_set_size: 0.05, and no evaluation.eval_steps: 0"
        found = "no rows are held out, or they are never looked at"
        problems["evaluation"] = Problem("E-SWEEP-002", found, fix, loaded.sources["data.val_set_size"])
    if not problems:
        problems = {problem.render(): problem for problem in _clashes(loaded, values)}
    if problems:
        raise ConfigError(*problems.values())


def _clashes(loaded: Loaded, values: Mapping[str, Sequence[Any]]) -> list[Problem]:
    """What no machine can do of the combinations: each of them, or some of very many."""
    combinations: Iterable[Sequence[Any]] = product(*values.values())
    if prod(map(len, values.values())) > _MOST_COMBINATIONS:
        draw = random.Random(0)
        combinations = [[draw.choice(each) for each in values.values()] for _ in range(_MOST_COMBINATIONS)]
    found: list[Problem] = []
    for combination in combinations:
        trial = _with(loaded, dict(zip(values, combination, strict=True)))
        first, second = (_problems(trial, machine) for machine in _MACHINES)
        found += [problem for problem in first if problem in second]
    return found


def _problems(loaded: Loaded, machine: MachineFacts) -> Sequence[Problem]:
    try:
        resolve(loaded, machine, None, None)
    except ConfigError as error:
        return error.problems
    return ()


def _with(loaded: Loaded, values: Mapping[str, Any]) -> Loaded:
    """The config with values that are right each for itself."""
    sources = {**loaded.sources, **dict.fromkeys(values, "override")}
    return replace(loaded, config=loaded.config.with_values(values), sources=sources)


def _problem(found: str, fix: str, name: str) -> Problem:
    return Problem("E-SWEEP-001", found, fix, _place(name))


def _place(name: str) -> str:
    return f"override {printable(name)[:80]}=..."


def _wrong(found: str, fix: str, name: str) -> ConfigError:
    return ConfigError(_problem(found, fix, name))


def value_of(text: str | float) -> Any:
    """The plain value of a trial's parameter."""
    return json.loads(text) if isinstance(text, str) else text
