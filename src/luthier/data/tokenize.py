"""Rows to token ids and trained spans, a batch at a time.

    row -> format.read -> [template.segments] -> ids of each segment -> [BOS] ids ... EOS, spans of trained positions

Exactly one BOS where the tokenizer wants one; an end-of-turn or EOS token, trained, ends every row.

Not covered: cutting to max_seq_length (a view on the cached rows, `luthier.data.rows`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from luthier.config.schema import DatasetSource, Objective
from luthier.data.formats import Format, choose_format, in_your_words, renamed
from luthier.data.messages import Content, Message, Preferred, Segment
from luthier.data.problems import SHOWN_PER_KIND, Problems, RowError
from luthier.data.sources import RowSource
from luthier.data.template import Template, adds_bos, continued_ids, plain_ids, reads_neighbours

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 500_000
MAX_ROW_BYTES = 2**20
"""A tokenizer takes some 250 bytes for each token that it makes, and a token may be one byte."""
_RUNS_ON = re.compile(r"[A-Za-z0-9.?!][A-Za-z0-9]")
_FIX_CHARACTER = "repair the text or delete the row"


@dataclass
class Batch:
    """Tokenized rows, column by column.

    Attributes:
        input_ids: Token ids of each row.
        spans: Trained positions of each row as start, end, start, end, ... (ends exclusive).
        prompt_keys: 64-bit hash of each row's normalised question.
        row_keys: The same of question and answer.
        places: ``file:line`` of each row.
    """

    input_ids: list[list[int]] = field(default_factory=list)
    spans: list[list[int]] = field(default_factory=list)
    prompt_keys: list[int] = field(default_factory=list)
    row_keys: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass
class Found:
    """What reading noticed on the way.

    Attributes:
        format: Name of the format that was used.
        rows: Rows read.
        rendered: Whether any of them was a conversation, which the template rendered, and not final text.
        special_tokens: Special token -> in how many rows it stands as part of the text.
        special_places: The first rows where one does.
        touching_rows: Rows of final text in which a prompt runs into the answer, with nothing between the words.
        touching_example: The first of these places.
        bad_rows: Error code -> rows that were left out because of it (`data.bad_rows: drop`).
        bad_places: Error code -> the first of these rows.
        systems: What the rows' system messages say, empty for a row without one; the first two different ones.
    """

    format: str = ""
    rows: int = 0
    rendered: bool = False
    special_tokens: dict[str, int] = field(default_factory=dict)
    special_places: list[str] = field(default_factory=list)
    touching_rows: int = 0
    touching_example: str = ""
    bad_rows: dict[str, int] = field(default_factory=dict)
    bad_places: dict[str, list[str]] = field(default_factory=dict)
    systems: list[str] = field(default_factory=list)

    def note_system(self, messages: list[Message]) -> None:
        """Whether all rows have one and the same is known as soon as two differ."""
        system = next((message.content for message in messages if message.role == "system"), "")
        if len(self.systems) < 2 and system not in self.systems:
            self.systems.append(system)

    def leave_out(self, code: str, place: str) -> None:
        """Count a row that cannot be used."""
        self.bad_rows[code] = self.bad_rows.get(code, 0) + 1
        places = self.bad_places.setdefault(code, [])
        if len(places) < SHOWN_PER_KIND:
            places.append(place)


class RowTokenizer:
    """Tokenizes the rows of one source.

    Args:
        tokenizer: The model's tokenizer.
        template: Renders conversations.
        completion_only: Train the answers only; else everything but BOS.
        drop_bad: Leave out and count rows that cannot be used, instead of noting them as problems.
        objective: With `dpo` each row read is a pair, and becomes two: the chosen answer's, and the rejected one's.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        *,
        completion_only: bool,
        drop_bad: bool = False,
        objective: Objective = "sft",
    ) -> None:
        self._tokenizer = tokenizer
        self._objective = objective
        self._template = template
        self._completion_only = completion_only
        self._drop_bad = drop_bad
        self._bos: int | None = tokenizer.bos_token_id if adds_bos(tokenizer) else None
        self._eos: int = tokenizer.eos_token_id
        self._reads_neighbours = reads_neighbours(tokenizer)
        self._stop = frozenset(template.stop_ids(tokenizer))
        special = sorted({*tokenizer.all_special_tokens, template.end_of_turn} - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))

    def batches(self, source: RowSource, config: DatasetSource, problems: Problems, found: Found) -> Iterator[Batch]:
        """Tokenize a source; after the first problem rows are only checked, no longer tokenized.

        Args:
            source: Where the rows come from.
            config: Its format and columns.
            problems: Takes what is wrong with rows.
            found: Takes what is noticed.

        Yields:
            About 1,000 rows at a time, fewer if they are long.
        """
        format: Format | None = None
        batch, pending, characters = Batch(), list[list[Segment]](), 0
        for place, values in source.rows(problems):
            found.rows += 1
            if format is None:
                format = choose_format(config, values, place, self._objective)
                found.format = format.NAME
            try:
                texts = self._texts(format.read(renamed(values, config.columns)), place, batch, found)
            except RowError as problem:
                if self._drop_bad:
                    found.leave_out(problem.code, place)
                else:
                    told = in_your_words(problem.found, config.columns)
                    problems.add(problem.code, told, problem.fix, place, droppable=True)
                continue
            if problems:
                batch, pending, characters = Batch(), [], 0
                continue
            pending += texts
            characters += sum(len(segment.text) for segments in texts for segment in segments)
            if len(pending) >= _BATCH_ROWS or characters > _BATCH_CHARACTERS:
                yield self._tokenized(batch, pending)
                batch, pending, characters = Batch(), [], 0
        if pending and not problems:
            yield self._tokenized(batch, pending)

    def _texts(self, read: Content | Preferred, place: str, batch: Batch, found: Found) -> list[list[Segment]]:
        """Final text of a row, or of both rows of a pair; their keys and place go into the batch."""
        contents: list[Content] = [read.chosen, read.rejected] if isinstance(read, Preferred) else [read]
        special: set[str] = set()
        for content in contents:
            texts = [item.content + item.context if isinstance(item, Message) else item.text for item in content]
            _check_size(texts)
            special.update(token for text in texts for token in self._special_in(text))
        rendered = [self._segments(content, found) for content in contents]
        for token in special:
            found.special_tokens[token] = found.special_tokens.get(token, 0) + 1
        if special and len(found.special_places) < SHOWN_PER_KIND:
            found.special_places.append(place)
        for content in contents:
            prompt, answer = _sides(content)
            batch.prompt_keys.append(_key(prompt or answer))
            batch.row_keys.append(_key(f"{prompt}\0{answer}"))
            batch.places.append(place)
        return rendered

    def _segments(self, content: Content, found: Found) -> list[Segment]:
        messages = [item for item in content if isinstance(item, Message)]
        segments = self._template.segments(messages) if messages else _only_segments(content)
        found.rendered |= bool(messages)
        found.note_system(messages)
        if not messages and (example := _touching(segments)):
            found.touching_rows += 1
            found.touching_example = found.touching_example or example
        return segments

    def _special_in(self, text: str) -> list[str]:
        """Special tokens that stand in a text.

        Raises:
            RowError: It is no text that can be trained on.
        """
        if "\0" in text:
            raise RowError("E-DATA-014", f"a NUL character at position {text.index(chr(0))}", _FIX_CHARACTER)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                found_text = f"half of a surrogate pair (\\u{ord(text[error.start]):04x}) at position {error.start}"
                raise RowError("E-DATA-014", found_text, _FIX_CHARACTER) from None
        return self._special.findall(text)

    def _tokenized(self, batch: Batch, pending: list[list[Segment]]) -> Batch:
        texts = [[segment.text for segment in segments] for segments in pending]
        if self._reads_neighbours:
            texts = [list(accumulate(row)) for row in texts]
        encoded = iter(plain_ids(self._tokenizer, [text for row in texts for text in row]))
        for segments in pending:
            pieces = [next(encoded) for _ in segments]
            if self._reads_neighbours:
                pieces = self._added(segments, pieces)
            learned = [not s.never and (s.trained or not self._completion_only) for s in segments]
            ids, spans = self._assembled(list(zip(learned, pieces, strict=True)))
            batch.input_ids.append(ids)
            batch.spans.append(spans)
        return batch

    def _added(self, segments: list[Segment], so_far: list[list[int]]) -> list[list[int]]:
        """What each segment adds to the ids of those before it, given the ids of all text up to its end."""
        pieces: list[list[int]] = []
        done: list[int] = []
        for segment, ids in zip(segments, so_far, strict=True):
            goes_on = ids[: len(done)] == done  # else a token reaches over the border
            pieces.append(ids[len(done) :] if goes_on else continued_ids(self._tokenizer, segment.text))
            done += pieces[-1]
        return pieces

    def _assembled(self, pieces: list[tuple[bool, list[int]]]) -> tuple[list[int], list[int]]:
        """One row: BOS, the pieces, EOS; and the spans of what is trained: never the first, which nothing predicts."""
        first = next((ids[0] for _, ids in pieces if ids), None)
        ids = [self._bos] if self._bos is not None and first != self._bos else []
        spans: list[int] = []
        for trained, piece in pieces:
            start = len(ids)
            ids += piece
            if trained and piece and spans and spans[-1] == start:
                spans[-1] = len(ids)
            elif trained and piece:
                spans += [start, len(ids)]
        if not ids or ids[-1] not in self._stop:
            ids.append(self._eos)
            if spans and spans[-1] == len(ids) - 1:
                spans[-1] += 1
            else:
                spans += [len(ids) - 1, len(ids)]
        spans[0] = max(spans[0], 1)
        return ids, spans


def _check_size(texts: list[str]) -> None:
    if sum(map(len, texts)) > MAX_ROW_BYTES // 4:
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > MAX_ROW_BYTES:
            fix = f"split it into rows of at most {MAX_ROW_BYTES // 2**20} MiB, or leave it out (bad_rows: drop)"
            raise RowError("E-DATA-012", f"{size / 2**20:.1f} MiB of text in one row", fix)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over everything about a tokenizer that decides ids."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state: dict[str, Any] = json.loads(backend.to_str())
        state.pop("truncation", None)  # settings of the last call, not of the tokenizer
        state.pop("padding", None)
    else:
        state = {"vocab": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    facts = [state, special, tokenizer("")["input_ids"], getattr(tokenizer, "split_special_tokens", False)]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def _only_segments(content: Content) -> list[Segment]:
    return [item for item in content if isinstance(item, Segment)]


def _touching(segments: list[Segment]) -> str:
    """Where a prompt runs into its answer as no text does (`5?Six`); empty where something stands between them."""
    if len(segments) != 2 or not _RUNS_ON.fullmatch(segments[0].text[-1:] + segments[1].text[:1]):
        return ""
    return f"...{segments[0].text[-12:]}{segments[1].text[:12]}..."


def _sides(content: Content) -> tuple[str, str]:
    """Question and answer of a row, to compare rows by: all before the first answer, and all from it on."""
    prompt: list[str] = []
    answer: list[str] = []
    for item in content:
        is_answer = item.role == "assistant" if isinstance(item, Message) else item.trained
        text = f"{item.content} {item.context}" if isinstance(item, Message) else item.text
        (answer if is_answer or answer else prompt).append(text)
    return normalised(" ".join(prompt)), normalised(" ".join(answer))


def normalised(text: str) -> str:
    """Text without the differences that do not make it another text: width, case, white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
