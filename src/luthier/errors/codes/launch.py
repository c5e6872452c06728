"""Codes of the family E-LAUNCH."""

from luthier.errors.codes.base import Explanation

LAUNCH: dict[str, Explanation] = {
    "E-LAUNCH-001": Explanation(
        title="an option does not fit the scheduler",
        why="the scheduler would refuse the job, or start another one than was meant",
        text=(
            "--time and --partition are Slurm's, --image and --storage are those of machines that come and go: "
            "SkyPilot and Kubernetes. Whatever else a cluster wants (an account, a queue, a node selector) is written "
            "into the job file, which is yours to edit; luthier launch without --submit only writes it."
        ),
    ),
    "E-LAUNCH-002": Explanation(
        title="the scheduler's command is not here",
        why="the job file is written, and nobody takes it",
        text=(
            "--submit gives the job file to sbatch, sky, kubectl or ray, as you would. That command is not installed "
            "on this machine, or not in PATH. Install it, or take the file to a machine that has it."
        ),
    ),
    "E-LAUNCH-003": Explanation(
        title="the job file is there already",
        why="you may have edited it, and the edits would be lost",
        text=(
            "The file that would be written exists and says something else. Submit it as it is with the scheduler's "
            "own command, let it be written anew with --overwrite, or name another file with --output."
        ),
    ),
    "E-LAUNCH-004": Explanation(
        title="the scheduler did not take the job",
        why="nothing is running, although you asked for it",
        text=(
            "Its command ended with an error and said why, above. A partition, an account or a kind of GPU that it "
            "does not know is the usual reason. Edit the job file and submit it with the command that its first lines "
            "name."
        ),
    ),
}
