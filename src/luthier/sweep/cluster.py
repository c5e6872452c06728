"""Trials on a Ray cluster: each is the same process as here, beside an actor that hands on what is said.

    sweep (optuna, study.db)   --answer, stop-->   actor on a machine that has room   --stdin-->   luthier.sweep.trial
                               <--said()--------                                      <--stdout--

Ray finds the room, and nothing else: optuna stays with the sweep. The folder of the sweep and the one that the command
was given in have to be there on every machine, under the same path (a shared disk): checkpoints, rows and the study are
files. An actor ends with its sweep, and the trial sees that its parent is gone, saves, and ends.

Source: https://docs.ray.io/en/latest/ray-core/actors.html

Not covered: more than one machine for a trial.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from luthier.errors import EXIT_RESUMABLE, EXIT_WRONG_REQUEST, MissingError, Problem
from luthier.events.printable import one_line
from luthier.sweep.process import Hear, TrialProcess

_WAIT_SECONDS, _ANSWER_SECONDS = 2.0, 20.0
_THREADS = 3
"""Of an actor: one waits for words, one answers."""


class Cluster:
    """The Ray cluster that RAY_ADDRESS names, or that runs on this machine; else one that is started here.

    Args:
        jobs: Trials at a time. None: as many as it has GPUs, or machines.

    Raises:
        MissingError: E-SWEEP-006, there is no such cluster.
    """

    loses = True

    def __init__(self, jobs: int | None = None) -> None:
        term = signal.getsignal(signal.SIGTERM)
        try:
            _look_for(os.environ.get("RAY_ADDRESS", ""))
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of sockets, of Ray, of its own processes that did not begin
            raise _cannot(f"Ray: {one_line(str(error))[:300]}", "mend RAY_ADDRESS, or unset it") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, term)  # Ray has one of its own, that ends the sweep at once
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._gpus = min(1, int(max(machine.get("GPU", 0) for machine in machines)))
        machines = [machine for machine in machines if machine.get("GPU", 0) >= self._gpus]
        self.jobs = jobs or int(sum(machine.get("GPU", 0) for machine in machines)) or len(machines)
        cpus = [int(machine.get("CPU", 0)) for machine in machines]
        self._cpus = max(1, min(max(cpus), sum(cpus) // self.jobs))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def begin(self, arguments: Sequence[str], log: Path, hear: Hear) -> RemoteTrial:
        """Begin a trial where there is room, with a GPU of its own where there are any."""
        place = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_concurrency=_THREADS)(Beside)
        config = Path(arguments[0])
        actor = place.remote(list(arguments), log.absolute(), Path.cwd(), config.absolute(), config.read_text("utf-8"))
        return RemoteTrial(actor, hear)


class Beside:
    """The actor: beside a trial, on its machine.

    Args:
        arguments: As `luthier.sweep.trial` takes them.
        log: Gets its standard error.
        folder: The sweep's own; relative paths of the config begin there.
        config: A file of the sweep.
        text: What is in that file.
    """

    def __init__(self, arguments: Sequence[str], log: Path, folder: Path, config: Path, text: str) -> None:
        self._words: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._trial: TrialProcess | None = None
        found = ""
        if not folder.is_dir():
            found = f"{socket.gethostname()} has no folder {folder}"
        elif not config.is_file() or config.read_text("utf-8") != text:
            found = f"{socket.gethostname()} has another {config}, or none"
        if found:
            problem = _cannot(found, "give the command in a folder that all machines share, output_dir too")
            self._words.put({"problem": str(problem)})
            self._words.put(None)
        else:
            self._trial = TrialProcess(arguments, log, self._words.put, folder=folder)

    def said(self) -> tuple[list[dict[str, Any]], int | None]:
        """What it has said since, as soon as there is something; and its exit code, when it has ended."""
        words = []
        with suppress(queue.Empty):
            words.append(self._words.get(timeout=_WAIT_SECONDS))
            while True:
                words.append(self._words.get_nowait())
        heard = [word for word in words if word is not None]
        if len(heard) == len(words):
            return heard, None
        return heard, self._trial.end() if self._trial else EXIT_WRONG_REQUEST

    def answer(self, go_on: bool) -> None:
        """Answer an evaluation."""
        if self._trial:
            self._trial.answer(go_on)

    def stop(self) -> None:
        """Ask it to finish its step, to save and to end."""
        if self._trial:
            self._trial.stop()


class RemoteTrial:
    """A trial at work on the cluster, or waiting for room.

    Args:
        actor: A `Beside`.
        hear: Gets what the trial says; a lost machine is a problem and its end.
    """

    def __init__(self, actor: Any, hear: Hear) -> None:
        self._actor, self._hear = actor, hear
        self._has_begun, self._code = False, EXIT_RESUMABLE
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def answer(self, go_on: bool) -> None:
        """Answer an evaluation."""
        self._actor.answer.remote(go_on)

    def stop(self) -> None:
        """Ask it to finish its step, to save and to end; what still waits for room has nothing to finish."""
        if self._has_begun:
            self._actor.stop.remote()
        else:
            self.kill()

    def end(self) -> int:
        """Wait for its end; returns its exit code, that of a stopped run where its machine was lost."""
        self._listener.join()
        self.kill()  # what it held is free for the next
        return self._code

    def kill(self) -> None:
        """End it at once."""
        ray.kill(self._actor)

    def _listen(self) -> None:
        try:
            code = None
            while code is None:
                words, code = ray.get(self._actor.said.remote())
                self._has_begun = True
                for word in words:
                    self._hear(word)
            self._code = code
        except ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                self._code = EXIT_WRONG_REQUEST
                self._hear({"problem": str(_cannot(_last_line(error), "that machine needs this Luthier"))})
            else:
                self._hear({"problem": f"its machine was lost: {one_line(str(error))[:200]}"})
        self._hear(None)


def _look_for(address: str) -> None:
    """See whether somebody answers: Ray itself tries for many minutes.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        except OSError as error:
            raise OSError(f"nobody answers at {address}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def _cannot(found: str, fix: str) -> MissingError:
    return MissingError(Problem("E-SWEEP-006", found, fix))
