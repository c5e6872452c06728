"""torchrun, with the exit code of the run.

    python -m luthier.launch.torchrun --nnodes 2 --nproc-per-node 4 ... -m luthier train CONFIG --resume auto

torchrun itself ends with 1 whatever its workers ended with, and schedulers decide by the exit code whether a job is
done, wrong, or to be started again. Here it is

    0          all workers are done
    75         a worker said so (stopped, resumable); torchrun was told to go (SIGTERM, SIGINT, SIGUSR1); or the node
               that keeps the rendezvous was lost while workers were at work
    1, 2, 3    of the worker that failed first; 1 when a signal ended it, or the nodes did not find each other

Source: torch.distributed.run, torch.distributed.elastic. Not covered: starting again here (`--max-restarts`), which
the scheduler does.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE

_GOING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_SAVE_SECONDS = 50
"""For workers that were told to stop; torchrun's own 30 seconds are short for a step and a checkpoint."""


def main(arguments: list[str]) -> int:
    """Run torchrun; returns the exit code."""
    for number in _GOING:  # until torchrun starts workers, and has handlers of its own
        signal.signal(number, _leave)
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import parse_args, run

    asked = parse_args(arguments)  # type: ignore[no-untyped-call]
    asked.signals_to_handle = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    if not any(word.replace("_", "-").startswith("--shutdown-timeout") for word in arguments):
        asked.shutdown_timeout = _SAVE_SECONDS
    try:
        run(asked)  # type: ignore[no-untyped-call]
    except SignalException as told:
        sys.stderr.write(f"torchrun: stopped by {told.sigval.name}\n")
        return EXIT_RESUMABLE
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.stderr.write(f"torchrun: rank {rank} ended first, with exit code {failure.exitcode}\n")
        return failure.exitcode if failure.exitcode > 0 else EXIT_FAILED
    except (RendezvousError, DistNetworkError) as error:
        sys.stderr.write(f"torchrun: {' '.join(str(error).split())[:300]}\n")
        return EXIT_FAILED if signal.getsignal(signal.SIGTERM) is _leave else EXIT_RESUMABLE
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_RESUMABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
