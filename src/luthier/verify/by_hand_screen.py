"""One step by hand on a terminal: each stage with its numbers, and a sentence of why.

Nothing of a row reaches the terminal as it is, and nothing is read as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from luthier.config.plan import Memory, Plan
from luthier.errors.terminal import wrapped
from luthier.events.printable import visible
from luthier.gate.screen import show_rows
from luthier.verify.by_hand import AdamW, ByHand, Row, adamw

_WORD, _GAP = 11, 3
_CELL = _WORD + 25
_INDENT = "   "


def memory_warning(memory: Memory) -> str:
    """What is said where a step does not fit into the memory that is free; empty where it does."""
    if memory.gib <= memory.room_gib:
        return ""
    return (
        f"warning: a step of this row holds {memory.gib:.2f} GiB as the plan forecasts it, and there is room for "
        f"{memory.room_gib:.2f}; what luthier plan shows under memory says of what"
    )


def show_step(console: Console, plan: Plan, row: Row, step: ByHand) -> None:
    """Print the row, then the step."""
    show_rows(console, [row.shown], most_lines=None)
    room = min(console.width, 120) - 1
    count = len(step.before)
    told = adamw(plan, step)
    for number, (title, numbers, why) in enumerate(
        (
            ("Forward: what the model expects", _tokens(row.words, step, room), _FORWARD),
            ("The loss: their mean", _loss(step, count), _LOSS),
            ("Backward: the gradient", _gradient(step), _BACKWARD),
            ("Clipping", _clipping(step, plan.config.training.max_grad_norm), _CLIPPING),
            ("AdamW: the update", _update(plan, step, told), _ADAMW),
            ("The same row again", _again(step), _AGAIN),
        ),
        1,
    ):
        console.print()
        console.print(Text(f"{number}. {title}", "bold"), soft_wrap=True)
        for line in numbers:
            console.print(Text(line if line[:1] == " " else wrapped(line, _INDENT, _INDENT, room)), soft_wrap=True)
        console.print(Text(wrapped(f"Why: {why}", _INDENT, _INDENT, room), "dim"), soft_wrap=True)


_FORWARD = (
    "from all tokens before it the model gives each token of its vocabulary a probability; p is that of the token that "
    "is really there. -ln p is 0 where the model was certain and right, and grows without end where it was wrong."
)
_LOSS = (
    "each trained token counts alike, in whichever row it stands. A real step takes one mean over the trained tokens "
    "of all its rows."
)
_BACKWARD = (
    "for each trained number the gradient says how the loss would change if the number grew a little: plus, it has to "
    "fall; minus, it has to rise."
)
_CLIPPING = (
    "a row that pulls much harder than the others would throw the weights far away, and stay in AdamW's averages for "
    "many steps. The direction is kept, the length is not."
)
_ADAMW = (
    "divided by its usual size, a gradient is about 1 or -1, so a step moves a number by about the learning rate. In "
    "the first step that is exact and clipping does not show: both averages have seen this one gradient only."
)
_AGAIN = (
    "the step was made for this row alone. In training the rows of a step pull in different directions, and what they "
    "agree on is what is learned."
)


def _tokens(words: Iterable[str], step: ByHand, room: int) -> Iterator[str]:
    """A cell for each token, as many side by side as there is room for, read like text."""
    columns = max(1, (room - len(_INDENT) + _GAP) // (_CELL + _GAP))
    head = f"{'token':<{_WORD}} {'p':>8} {'-ln p':>7}  {'after':>6}"
    cells = [_cell(*each) for each in zip(words, step.before, step.after, strict=True)]
    columns = min(columns, len(cells))
    yield _INDENT + (" " * _GAP).join([head] * columns)
    for start in range(0, len(cells), columns):
        yield (_INDENT + (" " * _GAP).join(cells[start : start + columns])).rstrip()


def _cell(word: str, before: float, after: float) -> str:
    shown = "".join("↵" if char == "\n" else "⇥" if char == "\t" else visible(char) for char in word)
    shown = shown.replace(" ", "·")
    if cell_len(shown) > _WORD:
        shown = set_cell_size(shown, _WORD - 1) + "…"
    return f"{set_cell_size(shown, _WORD)} {_probability(before):>8} {before:>7.3f}  {after:>6.3f}"


def _probability(loss: float) -> str:
    p = math.exp(-loss)
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}"


def _loss(step: ByHand, count: int) -> Iterator[str]:
    total = math.fsum(step.before)
    first = max(range(count), key=lambda i: step.before[i])
    yield f"{_INDENT}{total:.3f} / {count:,} trained token{'s' * (count > 1)} = {total / count:.4f}"
    yield (
        f"Training's own pass computes {step.loss:.4f}. The least expected token alone is "
        f"{step.before[first] / total if total else 0:.0%} of the sum. e^-loss, the geometric mean of all p, is "
        f"{math.exp(-step.loss):.1%}."
    )


def _gradient(step: ByHand) -> Iterator[str]:
    moved = step.moved
    adapter = "lora_B" in moved.name
    yield (
        f"The strongest one {'in any B of the adapter' if adapter else 'of all'} is that of row {moved.row}, column "
        f"{moved.column} in {_matrix(moved.name)}: {moved.gradient:+.6g}."
    )
    if adapter and step.gradient_of_a == 0:
        yield "All gradients of A are 0: B is still zero, so A changes nothing yet. From the second step on it does."
    yield f"The length of all of them together (the root of the sum of their squares) is {step.norm:.4f}: grad_norm."


def _matrix(name: str) -> str:
    """Its place in the model, without what all have in common."""
    return name.removeprefix("base_model.model.").removesuffix(".weight").replace(".default", "")


def _clipping(step: ByHand, limit: float) -> Iterator[str]:
    if limit <= 0:
        yield "max_grad_norm is 0: nothing is shortened."
    elif step.factor == 1:
        yield f"{step.norm:.4f} is not above max_grad_norm, {limit:g}: nothing is shortened (factor 1)."
    else:
        yield f"{_INDENT}{limit:g} / {step.norm:.4f} = {step.factor:.4f}    max_grad_norm / grad_norm"
        yield (
            f"All gradients are multiplied by it; ours becomes {step.moved.gradient:+.6g} x {step.factor:.4f} = "
            f"{step.moved.gradient * step.factor:+.6g}."
        )


def _update(plan: Plan, step: ByHand, told: AdamW) -> Iterator[str]:
    training, moved = plan.config.training, step.moved
    one, two = training.adam_beta1, training.adam_beta2
    decay = f" + {moved.decay:g} x {moved.before:.6g}" if moved.decay else ""
    yield f"{_INDENT}g  = {told.gradient:+.6g}"
    yield f"{_INDENT}m  = {one:g} x 0 + (1 - {one:g}) x g = {told.m:+.4g}    average of gradients"
    yield f"{_INDENT}v  = {two:g} x 0 + (1 - {two:g}) x g^2 = {told.v:.4g}    average of squares"
    yield f"{_INDENT}m^ = m / (1 - {one:g}) = {told.mean:+.6g}    as both began at 0"
    yield f"{_INDENT}v^ = v / (1 - {two:g}), and its root is {told.root:.6g}"
    move = f"({told.mean:+.4g} / ({told.root:.4g} + {training.adam_epsilon:g}){decay})"
    yield f"{_INDENT}w  = {moved.before:.8g} - {step.rate:g} x {move}"
    yield f"{_INDENT}   = {told.after:.8g}    by this arithmetic, in float64"
    yield f"{_INDENT}   = {moved.after:.8g}    in the model, by {training.optim}"
    if step.first_rate != step.rate:
        first = f"step 1 of the run, in its warmup, has {step.first_rate:.4g}"
        yield f"{step.rate:g} is the learning_rate at its peak; {first}."
    if "lora_" in moved.name:
        yield f"W itself has not moved: beside it (lora_alpha / r) B A now counts, {_scale(plan)}."


def _scale(plan: Plan) -> str:
    lora = plan.config.lora
    if lora.use_rslora:
        return f"{lora.lora_alpha:g} / sqrt({lora.r}) = {lora.lora_alpha / math.sqrt(lora.r):.4g} times (use_rslora)"
    return f"{lora.lora_alpha:g} / {lora.r} = {lora.lora_alpha / lora.r:.4g} times"


def _again(step: ByHand) -> Iterator[str]:
    after = math.fsum(step.after) / len(step.after)
    change = after - math.fsum(step.before) / len(step.before)
    yield f"{_INDENT}loss {after - change:.4f} -> {after:.4f}  ({change:+.4f})    each token's: column after"
    if change > 0:
        yield "It rose: the step is too long for this row. A lower learning_rate would make it fall."
