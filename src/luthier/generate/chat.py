"""A conversation with a finished run, turn by turn; the screen is the caller's.

Each speaker (tuned, or base and tuned) has its own history: what it answered itself. Where the run's template cannot
hold a conversation (it refuses a second question, or rewrites the first turn), each question stands alone.

Not covered: tools, conversations on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.events.printable import printable
from luthier.generate.choosing import Sampling
from luthier.generate.load import Tuned
from luthier.generate.system import check_system, first_turn

Speaker = Literal["base", "tuned"]
_PROBE = [
    {"role": "user", "content": "How many strings has a lute?"},
    {"role": "assistant", "content": "Often fifteen."},
    {"role": "user", "content": "And a guitar?"},
]


class Printable:
    """Makes text that comes in pieces safe for a terminal; `write` gets what `printable` leaves of the whole.

    A carriage return at the end of a piece waits for the next one, since the two may be one line break.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._held = ""

    def __call__(self, piece: str) -> None:
        """Take a piece."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        self._pass_on(text.removesuffix(self._held))

    def end(self) -> None:
        """Pass on what waits."""
        self._pass_on(self._held)
        self._held = ""

    def _pass_on(self, text: str) -> None:
        if safe := printable(text):
            self._write(safe)


@dataclass
class Chat:
    """A conversation.

    Attributes:
        tuned: Who answers.
        speakers: In which order: `("tuned",)`, or `("base", "tuned")`.
        sampling: How they write.
        remembers: Whether earlier turns are part of the prompt.
        system: What a system message says, before the first turn; empty: none. None: as in training.

    Raises:
        ModelError: E-EVAL-029 when the run's template has no place for a system message.
    """

    tuned: Tuned
    speakers: tuple[Speaker, ...] = ("tuned",)
    sampling: Sampling = field(default_factory=Sampling)
    remembers: bool = True
    system: str | None = None
    _turns: dict[Speaker, list[dict[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.remembers = self.remembers and holds_conversations(self.tuned)
        if self.system is None:
            self.system = self.tuned.system
        check_system(self.tuned, self.system)

    def reset(self) -> None:
        """Forget the earlier turns."""
        self._turns.clear()

    def fits(self, text: str) -> bool:
        """Whether there is room for this question and an answer, after the turns so far."""
        return all(self.tuned.fits(self._messages(speaker, text)) for speaker in self.speakers)

    def answer(self, speaker: Speaker, text: str, write: Callable[[str], None]) -> bool:
        """One speaker's answer, safe for a terminal, to `write` as it comes.

        A Ctrl-C ends the answer; what was said until then is remembered.

        Returns:
            Whether the answer is whole.

        Raises:
            ModelError: E-EVAL-020 when there is no room for it; E-EVAL-023 when there is no base.
        """
        said: list[str] = []
        safe = Printable(write)

        def hear(piece: str) -> None:
            said.append(piece)
            safe(piece)

        messages, whole = self._messages(speaker, text), True
        try:
            with self.tuned.as_base() if speaker == "base" else nullcontext():
                self.tuned.say(messages, hear, self.sampling)
        except KeyboardInterrupt:
            whole = False
        safe.end()
        if self.remembers:
            self._turns[speaker] = [*messages, {"role": "assistant", "content": "".join(said)}]
        return whole

    def _messages(self, speaker: Speaker, text: str) -> list[dict[str, str]]:
        earlier = self._turns.get(speaker)
        return first_turn(text, self.system or "") if earlier is None else [*earlier, *first_turn(text)]


def holds_conversations(tuned: Tuned) -> bool:
    """Whether the template only appends: a second question leaves the first turn as it was, and nothing is left out."""
    try:
        first, whole = (
            str(tuned.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            for messages in (_PROBE[:1], _PROBE)
        )
    except Exception:  # a template is a program: it may raise anything
        return False
    return whole.startswith(first) and all(message["content"] in whole for message in _PROBE)


def once(
    tuned: Tuned, text: str, speakers: Sequence[Speaker], sampling: Sampling, system: str | None = None
) -> list[dict[str, Any]]:
    """One answer of each speaker, as it is, for programs; `system` is as in `Chat`.

    Raises:
        ModelError: E-EVAL-020 when there is no room for an answer; E-EVAL-023 when there is no base; E-EVAL-029 when
            the template has no place for a system message.
    """
    system = tuned.system if system is None else system
    check_system(tuned, system)
    answers = []
    for speaker in speakers:
        said: list[str] = []
        with tuned.as_base() if speaker == "base" else nullcontext():
            answer = tuned.say(first_turn(text, system), said.append, sampling)
        counts = {"prompt_tokens": len(answer.prompt_ids), "completion_tokens": answer.tokens}
        answers.append({"model": speaker, "text": "".join(said), "finish_reason": answer.ended, **counts})
    return answers
