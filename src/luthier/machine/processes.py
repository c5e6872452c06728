"""Starts the processes of a run on this machine, with PyTorch's own elastic agent (what `torchrun` is made of).

    this process: the agent --+-- rank 0: luthier train CONFIG ...
                              +-- rank 1: the same
                              `-- ...                             machines meet at `rdzv_endpoint`

The agent hands a stop on to every process and waits for them. When one dies it ends the others; with `max_restarts` it
starts all of them again, and they go on from the newest checkpoint. Of a run that was stopped the processes leave with
0, so that the agent does not take that for a failure; a file tells this process the exit code.

Source: torch.distributed.launcher.api, torch.distributed.elastic. Not covered: starting anything on other machines.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE, MissingError, Problem

EXIT_FILE = "LUTHIER_EXIT_FILE"
"""Environment variable: where a process writes the exit code of a run that it leaves with 0."""
_RENDEZVOUS_SECONDS = 900
_LAST_SECONDS = 600
"""For saving after a stop."""


@dataclass(frozen=True)
class Processes:
    """How many, and where they meet.

    Attributes:
        per_node: Processes on this machine, one for each of its devices.
        nodes: Machines; each of them runs the same command.
        endpoint: HOST:PORT of one of them, where they meet; empty for a machine alone.
        restarts: How often all are started again after one has died.
    """

    per_node: int
    nodes: int = 1
    endpoint: str = ""
    restarts: int = 0


def start(wanted: Processes, arguments: Sequence[str]) -> int:
    """Run `luthier ARGUMENTS` in each process; returns the exit code of the run.

    Raises:
        MissingError: E-ENV-004 when the machines do not find each other.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each failure says itself what it is
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // wanted.per_node)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_LAST_SECONDS))
    # A store of its own for each start: from a shared one, gloo reads addresses of processes that are dead.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory(prefix="luthier-ranks-") as folder:
        exit_file = Path(folder, "code")
        os.environ[EXIT_FILE] = str(exit_file)
        source = str(Path(__file__).parents[2])  # not installed: a launcher beside the source was started
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        config = LaunchConfig(
            min_nodes=wanted.nodes,
            max_nodes=wanted.nodes,
            nproc_per_node=wanted.per_node,
            rdzv_backend="c10d",
            rdzv_endpoint=wanted.endpoint or "localhost:0",
            run_id=str(uuid.uuid5(uuid.NAMESPACE_URL, wanted.endpoint)) if wanted.endpoint else uuid.uuid4().hex,
            rdzv_configs={"timeout": _RENDEZVOUS_SECONDS},
            max_restarts=wanted.restarts,
            monitor_interval=0.2,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "luthier", *arguments)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            return code if code > 0 else EXIT_FAILED
        except SignalException:
            return _told(exit_file) or EXIT_RESUMABLE
        except (RendezvousError, ConnectionError) as error:
            found = f"no meeting at {wanted.endpoint or 'localhost'}: {str(error) or type(error).__name__}"
            fix = "give all machines the same --nnodes and --rdzv-endpoint, of one that the others reach"
            raise MissingError(Problem("E-ENV-004", found, fix, "--rdzv-endpoint")) from error
        return _told(exit_file)


def leave(code: int) -> int:
    """The code that a process of a run leaves with: 0 when its agent gets `code` from a file."""
    place = os.environ.get(EXIT_FILE)
    if not place or code != EXIT_RESUMABLE:
        return code
    Path(place).write_text(str(code), encoding="ascii")
    return 0


def was_restarted() -> bool:
    """Whether the agent has started this process again, after another one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_orphan() -> bool:
    """Whether the agent is gone: nobody would end this process with the others."""
    return EXIT_FILE in os.environ and hasattr(signal, "SIGKILL") and os.getppid() == 1


def _told(exit_file: Path) -> int:
    return int(exit_file.read_text(encoding="ascii")) if exit_file.exists() else 0
