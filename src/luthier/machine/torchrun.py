"""The processes of a run on this machine, under PyTorch's torchrun, and the exit code of the run.

    python -m luthier.machine.torchrun --nnodes 2 --nproc-per-node 4 ... -m luthier train CONFIG --resume auto
    luthier train CONFIG --nproc-per-node 4                                the same, for those who have one machine

    this process: the agent --+-- rank 0: luthier train CONFIG ...
                              +-- rank 1: the same
                              `-- ...                                      machines meet at --rdzv-endpoint

torchrun itself ends with 1 whatever its workers ended with, and schedulers decide by the exit code whether a job is
done, wrong, or to be started again. Here it is

    0          all workers are done
    75         the run was stopped and is resumable; torchrun was told to go (SIGTERM, SIGINT, SIGUSR1, SIGHUP); the
               node that keeps the rendezvous was lost while workers were at work; or the others were at work without
               this node, and have ended
    1, 2, 3    of the worker that failed first; 1 when a signal ended it, or the nodes did not find each other

The workers of a run that was stopped leave with 0, so that `--max-restarts` does not take that for a failure and start
them again; a file tells the agent (`luthier.machine.worker`).

Source: torch.distributed.run, torch.distributed.elastic. Not covered: starting anything on other machines.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE, LuthierError, MissingError, Problem
from luthier.machine.worker import AGENT, EXIT_FILE, is_gone, signals_to_stop

_SAVE_SECONDS = 120
"""For workers that were told to stop; torchrun's own 30 seconds are short for a step and a checkpoint."""
_GOODBYE_SECONDS = 8
"""For a message of a few bytes to the machine where all meet."""
_RENDEZVOUS = str(Path("torch", "distributed", "elastic", "rendezvous"))
_PATIENCE_SECONDS = 600
"""For other machines of a job; torchrun's own for those that answer."""
_PORT = 29400
"""torchrun's own, where an endpoint names none."""


class NotMetError(LuthierError):
    """E-ENV-004: nobody answers where the machines are to meet. They may come later."""

    exit_code = EXIT_FAILED


def start(per_node: int, nodes: int, endpoint: str, restarts: int, words: Sequence[str]) -> int:
    """Run `luthier WORDS` in each process; returns the exit code of the run.

    Args:
        per_node: Processes on this machine, one for each of its devices.
        nodes: Machines; each of them runs the same command.
        endpoint: HOST:PORT of one of them, where they meet; empty for a machine alone.
        restarts: How often all are started again after one has died.
        words: The command.

    Raises:
        MissingError: E-ENV-004, the endpoint is no address of a machine.
        NotMetError: E-ENV-004, nobody answers there for a minute.
    """
    _leave_on_signals()
    if endpoint:
        require_meeting_place(endpoint, 0, 60)
    meeting = ["--rdzv-endpoint", endpoint, "--rdzv-id", endpoint] if endpoint else ["--standalone"]
    numbers = ["--nnodes", str(nodes), "--nproc-per-node", str(per_node), "--max-restarts", str(restarts)]
    # not installed: a launcher beside the source was started
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // per_node)))
    return main([*numbers, "--rdzv-backend", "c10d", *meeting, "-m", "luthier", *words])


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; returns the exit code."""
    _leave_on_signals()
    # A store of its own for each start: from a shared one, gloo reads addresses of processes that are dead.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[AGENT] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="luthier-ranks-") as folder:
        exit_file = Path(folder, "code")
        os.environ[EXIT_FILE] = str(exit_file)
        code = _run(arguments)
        return code or (int(exit_file.read_text(encoding="ascii")) if exit_file.exists() else 0)


def _run(arguments: Sequence[str]) -> int:
    level = os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # no stacks of C++ for a connection that is refused
    from torch.distributed import DistNetworkError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import run

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each failure says itself what it is
    if level == "FATAL":
        del os.environ["TORCH_CPP_LOG_LEVEL"]  # the workers may speak
    asked = _parsed(arguments)
    patience = _PATIENCE_SECONDS if asked.max_restarts else _GOODBYE_SECONDS
    threading.Thread(target=_leave_when_cut_off, args=[patience], name="luthier-cut-off", daemon=True).start()
    try:
        if asked.rdzv_backend == "c10d" and asked.rdzv_endpoint and not asked.standalone:
            _meet(asked)
        run(asked)  # type: ignore[no-untyped-call]
    except SignalException as told:
        _say(f"torchrun: stopped by {told.sigval.name}")
        return EXIT_RESUMABLE
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        _say(f"torchrun: rank {rank} ended first, with exit code {failure.exitcode}")
        return failure.exitcode if failure.exitcode > 0 else EXIT_FAILED
    except AttributeError as error:
        if error.obj is not None or error.name != "is_failed":  # torch 2.13, of a node that was one too many
            raise
        _say("torchrun: the others began without this node, and have ended; give the command again")
        return EXIT_RESUMABLE
    except LuthierError as error:
        _say(str(error))
        return EXIT_FAILED  # what is not there yet may come
    except (RendezvousError, DistNetworkError) as error:
        words = str(error.__cause__ or error).partition("Exception raised")[0].split()
        _say(f"torchrun: {' '.join(words) or type(error).__name__}")
        return EXIT_FAILED if signal.getsignal(signal.SIGTERM) is _leave else EXIT_RESUMABLE
    return 0


def _say(text: str) -> None:
    """On standard error, as far as anybody is there: a closed terminal takes nothing, and changes no exit code."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    from torch.distributed.run import parse_args

    asked: argparse.Namespace = parse_args([*arguments])  # type: ignore[no-untyped-call]
    asked.signals_to_handle = ",".join(one.name for one in signals_to_stop())
    if not any(word.replace("_", "-").startswith("--shutdown-timeout") for word in arguments):
        asked.shutdown_timeout = _SAVE_SECONDS
    return asked


def _meet(asked: argparse.Namespace) -> None:
    """Wait for the meeting place; and complete what torchrun would guess from the name of this machine.

    That name often means nothing to other machines, or is 127.0.1.1.

    Raises:
        LuthierError: See `require_meeting_place`.
    """
    own, keeps_it = require_meeting_place(asked.rdzv_endpoint, _PATIENCE_SECONDS, _PATIENCE_SECONDS)
    if ipaddress.ip_address(own).is_loopback:
        return
    asked.local_addr = asked.local_addr or own
    if interface := _interface(own):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    settings = [f"is_host={int(keeps_it)}"]
    if asked.max_restarts:  # a network that was lost may come back
        settings.append(f"read_timeout={_PATIENCE_SECONDS}")
    new = [setting for setting in settings if setting.partition("=")[0] not in asked.rdzv_conf]
    asked.rdzv_conf = ",".join(filter(None, [asked.rdzv_conf, *new]))


def _leave_when_cut_off(seconds: float) -> None:
    """End this agent when its workers have, and for so long no message reaches the machine where all meet.

    The kernel gives up on such a message after a quarter of an hour, and nothing interrupts the library that waits.
    """
    waited = 0
    while waited < seconds:
        time.sleep(1)
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        codes = [each.f_code for each, _ in traceback.walk_stack(frame)]
        talks = any(_RENDEZVOUS in code.co_filename for code in codes)
        talks = talks and all(code.co_name != "next_rendezvous" for code in codes)  # it waits for other machines
        waited = waited + 1 if talks and not _has_workers() else 0
    _say("torchrun: the machine where all meet cannot be reached any more")
    os._exit(EXIT_RESUMABLE)


def _has_workers() -> bool:
    return any(not is_gone(child.pid) for child in psutil.Process().children())


def require_meeting_place(endpoint: str, name_seconds: float, seconds: float) -> tuple[str, bool]:
    """Wait until somebody answers at HOST:PORT, where it is not this machine itself.

    Args:
        endpoint: Of `--rdzv-endpoint`.
        name_seconds: For the name to be known: that of a machine which just starts may not be yet.
        seconds: For an answer.

    Returns:
        The address of this machine, as it is seen from there; and whether it is to keep the meeting place itself.

    Raises:
        MissingError: E-ENV-004, no such name, or no number behind the colon.
        NotMetError: E-ENV-004, nobody answers.
    """
    host, _, port = endpoint.rpartition(":") if ":" in endpoint.rpartition("]")[2] else (endpoint, "", str(_PORT))
    where, began = "--rdzv-endpoint", time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as own:
                own.bind((address[0], 0))  # only an address of this machine lets us
            return str(address[0]), not _answers(address)
        except (socket.gaierror, UnicodeError) as error:
            if waited >= name_seconds:
                found = f"{endpoint}: no machine is known by that name: {error}"
                fix = "write HOST:PORT of one of the machines, by a name that all of them know, or by its IP address"
                raise MissingError(Problem("E-ENV-004", found, fix, where)) from error
        except OSError:
            try:
                with socket.create_connection((str(address[0]), int(address[1])), timeout=5) as connection:
                    return str(connection.getsockname()[0]), False
            except OSError as error:
                if waited >= seconds:
                    found = f"nobody answers at {endpoint} for {waited:.0f} s: {error}"
                    fix = f"start the same command on {host}; a firewall has to let port {port} through"
                    raise NotMetError(Problem("E-ENV-004", found, fix, where)) from error
        time.sleep(1)


def _answers(address: tuple[Any, ...]) -> bool:
    with suppress(OSError), socket.create_connection((str(address[0]), int(address[1])), timeout=5):
        return True
    return False


def _interface(address: str) -> str:
    """The name of the network interface that has an address."""
    names = (name for name, all_of in psutil.net_if_addrs().items() for one in all_of if one.address == address)
    return next(names, "")


def _leave_on_signals() -> None:
    """Until torchrun starts workers, and has handlers of its own."""
    for number in signals_to_stop():
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_RESUMABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
