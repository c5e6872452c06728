"""Codes of the family E-GATE: what is found before the first step."""

from luthier.errors.codes.base import Explanation

GATE: dict[str, Explanation] = {
    "E-GATE-001": Explanation(
        title="a check before training failed",
        why="the run would take its time and its money, and its result would be of no use",
        text=(
            "Before the weights are loaded Luthier looks at your rows as tokens, at the template and the tokenizer "
            "that will be saved, at the device and at the disk. What the message names would spoil the run. luthier "
            "plan --check shows all checks, luthier inspect the rows, and luthier explain NAME says what a check looks "
            "for. When you know better, --allow NAME starts all the same; that is written into plan.yaml and "
            "events.jsonl."
        ),
    ),
    "E-GATE-002": Explanation(
        title="no check has that name",
        why="a failure that you meant to allow would stop the run, or another one would pass unseen",
        text=(
            "--allow takes the name of a check, as the message of a failed one and luthier plan --check show it: words "
            "with dashes, such as rows-cut. It can be given several times."
        ),
    ),
    "E-GATE-003": Explanation(
        title="there is no such row",
        why="another row than the one that was meant would be shown",
        text=(
            "luthier inspect --row takes the number of a row, counted from 1 over all sources in the order of the "
            "config; for a file of one row a line it is the line. Rows that could not be used at all (bad_rows: drop) "
            "are not counted."
        ),
    ),
    "E-GATE-004": Explanation(
        title="nothing of the row is trained",
        why="its loss is a mean over no token, so there is no gradient and no step",
        text=(
            "luthier inspect --step takes an optimizer step of one row. What is learned of a row is its answer; when "
            "the question alone is as long as max_seq_length, the answer is cut away, as luthier inspect --row shows. "
            "Choose another row, or raise max_seq_length."
        ),
    ),
    "E-GATE-005": Explanation(
        title="one step by hand is of answers",
        why="the numbers that it explains, a loss for each token and their mean, are not those of a loss over pairs",
        text=(
            "luthier inspect --step is built for objective: sft. For pairs (objective: dpo) luthier inspect --row N "
            "shows both answers with what is trained of them."
        ),
    ),
}
