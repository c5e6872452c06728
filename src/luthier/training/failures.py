"""The failures that a machine can cause in mid-run, each as one named error."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.config.plan import Plan
from luthier.config.render import plan_as_dict
from luthier.doctor.evidence import less_memory, lower_rate
from luthier.doctor.finding import Change
from luthier.doctor.history import History
from luthier.errors import CODES, LuthierError, Problem, RunError
from luthier.errors.trace import keep_trace, summary
from luthier.events.types import RunFinished
from luthier.machine.memory import is_out_of_memory

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_WRITING = _NO_ROOM | {errno.EROFS, errno.EIO, errno.ESTALE, errno.EXDEV, errno.EINTR, errno.EACCES, errno.EPERM}


@contextmanager
def named_failures(now: Callable[[], Plan]) -> Iterator[None]:
    """Turn out-of-memory and disk errors into `RunError`s that name the YAML line to change.

    Args:
        now: Gives the plan as it stands then: a run may have lowered it.

    Raises:
        RunError: E-RUN-002 and E-RUN-003.
    """
    try:
        yield
    except Exception as error:
        plan = now()
        if is_out_of_memory(error):
            tokens = plan.max_tokens_per_micro_batch
            found = f"{plan.machine.device_name} ran out of memory with {tokens:,} tokens in a micro-batch"
            raise RunError(Problem("E-RUN-002", found, *_less_memory(plan))) from error
        raise_unwritten(error, plan.config.training.output_dir)
        raise


@contextmanager
def traced_failures(output_dir: Path) -> Iterator[None]:
    """Keep the traceback of a failed run in its folder; the error names the file.

    Raises:
        RunError: E-RUN-004 in place of an exception that nobody foresaw, which is its cause.
    """
    try:
        yield
    except RunError as error:
        if error.__cause__:
            error.add_note(f"  trace {keep_trace(error, output_dir)}")
        raise
    except LuthierError:
        raise
    except Exception as error:
        raise_unwritten(error, output_dir)
        fix = f"the traceback is in {keep_trace(error, output_dir)}"
        raise RunError(Problem("E-RUN-004", summary(error), fix)) from error


def ended_by(error: BaseException, step: int) -> RunFinished:
    """The last event of a run that an error ended; what several problems say alike stands once.

    Args:
        error: Any.
        step: Steps done.
    """
    problems = error.problems if isinstance(error, LuthierError) else ()

    def joined(words: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(words))

    return RunFinished(
        status="stopped" if isinstance(error, KeyboardInterrupt) else "failed",
        step=step,
        epoch=0.0,
        train_loss=math.nan,
        train_runtime=0.0,
        num_tokens=0,
        peak_memory_gib=0.0,
        final_model="",
        reason=joined(problem.found for problem in problems) or summary(error),
        code=problems[0].code if problems else "",
        why=joined(problem.why or CODES[problem.code].why for problem in problems),
        fix=joined(problem.fix for problem in problems),
    )


def raise_unwritten(error: Exception, output_dir: str | Path) -> None:
    """Raise E-RUN-003 when an error is that a file could not be written.

    Args:
        error: Any.
        output_dir: Where, if the error does not say it.
    """
    if why := unwritten(error):
        place = getattr(error, "filename", None) or output_dir
        disk = "make room" if _number(error) in _NO_ROOM else "see to that disk or folder"
        fix = f"{disk}, then --resume auto"
        raise RunError(Problem("E-RUN-003", f"{place}: {why}", fix, "training.output_dir")) from error


def unwritten(error: BaseException) -> str:
    """Why a file could not be written, in the system's words; empty when that is not what the error is."""
    number = _number(error)
    if number not in _NO_WRITING:
        return ""
    said = getattr(error, "strerror", None)
    return said if said and said.startswith("reads back") else os.strerror(number)


def _number(error: BaseException) -> int:
    """The system's number of an error; 0 when it has none."""
    return (error.errno or 0) if isinstance(error, OSError) and not isinstance(error, LuthierError) else 0


def lower_the_rate(plan: Plan) -> str:
    """What to write, and how to go on, after steps that were not finite: the doctor's change, a third at most."""
    lines = lower_rate(History(plan=plan_as_dict(plan)), 3)
    written = " and ".join(f"{change.key.partition('.')[2]}: {change.new}" for change in lines)
    return f"write {written}; then --resume auto --allow-changes"


def hold_less(plan: Plan) -> Change:
    """The doctor's change for a run that holds too much, with the longest row, which no log has."""
    longest = plan.data.longest_row_tokens if plan.data else 0
    return less_memory(History(plan=plan_as_dict(plan)), longest)[0]


def _less_memory(plan: Plan) -> tuple[str, str]:
    """(what to write and how to go on, its key)."""
    change = hold_less(plan)
    go_on = {
        "data.max_seq_length": "then --resume auto --allow-changes",
        "quantization.load_in_4bit": "and another output_dir: the weights of this run do not fit to it",
    }.get(change.key, "then --resume auto")
    return f"write {change.key.partition('.')[2]}: {change.new}, {go_on}", change.key
