"""Tokens a second that a model with an adapter writes: by its own layers, and by the lean path in their place.

    python benchmarks/writing.py [--shape 1b|toy | --base FOLDER] [--lanes nf4 bfloat16] [--rows 1 8] [--many 96]
                                 [--json FILE]

A model of random weights is loaded as a finished run is (rank-16 adapter on all linear layers), and answers prompts of
64 tokens greedily. Both write in turns, in one process; the first turn of each is not counted, the median of the others
is told. Whether both write the same is told, too: weights are random, so in 16 bits two likeliest tokens can be as good
as equal, and the first one that falls the other way makes a new text.

Then the lean path writes many answers of unlike length, those of rows that the package has: in groups, each to its end,
and all at once, so that one begins where another has ended.

Not covered: other servers (vLLM, llama.cpp), which write from merged weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from headline import LLAMA_3_2_1B, TOY
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from luthier.config.values import packaged
from luthier.generate.weights import Base, load_base
from luthier.machine.record import surroundings
from luthier.model.batching import MAX_BATCH, Manner, write_rows
from luthier.model.forward import to_evaluation
from luthier.model.sampling import continue_many
from luthier.model.writers import write_lean

PROMPT = 64


def tuned(folder: Path, lane: str) -> Any:
    """The base in the lane's numbers, with an adapter that changes what is written."""
    dtype, quantization = ("bfloat16", {}) if lane == "nf4" else (lane, None)
    model = load_base(Base(str(folder), dtype=dtype, quantization=quantization))
    torch.manual_seed(1)
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0.0, 0.02)
    return to_evaluation(model)


def measure(folder: Path, lane: str, rows: list[int], tokens: int, turns: int) -> dict[str, Any]:
    """Tokens a second of both, for each number of rows."""
    own, lean = tuned(folder, lane), tuned(folder, lane)
    write_lean(lean)
    found: dict[str, Any] = {}
    for count in rows:
        prompts = [[1, *((7 * i + 13 * n) % 400 + 3 for i in range(PROMPT - 1))] for n in range(count)]
        rates: dict[str, list[float]] = {"own": [], "lean": []}
        texts: dict[str, Any] = {}
        for _ in range(turns + 1):
            for name, model in (("own", own), ("lean", lean)):
                started = time.perf_counter()
                texts[name] = continue_many(model, prompts, [0], tokens)
                rates[name].append(sum(map(len, texts[name])) / (time.perf_counter() - started))
        medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
        same = sum(a == b for a, b in zip(*texts.values(), strict=True))
        found[str(count)] = {**medians, "times": medians["lean"] / medians["own"], "same_texts": same}
        print(lane, count, found[str(count)], flush=True)
    return found


@dataclass
class _Asked:
    """A prompt, and how long its answer is; a `luthier.model.batching.Row`."""

    prompt_ids: list[int]
    room: int
    ids: list[int] = field(default_factory=list)
    ended: str = ""

    def take(self, token: int) -> None:
        """Whatever it is."""
        self.ids.append(token)
        self.ended = "length" if len(self.ids) == self.room else ""


def unlike(folder: Path, lane: str, count: int, turns: int) -> dict[str, Any]:
    """Tokens a second of so many answers: in groups of `MAX_BATCH`, and each in the place of one that has ended."""
    lengths = answer_lengths(count)
    model = tuned(folder, lane)
    write_lean(model)
    rates: dict[str, list[float]] = {"groups": [], "joining": []}
    for _ in range(turns + 1):
        for name, size in (("groups", MAX_BATCH), ("joining", count)):
            rows = [_Asked([1, *range(5, 4 + prompt)], answer) for prompt, answer in lengths]
            rows.sort(key=lambda row: -len(row.prompt_ids))
            started = time.perf_counter()
            for start in range(0, count, size):
                write_rows(model, rows[start : start + size], Manner([0]))
            assert all(row.ended for row in rows)
            rates[name].append(sum(answer for _, answer in lengths) / (time.perf_counter() - started))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    answers = [answer for _, answer in lengths]
    found = {
        **medians,
        "times": medians["joining"] / medians["groups"],
        "answers": count,
        "mean_tokens": statistics.mean(answers),
        "most_tokens": max(answers),
        "mean_prompt_tokens": statistics.mean(prompt for prompt, _ in lengths),
    }
    print(lane, found, flush=True)
    return found


def answer_lengths(count: int) -> list[tuple[int, int]]:
    """Tokens of prompt and answer of so many rows that the package has, spread over them."""
    tokenizer = AutoTokenizer.from_pretrained(packaged("luthier:quickstart/base"))
    rows = [
        json.loads(line)
        for line in Path(packaged("luthier:quickstart/rows/train.jsonl")).read_text("utf-8").splitlines()
    ]
    some = rows[:: len(rows) // count][:count]
    return [(len(tokenizer(row["instruction"]).input_ids), len(tokenizer(row["output"]).input_ids)) for row in some]


def main() -> None:
    """Build the base, measure each lane, and print or write the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("1b", "toy"), default="1b")
    parser.add_argument("--base", help="a model's folder, instead of a shape with random weights")
    parser.add_argument("--lanes", nargs="+", choices=("nf4", "bfloat16", "float32"), default=["nf4", "bfloat16"])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--many", type=int, default=96, help="answers of unlike length; 0: none")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if not options.base:
            torch.manual_seed(0)
            shape = LLAMA_3_2_1B if options.shape == "1b" else TOY
            config = LlamaConfig(**shape, tie_word_embeddings=True, dtype="bfloat16")
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(made)
        folder = Path(options.base or made)
        lanes = {lane: measure(folder, lane, options.rows, options.tokens, options.turns) for lane in options.lanes}
        many = {lane: unlike(folder, lane, options.many, options.turns) for lane in options.lanes if options.many}
    told = {
        "shape": options.base or options.shape,
        "prompt": PROMPT,
        "tokens": options.tokens,
        "turns": options.turns,
        "lanes": lanes,
        "many": many,
    }
    told["surroundings"] = surroundings()
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
