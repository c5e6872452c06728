"""The failures that a machine can cause in mid-run, each as one named error."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from luthier.config.plan import Plan
from luthier.errors import Problem, RunError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@contextmanager
def named_failures(plan: Plan) -> Iterator[None]:
    """Turn out-of-memory and disk errors into `RunError`s that name the YAML line to change.

    Raises:
        RunError: E-RUN-002 and E-RUN-003.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        tokens = plan.max_tokens_per_micro_batch
        found = f"{plan.machine.device_name} ran out of memory with {tokens:,} tokens in a micro-batch"
        fix = f"write max_tokens_per_micro_batch: {max(1, tokens // 2)}, then --resume auto"
        raise RunError(Problem("E-RUN-002", found, fix, "training.max_tokens_per_micro_batch")) from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        output_dir = plan.config.training.output_dir
        found = f"{error.filename or output_dir}: {error.strerror}"
        raise RunError(Problem("E-RUN-003", found, "make room, then --resume auto", "training.output_dir")) from error
