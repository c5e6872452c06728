"""The sandbox as the rest of Luthier sees it: programs go in, verdicts come out, whatever the programs are.

    Luthier (this process; may hold torch, threads, secrets)
      `-- server (`link` starts it; fresh interpreter; process 1 of its own namespaces in the tier `full`)
            |-- candidate: one program, one process, behind its walls; killed after its verdict
            `-- candidate

On entering, tiers are tried from the strongest; the first whose eight canaries are all stopped is used. When a server
dies under its programs, or walls do not stand, those programs run once more, one at a time: the one that fails so a
second time is the culprit, if a harmless program passes after it. If that does not, it is the machine.

Not covered: use from several threads at once (make one sandbox for each); judging style or speed of programs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from luthier.errors import MissingError, Problem, RunError
from luthier.evaluate.sandbox import canaries, tiers
from luthier.evaluate.sandbox.link import ENVIRONMENT, LOADER, Link, LostError, NoStartError
from luthier.evaluate.sandbox.trial import Trial
from luthier.evaluate.sandbox.types import Program, Verdict

MEMORY_MIB = 512
"""Address space of one program, which includes the interpreter's own."""


class Sandbox:
    """Runs programs that nobody has read.

    Attributes:
        tier: How it holds them: full, no-namespaces, macos or unsafe. Empty until it is entered.
        canaries: Whether each attempt of `canaries` was stopped in that tier.
    """

    def __init__(self, seconds: float = 5.0, unsafe: bool = False) -> None:
        """Settle the limits; nothing is started.

        Args:
            seconds: CPU time of one program with all its tests; and wall time, where only a program that computes,
                and had to wait for a core, may take up to eight times as long: a busy machine seldom costs a verdict.
            unsafe: Where nothing can hold a program, run it all the same, with limits only.
        """
        assert seconds > 0, seconds
        self.tier = ""
        self.canaries: dict[str, bool] = {}
        self._seconds = seconds
        self._unsafe = unsafe
        self._folder = ""
        self._entered = False
        self._link: Link | None = None

    def __enter__(self) -> Sandbox:
        """Find the strongest tier that holds.

        Raises:
            MissingError: None does, and it was not asked to be unsafe (E-EVAL-001).
        """
        try:
            self._choose()
        except BaseException:
            self._leave()
            raise
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process and remove every file."""
        self._leave()

    def run(self, programs: Sequence[Program], workers: int = 2) -> list[Verdict]:
        """The verdicts of programs, in order.

        Args:
            programs: Each runs in a process of its own.
            workers: How many run at a time.

        Raises:
            RunError: The sandbox cannot be started any more (E-EVAL-002).
        """
        assert self._entered or self._link, "enter the sandbox first: with Sandbox() as sandbox"
        trials = [Trial(program) for program in programs]
        self._lost(trials, workers)
        trials = [
            trial if trial.verdict and not trial.unheld else self._alone(program)
            for trial, program in zip(trials, programs, strict=True)
        ]
        return [trial.verdict for trial in trials if trial.verdict]

    def _alone(self, program: Program) -> Trial:
        trial = Trial(program)
        lost = self._lost([trial], 1)
        if self._entered and (lost or trial.unheld):
            self._check()
        if lost:
            trial.abandoned("the program took the server of the sandbox down with it")
        return trial

    def _check(self) -> None:
        """Raise E-EVAL-002 unless a harmless program passes: what fails then is this machine, not a model."""
        trial = Trial(canaries.HARMLESS)
        lost = self._lost([trial], 1)
        if lost or not (trial.verdict and trial.verdict.passed):
            why = trial.verdict.detail if trial.verdict else "its server ended"
            raise self._broken(f"holds no harmless program any more: {why}")

    def _broken(self, why: str) -> RunError:
        found = f"the sandbox ({self.tier}) {why}"
        return RunError(
            Problem("E-EVAL-002", found, "free memory or processes on this machine, then run the same command again")
        )

    def _lost(self, trials: Sequence[Trial], workers: int) -> bool:
        """Run trials; whether the server was lost under them."""
        try:
            self._started().run(trials, workers)
        except LostError:
            self._stop()
            return True
        except BaseException:
            self._stop()
            raise
        return False

    def _started(self) -> Link:
        if self._link is None:
            try:
                self._link = self._start(self.tier)
            except NoStartError as error:
                raise self._broken(f"does not start any more: {error}") from error
        return self._link

    def _start(self, tier: str) -> Link:
        if tier != "full":
            self._folder = tempfile.mkdtemp(prefix="luthier-sandbox-")
            # A private uid must find the way to the folder that is its own; it can list nothing on that way.
            Path(self._folder).chmod(0o711)
        return Link(tiers.walls(tier, self._seconds, MEMORY_MIB, self._folder), tiers.wrapper(tier, self._folder))

    def _choose(self) -> None:
        reasons = []
        for tier in tiers.candidates():
            reason = tiers.missing(tier) or self._try(tier)
            if not reason:
                return
            reasons.append(f"{tier}: {reason}")
        self.canaries = dict.fromkeys(canaries.NAMES, False)
        if not self._unsafe:
            raise MissingError(
                Problem(
                    "E-EVAL-001",
                    f"no sandbox holds here ({'; '.join(reasons) or 'there is none for this system'})",
                    "allow user namespaces or Landlock; or run with --unsafe-local-execution in a machine you can lose",
                )
            )
        self.tier = tiers.UNSAFE
        self._check()

    def _try(self, tier: str) -> str:
        """Why a tier does not hold; empty when it does, and it is then the tier of this sandbox."""
        self.tier = tier
        try:
            self._link = self._start(tier)
            outcome = canaries.fly(self.run, self._link.walls.processes, {*ENVIRONMENT, *LOADER})
        except (NoStartError, RunError) as error:
            self.tier = ""
            self._stop()
            return str(error)
        self.canaries = outcome.stopped
        if outcome.reason:
            self.tier = ""
            self._stop()
        return outcome.reason

    def _stop(self) -> None:
        if self._link is not None:
            self._link.stop()
            self._link = None
        if self._folder:  # the server removes it, unless it was killed
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _leave(self) -> None:
        self._entered = False
        self._stop()
