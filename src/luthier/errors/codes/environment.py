"""Codes of the family E-ENV: what this machine lacks."""

from luthier.errors.codes.base import Explanation

ENVIRONMENT: dict[str, Explanation] = {
    "E-ENV-001": Explanation(
        title="a tracker is not installed",
        why="a run whose metrics silently go nowhere is noticed when it is over, so it does not start",
        text=(
            "logging.report_to names a tracker (wandb, mlflow or trackio) whose library is not installed. They are "
            "extras: Luthier works without them and writes events.jsonl and TensorBoard files by itself. Install the "
            "extra with the command shown, or take the name out of logging.report_to."
        ),
    ),
    "E-ENV-002": Explanation(
        title="an output folder or file cannot be written",
        why="what the command makes goes there; without it the work would be lost",
        text=(
            "The folder for the outputs of the run, or the file that --json or --html names, could not be written. It "
            "may belong to somebody else, lie on a read-only or full disk, or there is a file where the folder should "
            "be. Name another one (for a run: training.output_dir, and logging.logging_dir if you set it), or free the "
            "space."
        ),
    ),
    "E-ENV-003": Explanation(
        title="a tracker did not start",
        why="you asked for its record of this run, and it would be missing",
        text=(
            "The library of a tracker named in logging.report_to is installed but refused to start: usually nobody is "
            "logged in, its server cannot be reached, or an environment variable points to the wrong place. The "
            "message of the library is shown. Follow the fix, or take the name out of logging.report_to; events.jsonl "
            "and TensorBoard need no account."
        ),
    ),
    "E-ENV-004": Explanation(
        title="the processes of a run do not find each other",
        why="each process would train its share of every step alone, and nobody would notice",
        text=(
            "WORLD_SIZE is larger than 1, so torchrun or a scheduler has started this process as one of several. They "
            "meet at MASTER_ADDR and MASTER_PORT, which both set. Several machines meet at --rdzv-endpoint, HOST:PORT "
            "of one of them: a name that all know, or an IP address, and a port that firewalls let through. The same "
            "command has to be started on that machine too. Start processes with `luthier train CONFIG "
            "--nproc-per-node N` or `torchrun ... -m luthier train CONFIG`, as many as a machine has GPUs; for a "
            "single process on a cluster unset WORLD_SIZE and RANK first."
        ),
    ),
    "E-ENV-005": Explanation(
        title="the table of the GPU monitor cannot be written",
        why="readings would be mixed with something else, or be lost without a word",
        text=(
            "luthier gpu --csv appends a row for each GPU at each reading. It continues only a file that begins with "
            "exactly its own header: rows of different columns in one file are of no use to any program that reads it. "
            "The file may also lie in a folder that does not exist, belong to somebody else, or the disk may be full. "
            "Rows that were written stay as they are. Give --csv the path of a new file."
        ),
    ),
    "E-ENV-006": Explanation(
        title="a peer to compare with is not installed",
        why="a comparison with nothing on the other side says nothing",
        text=(
            "luthier bench trains the same steps with Luthier and with TRL's SFTTrainer, installed for real. Install "
            "it with the command shown, or measure Luthier alone with --alone."
        ),
    ),
    "E-ENV-007": Explanation(
        title="another rank of the run has failed",
        why="a step needs the gradients of all ranks, so no rank can go on without the others",
        text=(
            "One of the processes of this run has raised an error, was killed, gives no sign of life any more (its "
            "machine is dead or cut off, its process frozen), or does not come where the others wait: its stacks are "
            "in the file that the message names, and training.hang_seconds says after how long. The others "
            "stop with it; the newest checkpoint stays. The message of the rank that failed first says why. "
            "`luthier train --max-restarts 3` starts them all again, and the run goes on from that checkpoint."
        ),
    ),
    "E-ENV-008": Explanation(
        title="the ranks of a run do not fit together",
        why="they would add up gradients of different runs, and nobody would notice",
        text=(
            "Every rank reads the same config, the same rows and the same base model, with the same versions of the "
            "libraries; what decides the numbers of a run is compared before the first step. training.output_dir has "
            "to be one folder for all, on a disk that the machines share, as each reads the checkpoints. Numbers of "
            "cores may differ. On CPUs all ranks have to use the same instructions, which round alike: "
            "ATEN_CPU_CAPABILITY names the ones that are used. And there have to be at least as many rows as ranks."
        ),
    ),
    "E-ENV-009": Explanation(
        title="no plan can be made for this card",
        why="a plan for a card that is not here needs to know its memory and what it computes in",
        text=(
            "luthier plan --for knows the cards that the message lists. For another one take the nearest of them with "
            "less memory, or run luthier plan on the machine that has it."
        ),
    ),
}
