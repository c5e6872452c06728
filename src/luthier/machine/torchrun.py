"""The processes of a run on this machine, under PyTorch's torchrun, and the exit code of the run.

    python -m luthier.machine.torchrun --nnodes 2 --nproc-per-node 4 ... -m luthier train CONFIG --resume auto
    luthier train CONFIG --nproc-per-node 4                                the same, for those who have one machine

    this process: the agent --+-- rank 0: luthier train CONFIG ...
                              +-- rank 1: the same
                              `-- ...                                      machines meet at --rdzv-endpoint

torchrun itself ends with 1 whatever its workers ended with, and schedulers decide by the exit code whether a job is
done, wrong, or to be started again. Here it is

    0          all workers are done
    75         the run was stopped and is resumable; torchrun was told to go (SIGTERM, SIGINT, SIGUSR1); or the node
               that keeps the rendezvous was lost while workers were at work
    1, 2, 3    of the worker that failed first; 1 when a signal ended it, or the nodes did not find each other

The workers of a run that was stopped leave with 0, so that `--max-restarts` does not take that for a failure and start
them again; a file tells the agent.

Source: torch.distributed.run, torch.distributed.elastic. Not covered: starting anything on other machines.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE

EXIT_FILE = "LUTHIER_EXIT_FILE"
"""Environment variable: where a worker writes the exit code of a run that it leaves with 0."""
AGENT = "LUTHIER_AGENT"
"""Environment variable: the agent's process number."""
_GOING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_SAVE_SECONDS = 120
"""For workers that were told to stop; torchrun's own 30 seconds are short for a step and a checkpoint."""


def start(per_node: int, nodes: int, endpoint: str, restarts: int, words: Sequence[str]) -> int:
    """Run `luthier WORDS` in each process; returns the exit code of the run.

    Args:
        per_node: Processes on this machine, one for each of its devices.
        nodes: Machines; each of them runs the same command.
        endpoint: HOST:PORT of one of them, where they meet; empty for a machine alone.
        restarts: How often all are started again after one has died.
        words: The command.
    """
    meeting = ["--rdzv-endpoint", endpoint, "--rdzv-id", endpoint] if endpoint else ["--standalone"]
    numbers = ["--nnodes", str(nodes), "--nproc-per-node", str(per_node), "--max-restarts", str(restarts)]
    # not installed: a launcher beside the source was started
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // per_node)))
    return main([*numbers, "--rdzv-backend", "c10d", *meeting, "-m", "luthier", *words])


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; returns the exit code."""
    for number in _GOING:  # until torchrun starts workers, and has handlers of its own
        signal.signal(number, _leave)
    # A store of its own for each start: from a shared one, gloo reads addresses of processes that are dead.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[AGENT] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="luthier-ranks-") as folder:
        exit_file = Path(folder, "code")
        os.environ[EXIT_FILE] = str(exit_file)
        code = _run(arguments)
        return code or (int(exit_file.read_text(encoding="ascii")) if exit_file.exists() else 0)


def _run(arguments: Sequence[str]) -> int:
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import parse_args, run

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each failure says itself what it is
    asked = parse_args([*arguments])  # type: ignore[no-untyped-call]
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


def leave(code: int) -> int:
    """The code that a worker leaves with: 0 when its agent gets `code` from a file."""
    place = os.environ.get(EXIT_FILE)
    if not place or code != EXIT_RESUMABLE:
        return code
    Path(place).write_text(str(code), encoding="ascii")
    return 0


def was_restarted() -> bool:
    """Whether the agent has started this worker again, after another one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_orphan() -> bool:
    """Whether the agent of this worker is gone: nobody would end this process with the others."""
    return os.environ.get(AGENT, str(os.getppid())) != str(os.getppid())


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_RESUMABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
