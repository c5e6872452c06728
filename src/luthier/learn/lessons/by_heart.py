"""Learning, and learning by heart."""

from luthier.learn.lesson import Arm, Exercise, Lesson, Outcome, Results

_FEW = "data.datasets=[{path: 'luthier:quickstart/rows/train.jsonl', format: alpaca, split: 'train[:60]'}]"
_STEPS = ("max_steps=80", "eval_steps=8")


def _answer(results: Results) -> str:
    few, many = results["few"], results["many"]
    if few.last >= many.last:
        return "c"
    return "a" if few.held_out > many.held_out else "b"


def _why(results: Results) -> str:
    few, many = results["few"], results["many"]
    return (
        f"On its own rows the run with 20 ends at {few.last:.2f}, the one with 1,160 at {many.last:.2f}. On rows that "
        f"neither has seen it is {few.held_out:.2f} against {many.held_out:.2f}. Whoever sees the same 20 answers "
        "again and again can lower the loss by remembering them, and nothing pays for what they have in common. The "
        "training loss cannot tell the two apart; the held-out loss can: with 20 rows it was lowest at "
        f"{few.best_held_out:.2f}, and rose."
    )


def _solved(results: Results, mine: Outcome) -> tuple[bool, str]:
    limit = 1.03 * results["few"].best_held_out
    return mine.held_out <= limit, f"held-out loss at the end {mine.held_out:.3f}; at most {limit:.3f} was asked for"


LESSON = Lesson(
    name="by-heart",
    title="Learning by heart",
    idea=(
        "Two runs take equally many steps of sixteen rows. One has 1,160 rows and sees each of them about once; the "
        "other has 20 rows and sees each some sixty times. Forty other rows are never trained on: the loss on these "
        "is the held-out loss."
    ),
    question="How does the run with 20 rows end, beside the other?",
    choices={
        "a": "Lower training loss, higher held-out loss.",
        "b": "Lower training loss, lower held-out loss.",
        "c": "Higher training loss: 20 rows teach less.",
    },
    common=_STEPS,
    arms=(Arm("many", (), "1,160 rows"), Arm("few", (_FEW,), "20 rows")),
    answer=_answer,
    why=_why,
    usual="a",
    exercise=Exercise(
        task="There are no more rows. End at the lowest held-out loss of the run with 20 rows (3 % more is enough).",
        start=(_FEW,),
        may_change=(
            "training.max_steps", "training.learning_rate", "training.weight_decay", "lora.lora_dropout", "lora.r",
        ),
        solved=_solved,
    ),
    words=("learning by heart", "held out", "epoch"),
)  # fmt: skip
