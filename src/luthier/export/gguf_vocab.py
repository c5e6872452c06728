"""A tokenizer of Hugging Face as the keys of a GGUF file, where llama.cpp cuts texts into the same tokens.

    byte-level BPE    -> `gpt2`    tokens, merges, and the name of the way to split that llama.cpp has built in
    sentencepiece BPE -> `llama`   tokens and scores: a token's score is minus the rank of the merge that makes it

llama.cpp knows ways to split by name and takes no other ones, so the split of the tokenizer is looked up among those
whose text is the same. Whether the ids really are the same is tried on texts (`luthier.export.llama_cpp`).

Source: the keys of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Not covered: WordPiece, Unigram.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from transformers import PreTrainedTokenizerBase

from luthier.data.template import adds_bos
from luthier.errors import Problem, RefusedError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES, _BYTES_AND_WORDS = ("ByteLevel", False, False), ("ByteLevel", False, True)
_SPLITS: dict[tuple[Any, ...], tuple[str, bool]] = {
    (_BYTES_AND_WORDS,): ("gpt-2", False),
    (("Digits", True), _BYTES_AND_WORDS): ("smollm", False),
    (("Split", _WORDS + r"\p{N}{1,3}" + _REST, "Isolated", False), _BYTES): ("llama-bpe", True),
    (("Split", _WORDS + r"\p{N}" + _REST, "Isolated", False), _BYTES): ("qwen2", False),
}
"""Steps of a pre-tokenizer -> llama.cpp's name for them, and whether a word that is a token skips merging."""
NEAREST = "smollm"
"""Used when a split that llama.cpp has not is allowed: digits alone, then words."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: `gpt2` or `llama`.
        split: llama.cpp's name for the way to split.
        tokens: One for each row of the embedding.
        types: `gguf.TokenType` of each.
        merges: Of byte-level BPE, first the most important.
        scores: Of sentencepiece.
        special: bos, eos, eot, unk, pad -> id.
        adds_bos: Whether a text begins with BOS.
        adds_eos: Whether it ends with EOS.
        template: The chat template.
        inexact: Why texts are cut otherwise by llama.cpp; empty when nothing is known to differ.
    """

    model: str
    split: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    template: str
    inexact: str


def vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, stop_ids: Sequence[int]) -> Vocabulary:
    """Translate a tokenizer.

    Args:
        tokenizer: A fast one.
        rows: Of the embedding; ids that no token has become unused tokens.
        stop_ids: What ends an answer.

    Raises:
        RefusedError: E-EXPORT-004 when it is of a kind that GGUF has not.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise _refuse(f"a tokenizer of kind {model['type']}")
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in model["merges"]]
    sentencepiece = bool(model.get("byte_fallback"))
    types = {token["id"]: _type(token["content"], token["special"]) for token in content["added_tokens"]}
    names = {index: text for text, index in model["vocab"].items()}
    names |= {token["id"]: token["content"] for token in content["added_tokens"]}
    unknown = model.get("unk_token") if sentencepiece else None
    ranks = {first + second: -float(rank) for rank, (first, second) in reversed(list(enumerate(pairs)))}
    lowest = -float(len(pairs))
    tokens = [names.get(index, f"[PAD{index}]") for index in range(rows)]
    split, inexact = _sentencepiece(content) if sentencepiece else _split(content)
    whole = tokenizer("")["input_ids"]
    return Vocabulary(
        model="llama" if sentencepiece else "gpt2",
        split=split,
        tokens=tokens,
        types=[types.get(i) or _kind(names.get(i), unknown, sentencepiece) for i in range(rows)],
        merges=[] if sentencepiece else [" ".join(pair) for pair in pairs],
        scores=[ranks.get(token, lowest) for token in tokens] if sentencepiece else [],
        special=_special(tokenizer, stop_ids),
        adds_bos=adds_bos(tokenizer),
        adds_eos=bool(whole) and len(whole) > 1 and whole[-1] == tokenizer.eos_token_id,
        template=str(tokenizer.get_chat_template()),
        inexact=inexact,
    )


def _type(text: str, special: bool) -> TokenType:
    return TokenType.CONTROL if special else TokenType.USER_DEFINED


def _kind(text: str | None, unknown: str | None, sentencepiece: bool) -> TokenType:
    if text is None:
        return TokenType.UNUSED
    if text == unknown:
        return TokenType.UNKNOWN
    is_byte = sentencepiece and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _special(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> dict[str, int]:
    named = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unk": tokenizer.unk_token_id,
             "pad": tokenizer.pad_token_id}  # fmt: skip
    turns = [token for token in stop_ids if token != tokenizer.eos_token_id]
    named["eot"] = turns[0] if turns else None
    return {name: int(token) for name, token in named.items() if token is not None}


def _split(content: dict[str, Any]) -> tuple[str, str]:
    """llama.cpp's name for a byte-level tokenizer's way to split, and why it is only near."""
    steps = tuple(_step(step) for step in _flat(content["pre_tokenizer"]))
    if not any(step[0] == "ByteLevel" for step in steps):
        raise _refuse("its BPE works neither on bytes nor as sentencepiece does")
    name, skips = _SPLITS.get(steps, (NEAREST, False))
    normalizer = (content["normalizer"] or {}).get("type")
    if steps not in _SPLITS:
        return name, "its way to split texts is none of those that are built into llama.cpp"
    if bool(content["model"].get("ignore_merges")) != skips:
        return name, "it merges inside of words that are tokens themselves otherwise than llama.cpp does"
    if normalizer not in (None, "NFC"):
        return name, f"it changes texts first ({normalizer})"
    return name, ""


def _sentencepiece(content: dict[str, Any]) -> tuple[str, str]:
    """The same for one that works as sentencepiece does: spaces are the letter U+2581, and none splits a text."""
    kinds = [step["type"] for step in (*_flat(content["normalizer"]), *_flat(content["pre_tokenizer"]))]
    if kinds == ["Prepend", "Replace"]:
        return "default", ""
    if "Metaspace" in kinds:
        return "default", "it puts no space before a text that begins with one, and llama.cpp does"
    return "default", "it changes or splits texts in a way of its own"


def _flat(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return [step for item in inner for step in _flat(item)] if inner else [part]


def _step(step: dict[str, Any]) -> tuple[Any, ...]:
    kind = step["type"]
    if kind == "Split":
        return kind, step["pattern"].get("Regex"), step["behavior"], step["invert"]
    if kind == "Digits":
        return kind, step["individual_digits"]
    if kind == "ByteLevel":
        return kind, step["add_prefix_space"], step["use_regex"]
    return (kind,)


def _refuse(found: str) -> RefusedError:
    return RefusedError(
        Problem("E-EXPORT-004", found, "luthier merge RUN, for programs that read transformers' format")
    )
