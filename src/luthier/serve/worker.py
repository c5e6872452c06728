"""The one thread that owns the models: takes jobs from a bounded queue and writes their answers.

    submit --> waiting, at most so many --> [jobs of the first one's model] --> write, many at once --> job.tell(...)
                 `-- ApiError 429                ^  prompts are rendered and tokenized here, too
                                                 `-- at each token: jobs of that model that have come meanwhile

Jobs of one model are written together, each in its own way, and later ones join them, unless one of another model has
waited for longer. All that touches models and tokenizers happens in this thread, so that nothing of them needs a lock.

Not covered: several devices.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from luthier.errors import LuthierError
from luthier.generate.choosing import Sampling, Token
from luthier.generate.load import Tuned
from luthier.generate.writing import Answer, write
from luthier.model.batching import MAX_BATCH
from luthier.serve.models import Served
from luthier.serve.refusals import ApiError, broken, busy, closing


@dataclass(frozen=True)
class Begun:
    """It is being written; from here on there are answers."""

    prompt_tokens: int


@dataclass(frozen=True)
class Said:
    """A piece of an answer."""

    index: int
    text: str
    tokens: list[Token]


@dataclass(frozen=True)
class Ended:
    """An answer is whole."""

    index: int
    reason: str
    tokens: int


JobEvent = Begun | Said | Ended | ApiError
"""What a job tells, in this order; after a `ApiError` nothing comes."""


@dataclass
class Job:
    """One request.

    Attributes:
        model: Who answers.
        prompts: Makes the ids of each prompt; raises an ApiError.
        answers: To each prompt.
        prompt_count: How many prompts.
        sampling: How the answers are written.
        tell: Gets events, in the worker's thread.
    """

    model: Served
    prompts: Callable[[Served], list[list[int]]]
    sampling: Sampling
    tell: Callable[[JobEvent], None]
    answers: int = 1
    prompt_count: int = 1
    _cut: str = ""
    _writing: list[Answer] = field(default_factory=list)
    _refused: bool = False
    _begun: Begun | None = None

    @property
    def rows(self) -> int:
        """Answers in all."""
        return self.answers * self.prompt_count

    @property
    def going(self) -> int:
        """Answers that are still to be written."""
        if self._refused:
            return 0
        return sum(not answer.ended for answer in self._writing) if self._writing else self.rows

    def refuse(self, error: ApiError) -> None:
        """It ends with this, whatever was written."""
        self._refused = True
        self.tell(error)

    def cut(self, reason: str) -> None:
        """End all answers at their next token; `reason` is how they end. From any thread."""
        self._cut = self._cut or reason
        for answer in self._writing:
            answer.cut = answer.cut or reason

    @property
    def wanted(self) -> bool:
        """Whether nobody has cut it."""
        return not self._cut

    def end_if_cut(self) -> None:
        """End those of a job that was cut, also who has not begun. In the worker's thread."""
        if self._cut:
            for answer in self._writing:
                answer.end(self._cut)

    def begin(self) -> list[Answer]:
        """Make the prompts; the answers to be written.

        Raises:
            ApiError: 400 for what cannot be asked.
            ModelError: For what the model cannot read: too long, or a token without an embedding.
        """
        tuned, prompts = self.model.tuned, self.prompts(self.model)
        rows = [(ids, number) for ids in prompts for number in range(self.answers)]
        self._writing = [self._answer(tuned, ids, number, index) for index, (ids, number) in enumerate(rows)]
        if self._cut:  # it came in between
            self.cut(self._cut)
        self._begun = Begun(sum(len(ids) for ids in prompts))
        return self._writing

    def _say(self, event: Said | Ended) -> None:
        if self._begun is not None:  # the first answer has: until then it may wait for memory
            self.tell(self._begun)
            self._begun = None
        self.tell(event)

    def _answer(self, tuned: Tuned, ids: Sequence[int], number: int, index: int) -> Answer:
        def hear(text: str, tokens: list[Token]) -> None:
            self._say(Said(index, text, tokens))

        def end(reason: str) -> None:
            self._say(Ended(index, reason, answer.tokens))

        answer = tuned.answer(ids, self.sampling, hear, number)
        answer.on_end = end
        return answer


class Worker:
    """Writes the answers of all jobs.

    Args:
        most_waiting: Jobs that may wait; one more is refused.
        report: Told of an exception that nobody foresaw.
    """

    def __init__(self, most_waiting: int, report: Callable[[BaseException], None]) -> None:
        self._most_waiting, self._report = most_waiting, report
        self._waiting: deque[Job] = deque()
        self._writing: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="luthier-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._closing

    @property
    def load(self) -> tuple[int, int]:
        """How many jobs are being written, and how many wait."""
        with self._changed:
            return sum(job.going > 0 for job in self._writing), len(self._waiting)

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            ApiError: 429 when too many wait already, 503 when the server ends.
        """
        with self._changed:
            if self._closing:
                raise closing()
            self._waiting = deque(other for other in self._waiting if other.wanted)
            if len(self._waiting) >= self._most_waiting:
                raise busy(f"{self._most_waiting} requests are waiting already; come back later")
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Take no more jobs, and refuse those that wait; what is being written goes on."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify()
        for job in waiting:
            job.tell(closing())

    def cut(self) -> None:
        """End what is being written at its next token, as if it had reached its length."""
        for job in list(self._writing):
            job.cut("length")

    def join(self, seconds: float) -> None:
        """Wait for the last job."""
        self._thread.join(seconds)

    def _work(self) -> None:
        torch.seed()  # draws of requests without a seed differ from start to start
        while jobs := self._next():
            try:
                self._write(jobs)
            except Exception as error:
                self._failed(error, [job for job in self._writing if job.going])
            with self._changed:
                self._writing = []

    def _write(self, jobs: Sequence[Job]) -> None:
        model = jobs[0].model

        def joining() -> list[Answer]:
            for job in self._writing:
                job.end_if_cut()
            return self._begun(self._joining(model))

        with model.speaking() as tuned:
            write(tuned.model, self._begun(jobs), tuned.stop_ids, joining)

    def _next(self) -> list[Job]:
        """The jobs to write now: the first that waits, and as many of the same model as fit; none: it is over."""
        with self._changed:
            while not self._writing:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    break
                self._writing, self._waiting = _together(self._waiting)
            return self._writing

    def _joining(self, model: Served) -> list[Job]:
        """Jobs that can be written beside those that are, in their order: none passes one that has to wait."""
        with self._changed:
            self._writing = [job for job in self._writing if job.going]
            joining: list[Job] = []
            while self._waiting and (not self._waiting[0].wanted or _fits(self._waiting[0], self._writing, model)):
                job = self._waiting.popleft()
                if job.wanted:
                    joining.append(job)
                    self._writing = [*self._writing, job]
            return joining

    def _begun(self, jobs: Sequence[Job]) -> list[Answer]:
        """The answers of jobs whose prompts can be read; the others are refused."""
        answers: list[Answer] = []
        for job in jobs:
            try:
                answers += job.begin()
            except ApiError as refusal:
                job.refuse(refusal)
            except LuthierError as error:
                problem = error.problems[0]
                code = "context_length_exceeded" if problem.code == "E-EVAL-020" else "invalid_value"
                job.refuse(ApiError(400, problem.found, code=code))
            except Exception as error:
                self._failed(error, [job])
        return answers

    def _failed(self, error: Exception, jobs: Iterable[Job]) -> None:
        with suppress(Exception):  # a report that cannot be written ends nothing
            self._report(error)
        for job in jobs:
            job.refuse(broken())


def _together(waiting: Iterable[Job]) -> tuple[list[Job], deque[Job]]:
    """Of the jobs that are still wanted: those to write now, and those left."""
    chosen: list[Job] = []
    left: deque[Job] = deque()
    for job in waiting:
        if job.wanted:
            (chosen if not chosen or _fits(job, chosen, chosen[0].model) else left).append(job)
    return chosen, left


def _fits(job: Job, going: Sequence[Job], model: Served) -> bool:
    """Whether it can be written beside these."""
    return job.model is model and sum(other.going for other in going) + job.rows <= MAX_BATCH
