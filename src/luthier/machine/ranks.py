"""Who we are among the processes of a run, and what these do together.

One process is rank 0 of 1. Under `torchrun` (or `luthier train --nproc-per-node`) the environment says otherwise;
`connected` opens the process group, and everything above asks these functions and never assumes that it is alone.

Whatever decides what a rank does next has to be the same on all of them, or they wait for each other for ever. So such
a decision is either a pure function of what all have, or it is taken by one of these functions. A rank that fails says
so before the others wait for it (`all_or_none`), and who waits sees who is gone and who has not come
(`luthier.machine.pulse`). A rank that fails keeps its connections open until its process ends: so its own message
stands before those of the ranks that go down with it.

Numbers and decisions travel on the CPU (gloo), so that no GPU has to finish its queue for them; gradients travel where
they are (NCCL on CUDA).

A sharded model (`luthier.machine.shards`) has its ranks wait for each other in the middle of a pass too (`in_step`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from luthier.errors import EXIT_FAILED, LuthierError, MissingError, Problem
from luthier.errors.trace import summary
from luthier.machine import worker
from luthier.machine.memory import is_out_of_memory
from luthier.machine.pulse import GIVES_UP_AFTER, STOPPED, Pulse, Waiting

_T = TypeVar("_T")
_PATIENCE = timedelta(minutes=30)
"""Of torch for ranks to find each other; and in training, on top of the pulse's."""
_FOR_EVER = timedelta(days=365)
"""Of torch where the pulse alone says when to give up: rank 0 may read rows or write files for hours."""
_LOOK = timedelta(seconds=1)
_LAST_WORD = timedelta(seconds=10)
"""For a rank that has failed, to say why and to end."""
_pulse: Pulse | None = None


class OtherRankError(LuthierError):
    """E-ENV-007: another rank has failed or is gone; its own message says why.

    Attributes:
        out_of_memory: Memory ran out there.
    """

    exit_code = EXIT_FAILED

    def __init__(self, found: str, out_of_memory: bool = False) -> None:
        """Say what is known of it."""
        fix = "read what that rank wrote, mend it, then --resume auto"
        super().__init__(Problem("E-ENV-007", f"rank {rank()} goes down with another one: {found}", fix))
        self.out_of_memory = out_of_memory


class OtherRankStopped(KeyboardInterrupt):
    """Another rank was asked to stop before there was anything to save; so all end, as if each had been asked."""


def rank() -> int:
    """This process's number; 0 writes."""
    return _number("RANK", 0)


def local_rank() -> int:
    """This process's number on its machine, which is that of its device."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """How many processes share the optimizer step."""
    return _number("WORLD_SIZE", 1)


def _number(name: str, alone: int) -> int:
    """A variable of torchrun's; `alone` where it is not set.

    Raises:
        MissingError: E-ENV-004, it is no number.
    """
    value = os.environ.get(name) or str(alone)
    if not value.isdecimal():
        fix = f"unset {name}, or start the processes with luthier train --nproc-per-node N"
        raise MissingError(Problem("E-ENV-004", f"{name}={value!r} is no number", fix))
    return int(value)


def of_rank(name: str) -> str:
    """The name of a file that each rank writes for itself: `library.log`, and `library.rank1.log`."""
    stem, dot, end = name.rpartition(".")
    return f"{stem}.rank{rank()}{dot}{end}" if rank() else name


def use_own_device() -> None:
    """Compute on this rank's GPU, in the thread that asks; nothing for one process alone.

    Raises:
        MissingError: E-ENV-004, this machine has fewer GPUs than processes of the run.
    """
    if world_size() > 1 and torch.cuda.is_available():
        number, there = local_rank(), torch.cuda.device_count()
        if number >= there:
            found = f"process {number + 1} of this machine has no GPU of its own: it sees {there}"
            raise MissingError(Problem("E-ENV-004", found, f"write --nproc-per-node {there}, or ask for more GPUs"))
        torch.cuda.set_device(number)


@contextmanager
def connected(hang_seconds: float, stacks: Path) -> Iterator[None]:
    """Connect the processes that the environment promises; for one alone, nothing.

    Args:
        hang_seconds: Of an exchange in training: who has not come by then is named, and given up on after three times
            as long. 0: never.
        stacks: The file for the stacks of such a rank.

    Raises:
        MissingError: E-ENV-004, they do not find each other.
    """
    global _pulse
    if _pulse:  # of a run that has failed
        _disconnect()
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        with _ended_by_signals():
            dist.init_process_group(backend, timeout=_PATIENCE + timedelta(seconds=GIVES_UP_AFTER * hang_seconds))
            name = of_rank_0(uuid.uuid4().hex)  # agents of several machines count attempts each for itself
            _pulse = Pulse(name, rank(), world_size(), hang_seconds, stacks)
            _watch_for_hangs(False)
    except (ValueError, RuntimeError) as error:  # a variable is missing, an address is taken, nobody answers
        found = f"WORLD_SIZE={world_size()}, but the processes do not find each other: {str(error).splitlines()[0]}"
        fix = "start them with luthier train --nproc-per-node N, or torchrun; for one process unset WORLD_SIZE"
        raise MissingError(Problem("E-ENV-004", found, fix)) from error
    try:
        yield
        _watch_for_hangs(False)
        on_any_rank(False)  # rank 0 may have to write and upload what is left
        _pulse.close()
        on_any_rank(False)  # and keeps the signs of all
    except GeneratorExit:  # nobody wants the rest of the run
        _disconnect()
        raise
    except BaseException as error:
        if not isinstance(error, OtherRankError):
            _pulse.tell(STOPPED if isinstance(error, KeyboardInterrupt) else _first_words(error))
        elif error.out_of_memory:  # and nobody does it again
            _hear_out()
        raise
    _disconnect()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A signal ends the process at once: nothing is there to save, and the library that waits hears no handler."""
    here = threading.current_thread() is threading.main_thread()
    numbers = worker.signals_to_stop() if here else []
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _disconnect() -> None:
    global _pulse
    if _pulse:
        _pulse.close()
    _pulse = None
    dist.destroy_process_group()


def _first_words(error: BaseException) -> str:
    if isinstance(error, LuthierError) and error.problems:
        return f"{error.problems[0].code} {error.problems[0].found}"
    return summary(error)


def watch_for_hangs() -> None:
    """From here on no rank has work that takes others longer than `hang_seconds`."""
    if _pulse:
        _watch_for_hangs(True)


def _watch_for_hangs(watched: bool) -> None:
    assert _pulse is not None and dist.group.WORLD is not None
    _pulse.watches_hangs = watched
    limited = watched and _pulse.hang_seconds
    patience = _PATIENCE + timedelta(seconds=GIVES_UP_AFTER * _pulse.hang_seconds) if limited else _FOR_EVER
    dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(patience)


def together() -> bool:
    """Whether there are other ranks."""
    return dist.is_initialized()


def sum_over_ranks(*numbers: float) -> tuple[float, ...]:
    """Add each number over all ranks, in float64; every rank gets the sums."""
    return _reduced(numbers, dist.ReduceOp.SUM)


def most_of_ranks(*numbers: float) -> tuple[float, ...]:
    """The largest of each number over all ranks; every rank gets it."""
    return _reduced(numbers, dist.ReduceOp.MAX)


def on_any_rank(truth: bool) -> bool:
    """Whether it is true on one rank at least."""
    return bool(most_of_ranks(float(truth))[0]) if together() else truth


def of_rank_0(value: _T) -> _T:
    """Rank 0's value, on every rank; a plain one."""
    return of_all_ranks(value if rank() == 0 else None)[0] if together() else value  # type: ignore[return-value]


def of_all_ranks(value: _T) -> list[_T]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if not together():
        return [value]
    # as `all_gather_object` does, which waits blindly
    own, size = c10d._object_to_tensor(value, torch.device("cpu"), None)  # type: ignore[no-untyped-call]
    sizes = [int(each) for each in _gathered(size)]
    parts = _gathered(torch.nn.functional.pad(own, (0, max(sizes) - int(size))))
    return [c10d._tensor_to_object(part, each, None) for part, each in zip(parts, sizes, strict=True)]  # type: ignore[no-untyped-call]


def _gathered(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of all ranks, of one shape."""
    found = [torch.empty_like(tensor) for _ in range(world_size())]
    exchange(dist.all_gather, found, tensor)
    return found


def all_or_none(work: Callable[[], _T]) -> _T:
    """What `work` returns here; where it fails on one rank, it fails on all.

    Where memory runs out on one, all hear that it was that: they can do the work again, holding less.

    Args:
        work: Waits for no other rank.

    Raises:
        OtherRankError: It failed elsewhere, and not here.
    """
    if not together():
        return work()
    failure: Exception | None = None
    result: list[_T] = []
    try:
        result.append(work())
    except Exception as error:
        failure = error
    kind = 0 if failure is None else 1 if is_out_of_memory(failure) else 2
    kinds = of_all_ranks((kind, _first_words(failure) if failure else ""))
    worst, _, who = max((kind, -number, number) for number, (kind, _) in enumerate(kinds))
    if failure is not None:
        raise failure
    if worst == 1:
        raise OtherRankError(f"rank {who} ran out of memory", out_of_memory=True)
    if worst:
        _hear_out()
        raise OtherRankError(f"rank {who} has failed: {kinds[who][1]}")
    return result[0]


def in_step(work: Callable[[], _T]) -> _T:
    """What `work` returns, in which ranks wait for each other in torch's own code: the passes of a sharded model.

    Nothing interrupts that code: where there is no sense in waiting, a thread says so and ends this process.

    Raises:
        OtherRankError: One of them is gone, or nobody answers.
    """
    done = threading.Event()
    if _pulse:
        _pulse.enter()
        threading.Thread(target=_end_in_vain, args=[_pulse.wait(), done], name="luthier-vain", daemon=True).start()
    try:
        return work()
    except RuntimeError as error:
        if together() and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise _gone(error) from error
        raise
    finally:
        done.set()


def _end_in_vain(waiting: Waiting, done: threading.Event) -> None:
    while not done.wait(_LOOK.total_seconds()):
        if why_not := waiting.why_not(works=True):
            sys.stderr.write(f"\n{OtherRankError(why_not)}\n\n")
            sys.stderr.flush()
            os._exit(EXIT_FAILED)


def _hear_out() -> None:
    """Wait until a rank that has failed is gone: its own message comes first. It comes to no exchange any more."""
    worker.going_down()
    try:
        dist.all_reduce(torch.zeros(1), async_op=True).wait(_LAST_WORD)
    except RuntimeError:
        return


def only_on_rank_0(work: Callable[[], _T]) -> _T | None:
    """What `work` returns on rank 0, None on the others; where it fails, it fails on all.

    Raises:
        OtherRankError: It failed on rank 0, and this is another.
    """
    return all_or_none(lambda: work() if rank() == 0 else None)


def first_on_rank_0(work: Callable[[], _T]) -> _T:
    """Let rank 0 work first, then one rank of each machine, then the others, who find what was left (files of a cache).

    Raises:
        OtherRankError: It failed on another rank.
    """
    found: list[_T] = []

    def now(own_turn: bool) -> list[_T]:
        return found or ([work()] if own_turn else [])

    for own_turn in (rank() == 0, local_rank() == 0, True):
        found = all_or_none(partial(now, own_turn))
    return found[0]


def _reduced(numbers: tuple[float, ...], how: dist.ReduceOp.RedOpType) -> tuple[float, ...]:
    if not together():
        return numbers
    values = torch.tensor(numbers, dtype=torch.float64)
    exchange(dist.all_reduce, values, op=how)
    return tuple(values.tolist())


def exchange(begin: Callable[..., Any], *tensors: Any, **options: Any) -> None:
    """Do a collective of torch.distributed, and wait for the others as long as there is sense in it.

    On CUDA it is only queued; its failure is that of what waits for the device.

    Raises:
        OtherRankError: One of them is gone, or does not come.
    """
    if _pulse:
        _pulse.enter()
    try:
        work = begin(*tensors, async_op=True, **options)
        if tensors[-1].is_cuda or not _pulse:
            work.wait()
        elif not _done(work):
            waiting = _pulse.wait()
            while not (why_not := waiting.why_not()) and not _done(work):
                pass
            if why_not:
                raise OtherRankError(why_not)
    except RuntimeError as error:
        raise _gone(error) from error


def _done(work: dist.Work) -> bool:
    """Whether it is done within a second.

    Raises:
        RuntimeError: It has failed.
    """
    try:
        return bool(work.wait(_LOOK))
    except RuntimeError:
        return work.is_completed() and bool(work.wait(_LOOK))


def _gone(error: RuntimeError) -> OtherRankError | OtherRankStopped:
    """Of torch.distributed: DistBackendError, or gloo's own text."""
    worker.going_down()
    who = _pulse.who_failed() if _pulse else ""
    if who == STOPPED:
        return OtherRankStopped()
    return OtherRankError(who or str(error).strip().splitlines()[0][:200])
