"""What happens when a step is much too small, or much too large."""

from luthier.learn.lesson import Arm, Exercise, Lesson, Outcome, Results

_RATES = {"small": "1e-7", "middle": "2e-3", "large": "0.5"}


def _answer(results: Results) -> str:
    large, middle = results["large"], results["middle"]
    if large.last < middle.last:
        return "a"
    return "b" if large.last > 0.98 * results["small"].last else "c"


def _why(results: Results) -> str:
    small, middle, large = (results[name] for name in _RATES)
    return (
        f"Step 1 shows the same loss for all three, {middle.first:.2f}: that of its sixteen rows, measured before "
        "anything is learned. Other rows are harder or easier, so compare held-out losses with each other only: at the "
        f"end {middle.held_out:.2f} with 2e-3, {small.held_out:.2f} with 1e-7, {large.held_out:.2f} with 0.5. The run "
        "with 1e-7 ends about where the untouched model is: its steps go the right way, too, and are 20,000 times too "
        "short to show. Those of 0.5 are too long: the gradient says which way is down only for the place where the "
        "weights are, and so long a step lands where it says nothing any more. Too small wastes time; too large "
        "destroys what there was."
    )


def _solved(results: Results, mine: Outcome) -> tuple[bool, str]:
    limit = 1.05 * results["middle"].held_out
    return mine.held_out <= limit, f"held-out loss {mine.held_out:.3f}; at most {limit:.3f} was asked for"


LESSON = Lesson(
    name="learning-rate",
    title="The size of a step",
    idea=(
        "The gradient says, for each weight, which way makes the loss smaller. The learning rate says how far to go. "
        "Three runs see the same rows in the same order and differ in this one number: 1e-7, 2e-3 and 0.5."
    ),
    question="What does the loss of the run with 0.5 do?",
    choices={
        "a": "It falls fastest: larger steps arrive sooner.",
        "b": "It ends at or above that of 1e-7, which hardly moves.",
        "c": "It falls, but less far than with 2e-3.",
    },
    arms=tuple(
        Arm(name, (f"learning_rate={rate}", f"min_learning_rate={float(rate) / 10:g}"), f"learning_rate={rate}")
        for name, rate in _RATES.items()
    ),
    answer=_answer,
    why=_why,
    usual="b",
    exercise=Exercise(
        task="This run hardly learns. Make its held-out loss as low as that of the middle run (5 % more is enough).",
        start=("learning_rate=1e-5", "min_learning_rate=0"),
        may_change=("training.learning_rate", "training.min_learning_rate"),
        solved=_solved,
    ),
    words=("learning_rate", "gradient", "warmup"),
)
