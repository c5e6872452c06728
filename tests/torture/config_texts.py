"""Texts for damaged configs: whole ones, lines that are traps, and values that nobody would write."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

FLAT: tuple[bytes, ...] = (
    b"base_model: NousResearch/Llama-3.2-1B\nload_in_4bit: true\nadapter: qlora\nlora_r: 32\nlora_alpha: 16\n"
    b"lora_target_linear: true\ndatasets:\n  - path: teknium/GPT4-LLM-Cleaned\n    type: alpaca\nval_set_size: 0.05\n"
    b"sequence_len: 2048\nsample_packing: true\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\nnum_epochs: 1\n"
    b"optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\nbf16: auto\nspecial_tokens:\n",
    b"model_name_or_path: meta-llama/Llama-3.2-1B\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\n"
    b"lora_target: all\ndataset: train.jsonl\ntemplate: llama3\ncutoff_len: 2048\noutput_dir: saves\n"
    b"per_device_train_batch_size: 1\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\nwarmup_ratio: 0.1\nbf16: true\n",
    "training: &t {learning_rate: 2e-4, seed: 1}\nmodel: {revision: 'gr\u00fcn', dtype: \"auto\"}\n".encode(),
    b"\xef\xbb\xbfmodel:\r\n  revision: main\r\ntraining:\r\n  seed: 3\r\n",
)
"""Configs of other tools, flow style, a byte order mark and line ends of Windows."""

_BOMB = b"\n".join(
    [b"a0: &a0 [x, x, x, x, x, x, x, x]"]
    + [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)]
)

TRAPS: tuple[bytes, ...] = (
    b"\tseed: 3", b"training:\n\tseed: 3", b"---", b"...", b"--- # again\nseed: 1", b"%YAML 1.1", b"%TAG ! x\n---",
    b"<<: *nobody", b"x: &x {a: 1}\n<<: *x", b"seed: &s [*s]", b"? [a, b]\n: c", b"? seed\n: 3", b"- seed", b"seed",
    b"seed: !!int 3", b"seed: !!python/object/apply:os.system ['true']", b"seed: !!binary aGk=", b"!!set {a, b}",
    b"seed: 0777", b"seed: 12:30:45", b"seed: 1_000", b"seed: 0x10", b"learning_rate: 1e-4", b"learning_rate: '1e-4'",
    b"load_in_4bit: no", b"load_in_4bit: yes", b"load_in_4bit: 'true'", b"revision: no", b"revision: 1e5",
    b"seed: \xff", b"seed: \xe9", b"se\0ed: 3", b"\xff\xfes\0e\0e\0d\0:\0 \x003\0", b"\xef\xbb\xbfseed: 3",
    b"\x1b[2J: 1",
    b"seed: " + b"9" * 5000, b"seed: " + b"x" * 100_000, b"x" * 2000 + b": 1", b"seed: " + b"[" * 60 + b"]" * 60,
    b"seed: " + b"[" * 5000, b"{" * 500, b"- " * 400 + b"x", _BOMB, b"\n".join(b"k%d: 1" % n for n in range(600)),
    b"seed: 'open", b'seed: "open', b'seed: "\\x"', b'revision: "\\ud800"', b"seed: |\n  3", b"seed: >-\n  3\n  4",
    b"seed: {", b"seed: ]", b"seed: @x", b"seed: `x", b"seed: %x", b"seed: *x", b"seed: &x", b"seed: a: b", b": 3",
    b":",
    b"HF_TOKEN: hf_abcdefghijklmnopqrstuvwxyz", b"wandb_api_key: 0123456789abcdef", b"output_dir: ${NOPE}/x",
    b"output_dir: \"a\\nb\"", b"output_dir: ''", b"output_dir: ~", b"output_dir: ~/x", b"datasets: []",
    b"datasets: [1]",
    b"datasets: {path: [x]}", b"datasets: [[{path: x}]]", b"datasets: [{path: x, columns: {a: 1}}]", b"model: null",
    b"datasets:\n  - path: a\n    path: b", b"training: 5", b"training: [seed]", b"model: {}", b"lora: {lora: {r: 3}}",
    b"training.seed: 3", b"training.lora.r: 3", b"training..seed: 3", b".seed: 3", b"seed.: 3", b"seed : 3", b"seed:3",
)  # fmt: skip
"""Lines that mean something else than they say, or a great deal of it."""

ODD: tuple[str, ...] = (
    "1e-4", "1e999", "-1", "0", "~", "no", "true", ".nan", "-.inf", "0777", "12:30", "[]", "{}", "[1, [2, {a: 3}]]",
    "'4'",
    '"\\ud800"', "*a", "&a 1", "!!int 3", "<<", "? ", "- x", "|", ">", "%", "@", "`", "\t", "\x00", "\ufeff", "#", "",
    "9" * 5000, "hf_" + "a" * 30, "${NOPE}", "~x", "{path: x}", "[{path: 1}]", "!", "auto", "all", "none", "qlora",
    "q_proj,v_proj", "4", "0.5", "2e-4", "cosine", "\u202etxt", "a=b", "x" * 300, "[" * 50, "nf4", "full", "\ud83d",
)  # fmt: skip

_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", "auto", "x.jsonl", "\ud800", "\x1b[31m",
    b"x",
    Path("x"), 1j, object(), {1, 2},
)  # fmt: skip


def plain_value(rng: random.Random, depth: int = 0) -> Any:
    """A Python value of any shape."""
    kind = rng.randrange(6) if depth < 3 else 0
    if kind == 4:
        return [plain_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 5:
        return {rng.choice(("path", "a", "", 3, None)): plain_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return rng.choice(_LEAVES)
