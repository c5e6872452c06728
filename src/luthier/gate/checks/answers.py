"""Checks of the rows as questions and answers: what repeats, contradicts, or is asked again in evaluation.

Rows are compared by their normalised text: width of characters, case and white space make no difference.

Not covered: near duplicates that differ in a word; rows that are tasks of a public benchmark.
"""

from __future__ import annotations

from luthier.gate.check import Result, Subject, check, fails, passed, warns
from luthier.gate.checks.rows import count, first_of, left_out, of_all, places


@check
def duplicates(subject: Subject) -> Result:
    """Repeated rows.

    A row that stands twice is learned twice in every epoch, and sooner known by heart. (What `weight` repeats on
    purpose is not counted.)

    Warns when a row's question and answer stand in another row already.

    Keep one of each.
    """
    report = subject.data.report
    if not report.duplicate_rows:
        return passed(f"none among {count(report.kept_rows, report.unit)}")
    repeated = of_all(report.duplicate_rows, report.kept_rows, report.unit)
    found = f"{repeated} say what another {report.unit.removesuffix('s')} says, so are learned more than once"
    return warns(f"{found} ({first_of(report.duplicate_places, report.duplicate_rows)})")


@check
def contradictions(subject: Subject) -> Result:
    """Several answers to one question.

    Where the same question has different answers a model learns to mix them. That is meant where many answers are
    right, and a fault where one of them is. Of pairs it is always a fault that each of two answers is preferred to the
    other: what one pair teaches the other one takes back.

    Warns when a question has more than one answer; of pairs, when two answers to it stand in both orders.

    Keep the right one, if only one is.
    """
    questions, pairs = subject.data.report.contradicting_prompts, subject.data.report.pairs
    if not questions:
        return passed("no two answers are each preferred to the other" if pairs else "no question has two answers")
    asked = f"{questions:,} question has" if questions == 1 else f"{questions:,} questions have"
    what = "two answers that are each preferred to the other" if pairs else "more than one answer"
    return warns(f"{asked} {what} ({first_of(subject.data.report.contradicting_places, questions)})")


@check
def train_eval_overlap(subject: Subject) -> Result:
    """Questions of the evaluation that are trained.

    The loss on held-out rows shows what carries over to new questions. A question that was trained on shows what was
    learned by heart, and the number is too good.

    Warns when rows of eval_split were taken out because their question is trained; fails when one is still there.

    Evaluate on other rows.
    """
    import numpy as np

    data = subject.data
    if data.eval is None:
        return passed("no rows are held out")
    keys, unit = data.train.store.prompt_keys, data.report.unit
    both = int(np.isin(keys[data.eval.chosen], keys[data.train.chosen]).sum())
    if both:
        return fails(f"{of_all(both, len(data.eval), unit)} held out ask what is trained")
    removed = left_out(subject, "overlap")
    if not removed:
        return passed(f"none of the {count(len(data.eval), unit)} held out asks what is trained")
    found = f"{of_all(removed, removed + len(data.eval), unit)} of eval_split ask what is trained, and were taken out"
    return warns(f"{found} ({places(subject, 'overlap')})")


CHECKS = (duplicates, contradictions, train_eval_overlap)
