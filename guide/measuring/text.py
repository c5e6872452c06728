"""From a text to a probability, in the quickstart's base model as it is shipped, and the loop that writes an answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from measuring.drawing import GREY, picture

BASE = Path(luthier.__file__).parent / "quickstart" / "base"
QUESTION, ANSWER = "add_numbers: return the sum of a and b", "def add_numbers(a, b):\n    return a + b"
LAYER, HEAD = 3, 1
"""Counted from 0: the head that looks most at what followed the same token earlier."""
ASKED = "return "
"""The place whose next token is asked for: the last token of that kind."""
LONGEST, SHOWN = 24, 5


def text() -> dict[str, Any]:
    """Every number between the characters of one row and the loss of one of its tokens."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()
    talk = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
    words = [tokenizer.decode([token]) for token in ids]
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    weights_TT = out.attentions[LAYER][0, HEAD]
    draw(words, weights_TT)
    place = len(words) - 1 - words[::-1].index(ASKED)
    logits_V, hidden_D = out.logits[0, place], out.hidden_states[-1][0, place]
    p_V = torch.softmax(logits_V, dim=-1)
    right = ids[place + 1]
    embedding_VD = model.get_input_embeddings().weight
    by_hand = (embedding_VD[right] * hidden_D).sum().item()
    assert math.isclose(by_hand, logits_V[right].item(), abs_tol=1e-4)
    first, second = (i for i, word in enumerate(words) if word == "add")
    settings = model.config
    return {
        "tokens": len(ids),
        "row": pieces(words, ids),
        "vocabulary": settings.vocab_size,
        "width": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "inner": settings.intermediate_size,
        "layer_weights": numbers_of(model.model.layers[0], "proj"),
        "mlp_weights": numbers_of(model.model.layers[0].mlp, "proj"),
        "all_weights": model.num_parameters(),
        "first_id": ids[first],
        "vector": ", ".join(f"{x:+.3f}" for x in embedding_VD[ids[first]][:3].tolist()),
        "layer": LAYER + 1,
        "head": HEAD + 1,
        "looks_back": weights_TT[second, first + 1].item(),
        "then_p": torch.softmax(out.logits[0, second], dim=-1)[ids[first + 1]].item(),
        "table": largest(tokenizer, logits_V, p_V, right),
        "right": words[place + 1],
        "right_logit": logits_V[right].item(),
        "right_p": p_V[right].item(),
        "right_loss": -math.log(p_V[right].item()),
        "sum_of_exp": logits_V.double().exp().sum().item(),
        "right_exp": math.exp(logits_V[right].item()),
        "half_logit": math.log(logits_V.double().exp().sum().item() - math.exp(logits_V[right].item())),
        **write(tokenizer, model, ids[: place + 1]),
    }


def numbers_of(module: torch.nn.Module, word: str) -> int:
    """Of the matrices whose name has that word in it."""
    return sum(p.numel() for name, p in module.named_parameters() if word in name)


def write(tokenizer: Any, model: Any, ids: list[int]) -> dict[str, Any]:
    """Always the likeliest token, until it is the end."""
    written, lines = list(ids), ["| step | likeliest next token | p |", "|---|---|---|"]
    for step in range(1, LONGEST + 1):
        with torch.no_grad():
            p_V = torch.softmax(model(torch.tensor([written])).logits[0, -1], dim=-1)
        token = int(p_V.argmax())
        written.append(token)
        lines.append(f"| {step} | `{shown(tokenizer.decode([token]))}` | {p_V[token]:.2f} |")
        if token == tokenizer.eos_token_id:
            break
    assert written[-1] == tokenizer.eos_token_id, "it does not end"
    return {"loop": "\n".join(lines), "written": tokenizer.decode(written), "steps": step}


def largest(tokenizer: Any, logits_V: torch.Tensor, p_V: torch.Tensor, right: int) -> str:
    """The tokens with the largest logits, and the right one."""
    order = logits_V.argsort(descending=True).tolist()
    chosen = order[:SHOWN] + [right] * (right not in order[:SHOWN])
    lines = ["| place | token | logit | p |", "|---|---|---|---|"]
    for token in chosen:
        name = f"`{shown(tokenizer.decode([token]))}`" + " (the right one)" * (token == right)
        lines.append(f"| {order.index(token) + 1:,} | {name} | {logits_V[token]:.2f} | {p_V[token]:.4f} |")
    return "\n".join(lines)


def pieces(words: list[str], ids: list[int]) -> str:
    """Tokens over their numbers, ten a line."""
    lines = []
    for at in range(0, len(words), 10):
        part = [(shown(word), str(number)) for word, number in zip(words[at : at + 10], ids[at : at + 10], strict=True)]
        wide = [max(map(len, pair)) for pair in part]
        for row in zip(*part, strict=True):
            lines.append(" | ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def shown(word: str) -> str:
    return word.replace("\n", "\\n").replace("|", "\\|").replace(" ", "·")


def draw(words: list[str], weights_TT: torch.Tensor) -> None:
    """Who looks at whom, up to the repeated name; what comes later cannot be seen."""
    count = words.index("(") + 1
    seen = weights_TT[:count, :count].clone()
    seen[torch.ones(count, count).triu(1).bool()] = math.nan
    with picture("attention", height=5.2) as (figure, (axes,)):
        axes.set_facecolor("#e2e8f0")
        image = axes.imshow(seen.numpy(), cmap="Blues", vmin=0, vmax=1)
        names = [shown(word) for word in words[:count]]
        axes.set_xticks(range(count), names, rotation=60, ha="right", family="DejaVu Sans Mono", fontsize=8)
        axes.set_yticks(range(count), names, family="DejaVu Sans Mono", fontsize=8)
        axes.set(xlabel="is looked at", ylabel="looks")
        axes.grid(visible=False)
        axes.text(count * 0.72, count * 0.25, "later tokens:\nmasked", ha="center", color=GREY)
        figure.colorbar(image, ax=axes, label="attention weight", shrink=0.7)
