"""Tokens a second that a model with an adapter writes: by its own layers, and by the lean path in their place.

    python benchmarks/writing.py [--shape 1b|toy | --base FOLDER] [--lanes nf4 bfloat16] [--rows 1 8] [--json FILE]

A model of random weights is loaded as a finished run is (rank-16 adapter on all linear layers), and answers prompts of
64 tokens greedily. Both write in turns, in one process; the first turn of each is not counted, the median of the others
is told. Whether both write the same is told, too: weights are random, so in 16 bits two likeliest tokens can be as good
as equal, and the first one that falls the other way makes a new text.

Not covered: other servers (vLLM, llama.cpp), which write from merged weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from headline import LLAMA_3_2_1B, TOY
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from luthier.generate.weights import Base, load_base
from luthier.machine.record import surroundings
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


def main() -> None:
    """Build the base, measure each lane, and print or write the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("1b", "toy"), default="1b")
    parser.add_argument("--base", help="a model's folder, instead of a shape with random weights")
    parser.add_argument("--lanes", nargs="+", choices=("nf4", "bfloat16", "float32"), default=["nf4", "bfloat16"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=16)
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
    told = {
        "shape": options.base or options.shape,
        "prompt": PROMPT,
        "tokens": options.tokens,
        "turns": options.turns,
        "lanes": lanes,
    }
    told["surroundings"] = surroundings()
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
