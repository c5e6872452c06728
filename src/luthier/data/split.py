"""Which rows are held out, and how often the others are drawn. Pure functions of keys and a seed.

Rows with the same normalised question belong together, whatever their answers: a question that is trained on is no
test. Groups are put in an order that depends on their content and the seed, not on where they stand in the file. It is
one of all groups: a question more makes another order, and holds other rows out.

Not covered: the order of rows in an epoch (`luthier.data.order`); near duplicates that differ in a word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from luthier.data.problems import refuse
from luthier.data.rows import Bool, Int64, Keys


def hold_out(prompt_keys: Keys, size: float, seed: int, unit: str = "rows") -> Bool:
    """Choose rows for evaluation, whole groups of the same question.

    Args:
        prompt_keys: uint64 [N].
        size: A share below 1, or a number of rows; 0: none.
        seed: Another seed, another choice.
        unit: What is chosen, in words.

    Returns:
        bool [N]: held out. As many as asked, or the nearest smaller number that whole groups allow.

    Raises:
        DataError: That would leave nothing on one of the sides.
    """
    total = len(prompt_keys)
    held: Bool = np.zeros(total, dtype=np.bool_)
    if size == 0:
        return held
    wanted = max(1, round(size * total)) if size < 1 else int(size)
    where = "data.val_set_size"
    if wanted >= total:
        fix = "ask for fewer, or write `val_set_size: 0`"
        raise refuse("E-DATA-042", f"{wanted:,} {unit} to hold out of {total:,} usable ones", fix, where)
    _, group, sizes = np.unique(prompt_keys, return_inverse=True, return_counts=True)
    chosen = _fill(sizes[order := np.random.default_rng(seed).permutation(len(sizes))], wanted)
    if not chosen.any():
        found = f"{total:,} usable {unit} have only {len(sizes):,} different prompts; none can be held out"
        raise refuse("E-DATA-042", found, "write `val_set_size: 0`, or evaluate on other rows (eval_split)", where)
    held = np.isin(group, order[chosen])
    return held


def not_in(prompt_keys: Keys, trained_keys: Keys) -> Bool:
    """Which rows [N] have a question that is not among the trained ones."""
    return ~np.isin(prompt_keys, trained_keys)


def draw(rows: Int64, weight: float, seed: int) -> Int64:
    """Rows as often as their weight says: 2.0 each twice, 0.5 a random half (at least one row).

    Args:
        rows: Row numbers [N], ascending.
        weight: Above 0.
        seed: Decides which rows make up the fraction.
    """
    times, share = int(weight), weight - int(weight)
    count = round(share * len(rows))
    if times == 0 and count == 0:
        count = min(1, len(rows))
    extra = np.random.default_rng(seed).permutation(len(rows))[:count]
    return np.sort(np.concatenate([np.repeat(rows, times), rows[extra]]))


def repeated(row_keys: Keys) -> NDArray[np.intp]:
    """The rows, in order, that say what a row before them says."""
    again: Bool = np.ones(len(row_keys), dtype=np.bool_)
    again[np.unique(row_keys, return_index=True)[1]] = False
    return np.flatnonzero(again)


def contradicted(prompt_keys: Keys, row_keys: Keys) -> NDArray[np.intp]:
    """Of each question that has more than one answer the first two rows [Q, 2] that answer it differently, in order."""
    first = np.sort(np.unique(row_keys, return_index=True)[1])
    by_question = first[np.argsort(prompt_keys[first], kind="stable")]
    _, begins, answers = np.unique(prompt_keys[by_question], return_index=True, return_counts=True)
    begins = begins[answers > 1]
    rows = np.stack([by_question[begins], by_question[begins + 1]], axis=1)
    return rows[np.argsort(rows[:, 0])]


def _fill(sizes: NDArray[np.intp], wanted: int) -> Bool:
    """Take groups in order as long as they fit."""
    taken: Bool = np.zeros(len(sizes), dtype=np.bool_)
    left = wanted
    for number, size in enumerate(sizes.tolist()):
        if size <= left:
            taken[number] = True
            left -= size
            if not left:
                break
    return taken
