"""Which tokens are learned."""

from luthier.learn.lesson import Arm, Lesson, Results


def _answer(results: Results) -> str:
    answers, all_of_it = results["answers"], results["everything"]
    return "a" if all_of_it.first < answers.first else "b"


def _why(results: Results) -> str:
    answers, all_of_it = results["answers"], results["everything"]
    return (
        f"Before anything is learned the same model has a loss of {answers.first:.2f} on the answers, and of "
        f"{all_of_it.first:.2f} on questions and answers together; at the end {answers.last:.2f} and "
        f"{all_of_it.last:.2f}. The loss is a mean over the tokens that are trained, so another choice of tokens is "
        f"another number: two such losses say nothing about which model is better. Held-out: {answers.held_out:.2f} "
        f"and {all_of_it.held_out:.2f}, again of different tokens. A model that is to answer has no use for writing "
        "questions, and what it spends on them it does not spend on answers."
    )


LESSON = Lesson(
    name="masks",
    title="What is learned: the mask",
    idea=(
        "A row is a question and an answer. The model reads both; the mask says which tokens it has to predict. "
        "completion_only_loss: true trains the answers, false all of it. Two runs, the same rows."
    ),
    question="Before the first update, which of the two shows the lower loss?",
    choices={"a": "The one that trains everything.", "b": "The one that trains the answers only."},
    arms=(Arm("answers", ()), Arm("everything", ("completion_only_loss=false",))),
    answer=_answer,
    why=_why,
    usual="b",
    words=("mask", "completion_only_loss", "loss"),
)
