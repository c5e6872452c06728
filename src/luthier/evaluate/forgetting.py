"""Has the model forgotten other things? Its mean loss a token on general text that no training row is like.

    loss = sum over passages of -ln p(token | passage before it)  /  number of these tokens         nats a token

Passages are what lies between empty lines. Tuned and base read the same tokens, so the difference is paired; its
interval comes from drawing whole passages again (words of one passage are not independent).

The text that comes with Luthier is short English prose on many subjects, written for this purpose and published here
first. Give a longer one of your own kind, with empty lines in it, for a sharper answer.

Not covered: which abilities were lost; a loss says that something changed, benchmarks say what.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from math import fsum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.errors import DataError, Problem
from luthier.evaluate.answers import Answers, hashed
from luthier.evaluate.candidate import Asked
from luthier.evaluate.statistics import bootstrap_ratio
from luthier.generate.load import Tuned
from luthier.model.forward import inference, unwrap

GENERAL = "general"
NONE = "none"
_MOST_TOKENS = 1024
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Passages:
    """A text to read.

    Attributes:
        name: `general`, or the user's file.
        texts: At least one passage.
    """

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Forgetting:
    """Mean loss a token, in nats, of a model and its base on the same tokens.

    Attributes:
        text: Name of the text.
        passages: How many it has.
        tokens: How many were predicted.
        base: Loss of the base; None where a model is looked at alone.
        tuned: Loss of the model.
        difference: Tuned minus base.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
    """

    text: str
    passages: int
    tokens: int
    base: float | None
    tuned: float
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        """One sentence; which text it was, where it is not the usual one."""
        of = "" if self.text == GENERAL else f", on {self.text}"
        if self.base is None:
            return f"loss {self.tuned:.3f} nats a token{of}"
        said = "rose" if self.low > 0 else "fell" if self.high < 0 else "did not clearly change,"
        change = f"{self.difference:+.3f} nats a token (95 % CI {self.low:+.3f} to {self.high:+.3f})"
        return f"loss {said} from {self.base:.3f} to {self.tuned:.3f}: {change}{of}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_passages(name: str) -> Passages | None:
    """The text to read.

    Args:
        name: `general`, a file, or `none`.

    Raises:
        DataError: E-EVAL-028 when the file cannot be read or is empty.
    """
    if name == NONE:
        return None
    try:
        place = files("luthier.evaluate").joinpath("general.txt") if name == GENERAL else Path(name).expanduser()
        text = place.read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        said = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", "") or error
        raise DataError(Problem("E-EVAL-028", f"cannot be read: {said}", "give a file of text", name)) from error
    texts = tuple(part.strip() for part in _EMPTY_LINE.split(text.replace("\r\n", "\n")) if part.strip())
    if not texts:
        raise DataError(Problem("E-EVAL-028", "there is no text in it", "give a file of text", name))
    return Passages(name, texts)


def losses(asked: Asked, passages: Passages, answers: Answers) -> list[tuple[float, int]]:
    """Of each passage the sum of its tokens' losses in nats, and how many tokens were predicted.

    Args:
        asked: The model.
        passages: What it reads.
        answers: What is known from before; new sums are added.
    """
    key = hashed(["losses", passages.texts, _MOST_TOKENS])
    if key not in answers:
        with asked.ready() as tuned:
            answers.add({key: [_loss(tuned, text) for text in passages.texts]})
    return [(float(total), int(tokens)) for total, tokens in answers[key]]


def forgotten(
    passages: Passages, tuned: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]] | None
) -> Forgetting:
    """The two beside each other."""
    counts = [tokens for _, tokens in tuned]
    tokens = max(1, sum(counts))
    after = fsum(total for total, _ in tuned) / tokens
    if base is None:
        return Forgetting(passages.name, len(counts), tokens, None, after)
    changes = [new - old for (new, _), (old, _) in zip(tuned, base, strict=True)]
    before = fsum(total for total, _ in base) / tokens
    low, high = bootstrap_ratio(changes, [max(1, count) for count in counts])
    return Forgetting(passages.name, len(counts), tokens, before, after, after - before, low, high)


def _loss(tuned: Tuned, text: str) -> tuple[float, int]:
    causal_lm = unwrap(tuned.model)
    most = getattr(causal_lm.config.get_text_config(), "max_position_embeddings", None) or _MOST_TOKENS
    ids = tuned.tokenizer(text).input_ids[: min(most, _MOST_TOKENS)]
    if len(ids) < 2:
        return 0.0, 0
    ids_1T = torch.tensor([ids], device=next(causal_lm.parameters()).device)
    with inference(tuned.model):
        logits_TV = causal_lm(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
        return float(nn.functional.cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum")), len(ids) - 1
