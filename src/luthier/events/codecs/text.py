"""Text logs: Luthier's training.log, and what Hugging Face's Trainer, TRL, Unsloth, Axolotl and LLaMA-Factory print.

Numbers come in dict lines, among progress bars, sentences, warnings and tracebacks. The dict of the Trainer has no
step, so the step is taken from, in this order: the line itself (`{…}  Step 10` too); the progress bar (`codecs.loop`);
the number of log lines so far, for then nothing says how many steps lie between two. `words` says which.

A run that starts again in the same log is noticed at its first log step: the step or the epoch goes back, or the bar
has started again, or the run had ended. It is told as a `RunStarted` whose `first_step` is the step before, so that
whoever folds the events forgets what was done twice. What a run died of (`codecs.failure`) counts as the end when no
log step follows it until the log is quiet.

A redirected stdout is written in blocks of 8 KiB or so; a dict that bars have thereby torn is put together again.

Times are seconds since the start by the bar, or by tokens and tokens/s where a line has both; else 0.

Not covered: bars without a total; dicts that are spread over lines; the steps between two log lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from luthier.events.codecs import values as of
from luthier.events.codecs.base import LineDecoder, Told
from luthier.events.codecs.failure import Failure, explained
from luthier.events.codecs.hints import ANSI, Hints, said
from luthier.events.codecs.loop import Loop, Placed, Values
from luthier.events.codecs.progress import NO_BAR, Bar, parse_bar
from luthier.events.codecs.sentences import Sentences
from luthier.events.line import Value, parse_line
from luthier.events.types import Event, Notice, Resumed, RunFinished, RunStarted

_LONGEST = 64 * 1024
_NOTICES = 200
_SEGMENTS = 4096
_STEP_AFTER = re.compile(r"\}\s+[Ss]tep (\d{1,15})\b")
_TELLING = frozenset({"loss", "eval_loss", "train_runtime"})


class TextDecoder(LineDecoder):
    """A text log, line by line.

    Args:
        run: The name for a run that does not say its own.
    """

    marker = b"'loss'"
    wall_clock = False

    def __init__(self, run: str) -> None:
        self._run = run
        self._attempt = 1
        self._started = False
        self._ended = self._ended_well = False
        self._again = False
        self._logged = False
        self._counted = False
        self._luthier = False
        self._step = self._first_logged = self._tokens = 0
        self._epoch = self._elapsed = self._memory = self._best = math.nan
        self._hints = Hints()
        self._announced = -1
        self._loop = Loop()
        self._now: Bar | None = None
        self._torn = ""
        self._last: dict[str, Value] = {}
        self._sentences = Sentences()
        self._failure = Failure()
        self._notices: set[tuple[str, int | None]] = set()
        self._out: list[Told] = []

    @property
    def sure(self) -> bool:  # type: ignore[override]
        """Whether the log has said something that only a text log says."""
        return self._started

    @property
    def words(self) -> str:  # type: ignore[override]
        """The format, and where the steps come from."""
        if self._luthier:
            return "Luthier training log"
        if not self._logged and not self._loop.bar:
            return "text log, no log step yet"
        if self._loop.bar:
            now = self._now or self._loop.bar
            return f"Trainer log, steps by the progress bar, now at {now.step:,} of {now.total:,}"
        return f"Trainer log, steps {'are numbers of log lines' if self._counted else 'as written'}"

    def feed(self, line: bytes) -> list[Told]:
        """The events that one more line completes; carriage returns inside it are line breaks too."""
        # Of a bar that was redrawn for hours the last drawings are enough.
        if not line:
            self._failure.blank()
        for segment in line.rsplit(b"\r", _SEGMENTS):
            if segment:
                self._segment(segment)
        return self._taken()

    def glimpse(self, start: bytes, end: bytes) -> list[Told]:
        """The bar of a line that is still drawn over: where it is now, and the step of what was printed before."""
        first = next((segment for segment in start.split(b"\r") if segment), b"")
        bar = _bar(first)
        if bar is not None and (not self._started or (self._loop.waits and bar.total == self._hints.total_steps)):
            self._draw(bar)
        self._now = _bar(end.rpartition(b"\r")[2]) or self._now
        return self._taken()

    def flush(self) -> list[Told]:
        """What was held back: a log line without a bar after it, an open sentence, a failure."""
        self._place(self._loop.flush())
        self._say(self._sentences.flush())
        self._fail()
        return self._taken()

    def skip(self, lines: Sequence[bytes]) -> list[Told]:
        """What was drawn between them is read as far as steps depend on it; where steps are counted, they count."""
        told: list[Told] = []
        if self._loop.waits:
            told = self.feed(lines[0].partition(b"{")[0])
            lines = [b"", *lines[1:]]
        if self._loop.bar is not None:
            self._loop.skip(lines)
        elif self._counted:
            self._step += len(lines)
        return told

    def gap(self) -> None:
        """What waits, waits for something that is passed over."""
        self._loop.forget()
        self._torn = ""

    def is_whole(self, partial: bytes) -> bool:
        """Whether it ends with a dict of numbers, or may be what the run died of."""
        text = partial[:_LONGEST].decode("utf-8", "replace").rpartition("\r")[2]
        return parse_line(text) is not None or self._failure.tells(text)

    def _taken(self) -> list[Told]:
        told, self._out = self._out, []
        return told

    def _tell(self, event: Event) -> None:
        self._out.append(Told(event, self._elapsed, str(self._attempt)))

    def _segment(self, segment: bytes) -> None:
        text = segment[:_LONGEST].decode("utf-8", "replace")
        nested = False
        if "\x1b" in text:
            # A bar below another one, that of an evaluation, ends with the cursor going up.
            nested = "\x1b[A" in text
            text = ANSI.sub("", text)
        if self._sentences.goes_on(text):
            # What a model writes, in a sentence, may look like anything, also like nothing.
            return
        if text.isspace() and not nested:
            self._loop.clear(text)
        if not text or text.isspace():
            return
        bar = parse_bar(text)
        if bar is not None:
            if not nested:
                self._draw(bar)
            text = text[bar.end :]
        if text and not text.isspace():
            self._text(text)

    def _text(self, text: str) -> None:
        torn, self._torn = self._torn, ""
        values = parse_line(torn + text) if torn else None
        values = values or (parse_line(text) if "{" in text else None)
        self._loop.torn = False
        if values and None in values.values():
            values = {name: value for name, value in values.items() if value is not None}
        if values and (after := _STEP_AFTER.search(text)):
            values.setdefault("step", int(after[1]))
        if values and not values.keys().isdisjoint(_TELLING):
            self._say(self._sentences.flush())
            self._dict(values)
        elif self._failure.take(text):
            self._say(self._sentences.flush())
        else:
            self._plain(text)
            start = text.find("{")
            if start >= 0 and "}" not in text and text[start + 1 : start + 2] in ("", "'"):
                self._torn, self._loop.torn = text[start:], True
            else:
                self._loop.text()

    def _plain(self, text: str) -> None:
        told: list[Event] = []
        if not self._sentences.take(text, self._step, told):
            if self._hints.take(text):
                self._announce()
            elif (event := said(text)) is not None:
                told.append(event)
        self._say(told)

    def _say(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case RunStarted():
                    self._header(event)
                case Notice():
                    if (event.text, event.step) in self._notices or len(self._notices) >= _NOTICES:
                        continue
                    self._notices.add((event.text, event.step))
                case Resumed():
                    self._tokens, self._step = self._tokens * event.step // max(1, self._step), event.step
                case RunFinished():
                    event = replace(event, epoch=self._epoch, num_tokens=self._tokens, peak_memory_gib=self._memory)
                    self._ended, self._ended_well = True, event.status != "failed"
            self._tell(event)

    def _header(self, event: RunStarted) -> None:
        """Luthier says itself that it starts."""
        self._fail()
        self._attempt += self._started
        self._begin()
        self._luthier = True
        self._hints = Hints(event.total_steps, event.epochs)
        self._step = event.first_step
        if not event.first_step:
            self._tokens, self._best = 0, math.nan
        self._notices.clear()
        self._last = {}

    def _announce(self) -> None:
        """The number of steps is known, or another one than before."""
        if self._logged:
            # Which of the earlier steps stand is known with the first log step.
            self._again = True
        elif self._attempt == 1 and self._announced != self._hints.total_steps:
            self._start(0)

    def _begin(self) -> None:
        self._started = True
        self._ended = self._ended_well = self._again = self._logged = False
        self._elapsed = 0.0
        self._failure.clear()

    def _start(self, first_step: int) -> None:
        self._begin()
        if not first_step:
            self._step = self._tokens = 0
            self._best = math.nan
        hints = self._hints
        self._announced = hints.total_steps
        self._tell(RunStarted(self._run, self._announced, first_step, hints.epochs, plan={}, program=hints.program))

    def _draw(self, bar: Bar) -> None:
        if self._luthier:
            # It draws none into its log.
            return
        if self._counted and self._loop.bar is None:
            # The log begins in the middle of a run; from here on there is something better than counting.
            self._logged = False
        if bar.step == 0 < self._step:
            # Perhaps a new attempt, perhaps an evaluation on its own: the next dict line tells.
            self._place(self._loop.flush())
            self._again = True
        self._hints.total_steps = bar.total
        if not self._logged:
            self._announce()
        self._now = bar
        self._place(self._loop.draw(bar))

    def _place(self, placed: list[Placed]) -> None:
        for values, bar in placed:
            self._resolve(values, bar.step, bar)

    def _dict(self, values: dict[str, Value]) -> None:
        if values == self._last and not self._again and not self._loop.moved:
            # Each process of a distributed run prints it.
            return
        self._last = values
        if "step" in values or "global_step" in values:
            self._resolve(values, of.count(values, "step", "global_step"))
        elif self._loop.bar is not None:
            self._place(self._loop.print(values))
        else:
            self._counted = True
            self._resolve(values, self._next(values))

    def _next(self, values: dict[str, Value]) -> int:
        """The step by the number of lines; after a step back in epochs, by the epochs."""
        epoch = of.number(values, "epoch")
        if "loss" not in values:
            return self._step
        if epoch < self._epoch and self._epoch > 0:
            return max(1, round(epoch * self._step / self._epoch))
        return self._step + 1

    def _resolve(self, values: Values, step: int, bar: Bar | None = None) -> None:
        if "loss" in values:
            if self._logged and self._is_new_attempt(values, step):
                self._restart(step)
            elif not self._started:
                self._start(0)
            self._log(values, step, bar or NO_BAR)
        elif "eval_loss" in values:
            self._again = False
            event = of.evaluated(values, step, self._best)
            self._best = event.eval_loss if event.best else self._best
            self._tell(event)
        else:
            self._step = step
            self._tell(of.finished(values, step, self._tokens, self._memory))
            self._failure.clear()
            self._ended = self._ended_well = True

    def _is_new_attempt(self, values: Values, step: int) -> bool:
        written = "step" in values or "global_step" in values
        back = step < self._step if written else of.number(values, "epoch") < self._epoch
        return back or self._again or self._ended

    def _restart(self, step: int) -> None:
        self._fail()
        self._attempt += 1
        self._start(0 if step <= self._first_logged else step - 1)

    def _log(self, values: Values, step: int, bar: Bar) -> None:
        if reason := self._failure.clear():
            self._say([Notice("warning", f"an error, and the run went on: {reason}", step=self._step)])
        if not self._logged and self._attempt == 1:
            self._first_logged = step
        seen = of.tokens(values)
        if not self._logged and not self._tokens:
            self._tokens = seen * self._step // max(1, step)  # of a log that begins with a resume
        new, seconds = seen - self._tokens, bar.step_seconds * (step - self._step)
        speed = new / seconds if self._logged and new > 0 and seconds > 0 else math.nan
        event = of.log(
            values, step, tokens_per_second=speed, step_seconds=bar.step_seconds, remaining_seconds=bar.remaining
        )
        if bar.elapsed >= 0:
            self._elapsed = bar.elapsed
        elif event.tokens_per_second > 0 and new > 0:
            self._elapsed += new / event.tokens_per_second
        self._logged, self._step, self._epoch = True, step, event.epoch
        self._tokens, self._memory = seen or self._tokens, event.memory_gib
        self._tell(event)

    def _fail(self) -> None:
        """An error that nothing came after is the end; a start that was refused is none of a run that had its own."""
        failure = self._failure
        about = (self._step, self._epoch, math.nan, self._elapsed or math.nan, self._tokens, self._memory, "")
        words = (explained(failure.reason), failure.code, failure.why, failure.fix)
        event = RunFinished(failure.status, *about, *words)
        if not failure.clear():
            return
        if event.code and self._ended_well:
            self._say([Notice("critical", event.reason)])
            return
        self._luthier |= bool(event.code)
        self._ended = True
        self._tell(event)


def _bar(segment: bytes) -> Bar | None:
    return None if b"\x1b[A" in segment else parse_bar(ANSI.sub("", segment.decode("utf-8", "replace")))
