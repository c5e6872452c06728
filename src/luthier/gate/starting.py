"""A first config for a user's own rows: what the rows and the model show, and for the rest what is usual.

    MODEL, ROWS -> format, renamed columns, number of rows, longest text of the model -> a short YAML with its reasons

Not covered: which values are best for these rows (`luthier sweep`), and whether all of them can be used: the gate.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from luthier.config.advice import ENOUGH_STEPS, FOR_A_SMALL_BASE, HIGH_FOR_PAIRS, MOST_EPOCHS, good_rate
from luthier.config.render import dump_config_yaml
from luthier.config.schema import Config, DatasetSource, ModelSection, Objective
from luthier.config.values import packaged
from luthier.data.formats import FORMATS, choose_format, guess, renamed, require_renamed
from luthier.data.messages import Message, Preferred, Segment
from luthier.data.problems import Problems, RowError, refuse
from luthier.data.sources import open_source
from luthier.errors import LuthierError
from luthier.events.printable import one_line, short_name
from luthier.model.describe import describe
from luthier.model.hub import load_config

_MOST_COUNTED = 200_000
_LONGEST_PROMPT = 200
_COLUMN = 52
"""Where reasons begin."""
_USUAL_BATCH, _SMALL_BATCH = 16, 8


@dataclass(frozen=True)
class Looked:
    """What a first look at rows shows.

    Attributes:
        source: As the config names it.
        fits: Names of the formats that fit, the chosen one first.
        count: Rows; that many or more from `_MOST_COUNTED` on, and for a dataset of the hub 0: not counted.
        prompt: The first row's question, where it is short and stands alone; else empty.
        final_text: Whether rows are texts as they stand, with no template around them.
        pairs: Whether rows are pairs of a chosen and a rejected answer.
    """

    source: dict[str, Any]
    fits: tuple[str, ...]
    count: int
    prompt: str
    final_text: bool
    pairs: bool = False

    @property
    def unit(self) -> str:
        """What is counted."""
        return "pairs" if self.pairs else "rows"


def look(rows: str, names: Mapping[str, str] | None = None) -> Looked:
    """Open rows, read the first, count them.

    Args:
        rows: A local file or folder, or a dataset of the hub.
        names: {expected: yours} of columns that the user has named (`--columns`).

    Raises:
        DataError: Nothing can be read there, a row of those that are counted cannot be, or the columns look like
            nothing that is known.
    """
    opened = open_source(DatasetSource(path=rows), "train", Path.cwd())
    problems = Problems()
    stream = opened.rows(problems)
    first = next(stream, None)
    if first is None:
        problems.raise_if_any()
        raise refuse("E-DATA-008", "there is no row in it", "give a file with rows", rows)
    where, row = first
    named = dict(names or {})
    require_renamed(named, row, where, "--columns")
    formats, columns = guess(frozenset(renamed(row, named)), where)
    columns = named | columns
    pairs = formats[0] is FORMATS["preference"]
    source: dict[str, Any] = {"path": rows, "format": formats[0].NAME} | ({"columns": columns} if columns else {})
    count = 0
    if Path(packaged(rows)).expanduser().exists():
        count = 1 + sum(1 for _, _ in zip(range(_MOST_COUNTED - 1), stream, strict=False))
    problems.raise_if_any()  # a run would be refused for them
    prompt, final_text = "", False
    with suppress(RowError):
        objective: Objective = "dpo" if pairs else "sft"
        read = choose_format(DatasetSource(**source), row, where, objective).read(renamed(row, columns))
        content = read.chosen if isinstance(read, Preferred) else read
        final_text = isinstance(content[0], Segment)
        question = next((one for one in content if isinstance(one, Message) and one.role == "user"), None)
        if question and not question.context and len(question.content) <= _LONGEST_PROMPT:
            prompt = one_line(question.content)
    return Looked(source, tuple(format.NAME for format in formats), count, prompt, final_text, pairs)


def first_config(model: str, seen: Looked, file: Path) -> str:
    """The text of the YAML.

    Args:
        model: A folder or a name on the hub.
        seen: What `look` found.
        file: Where it will be, for the commands in it.

    Raises:
        ModelError: A folder that is no model.
    """
    own_template, longest, parameters = _of_model(model)
    share = 0.05 if not seen.count or seen.count >= 500 else 0.1 if seen.count >= 20 else 0
    output_dir = _output_dir(seen)
    default = Config().data.max_seq_length
    values: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": model},
        "quantization": {"load_in_4bit": False},
        "lora": {"r": 16, "lora_alpha": 32},
        "data": {
            "datasets": [seen.source],
            "prompt_template": "auto",
            "max_seq_length": min(default, longest or default),
            "val_set_size": share,
        },
        "training": {"output_dir": output_dir},
    }
    if seen.pairs:
        values["training"] = {"objective": "dpo", "output_dir": output_dir, "num_train_epochs": 1}
        values["training"] |= {"learning_rate": float(HIGH_FOR_PAIRS["lora"][2])}
        values["dpo"] = {"beta": Config().dpo.beta}
    told = {} if seen.pairs else _of_size(values, seen.count - round(seen.count * share), parameters)
    if seen.prompt:
        values.setdefault("evaluation", {})["sample_prompts"] = [seen.prompt]
    reasons = {
        "model_name_or_path": "whose weights are adapted: a hub id or a local folder",
        "load_in_4bit": "true: frozen weights in 4 bits, a quarter of their memory",
        "r": "the rank: more of it, more capacity, more memory",
        "lora_alpha": "the adapter is scaled by lora_alpha / r",
        "format": _format_reason(seen.fits),
        "columns": "{expected: yours}",
        "prompt_template": "none around texts as they stand" if seen.final_text else own_template,
        "max_seq_length": "longest row in tokens; longer ones are left out and counted",
        "val_set_size": _held_out(share),
        "objective": "prefer chosen answers to rejected ones; sft: learn answers",
        "output_dir": "log, checkpoints and result",
        "num_train_epochs": f"how often each {seen.unit.removesuffix('s')} is seen",
        "learning_rate": "the usual one for an adapter with DPO",
        "beta": "how strongly the model is held to the one it began as",
        "sample_prompts": "answered at milestones, so that you see it learn",
        **told,
    }
    body = dump_config_yaml(values).rstrip("\n").split("\n")
    lines = [("\n" if not line.startswith(" ") else "") + _with_reason(line, reasons) for line in body]
    return "\n".join((*_head(model, seen, file), *lines)) + "\n"


def _of_size(values: dict[str, dict[str, Any]], rows: int, parameters: int) -> dict[str, str]:
    """Set what depends on the number of rows to train on and on the base's size (0: not known); returns the reasons.

    Few rows in steps of the usual size are a few dozen steps, in which an adapter learns next to nothing: then steps
    are of half as many rows, and there are more epochs. The best evaluation is kept, so more cost time only.
    """
    training, epochs, batch = values["training"], 3, _USUAL_BATCH
    reasons = {"learning_rate": "the usual one for an adapter"}
    few = 0 < rows * epochs < ENOUGH_STEPS * batch
    if few:
        batch = _SMALL_BATCH
        least = min(max(epochs, math.ceil(ENOUGH_STEPS * batch / rows)), MOST_EPOCHS)
        whole = range(least, min(least + 2, MOST_EPOCHS) + 1)
        epochs = min(whole, key=lambda number: rows * number % batch)  # rows that fill no whole step are left out
    training["num_train_epochs"] = epochs
    if few:
        training |= {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": 2}
        reasons["gradient_accumulation_steps"] = f"{batch // 2} x 2 = {batch} rows a step; of few rows more steps"
        steps = max(1, rows * epochs // batch)
        enough = steps >= ENOUGH_STEPS
        ending = "" if enough else f"; {ENOUGH_STEPS} want more rows"
        reasons["num_train_epochs"] = f"{rows} rows x {epochs} / {batch} a step = {steps} steps{ending}"
        if values["data"]["val_set_size"]:
            values["evaluation"] = {"eval_steps": 0.1}
            reasons["eval_steps"] = "ten times in the run; by default four times an epoch"
    training["learning_rate"] = good_rate(parameters)
    if training["learning_rate"] == FOR_A_SMALL_BASE:
        millions = f"{parameters / 1e6:.{0 if parameters >= 10e6 else 1}f}"
        reasons["learning_rate"] = (
            f"so small a base ({millions} million parameters) wants larger steps; a large one 2e-4"
        )
    return reasons


def next_commands(file: Path, seen: Looked) -> tuple[str, str, str]:
    """What to type then: to look at it, to run it, and to measure what came of it."""
    name, run = shlex.quote(str(file)), shlex.quote(_output_dir(seen))
    return f"luthier plan {name} --check", f"luthier train {name}", f"luthier compare {run} --tasks FILE"


def _output_dir(seen: Looked) -> str:
    return f"checkpoints/{_stem(seen.source['path'])}"


def _head(model: str, seen: Looked, file: Path) -> list[str]:
    plan, train, compare = next_commands(file, seen)
    many = " or more" * (seen.count >= _MOST_COUNTED)
    count = f"{seen.count:,}{many} {seen.unit}" if seen.count != 1 else f"1 {seen.unit.removesuffix('s')}"
    rows = f"{count} of " if seen.count else ""
    chat = f"luthier chat {shlex.quote(_output_dir(seen))} --compare"
    width = max(map(len, (plan, train, chat, compare))) + 3
    return [
        f"# {short_name(model)}, taught with {rows}{one_line(str(seen.source['path']))}",
        "#",
        f"#   {plan:<{width}}what will happen, and whether the rows are read as meant; trains nothing",
        f"#   {train:<{width}}run it",
        f"#   {chat:<{width}}ask it, base and tuned side by side",
        f"#   {compare:<{width}}count right answers of both; FILE: your questions, one a line (docs/evaluate.md)",
        "#",
        "# Keys that are left out have their default: luthier explain",
        "# Relative paths count from the folder where luthier is started.",
    ]


def _with_reason(line: str, reasons: Mapping[str, str]) -> str:
    """A line of YAML with its reason behind it; the lines of a list below their key have none."""
    key, colon, _ = line.strip().removeprefix("- ").partition(":")
    reason = reasons.get(key, "") if colon else ""
    return f"{line:<{_COLUMN}}  # {reason}" if reason else line


def _format_reason(fits: tuple[str, ...]) -> str:
    others = f"; {', '.join(fits[1:])} would fit, too" if fits[1:] else ""
    return f"as the columns show{others}"


def _held_out(share: float) -> str:
    if not share:
        return "so few rows: none is held out, so nothing tells whether learning carries over"
    return f"{share:.0%} of the rows are never trained on: does learning carry over?"


def _of_model(model: str) -> tuple[str, int, int]:
    """What to say of the prompt template, the longest text and the parameters; 0 where it is not known yet."""
    place = Path(packaged(model)).expanduser()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if not (place.is_dir() or looks_local):
        return "the tokenizer's chat template if it has one, else Alpaca's", 0, 0
    config = load_config(ModelSection(model_name_or_path=packaged(model)))
    has_own = (place / "chat_template.jinja").is_file() or bool(_json(place / "tokenizer_config.json", "chat_template"))
    longest = getattr(config, "max_position_embeddings", 0) or 0
    parameters = 0
    with suppress(LuthierError):  # the run will say it
        parameters = describe(Config(model=ModelSection(model_name_or_path=packaged(model))), config).parameters
    return "the tokenizer's own" if has_own else "this tokenizer has none: Alpaca's", int(longest), parameters


def _json(path: Path, key: str) -> Any:
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        return json.loads(path.read_text("utf-8")).get(key)
    return None


def _stem(rows: str) -> str:
    name = PurePath(rows).stem or "run"
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
