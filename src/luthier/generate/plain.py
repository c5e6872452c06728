"""A model that was not trained here, ready to write: a folder in Hugging Face's form, or a name on the hub.

Its own tokenizer, chat template (where it has one, with a fixed date for today's) and stop tokens; its weights in the
numbers of its files. What else its generation_config.json asks for is not done (`luthier.model.sampling`).

Not covered: adapters without a `luthier.json` of ours are runs like any other (`load`); 4 bits for a plain model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.config.outputs import FINAL, RECORD, TRAINED_ON
from luthier.config.values import packaged
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.generate.load import Tuned, load, load_tokenizer, runs_in, try_prompt
from luthier.generate.weights import Base, load_base
from luthier.model.forward import unwrap

_ELSEWHERE = "give the path of a folder that has it"


def is_run(name: str | Path) -> bool:
    """Whether it is a run of ours, or an adapter: the output folder, or its final_model; or a folder of runs.

    The last is none, and is meant as one: who opens it is told which runs there are.
    """
    folder = os.path.expanduser(name)  # noqa: PTH111 (os.path raises nothing)
    marks = (FINAL, "adapter_config.json", RECORD, TRAINED_ON)
    there = any(os.path.exists(os.path.join(folder, mark)) for mark in marks)  # noqa: PTH110, PTH118
    return there or bool(runs_in(folder) and not os.path.exists(os.path.join(folder, "config.json")))  # noqa: PTH110, PTH118


def load_any(name: str | Path, base: str | None = None) -> Tuned:
    """A finished run, or a plain model.

    Args:
        name: Output folder of a run, a model's folder, or its name on the hub.
        base: Which model `as_base` answers with. A run knows its own; a plain model has none unless it is given.

    Raises:
        ModelError: What `load` raises for a run; E-MODEL-001 or E-MODEL-004 for a model that cannot be had or read.
    """
    return load(name, base) if is_run(name) else _load_plain(str(name), base)


def _load_plain(name: str, base: str | None) -> Tuned:
    place = packaged(os.path.expanduser(name))  # noqa: PTH111
    model = load_base(Base(place), "the model", _ELSEWHERE)
    try:
        tokenizer = load_tokenizer(place)
        tuned = Tuned(model, tokenizer, _stops(model, tokenizer), Base(packaged(os.path.expanduser(base or ""))))  # noqa: PTH111
        if tokenizer.chat_template:
            try_prompt(tuned)
    except Exception as error:  # tokenizers raise everything from KeyError to bare Exception for a broken file
        found = f"the tokenizer or chat template of {name} cannot be used: {brief(error)}"
        raise ModelError(Problem("E-MODEL-004", found, f"mend its files, or {_ELSEWHERE}")) from error
    return tuned


def _stops(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """What ends an answer by the generation config, else by the tokenizer; raises ValueError when nothing does."""
    named = unwrap(model).generation_config.eos_token_id
    stops = named if isinstance(named, list) else [tokenizer.eos_token_id if named is None else named]
    if not all(type(token) is int for token in stops):
        raise ValueError("it names no token that ends an answer")
    return tuple(stops)
