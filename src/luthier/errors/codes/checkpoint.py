"""Codes of the family E-CKPT."""

from luthier.errors.codes.base import Explanation

CHECKPOINT: dict[str, Explanation] = {
    "E-CKPT-001": Explanation(
        title="no such checkpoint",
        why="there is nothing to go on from",
        text=(
            "--resume takes `auto` (the newest whole checkpoint of output_dir, or a fresh start when there is "
            "none), or a `checkpoint-<step>` folder: its path, or its name in output_dir. final_model is what a run "
            "made; it lacks the optimizer and the place in the data from which a run could go on."
        ),
    ),
    "E-CKPT-002": Explanation(
        title="the checkpoint is not whole",
        why="going on from a half-written or damaged checkpoint would silently train something else",
        text=(
            "Each checkpoint has a manifest with the SHA-256 of every file in it. This one does not match: a "
            "file is missing, cut short or changed. Use `--resume auto`, which passes over broken checkpoints "
            "and takes the newest whole one."
        ),
    ),
    "E-CKPT-003": Explanation(
        title="something changed since the checkpoint",
        why="the run would go on with other data, another template or other settings than it began with",
        text=(
            "A resumed run equals the run that was never interrupted only if nothing that decides its numbers "
            "has changed. Undo the change, or start a new run in another output_dir, or accept it on purpose "
            "with --allow-changes; it is then recorded in the events."
        ),
    ),
    "E-CKPT-004": Explanation(
        title="the checkpoint belongs to another model or adapter",
        why="its tensors do not fit the model of this config",
        text=(
            "The base model, the kind of fine-tuning or the shape of the adapter (lora.r, lora.target_modules, "
            "...) is not the one of the checkpoint. That cannot be allowed by a flag: start a new run in "
            "another output_dir."
        ),
    ),
    "E-CKPT-005": Explanation(
        title="output_dir already holds a run",
        why="starting over would mix two runs in one folder",
        text=(
            "The folder has checkpoints or events of an earlier run. Continue it with `--resume auto`, choose "
            "another training.output_dir, or start over with --overwrite, which moves the old run to a folder "
            "beside it."
        ),
    ),
    "E-CKPT-007": Explanation(
        title="--resume and --overwrite together",
        why="one goes on with the run in the folder, the other starts over",
        text=(
            "--resume auto continues from the newest checkpoint of training.output_dir; --overwrite moves the run "
            "that is there aside and begins at step 0. Give one of them."
        ),
    ),
    "E-CKPT-006": Explanation(
        title="output_dir is in use by another run",
        why="two runs that write into one folder destroy each other's checkpoints",
        text=(
            "Another process, a run or a sweep, holds the lock of this folder. Wait for it, stop it, or give this run "
            "another training.output_dir. In a notebook it may be the program itself: a loop over luthier.train(...) "
            "that was left with break holds the folder until the run is closed (run.close()) or read to its end."
        ),
    ),
}
