"""How near each form of a run comes to the run as it was trained: a short QLoRA run of the quickstart's model.

    python benchmarks/export.py                   trains 120 steps, compares, writes benchmarks/results/export.json
    python benchmarks/export.py --run checkpoints/quickstart

Each form is compared on the same held-out prompts, at each token of the run's greedy answers: KL from the run's
probabilities to the form's, and the share of equal likeliest tokens. Forms in llama.cpp are compared over the 64
likeliest tokens and a bin for the rest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier import api
from luthier.events.read import read
from luthier.events.types import Log
from luthier.export import llama_cpp
from luthier.export.agree import Agreement, Reference, agreement, reference
from luthier.export.gguf_file import TYPES, write_gguf
from luthier.export.gguf_run import TEXTS
from luthier.export.gguf_vocab import vocabulary
from luthier.export.merge import merged
from luthier.export.prompts import choose
from luthier.generate.load import Tuned, final_folder, load
from luthier.generate.weights import Base, load_tuned
from luthier.machine.record import surroundings

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "export.json"


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or train(Path(folder, "run"), arguments.steps)
        content = measured(run, Path(folder), arguments.prompts)
        events = read(run / "events.jsonl")
        content["steps"] = max(event.step for event, _ in events if isinstance(event, Log))
    content |= {"command": "python benchmarks/export.py", "surroundings": surroundings()}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def train(folder: Path, steps: int) -> Path:
    """A short run of the quickstart."""
    overrides = [f"max_steps={steps}", f"output_dir={folder}", "sample_steps=[]", f"eval_steps={steps}", "report_to=[]"]
    for _ in api.train(ROOT / "configs" / "quickstart.yaml", overrides):
        pass
    return folder


def measured(run: Path, folder: Path, count: int) -> dict[str, Any]:
    """Every form beside the run."""
    tuned = load(run)
    prompts = choose(run, tuned, count=count)
    known = reference(tuned.model, prompts.ids, tuned.stop_ids)
    forms: dict[str, dict[str, Any]] = {}
    for key, found in chain(in_transformers(run, known), in_llama_cpp(run, tuned, known, folder)):
        forms[key] = {name: value for name, value in asdict(found).items() if name != "passed"}
        print(
            f"{found.name:58} mean KL {found.mean_kl:.1e}  max {found.max_kl:.1e}  top-1 {found.top1:.1%}", flush=True
        )
    return {"prompts": prompts.source, "base": tuned.base.numbers, "forms": forms, "tokens": tokens(run, folder)}


def in_transformers(run: Path, known: Reference) -> Iterator[tuple[str, Agreement]]:
    """Adapter and merged weights."""
    folder = final_folder(run)
    base = Base.of(folder)
    on_files = load_tuned(folder, replace(base, quantization=None))
    yield "adapter_on_files", agreement("adapter on the weights of the base's files", known, on_files)
    known_on_files = reference(on_files, known.prompts, known.stop_ids)
    for key, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        model = merged(run, dtype=dtype).model.float()
        yield f"merged_{key}", agreement(f"merged onto the trained values, {key}", known, model)
    in_bfloat16 = merged(run, dtype=torch.bfloat16).model
    yield "computed_bfloat16", agreement("merged onto the trained values, computed in bfloat16 too", known, in_bfloat16)
    model = merged(run, onto="files", dtype=torch.bfloat16).model.float()
    yield "merged_onto_files", agreement("merged onto the base's files, bfloat16", known, model)
    beside = agreement("the same, beside the adapter on these files", known_on_files, model)
    yield "merged_onto_files_itself", beside
    four_bits: Any = load_tuned(folder, base)
    into: nn.Module = four_bits.merge_and_unload()
    yield "merged_into_4_bits", agreement("merged into 4 bits by peft", known, into)


def in_llama_cpp(run: Path, tuned: Tuned, known: Reference, folder: Path) -> Iterator[tuple[str, Agreement]]:
    """GGUF files in llama.cpp."""
    model: Any = merged(run, dtype=torch.float32).model
    words = vocabulary(tuned.tokenizer, model.get_input_embeddings().num_embeddings, tuned.stop_ids)
    for quant in TYPES:
        path = folder / f"{quant}.gguf"
        started = time.monotonic()
        write_gguf(model, words, quant, path, "quickstart")  # type: ignore[arg-type]
        print(f"{path.stat().st_size:,} bytes in {time.monotonic() - started:.1f} s", flush=True)
        found = llama_cpp.agreement_with(f"GGUF {quant} in llama.cpp", known, llama_cpp.listen(path, known))
        yield f"gguf_{quant}", found


def tokens(run: Path, folder: Path) -> dict[str, int]:
    """How many texts the quickstart's own tokenizer and llama.cpp cut into the same tokens."""
    tokenizer = load(run).tokenizer
    heard = llama_cpp.listen(folder / "f16.gguf", None, TEXTS)
    same = sum(ids == tokenizer(text).input_ids for text, ids in zip(TEXTS, heard.tokens, strict=True))
    return {"texts": len(TEXTS), "same": same}


if __name__ == "__main__":
    main()
