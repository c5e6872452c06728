"""The failures that a machine can cause in mid-run, each as one named error."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from luthier.config.plan import Plan
from luthier.config.render import plan_as_dict
from luthier.doctor.evidence import less_memory
from luthier.doctor.history import History
from luthier.errors import LuthierError, Problem, RunError
from luthier.machine.ranks import OtherRankError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE}
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "Unable to allocate", "could not create a memory object")


@contextmanager
def named_failures(plan: Plan) -> Iterator[None]:
    """Turn out-of-memory and disk errors into `RunError`s that name the YAML line to change.

    Raises:
        RunError: E-RUN-002 and E-RUN-003.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            tokens = plan.max_tokens_per_micro_batch
            found = f"{plan.machine.device_name} ran out of memory with {tokens:,} tokens in a micro-batch"
            raise RunError(Problem("E-RUN-002", found, *_less_memory(plan))) from error
        if why := unwritten(error):
            place = getattr(error, "filename", None) or plan.config.training.output_dir
            fix = "make room, then --resume auto"
            raise RunError(Problem("E-RUN-003", f"{place}: {why}", fix, "training.output_dir")) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; torch's CPU allocator and oneDNN raise a bare RuntimeError; or it was another rank."""
    if isinstance(error, OtherRankError):
        return error.out_of_memory
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def unwritten(error: BaseException) -> str:
    """Why a file could not be written, in the system's words; empty when that is not what the error is."""
    if isinstance(error, LuthierError):
        return ""
    if isinstance(error, SafetensorError):  # hides the system's error number in its text
        match = re.search(r"\(os error (\d+)\)", str(error))
        number = int(match[1]) if match else None
    else:
        number = error.errno if isinstance(error, OSError) else None
    if number not in _NO_ROOM:
        return ""
    said = getattr(error, "strerror", None)
    return said if said and said.startswith("reads back") else os.strerror(number)


def _less_memory(plan: Plan) -> tuple[str, str]:
    """(what to write and how to go on, its key): the doctor's change, with the longest row, which no log has."""
    longest = plan.data.longest_row_tokens if plan.data else 0
    change = less_memory(History(plan=plan_as_dict(plan)), longest)[0]
    go_on = {
        "training.max_tokens_per_micro_batch": "then --resume auto",
        "quantization.load_in_4bit": "and another output_dir: the weights of this run do not fit to it",
    }.get(change.key, "then --resume auto --allow-changes")
    return f"write {change.key.partition('.')[2]}: {change.new}, {go_on}", change.key
