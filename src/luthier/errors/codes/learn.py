"""Codes of the family E-LEARN: lessons."""

from luthier.errors.codes.base import Explanation

LEARN: dict[str, Explanation] = {
    "E-LEARN-001": Explanation(
        title="there is no lesson, or no exercise, of that name",
        why="another lesson would be given than the one that was meant",
        text=(
            "luthier learn without a name lists the lessons; those with an exercise say so. A guess is one of the "
            "letters before the answers, such as a."
        ),
    ),
    "E-LEARN-002": Explanation(
        title="the exercise changes what has to stay",
        why="a run that is easier for other reasons would pass for a solution",
        text=(
            "An exercise is solved by the keys that the first lines of its file name; all others stay as they are, "
            "so that what the run shows is due to them. To begin again delete the file: the lesson writes it anew. "
            "For other experiments take the same config with luthier train."
        ),
    ),
}
