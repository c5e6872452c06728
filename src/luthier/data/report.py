"""What preparing the rows found, as numbers, as lines to read and as warnings with the YAML line to change."""

from __future__ import annotations

from dataclasses import dataclass


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

    reason: str
    rows: int
    places: tuple[str, ...]
    """The first five."""


@dataclass(frozen=True)
class DataReport:
    """Everything counted on the way from sources to rows. Tokens are those of one epoch of training rows."""

    sources: tuple[SourceReport, ...]
    template: str
    train_rows: int
    """Drawn in an epoch, weights applied."""
    eval_rows: int
    dropped: tuple[Dropped, ...]
    max_seq_length: int
    truncated_rows: int
    completion_tokens_cut: int
    completion_share_cut: float
    """Of all trained tokens of the rows that are kept, cut ones included."""
    duplicate_rows: int
    """Rows whose question and answer another row already has (case and white space aside)."""
    contradicting_prompts: int
    """Questions with more than one answer."""
    bos_share: float | None
    """Share of rows that begin with exactly one BOS; ``None`` where the model uses none."""
    eos_share: float
    """Share of rows whose last token ends the answer and is trained."""
    tokens: int
    trained_tokens: int
    length_p50: int
    length_p90: int
    length_p99: int
    length_max: int
    """Lengths of all rows read, before any are dropped or cut."""
    special_tokens: dict[str, int]
    """Special token -> rows that hold it as part of their text."""
    special_places: tuple[str, ...]

    @property
    def rows_read(self) -> int:
        """Rows of all sources."""
        return sum(source.rows for source in self.sources)

    @property
    def cache_hit(self) -> bool:
        """Whether every source came tokenized from the cache."""
        return all(source.cached for source in self.sources)

    def lines(self) -> list[str]:
        """The report to read, one fact a line."""
        lines = [
            f"{source.name} [{source.split}]: {source.rows:,} rows, format {source.format}, for {source.use}"
            + (", from the cache" if source.cached else "")
            for source in self.sources
        ]
        lines.append(f"prompt template: {self.template}")
        lines.append(f"rows: {self.train_rows:,} to train on, {self.eval_rows:,} held out")
        lines += [f"left out: {_rows(drop.rows)}, {drop.reason} ({_few(drop)})" for drop in self.dropped]
        share = self.trained_tokens / self.tokens if self.tokens else 0.0
        lines.append(f"tokens: {self.tokens:,} an epoch, {self.trained_tokens:,} of them trained ({share:.0%})")
        lines.append(
            f"length in tokens: half of the rows up to {self.length_p50:,}, 90% up to {self.length_p90:,}, "
            f"99% up to {self.length_p99:,}, longest {self.length_max:,}"
        )
        if self.truncated_rows:
            lines.append(
                f"cut to {self.max_seq_length:,} tokens: {_rows(self.truncated_rows)}, losing "
                f"{self.completion_tokens_cut:,} answer tokens ({self.completion_share_cut:.1%})"
            )
        if self.bos_share is not None:
            lines.append(f"exactly one BOS: {_percent(self.bos_share)} of rows")
        lines.append(f"end of answer trained: {_percent(self.eos_share)} of rows")
        lines.append(
            f"repeated: {_rows(self.duplicate_rows)}; prompts with several answers: {self.contradicting_prompts:,}"
        )
        return lines

    def warnings(self) -> list[tuple[str, str]]:
        """What the reader should know before training: (text, YAML line to change or empty)."""
        found: list[tuple[str, str]] = [
            (f"left out of {_rows(self.rows_read)}: {drop.rows:,}, {drop.reason} ({_few(drop)})", self._change(drop))
            for drop in self.dropped
        ]
        if self.truncated_rows:
            text = (
                f"{_rows(self.truncated_rows)} cut to {self.max_seq_length:,} tokens: {self.completion_share_cut:.1%} "
                "of all answer tokens are lost, and the model never sees how these answers end"
            )
            found.append((text, f"data.max_seq_length: {self.length_max}"))
        if self.special_tokens:
            tokens = ", ".join(f"{token} in {_rows(rows)}" for token, rows in sorted(self.special_tokens.items()))
            places = ", ".join(self.special_places)
            found.append((f"special tokens stand in the text and act as control tokens: {tokens} ({places})", ""))
        if self.bos_share is not None and self.bos_share < 1:
            found.append((f"only {_percent(self.bos_share)} of rows have exactly one BOS token", ""))
        if self.duplicate_rows:
            found.append((f"{_rows(self.duplicate_rows)} repeated from another row, so learned more than once", ""))
        if self.contradicting_prompts:
            found.append((f"prompts with more than one answer: {self.contradicting_prompts:,}", ""))
        return found

    def _change(self, drop: Dropped) -> str:
        return f"data.max_seq_length: {self.length_max}" if "max_seq_length" in drop.reason else ""


def _few(drop: Dropped) -> str:
    return ", ".join(drop.places) + (", ..." if drop.rows > len(drop.places) else "")


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _percent(share: float) -> str:
    """A share that says 100% only when it is."""
    return "100%" if share == 1 else f"{min(share, 0.99999):.3%}"
