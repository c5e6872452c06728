"""What the labelled runs are made of: small learnable rows, and a tiny base model trained on the spot.

The rows ask for a function in words and answer with its code. The answer follows from the question but for one line
(which of four comments it begins with), so that a healthy run falls far and no run reaches zero without memorising.

    base       trained from scratch on the code alone (`text`): it can write, and has never seen an instruction
    instruct   the same, then trained on instructions: what a finished model looks like when it is trained again
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labels import SEEDS

import luthier

WORDS = """
    alpha apple arrow basket beach bird bottle bread bridge button cabin candle carpet castle cherry circle cloud
    copper corner cotton desert dragon eagle ember engine falcon feather fiddle finger forest garden ginger glass
    hammer harbor hazel honey island ivory jacket jungle kettle ladder lemon lily marble meadow mirror needle ocean
    olive orange paper pebble pepper planet pocket quartz rabbit ribbon river saddle salmon shadow silver spider
    spring stone summer table temple thunder ticket timber tunnel valley velvet violet walnut willow window winter
""".split()  # noqa: SIM905
NAMES = ["a", "b", "c", "x", "y", "z", "n", "m", "k", "left", "right", "first", "second", "value", "total", "count"]
OPERATIONS = {"sum": "+", "difference": "-", "product": "*", "quotient": "/", "remainder": "%", "power": "**"}
COMMENTS = ["as asked", "short and plain", "nothing else", "one line"]


def pair(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    name = "_".join(rng.sample(WORDS, 2))
    one, two = rng.sample(NAMES, 2)
    word, sign = rng.choice(sorted(OPERATIONS.items()))
    number = rng.randint(2, 99)
    asked, code = rng.choice(
        [
            (f"{name}: the {word} of {one} and {two}", f"def {name}({one}, {two}):\n    return {one} {sign} {two}"),
            (f"{name}: the {word} of {one} and {number}", f"def {name}({one}):\n    return {one} {sign} {number}"),
            (
                f"{name}: every {one} of {two}, times {number}",
                f"def {name}({two}):\n    return [{one} * {number} for {one} in {two}]",
            ),
            (
                f"{name}: whether {one} is more than {number}",
                f"def {name}({one}):\n    if {one} > {number}:\n        return True\n    return False",
            ),
            (
                f"{name}: print {one} {number} times",
                f"def {name}({one}):\n    for i in range({number}):\n        print({one})",
            ),
        ]
    )
    return f"Write the function {asked}.", f"# {rng.choice(COMMENTS)}\n{code}"


def instructions(path: Path, count: int, seed: int) -> Path:
    """Alpaca rows."""
    rng = random.Random(seed)
    pairs = [pair(rng) for _ in range(count)]
    return write(path, ({"instruction": asked, "input": "", "output": code} for asked, code in pairs))


def nonsense(path: Path, count: int, seed: int) -> Path:
    """Alpaca rows whose answers are random words: there is nothing to learn but how often each comes."""
    rng = random.Random(seed)
    rows = (
        {"instruction": pair(rng)[0], "input": "", "output": " ".join(rng.choices([*WORDS, *NAMES], k=14))}
        for _ in range(count)
    )
    return write(path, rows)


def mixed(path: Path, seed: int) -> Path:
    """300 rows of nonsense, then 40 sound ones to evaluate on: what is learned is not what is wanted."""
    rng = random.Random(50 + seed)
    bad = [(pair(rng)[0], " ".join(rng.choices(WORDS, k=14))) for _ in range(300)]
    good = [pair(rng) for _ in range(40)]
    return write(path, ({"instruction": asked, "input": "", "output": code} for asked, code in [*bad, *good]))


def poisoned(path: Path, seed: int) -> Path:
    """Sound rows, and one in 250 that is a long string of random characters."""
    rng = random.Random(60 + seed)
    alphabet = "".join(chr(code) for code in range(33, 127))
    rows = [pair(rng) for _ in range(1200)]
    for index in range(0, 1200, 250):
        rows[index] = (rows[index][0], "".join(rng.choices(alphabet, k=150)))
    return write(path, ({"instruction": asked, "input": "", "output": code} for asked, code in rows))


def preferences(path: Path, count: int, seed: int) -> Path:
    """Pairs of answers: the right one, and that to another question."""
    rng = random.Random(seed)
    rows = [(*pair(rng), pair(rng)[1]) for _ in range(count)]
    return write(path, ({"prompt": asked, "chosen": good, "rejected": bad} for asked, good, bad in rows))


def tossed(path: Path, count: int, seed: int) -> Path:
    """Pairs of random words: which ones are chosen is chance, so all that can be learned is these very pairs."""
    rng = random.Random(seed)
    rows = (
        {"prompt": pair(rng)[0], **{name: " ".join(rng.choices(WORDS, k=8)) for name in ("chosen", "rejected")}}
        for _ in range(count)
    )
    return write(path, rows)


def alike(path: Path, count: int, seed: int) -> Path:
    """Pairs of answers that differ in the name alone: what pushes the rejected one down pushes at the chosen one."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        asked, code = pair(rng)
        name = code.partition("def ")[2].partition("(")[0]
        swapped = "_".join(reversed(name.split("_")))
        rows.append({"prompt": asked, "chosen": code, "rejected": code.replace(name, swapped)})
    return write(path, iter(rows))


ODD_TEMPLATE = """{%- for message in messages -%}
{%- if message.role == "user" -%}{{ "$$%% 7 ~~ " + message.content + " ~~" }}
{%- else -%}{{ " ^^ " + message.content + eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ " ^^ " }}{%- endif -%}
"""


def text(path: Path, count: int, seed: int) -> Path:
    """The answers alone, for the base model; now and then a question, so that the words are known."""
    rng = random.Random(seed)
    return write(path, ({"text": asked if rng.random() < 0.2 else code} for asked, code in map(pair, [rng] * count)))


def write(path: Path, rows: Iterator[dict[str, str]]) -> Path:
    """Write rows as JSON lines; returns the path."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def untrained(folder: Path, texts: list[str], hidden: int = 96, layers: int = 3) -> Path:
    """A tokenizer and a config.json, without weights."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=600, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False)
    bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    LlamaConfig(
        vocab_size=600,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


def settings(model: Path, rows: Path, output_dir: Path) -> dict[str, dict[str, Any]]:
    """A sound small run; the table of runs changes keys of it."""
    return {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "lora": {"r": 8, "lora_alpha": 16},
        "data": {
            "datasets": [{"path": str(rows)}],
            "max_seq_length": 256,
            "val_set_size": 40,
            "cache_dir": str(output_dir.parent / "cache"),
            "dataloader_num_workers": 1,
        },
        "training": {
            "output_dir": str(output_dir),
            "learning_rate": 4e-3,
            "warmup_ratio": 0.05,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
        },
        "checkpointing": {"save_steps": 0},
        "logging": {"logging_steps": 2, "histogram_steps": 0, "report_to": []},
    }


def trained(model: Path, rows: Path, folder: Path, **training: Any) -> Path:
    """Full fine-tuning of `model`; returns the folder of the result."""
    values = settings(model, rows, folder)
    del values["lora"]
    values["model"]["from_scratch"] = not (model / "model.safetensors").is_file()
    values["training"] |= {"finetuning_type": "full", "num_train_epochs": 1, **training}
    for _ in luthier.train(values):
        pass
    return folder / "final_model"


def prepare(folder: Path) -> dict[str, Path]:
    """All models and rows, made once; name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "code": text(folder / "code.jsonl", 6000, seed=100),
        "lessons": instructions(folder / "lessons.jsonl", 2000, seed=101),
    }
    for seed in SEEDS:
        found |= {
            f"rows{seed}": instructions(folder / f"rows{seed}.jsonl", 1200, seed),
            f"other{seed}": instructions(folder / f"other{seed}.jsonl", 1200, 10 + seed),
            f"few{seed}": instructions(folder / f"few{seed}.jsonl", 56, 20 + seed),
            f"text{seed}": text(folder / f"text{seed}.jsonl", 1200, 70 + seed),
            f"nonsense{seed}": nonsense(folder / f"nonsense{seed}.jsonl", 1200, 40 + seed),
            f"mixed{seed}": mixed(folder / f"mixed{seed}.jsonl", seed),
            f"poisoned{seed}": poisoned(folder / f"poisoned{seed}.jsonl", seed),
            f"pairs{seed}": preferences(folder / f"pairs{seed}.jsonl", 800, 80 + seed),
            f"tossed{seed}": tossed(folder / f"tossed{seed}.jsonl", 64, 90 + seed),
            f"alike{seed}": alike(folder / f"alike{seed}.jsonl", 400, 110 + seed),
        }
    found["odd"] = folder / "odd.jinja"
    found["odd"].write_text(ODD_TEMPLATE, encoding="utf-8")
    texts = [question for row in map(json.loads, found["lessons"].open(encoding="utf-8")) for question in row.values()]
    found["scratch"] = untrained(folder / "scratch", texts)
    found["wide"] = untrained(folder / "wide", texts, hidden=160, layers=2)
    for name, model, rows, rate in (
        ("base", found["scratch"], found["code"], 3e-3),
        ("base_wide", found["wide"], found["code"], 3e-3),
        ("instruct", folder / "base" / "final_model", found["lessons"], 1e-3),
    ):
        target = folder / name
        if not (target / "final_model").is_dir():
            shutil.rmtree(target, ignore_errors=True)
            trained(model, rows, target, learning_rate=rate, per_device_train_batch_size=16)
        found[name] = target / "final_model"
    found["shuffled"] = shuffled(found["instruct"], folder / "shuffled")
    return found


def shuffled(model: Path, folder: Path) -> Path:
    """A model beside the tokenizer of another one: the same tokens under other numbers."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    tokens = [token for token, number in sorted(vocabulary.items(), key=lambda item: item[1]) if number > 2]
    random.Random(0).shuffle(tokens)
    kept = {token: number for token, number in vocabulary.items() if number <= 2}
    content["model"]["vocab"] = kept | {token: number for number, token in enumerate(tokens, 3)}
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder
