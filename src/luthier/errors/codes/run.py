"""Codes of the family E-RUN."""

from luthier.errors.codes.base import Explanation

RUN: dict[str, Explanation] = {
    "E-RUN-001": Explanation(
        title="the loss or the gradient is not a number",
        why="one such update turns every trained weight into NaN, and nothing brings them back",
        text=(
            "The step was not applied, and no checkpoint was written from it. Usual causes: a learning rate "
            "that is too high, float16 overflow, or damaged weights. Lower training.learning_rate by a factor "
            "of 3, or use bfloat16 or float32, and go on with --resume auto."
        ),
    ),
    "E-RUN-002": Explanation(
        title="out of memory",
        why="the forward or backward pass needs more memory than the device has left",
        text=(
            "The tokens of one pass decide how much memory it takes. Halve training.max_tokens_per_micro_batch "
            "(the result stays the same) as long as it holds the longest row, then go on with --resume auto. Below "
            "that, turn on training.gradient_checkpointing, or lower data.max_seq_length, then go on with "
            "--resume auto --allow-changes."
        ),
    ),
    "E-RUN-003": Explanation(
        title="writing to output_dir failed",
        why="a run that cannot save is a run that can be lost",
        text=(
            "The disk is full, the quota is used up, or the folder has become read-only. The newest whole "
            "checkpoint is untouched: make room and go on with --resume auto."
        ),
    ),
    "E-RUN-004": Explanation(
        title="an error inside Luthier or a library",
        why="this should not happen with any input; the full traceback is in the file that the message names",
        text=(
            "Go on with --resume auto after removing the cause if you can tell it from the message. If not, "
            "please report it with the traceback file, plan.yaml and the command."
        ),
    ),
    "E-RUN-005": Explanation(
        title="there is no log to read",
        why="without a terminal nobody can be told to wait for it, and an empty answer would look like a healthy run",
        text=(
            "luthier watch reads the folder of a run (events.jsonl is in training.output_dir, checkpoints by default) "
            "or a log that a run's output was redirected to. The path that was given does not exist, or nothing in it "
            "is such a log. On a terminal the dashboard waits for a log that is to come; with --once, with --replay "
            "and in a pipe it has to be there. Look at the path; it counts from the folder where the command runs."
        ),
    ),
    "E-RUN-006": Explanation(
        title="a system that is measured failed",
        why="a comparison in which one side did not finish is none, so nothing is reported",
        text=(
            "luthier bench runs each system in a process of its own. One of them ended with an error, whose last line "
            "is shown. If it is Luthier's, luthier train with the same keys shows the whole of it; if it is a peer's, "
            "its version may not fit to the other libraries: those that were tested are in constraints.txt."
        ),
    ),
    "E-RUN-020": Explanation(
        title="something that decides the run is not what it was",
        why="the run would not be the recorded one again, and nobody would see why its numbers are others",
        text=(
            "--from repeats a run from its plan.yaml, which holds the SHA-256 of the dataset's files, the template, "
            "the tokenizer and the base model's files. One of them is another one now. Put back what was there, give "
            "the place where it lies now as KEY=VALUE, or accept the difference with --allow-changes; it is then "
            "written into the new record."
        ),
    ),
    "E-RUN-021": Explanation(
        title="a run of the verification failed",
        why="without both runs there is nothing to compare",
        text=(
            "luthier verify resume runs your config in processes of their own: one straight through, one that is "
            "killed, and one that goes on from its checkpoint. One of them ended with the error that is shown. luthier "
            "train with the same config shows the whole of it."
        ),
    ),
}
