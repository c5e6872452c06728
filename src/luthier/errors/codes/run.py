"""Codes of the family E-RUN."""

from luthier.errors.codes.base import Explanation

RUN: dict[str, Explanation] = {
    "E-RUN-001": Explanation(
        title="the loss or the gradient is not a number",
        why="one such update turns every trained weight into NaN, and nothing brings them back",
        text=(
            "Such a step is not applied, and no checkpoint holds such a number. Up to training.bad_steps_limit of "
            "them in a row are left out, each with its rows named; then the run stops, or goes back to its newest "
            "checkpoint with half the learning rate (training.after_bad_steps: rollback). Usual causes: a learning "
            "rate that is too high, float16 overflow, or damaged weights. Write the learning_rate that the message "
            "names and go on with --resume auto --allow-changes; where it was float16, start again with "
            "dtype: float32 and another output_dir."
        ),
    ),
    "E-RUN-002": Explanation(
        title="out of memory",
        why="the forward or backward pass needs more memory than the device has left",
        text=(
            "The tokens of one pass decide how much memory it takes. A step or an evaluation that does not fit is done "
            "again by itself: in smaller passes, then with layers that are computed again in the backward pass. The "
            "examples and their order stay the same, nothing starts over, and a notice names the YAML line that makes "
            "it permanent. The run ends with this error when nothing is left to give up, when the optimizer's own "
            "update does not fit, or with training.auto: false, which changes nothing by itself. Then write the line "
            "that the message names (load_in_4bit needs another output_dir), and go on with --resume auto."
        ),
    ),
    "E-RUN-003": Explanation(
        title="writing to output_dir failed",
        why="a run that cannot save is a run that can be lost",
        text=(
            "The disk is full, the quota is used up, or the folder has become read-only. A checkpoint that cannot be "
            "written in mid-run does not end it: it is tried again, after 30 seconds at first and 10 minutes at most. "
            "This error comes when nothing can wait: at a stop, and for final_model. The newest whole checkpoint is "
            "untouched: make room and go on with --resume auto."
        ),
    ),
    "E-RUN-004": Explanation(
        title="an error inside Luthier or a library",
        why="this should not happen with any input; the full traceback is in the file that the message names",
        text=(
            "Go on with --resume auto after removing the cause if you can tell it from the message. If not, "
            "please report it with the traceback file, plan.yaml, the command, and what luthier env prints."
        ),
    ),
    "E-RUN-005": Explanation(
        title="there is no log to read",
        why="an empty answer would look like a healthy run",
        text=(
            "luthier watch reads the folder of a run (events.jsonl is in training.output_dir, checkpoints by default) "
            "or a log that a run's output was redirected to. The path that was given does not exist, or nothing in it "
            "is such a log. On a terminal and with --web a log that is to come is waited for; with --once, --replay "
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
    "E-RUN-007": Explanation(
        title="a file of results cannot be read",
        why="a page with numbers that nobody measured would be worse than one without",
        text=(
            "luthier report --results takes a file that luthier compare or luthier evaluate wrote with --json. Those "
            "that lie in the folder of the run are found without it."
        ),
    ),
    "E-RUN-010": Explanation(
        title="which run is meant",
        why="a guess could talk to, measure or publish another model than the one you think of",
        text=(
            "Commands that work on a run take its output folder (training.output_dir) as RUN. Left out, RUN is "
            "checkpoints, or else the only run in a folder whose name begins so, or one level below it; which one it "
            "is stands on the screen. Here there is none, or there are several: name the folder. luthier runs lists "
            "what there is."
        ),
    ),
    "E-RUN-011": Explanation(
        title="what to ask is not clear",
        why="an answer to something else, or to nothing, would look like one to your question",
        text=(
            "luthier generate asks one instruction: the argument after RUN, the file of --file, or what comes by a "
            "pipe. RUN, the output folder of a finished run, comes before PROMPT, and can be left out where the "
            "instruction is no argument. To ask more than once: luthier chat."
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
            "killed, and one that goes on from its checkpoint. One of them ended with the error that is shown: luthier "
            "train with the same config shows the whole of it. Or the killed run left no whole checkpoint, or the "
            "third run did not go on from it: then nothing was resumed, and nothing is proven."
        ),
    ),
}
