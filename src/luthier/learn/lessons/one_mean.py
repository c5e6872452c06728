"""Sixteen rows at once, or four times four."""

from luthier.learn.lesson import Arm, Exercise, Lesson, Outcome, Results

_STEPS = ("max_steps=20", "eval_steps=20", "auto=false", "packing=false")


def _apart(one: Outcome, other: Outcome) -> float:
    """The largest difference between the losses of the same step."""
    pairs = zip(one.losses, other.losses, strict=False)
    return max((abs(a - b) for (_, a), (_, b) in pairs), default=float("inf"))


def _answer(results: Results) -> str:
    apart = max(_apart(results["16x1"], results[name]) for name in ("4x4", "1x16"))
    return "a" if apart < 1e-3 else "b" if results["1x16"].last > results["16x1"].last else "c"


def _why(results: Results) -> str:
    whole = results["16x1"]
    return (
        f"The largest difference at any of the {len(whole.losses)} steps is {_apart(whole, results['4x4']):.1g} for 4 "
        f"x 4 and {_apart(whole, results['1x16']):.1g} for 1 x 16, of a loss of {whole.last:.2f}: the order in which "
        "numbers are added, and nothing else. The gradient of a sum is the sum of the gradients, so passes can be "
        "added up before the one update. It is only right when the sum is divided once, by all trained tokens of the "
        "step. A mean of the passes' own means would count a token of a short answer more than one of a long answer."
    )


def _solved(results: Results, mine: Outcome) -> tuple[bool, str]:
    rows = mine.history.get("training.per_device_train_batch_size", 0)
    apart = _apart(results["16x1"], mine)
    small = f"{rows} rows in a pass" + ("" if rows <= 2 else ", and 2 at most were asked for")
    return rows <= 2 and apart < 1e-3, f"{small}; the losses differ by {apart:.1g}, and 0.001 at most was asked for"


LESSON = Lesson(
    name="one-mean",
    title="The same step in smaller passes",
    idea=(
        "Sixteen rows make one step. They go through the model at once, in four passes of four, or one by one; the "
        "weights are moved once, after the last. In memory that is a large difference."
    ),
    question="How do the losses of the three runs compare?",
    choices={
        "a": "They are the same.",
        "b": "Smaller passes learn worse: each sees less.",
        "c": "Smaller passes learn better: there are more of them.",
    },
    common=_STEPS,
    arms=tuple(
        Arm(f"{rows}x{passes}", (f"per_device_train_batch_size={rows}", f"gradient_accumulation_steps={passes}"))
        for rows, passes in ((16, 1), (4, 4), (1, 16))
    ),
    answer=_answer,
    why=_why,
    usual="a",
    exercise=Exercise(
        task="Memory is short: two rows in a pass at most. Let every loss stay as it is with sixteen at once.",
        start=("per_device_train_batch_size=16", "gradient_accumulation_steps=1"),
        may_change=("training.per_device_train_batch_size", "training.gradient_accumulation_steps"),
        solved=_solved,
    ),
    words=("gradient accumulation", "gradient_accumulation_steps"),
)
