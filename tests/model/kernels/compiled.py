"""Compiles every kernel for real cards, without one: `python -m tests.model.kernels.compiled`. No interpreter here.

Prints a JSON object: kernel, card and format -> bytes of machine code, and whether it multiplies and adds in one
rounding.
"""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from luthier.model.kernels import adamw, attention, copies, fp8, gate, launch, loss, nf4, norm, rope

NEW = {"fp8": 89, "attention": 80}
"""Compute capability from which e4m3 is a number format, and from which flash attention stands beside our own."""
FORMATS = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}
CARDS = {"fp16": {"T4": 75}, "fp32": {"T4": 75}, "bf16": {"A100": 80, "L40S": 89, "H200": 90}}


def sources(number: str) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """Kernel, types of its arguments, and its constants, for tensors of one format."""
    x, wide = f"*{number}", {"WIDE": triton.language.float32}
    rows = {"ROWS": 2, "BLOCK": 2048}
    sizes = dict.fromkeys(("count", "size", "groups", "token", "group"), "i32")
    heads = ("grad", "q", "k", "v", "out", "grad_q", "grad_k", "grad_v")
    of_heads = {
        **dict.fromkeys(heads, x), **dict.fromkeys((f"{name}_row" for name in heads), "i32"), "starts": "*i32",
        **dict.fromkeys(("sums", "deltas"), "*fp32"), **dict.fromkeys(("tokens", "documents", "window"), "i32"),
    }  # fmt: skip
    shape = {"GROUP": 4, "SIZE": 64, "SCALE": 0.125, "WINDOW": True, **wide, "ROWS": 64, "KEYS": 64, "DOCUMENTS": 16}
    return {
        "norm": (
            norm._forward, {"x": x, "more": x, "weight": x, "y": x, **sizes},
            {"EPS": 1e-5, "ADD": True, **wide, **rows},
        ),
        "norm backward": (
            norm._backward,
            {"grad": x, "x": x, "weight": x, "onto": x, "out": x, **sizes, "grad_token": "i32", "grad_group": "i32"},
            {"EPS": 1e-5, "ONTO": True, **wide, **rows},
        ),
        "rotation": (
            rope._rotate,
            {"x": x, "cos": "*fp32", "sin": "*fp32", "heads": "i32", "half": "i32", "token_stride": "i32",
             "head_stride": "i32", "cos_stride": "i32", "sin_stride": "i32"},
            {"INVERSE": True, **wide, "ROWS": 32, "BLOCK": 32},
        ),
        "gate": (gate._forward, {"gate_up": x, "out": x, "size": "i32", "stride": "i32"}, {**wide, "BLOCK": 1024}),
        "gate backward": (
            gate._backward,
            {"grad": x, "gate_up": x, "size": "i32", "grad_stride": "i32", "stride": "i32"},
            {**wide, "BLOCK": 1024},
        ),
        "nf4": (
            nf4._unpack,
            {"packed": "*u8", "table": "*fp32", "constants": "*u8", "table8": "*fp32", "constants8": "*fp32",
             "mean": "*fp32", "out": x, "count": "i32"},
            {"GROUP": 64, "GROUP2": 256, "NESTED": True, "BLOCK": 1024},
        ),
        "fp8": (
            fp8._quantize,
            {"x": x, "factor": "*fp32", "out": "*fp8e4nv", "scales": "*fp32", "size": "i32", "stride": "i32"},
            {"LEAST": fp8._LEAST_BITS, "FACTOR": True, "ROUND": False, "BLOCK": 16384},
        ),
        "attention": (attention._attend, of_heads, shape),
        "attention to queries": (attention._backward_queries, of_heads, shape),
        "attention to keys": (attention._backward_keys, of_heads, shape),
        "loss": (
            loss._cross_entropy,
            {"logits": x, "targets": "*i64", "loss": "*fp32", "size": "i32", "stride": "i32", "target_stride": "i32"},
            {"GRADIENT": True, **wide, "BLOCK": 8192},
        ),
        "adamw": (
            adamw._adamw,
            {**dict.fromkeys(("weights", "gradients", "average", "squares", "norm"), "*fp32"), "count": "i32",
             **dict.fromkeys(("new", "new_square", "rate", "correction", "eps", "stays", "max_norm"), "fp32")},
            {"CLIP": True, "BLOCK": 1024},
        ),
        "copies to 16 bits": (
            copies._copy, {"table": "*i64", "base": x, "scale": "*fp32"},
            {"SOURCE": triton.language.float32, "SCALED": False, **wide, "TOGETHER": 8, "ROWS": 256, "BLOCK": 16},
        ),
        "copies from 16 bits": (
            copies._copy, {"table": "*i64", "base": "*fp32", "scale": "*fp32"},
            {"SOURCE": getattr(triton.language, FORMATS[number]), "SCALED": True, **wide, "TOGETHER": 8, "ROWS": 16,
             "BLOCK": 256},
        ),
    }  # fmt: skip


def main() -> None:
    found = {}
    for number, cards in CARDS.items():
        for name, (function, types, constants) in sources(number).items():
            signature = {arg: types.get(arg, "constexpr") for arg in function.arg_names}
            places = {(function.arg_names.index(arg),): value for arg, value in constants.items()}
            options: dict[str, Any] = {"num_warps": 4, "num_stages": 2}  # of attention
            if "BLOCK" in constants:
                options = launch.options(constants["BLOCK"], fuse=name != "nf4")
            for card, capability in cards.items():
                if capability < NEW.get(name.partition(" ")[0], 0):
                    continue
                built = triton.compile(
                    ASTSource(function, signature, places),
                    target=GPUTarget("cuda", capability, 32),
                    options=options,
                )
                fused = "fma." in built.asm["ptx"]
                found[f"{name}, {card} {number}"] = {"bytes": len(built.asm["cubin"]), "fused": fused}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
