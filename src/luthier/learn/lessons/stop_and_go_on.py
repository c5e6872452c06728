"""What a run that is stopped has to remember."""

from luthier.learn.lesson import Arm, Lesson, Results


def _equal(results: Results) -> bool:
    straight, stopped = (results[name].losses for name in ("straight", "stopped"))
    return straight == stopped


def _answer(results: Results) -> str:
    if _equal(results):
        return "a"
    return "b" if results["stopped"].last > results["straight"].last else "c"


def _why(results: Results) -> str:
    straight, stopped = results["straight"], results["stopped"]
    same = "equal to the last bit" if _equal(results) else "not equal"
    return (
        f"The losses of all {len(straight.losses)} steps are {same} ({straight.last:.4f} and {stopped.last:.4f} at "
        "the end). The weights alone would not do it. A checkpoint also holds AdamW's two moments of every trained "
        "number, the place in the schedule, the place in the rows, and the random generators, here for dropout. "
        "Leave one out, and the run goes on well enough to be believed, and is another run."
    )


LESSON = Lesson(
    name="stop-and-go-on",
    title="Stopped, and gone on",
    idea=(
        "One run goes straight through. The other is stopped in the middle and started again from its checkpoint. "
        "Both drop out a tenth of what goes into the adapters, at random."
    ),
    question="How do their losses compare?",
    choices={
        "a": "Equal at every step, to the last bit.",
        "b": "A little worse after the stop: the optimizer begins anew.",
        "c": "A little different: the random numbers are others.",
    },
    common=("lora_dropout=0.1", "lean_path=auto"),
    arms=(Arm("straight", ()), Arm("stopped", (), "stopped after step 17", stop_at=17)),
    answer=_answer,
    why=_why,
    usual="a",
    words=("checkpoint", "optimizer step", "resume_from_checkpoint"),
)
