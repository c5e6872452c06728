"""Checks of the rows as tokens: how they begin and end, what of them is trained, what was cut or left out.

Most numbers were counted when the rows were prepared (`luthier.data.report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.data.problems import printable
from luthier.data.report import Kind
from luthier.gate.check import Result, Subject, check, fails, passed, warns

if TYPE_CHECKING:
    from luthier.data.collate import MicroBatch

FEW = 0.01
"""Share of rows up to which a defect is a matter of those rows, and not of the template or the tokenizer."""
MANY = 0.2
"""Share of rows, or of answer tokens, whose loss makes it another dataset than the one that was asked for."""
_COLLATED_ROWS = 8


@check
def one_bos(subject: Subject) -> Result:
    """Exactly one BOS token.

    A model has learned that a text begins with one BOS token, where its tokenizer has one. Twice, or not at all, is a
    beginning that it never saw, and answers get worse without a word.

    Warns when a row has none, or more than one; fails above 1 % of the rows.

    Write BOS once in the template, and nowhere in the rows.
    """
    report, bos = subject.data.report, subject.tokenizer.bos_token
    if report.bos_share is None:
        return passed("this model's texts begin without BOS")
    wrong = report.kept_rows - round(report.bos_share * report.kept_rows)
    if not wrong:
        return passed(f"{bos} stands once in each of {count(report.kept_rows, report.unit)}, at the beginning")
    found = f"{of_all(wrong, report.kept_rows, report.unit)} do not have exactly one {bos}, at the beginning"
    return fails(found) if wrong > FEW * report.kept_rows else warns(found)


@check
def end_trained(subject: Subject) -> Result:
    """The end of the answer is trained.

    A model stops because it has learned to write the token that ends an answer. Where that token is missing or masked,
    it never learns it, and talks on and on.

    Warns when a whole row does not end with a trained end token; fails above 1 % of the rows. Rows that were cut are
    the matter of rows-cut.

    End each answer with it in the template, and let the last turn of each row be an answer.
    """
    report, data = subject.data.report, subject.data
    ends = " or ".join(subject.tokenizer.convert_ids_to_tokens(data.template.stop_ids(subject.tokenizer)))
    whole = report.kept_rows - report.truncated_rows
    wrong = whole - round(report.eos_share * report.kept_rows)
    if not wrong:
        return passed(f"{ends} ends each of {count(whole, report.unit)}, and is trained")
    found = f"{of_all(wrong, whole, report.unit)} do not end with a trained {ends}"
    return fails(found) if wrong > FEW * whole else warns(found)


@check
def pad_untrained(subject: Subject) -> Result:
    """Padding is never trained.

    Rows of different lengths are filled up to the same one. A loss on that filling teaches a model to write padding;
    masking it by its id, where pad and end are one token, teaches it never to stop. Both are looked for in batches
    that are really made of the longest, the shortest and some other rows, padded and packed.

    Fails when one padded position is trained, or when a batch trains other tokens than its rows say.

    This is a fault of Luthier: please report it.
    """
    import numpy as np

    from luthier.data.collate import collate_packed, collate_padded

    rows = [row for index in some_rows(subject) for row in subject.data.train.members(index)]
    batches = [collate_padded(rows), collate_packed(rows), collate_packed(rows, share=True)]
    expected = np.sort(np.concatenate([row.input_ids[1:][row.trained[1:]] for row in rows]))
    padded, filled = trained_padding(batches[0])
    if padded:
        return fails(f"{padded:,} of {filled:,} padded positions are trained")
    if any(not np.array_equal(np.sort(batch.targets_N.numpy()), expected) for batch in batches):
        return fails("a batch trains other tokens than its rows say")
    same = subject.tokenizer.pad_token_id == subject.tokenizer.eos_token_id
    note = "; pad and end are the same token, and the end stays trained" if same else ""
    return passed(f"{count(len(rows))} really batched: {filled:,} padded positions, none trained{note}")


def trained_padding(batch: MicroBatch) -> tuple[int, int]:
    """Padded positions of a padded batch that are trained, and all of them."""
    assert batch.attention_mask_BT is not None
    padding = batch.attention_mask_BT.flatten() == 0
    return int(padding[batch.positions_N + 1].sum()), int(padding.sum())


def some_rows(subject: Subject) -> list[int]:
    """The shortest, the longest and a few other training rows, as indices."""
    import numpy as np

    lengths = subject.data.train.lengths
    rng = np.random.default_rng(subject.plan.config.training.seed)
    others = rng.permutation(len(lengths))[: _COLLATED_ROWS - 2].tolist()
    return list(dict.fromkeys([int(lengths.argmin()), int(lengths.argmax()), *others]))


@check
def rows_cut(subject: Subject) -> Result:
    """Rows that are too long.

    Rows longer than max_seq_length are cut, so that the model never sees how their answers end, or left out. A few do
    no harm; many make it another dataset, and usually the hardest part is the one that is missing.

    Warns when a row is cut or left out; fails when more than 20 % of the rows are left out, or more than 20 % of the
    answer tokens are cut off.

    Raise max_seq_length to the longest row, or shorten those rows.
    """
    report = subject.data.report
    missing = left_out(subject, "overlong")
    limit = f"max_seq_length ({report.max_seq_length:,} tokens)"
    found = []
    if report.truncated_rows:
        rows = of_all(report.truncated_rows, report.kept_rows, report.unit)
        lost = f"{report.completion_tokens_cut:,} answer tokens are lost ({percent(report.completion_share_cut)})"
        found.append(f"{rows} are cut to {limit}: {lost}")
    if missing:
        where = places(subject, "overlong")
        found.append(f"{of_all(missing, report.rows_read, report.unit)} are left out, longer than {limit} ({where})")
    if not found:
        return passed(f"none is longer than {limit}; the longest has {report.length_max:,}")
    too_many = report.completion_share_cut > MANY or missing > MANY * report.rows_read
    return (fails if too_many else warns)("; ".join(found), *_longer(subject))


@check
def zero_label_rows(subject: Subject) -> Result:
    """Rows with nothing to learn.

    A row whose prompt alone fills max_seq_length has no answer left: it costs time, and a batch of such rows has no
    loss at all. Nor has a pair a difference left when its two answers are the same tokens, or become the same where
    they are cut. They never enter a batch, and are counted here.

    Warns when such rows were left out; fails when they are more than 20 % of all rows, or when one is still there.

    Raise max_seq_length to the longest row, or shorten those prompts.
    """
    data, report = subject.data, subject.data.report
    still = int((data.train.trained == 0).sum())
    if still:
        return fails(f"{of_all(still, len(data.train), report.unit)} have no trained token")
    missing, same = left_out(subject, "unlabelled"), left_out(subject, "alike")
    if not missing + same:
        return passed(f"each has one at least; {int(data.train.trained.min()):,} to {int(data.train.trained.max()):,}")
    found = []
    if missing:
        why = f"the prompt alone reaches max_seq_length ({places(subject, 'unlabelled')})"
        found.append(f"{of_all(missing, report.rows_read, report.unit)} are left out: {why}")
    if same:
        why = f"both answers are the same tokens ({places(subject, 'alike')})"
        found.append(f"{of_all(same, report.rows_read, report.unit)} are left out: {why}")
    verdict = fails if missing + same > MANY * report.rows_read else warns
    return verdict("; ".join(found), *(_longer(subject) if report.length_max > report.max_seq_length else ()))


def _longer(subject: Subject) -> tuple[str, str]:
    """For rows that are too long: what to do, empty for what the check says, and the line to change.

    A model has positions for so many tokens and reads nothing beyond them that it knows.
    """
    report, model = subject.data.report, subject.plan.model
    most = model.max_position_embeddings if model else None
    if most is None or report.length_max <= most:
        return "", f"data.max_seq_length: {report.length_max}"
    has = f"the model has positions for {most:,} tokens, and the longest row has {report.length_max:,}"
    return f"shorten those rows: {has}", f"data.max_seq_length: {most}" if report.max_seq_length < most else ""


@check
def bad_rows(subject: Subject) -> Result:
    """Rows that cannot be used.

    With bad_rows: drop, rows with an empty answer, a missing field or turns in a wrong order are left out. Many of
    them mean that the format is not the one that was thought, and not that the rows are bad.

    Warns when such rows were left out; fails above 20 % of all rows.

    Mend them (bad_rows: error says what is wrong with each), or name another format.
    """
    report = subject.data.report
    wrong = left_out(subject, "bad")
    if not wrong:
        return passed(f"each of {count(report.rows_read, report.unit)} can be used")
    reasons = ", ".join(f"{drop.rows:,} x {drop.reason}" for drop in report.dropped if drop.kind == "bad")
    in_the_files = report.rows_read + wrong  # what cannot be used is not counted as read
    found = f"{of_all(wrong, in_the_files, report.unit)} are left out: {reasons} ({places(subject, 'bad')})"
    return (fails if wrong > MANY * in_the_files else warns)(found)


@check
def special_tokens_in_text(subject: Subject) -> Result:
    """Special tokens in the text of rows.

    The text of a row can hold the words that the tokenizer keeps for itself, such as the one that ends an answer. In
    the middle of a text they act as what they are: the answer ends there.

    Warns when a row's text holds one.

    Write them otherwise in those rows, or delete the rows.
    """
    report = subject.data.report
    if not report.special_tokens:
        return passed("none")
    tokens = ", ".join(
        f"{token} in {count(rows, report.unit)}" for token, rows in sorted(report.special_tokens.items())
    )
    return warns(f"they act as control tokens: {tokens} ({', '.join(report.special_places)})")


@check
def touching_texts(subject: Subject) -> Result:
    """Question and answer without anything between them.

    Rows of prompt and completion are taken as they stand: no template goes around them, and nothing comes between the
    two. A prompt that ends in a word or a question mark then runs into its answer, as no text does that a model has
    seen.

    Warns when that is so in more than 20 % of the rows.

    Bare questions and answers are alpaca: write `format: alpaca` and
    `columns: {instruction: prompt, output: completion}`. Or end the prompts with white space.
    """
    report = subject.data.report
    if report.touching_rows <= MANY * report.rows_read:
        return passed("none" if not report.touching_rows else f"in {of_all(report.touching_rows, report.rows_read)}")
    found = f"in {of_all(report.touching_rows, report.rows_read)} question and answer touch: {report.touching_example}"
    return warns(printable(found))


def left_out(subject: Subject, kind: Kind) -> int:
    """How many rows were left out for a kind of reason."""
    return sum(drop.rows for drop in subject.data.report.dropped if drop.kind == kind)


def places(subject: Subject, kind: Kind) -> str:
    """Where the first of them come from."""
    drops = [drop for drop in subject.data.report.dropped if drop.kind == kind]
    return first_of([place for drop in drops for place in drop.places], sum(drop.rows for drop in drops))


def first_of(places: Sequence[str], count: int) -> str:
    """The first places of so many."""
    return ", ".join(places) + (", ..." if count > len(places) else "")


def count(rows: int, unit: str = "rows") -> str:
    """`1 row`, `2,000 rows`, `2,000 pairs`."""
    return f"{rows:,} {unit.removesuffix('s')}" if rows == 1 else f"{rows:,} {unit}"


def of_all(rows: int, total: int, unit: str = "rows") -> str:
    """`3 of 100 rows (3.0%)`."""
    return f"{rows:,} of {count(total, unit)} ({percent(rows / total if total else 0.0)})"


def percent(share: float) -> str:
    """A share that is 0% or 100% only when it is."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(share, 0.0001), 0.9999):.{1 if 0.001 <= share <= 0.999 else 2}%}"


CHECKS = (
    one_bos,
    end_trained,
    pad_untrained,
    rows_cut,
    zero_label_rows,
    bad_rows,
    special_tokens_in_text,
    touching_texts,
)
