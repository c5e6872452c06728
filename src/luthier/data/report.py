"""What preparing the rows found, as numbers, and what they are in lines to read.

Not covered: whether that is healthy, and which line of YAML to change (`luthier.gate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.events.printable import beginning

FEW_HELD_OUT = 10

Kind = Literal["overlong", "unlabelled", "alike", "bad", "overlap"]


@dataclass(frozen=True)
class SourceReport:
    """One source as it was read."""

    name: str
    split: str
    use: str
    """`train` or `eval`."""
    format: str
    rows: int
    cached: bool


@dataclass(frozen=True)
class Dropped:
    """Rows left out for one reason."""

    kind: Kind
    reason: str
    rows: int
    places: tuple[str, ...]
    """The first five."""


@dataclass(frozen=True)
class DataReport:
    """Everything counted on the way from sources to rows. Tokens are those of one epoch of training rows.

    With `pairs` each number of rows is one of pairs, which are whole where both of their rows are; but lengths are
    those of single rows: a prompt with one of its answers.
    """

    sources: tuple[SourceReport, ...]
    template: str
    leaves_chat_template: bool
    """Whether the model has a chat template of its own that the tuned one will not have."""
    train_rows: int
    """Drawn in an epoch, weights applied."""
    eval_rows: int
    dropped: tuple[Dropped, ...]
    max_seq_length: int
    kept_rows: int
    """Rows that are trained on or held out, each counted once."""
    truncated_rows: int
    completion_tokens_cut: int
    completion_share_cut: float
    """Of all trained tokens of the rows that are kept, cut ones included."""
    duplicate_rows: int
    """Rows whose question and answer another row already has (case and white space aside)."""
    duplicate_places: tuple[str, ...]
    """The first five."""
    contradicting_prompts: int
    """Questions with more than one answer; of pairs, those with two answers that are preferred to each other."""
    contradicting_places: tuple[str, ...]
    """Of the first five: where two of the answers are."""
    bos_share: float | None
    """Share of rows that begin with exactly one BOS; ``None`` where the model uses none."""
    eos_share: float
    """Share of rows whose last token ends the answer and is trained."""
    split_rows: int
    """Rows of plain text that were cut into parts (`overlong_rows: split`), and how many parts there are of them."""
    split_parts: int
    tokens: int
    trained_tokens: int
    length_p50: int
    length_p90: int
    length_p99: int
    length_max: int
    """Lengths of all rows read, or parts of them, before any are dropped or cut."""
    special_tokens: dict[str, int]
    """Special token -> rows that hold it as part of their text."""
    special_places: tuple[str, ...]
    touching_rows: int
    """Rows of prompt and completion with nothing between them."""
    touching_example: str
    system: str
    """The system message that all rows of the training have; empty where they have none, or several."""
    pairs: bool = False
    """Whether rows come in pairs of a chosen and a rejected answer."""
    chosen_tokens: int = 0
    """With `pairs`: those of the trained tokens that are of chosen answers."""

    @property
    def unit(self) -> str:
        """What is counted."""
        return "pairs" if self.pairs else "rows"

    @property
    def rows_read(self) -> int:
        """Rows of all sources that can be used."""
        return sum(source.rows for source in self.sources)

    def lines(self) -> list[str]:
        """The report to read, one fact a line."""
        lines = [
            f"{source.name} [{source.split}]: {source.rows:,} {self.unit}, format {source.format}, for {source.use}"
            + (", from the cache" if source.cached else "")
            for source in self.sources
        ]
        lines.append(f"prompt template: {self.template}")
        if self.system:
            shown = beginning(self.system)
            lines.append(f'all rows have one system message; samples and final_model are asked with it: "{shown}"')
        if self.leaves_chat_template:
            lines.append("final_model will not have the model's own chat template; `prompt_template: chat` keeps it")
        few = "; a loss over so few is mostly chance" if 0 < self.eval_rows < FEW_HELD_OUT else ""
        if self.split_rows:
            cut = f"{self.split_parts:,} parts of at most {self.max_seq_length:,} tokens"
            lines.append(f"plain text: {self.split_rows:,} long rows are cut into {cut}")
        lines.append(f"{self.unit}: {self.train_rows:,} to train on, {self.eval_rows:,} held out{few}")
        share = self.trained_tokens / self.tokens if self.tokens else 0.0
        of_what = " (a row is a prompt with one of its answers)" if self.pairs else ""
        lines.append(f"tokens: {self.tokens:,} an epoch, {self.trained_tokens:,} of them trained ({share:.0%})")
        lines.append(
            f"length in tokens{of_what}: half of the rows up to {self.length_p50:,}, 90% up to {self.length_p90:,}, "
            f"99% up to {self.length_p99:,}, longest {self.length_max:,}"
        )
        if self.pairs and self.train_rows:
            rejected = self.trained_tokens - self.chosen_tokens
            means = [tokens / self.train_rows for tokens in (self.chosen_tokens, rejected)]
            lines.append(f"answers in tokens, on average: chosen {means[0]:,.1f}, rejected {means[1]:,.1f}")
        return lines
