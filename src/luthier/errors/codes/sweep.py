"""Codes of the family E-SWEEP."""

from luthier.errors.codes.base import Explanation

SWEEP: dict[str, Explanation] = {
    "E-SWEEP-001": Explanation(
        title="what to try is not said, or cannot be tried",
        why="a sweep would spend hours on values that were not meant",
        text=(
            "luthier sweep CONFIG KEY=RANGE tries several values of a key. A range is log:1e-4..1e-3 (equal factors "
            "are equally likely), 0..0.2, int:0..100 (both ends included), or a list: 8,16,32. Both ends and every "
            "item are checked as if they stood in the config. Keys that change which rows are held out, or how the "
            "loss over them is formed, cannot be tried: the losses of two such trials say nothing about each other. "
            "KEY=VALUE without a range holds for every trial."
        ),
    ),
    "E-SWEEP-002": Explanation(
        title="a sweep without an evaluation",
        why="trials are compared by their loss on rows that none of them trains on, and there are none",
        text=(
            "The loss on training rows is lowest for the values that learn them by heart. Hold rows out with "
            "data.val_set_size or data.eval_split, and do not write evaluation.eval_steps: 0."
        ),
    ),
    "E-SWEEP-003": Explanation(
        title="the trials of a sweep cannot run",
        why="what is wrong with one trial is wrong with all of them, so the next ones are not begun",
        text=(
            "Each trial is a run of luthier train in a process of its own. One ended with the error that is shown "
            "before any other had ended, or every single one failed. The file that is named holds all that the "
            "process wrote. A trial that fails for itself (its loss became infinite, its memory ran out) is told in "
            "the table, and the sweep goes on."
        ),
    ),
    "E-SWEEP-004": Explanation(
        title="the folder of the sweep holds another sweep",
        why="trials of another config or of other ranges cannot be compared with these",
        text=(
            "A sweep lies in the config's output_dir with -sweep at its end, and the same command goes on with it. "
            "There the config or the ranges are others, or study.db is no study. --trials may be another number: more "
            "trials are added. For another sweep move the folder aside or write another training.output_dir."
        ),
    ),
    "E-SWEEP-005": Explanation(
        title="what a sweep needs is not installed",
        why="optuna keeps the trials and says which values come next; with --on ray, Ray finds a machine for each",
        text="Both are extras: Luthier trains without them. Install what is missing with the command shown.",
    ),
    "E-SWEEP-006": Explanation(
        title="the Ray cluster cannot run a trial",
        why="trials would run nowhere, or on other files than the sweep looks at",
        text=(
            "luthier sweep ... --on ray takes the cluster that the environment variable RAY_ADDRESS names, or one that "
            "runs on this machine, and starts one here where there is none. Its machines need Luthier and Ray in the "
            "versions of this one, and have to see the folder that the command is given in, and the sweep's own "
            "(output_dir with -sweep), under the same paths: put both on a disk that all of them share. Where a "
            "cluster asks for a token, as Ray's own do since 2.60, set RAY_AUTH_MODE=token."
        ),
    ),
}
