r"""How sure a result is: few formulas, each with its source, none of them a library's.

    Wilson        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)        share of n tasks, 95 %: z = 1.96
    McNemar       2 Σ_{i ≤ min(g, l)} C(g+l, i) / 2^(g+l), at most 1       only tasks that changed say anything;
                                                                           at least 2 / 2^(g+l)
    Newcombe      difference of two shares of the same n tasks, out of their Wilson intervals and their correlation
    bootstrap     quantiles of a mean over tasks drawn again with replacement
    pass@k        1 - C(n-c, k) / C(n, k)                                  n answers to a task, c of them right
    Holm          max over j <= i of (m-j+1) p(j), at most 1               p(1) <= ... <= p(m), of m comparisons

All compare on the same tasks: what both models get right, or both get wrong, adds nothing but the denominator.

Sources: Wilson, JASA 22 (1927); Newcombe, Statistics in Medicine 17 (1998) 2635, method 10; McNemar, Psychometrika 12
(1947), exact binomial form; Efron, Annals of Statistics 7 (1979); Chen et al., "Evaluating Large Language Models
Trained on Code" (2021), eq. 1; Holm, Scandinavian Journal of Statistics 6 (1979).
Not covered: corrections for looking at many splits; a p of 0.04 in one of ten splits is no finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import comb, sqrt

import numpy as np

Z = 1.959963984540054
"""97.5 % of a standard normal distribution lies below it."""
RESAMPLES = 10_000


def wilson(passed: int, total: int) -> tuple[float, float]:
    """95 % interval of a share; sound for few tasks and for shares of 0 and 1.

    Args:
        passed: How many did.
        total: Of how many, at least one.
    """
    share = passed / total
    middle = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z * sqrt(share * (1 - share) / total + Z * Z / (4 * total * total)) / (1 + Z * Z / total)
    return (0.0 if passed == 0 else middle - half), (1.0 if passed == total else middle + half)


def newcombe(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    """95 % interval of the second model's share minus the first's, on the same tasks.

    Sound for few tasks and few changes, where drawing tasks again gives an interval of no width.

    Args:
        both: Tasks that both models pass.
        gained: Tasks that only the second passes.
        lost: Tasks that only the first passes.
        neither: Tasks that neither passes.
    """
    total = both + gained + lost + neither
    first, second = (both + lost) / total, (both + gained) / total
    (low1, high1), (low2, high2) = wilson(both + lost, total), wilson(both + gained, total)
    spread = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    agreement = float(both * neither - gained * lost)
    if agreement > 0:
        agreement = max(0.0, agreement - total / 2)  # continuity
    phi = agreement / sqrt(spread) if spread else 0.0
    below, above = (second - low2, high1 - first), (high2 - second, first - low1)
    down, up = (sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (below, above))
    return second - first - down, second - first + up


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p that as many changes fall so unevenly by chance.

    Args:
        gained: Tasks that only the second model passes.
        lost: Tasks that only the first model passes.
    """
    changed = gained + lost
    tail = sum(comb(changed, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, raised so that a finding among them is none by chance in 95 of 100 cases.

    Args:
        values: Each comparison's own p, in any order; that order is kept.
    """
    raised, highest = list(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        raised[place] = highest
    return raised


def fewest_changed(level: float, others: Sequence[float] = ()) -> int:
    """How many tasks must change, all in one direction, for McNemar's p to fall below a level.

    Of g gained and none lost p is 2 / 2^g, the smallest that so many changes reach: 0.063 of five, 0.031 of six.

    Args:
        level: Above 0.
        others: The p-values of comparisons that are made at once with it: its own is raised by Holm's correction.
    """
    return next(changed for changed in count(1) if holm([mcnemar(changed, 0), *others])[0] < level)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean, tasks drawn again with replacement.

    Equal values are interchangeable, so each resample is one multinomial draw of how often each value comes.

    Args:
        values: One a task, at least one.
        seed: Of the draws; the same seed gives the same interval.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.quantile(draws @ distinct / len(values), [0.025, 0.975])
    return float(low), float(high)


def bootstrap_ratio(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """95 % percentile interval of a mean over tokens, whole passages drawn again with replacement.

    Args:
        sums: One a passage: what its tokens add up to.
        counts: How many tokens each has, at least one.
    """
    chances = np.full(len(sums), 1 / len(sums))
    draws = np.random.default_rng(0).multinomial(len(sums), chances, size=RESAMPLES)
    low, high = np.quantile((draws @ np.asarray(sums)) / (draws @ np.asarray(counts)), [0.025, 0.975])
    return float(low), float(high)


def pass_at_k(answers: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k answers to a task is right.

    Args:
        answers: Answers that were drawn, at least k.
        passed: How many of them were right.
        k: At least one.
    """
    return 1 - comb(answers - passed, k) / comb(answers, k)
