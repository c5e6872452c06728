"""What is lost when the frozen weights are rounded to four bits."""

from luthier.learn.lesson import Arm, Lesson, Results


def _worse(results: Results) -> float:
    return results["nf4"].held_out / results["whole"].held_out - 1


def _answer(results: Results) -> str:
    worse = _worse(results)
    return "a" if worse < 0.005 else "b" if worse < 0.25 else "c"


def _why(results: Results) -> str:
    whole, nf4 = results["whole"], results["nf4"]
    return (
        f"Held-out loss {whole.held_out:.3f} with the weights as they are, {nf4.held_out:.3f} in NF4: "
        f"{_worse(results):+.1%}. Before anything is learned it is {whole.first:.3f} and {nf4.first:.3f}. NF4 has 16 "
        "values, dense where weights are many, and a scale for each 64 of them; the adapter, in full precision, "
        "learns around what the rounding has changed. That is what 4 bits cost here; they pay where 16 do not fit."
    )


LESSON = Lesson(
    name="four-bits",
    title="Frozen in four bits",
    idea=(
        "QLoRA keeps the frozen weights in NF4: each is one of 16 values, times a scale that 64 neighbours share. "
        "What is trained beside them is not rounded. Two runs, one with the weights as they are and one in 4 bits."
    ),
    question="How much higher is the held-out loss with 4 bits?",
    choices={"a": "Not at all (less than 0.5 %).", "b": "A little (up to a quarter).", "c": "Much."},
    arms=(Arm("whole", ()), Arm("nf4", ("load_in_4bit=true",))),
    answer=_answer,
    why=_why,
    usual="a",
    words=("qlora", "nf4", "load_in_4bit"),
)
