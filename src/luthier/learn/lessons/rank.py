"""How many numbers an adapter needs."""

from luthier.learn.lesson import Arm, Exercise, Lesson, Outcome, Results

_RANKS = (1, 8, 64)


def _answer(results: Results) -> str:
    small, large = results["r1"].held_out, results["r64"].held_out
    return "a" if large < 0.5 * small else "b" if large < small else "c"


def _why(results: Results) -> str:
    rows = "; ".join(
        f"rank {r}: {results[f'r{r}'].trained:,} numbers, held-out {results[f'r{r}'].held_out:.3f}" for r in _RANKS
    )
    return (
        f"{rows}. An adapter adds B A to a frozen matrix, B of r columns and A of r rows: r says in how many "
        "directions it can change what the matrix does. The numbers grow with r; what is learned with them does not "
        "grow as fast, because the change that a task needs lies in few directions. This model is tiny and has to "
        "learn everything; one of a billion weights needs less."
    )


def _solved(results: Results, mine: Outcome) -> tuple[bool, str]:
    limit, most = 1.03 * results["r64"].held_out, results["r64"].trained // 4
    shows = (
        f"held-out loss {mine.held_out:.3f} (at most {limit:.3f}); {mine.trained:,} trained numbers (at most {most:,})"
    )
    return mine.held_out <= limit and mine.trained <= most, shows


LESSON = Lesson(
    name="rank",
    title="The rank of an adapter",
    idea=(
        "LoRA freezes the model and trains two thin matrices beside each of its own. Their width is the rank. Three "
        "runs: rank 1, 8 and 64; alpha is twice the rank, so that the factor in front stays the same."
    ),
    question="Rank 64 trains 64 times as many numbers as rank 1. Its held-out loss is ...",
    choices={"a": "less than half.", "b": "lower, but by far not that much.", "c": "no lower."},
    arms=tuple(Arm(f"r{r}", (f"r={r}", f"lora_alpha={2 * r}")) for r in _RANKS),
    answer=_answer,
    why=_why,
    usual="b",
    exercise=Exercise(
        task="Come within 3 % of rank 64's held-out loss with at most a quarter of its trained numbers.",
        start=("r=4", "lora_alpha=8"),
        may_change=("lora.r", "lora.lora_alpha", "lora.use_rslora", "training.learning_rate"),
        solved=_solved,
    ),
    words=("lora", "rank", "lora_alpha"),
)
