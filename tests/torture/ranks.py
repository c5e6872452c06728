"""SIGKILL of a rank or of the launcher of a run of two processes, at random moments, through the real command line.

Each trial kills twice. After a killed rank torchrun starts both again, and nobody helps; after a killed launcher the
same command is given again at once, while its ranks may still be there: they have to end by themselves. Half of the
moments are drawn from the time before the first step of an attempt, half from the training after it. Nothing may be
quiet for 60 seconds, and no bit of the losses and of the final weights may differ from the uninterrupted run's.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.torture.commands import ROOT, write
from tests.torture.kills import lost
from tests.torture.outcome import COUNTS, dice, made_once, workshop
from tests.torture.runs import losses, tail, unlike, variant

NAME = "ranks"
DEFAULT = 50
FAST = 1
KILLS = 2
STEPS = 60
HANG_SECONDS = 60.0


def trial(number: int, seed: int) -> str:
    """Two kills, in as many runs as that takes."""
    rng, folder, done = dice(NAME, seed, number), workshop() / f"{NAME}-{number}", 0
    while done < KILLS:
        run = Tortured(rng, folder, KILLS - done)
        if wrong := of_one(run, folder):
            return wrong
        done += len(run.killed)
    return ""


def of_one(run: Tortured, folder: Path) -> str:
    """What is wrong with a run that was killed and is done."""
    wrong = run.until_done() or lost(folder) or unlike(straight()[0], folder)
    left = [path.name for prefix in (".inflight-*", ".trash-*") for path in folder.glob(prefix)]
    wrong = wrong or (f"{left} is left over" if left else "")
    COUNTS["runs"] += 1
    COUNTS["runs_that_differ"] += bool(wrong)
    said = tail(run.log) if wrong else ""
    shutil.rmtree(folder, ignore_errors=True)
    run.log.unlink(missing_ok=True)
    return f"after {run.killed}: {wrong}\n{said}" if wrong else ""


@dataclass
class Tortured:
    """A run that is killed and goes on."""

    rng: random.Random
    folder: Path
    kills: int
    killed: list[str] = field(default_factory=list)
    orphans: list[tuple[psutil.Process, float]] = field(default_factory=list)
    """Ranks whose launcher was killed, and when."""
    changed: tuple[int, float] = (0, 0.0)
    """Bytes that the run has written, and since when."""

    @property
    def log(self) -> Path:
        """What all its processes say."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def until_done(self) -> str:
        """Start it, kill, start it again; what is wrong."""
        while True:
            launcher = start(of_two(self.folder), self.log)
            try:
                wrong = self._killed_or_done(launcher)
            finally:
                end(launcher)
            if wrong or launcher.returncode == 0:
                return wrong or self._orphans_end()
            if launcher.returncode != -signal.SIGKILL:
                return f"the launcher ended with {launcher.returncode}"

    def _killed_or_done(self, launcher: subprocess.Popen[bytes]) -> str:
        """Kill ranks until the launcher ends, or is killed; what is wrong."""
        self.changed = (0, time.monotonic())
        while launcher.poll() is None:
            if len(self.killed) < self.kills:
                wrong = self._wait(launcher, *self._moment())
                if not wrong and launcher.poll() is None:
                    self._kill(launcher)
            else:
                wrong = self._wait(launcher, float("inf"), 0)
            if wrong:
                return wrong
        return ""

    def _moment(self) -> tuple[float, int]:
        """Seconds to wait, and the events of steps that there have to be before."""
        seconds = straight()[1]
        steps = len(losses(self.folder)["log"])
        if self.rng.random() < 0.5:
            return self.rng.random() * seconds["start"], 0
        return self.rng.random() * seconds["training"] * (1 - steps / STEPS), steps + 1

    def _wait(self, launcher: subprocess.Popen[bytes], seconds: float, steps: int) -> str:
        """Until the launcher ends, or some seconds after a step; what hangs meanwhile."""
        until = None
        while launcher.poll() is None:
            now = time.monotonic()
            if until is None and (not steps or len(losses(self.folder)["log"]) >= steps):
                until = now + seconds
            if until is not None and now >= until:
                return ""
            written = sum(p.stat().st_size for p in (self.log, self.folder / "events.jsonl") if p.exists())
            if written != self.changed[0]:
                self.changed = (written, now)
            quiet = now - self.changed[1]
            COUNTS["most_seconds_of_silence"] = max(COUNTS["most_seconds_of_silence"], round(quiet))
            if quiet > HANG_SECONDS:
                return f"nothing happens for {quiet:.0f} s"
            if wrong := self._orphans_end(0):
                return wrong
            time.sleep(0.05)
        return ""

    def _kill(self, launcher: subprocess.Popen[bytes]) -> None:
        ranks = ranks_of(launcher.pid)
        victim = self.rng.choice(["launcher", 0, 1])
        step = max(losses(self.folder)["log"], default=0)
        COUNTS["kills"] += 1
        COUNTS["kills_in_training"] += bool(step)
        if victim in ranks:
            with suppress(psutil.Error):
                ranks[int(victim)].kill()
            COUNTS["kills_of_a_rank"] += 1
            self.killed.append(f"rank {victim} at step {step}")
            return
        now = time.monotonic()
        launcher.kill()
        launcher.wait()
        COUNTS["kills_of_the_launcher"] += 1
        self.killed.append(f"launcher at step {step}")
        self.orphans += [(process, now) for process in ranks.values()]

    def _orphans_end(self, most: float = HANG_SECONDS) -> str:
        """Wait for ranks that have lost their launcher, `most` seconds; whether one outlives it for too long."""
        end = time.monotonic() + most
        while True:
            for process, since in self.orphans:
                seconds = round(time.monotonic() - since)
                COUNTS["most_seconds_of_an_orphan"] = max(COUNTS["most_seconds_of_an_orphan"], seconds)
                if alive(process) and seconds > HANG_SECONDS:
                    return f"process {process.pid} outlives its launcher for {seconds} s"
            self.orphans = [(process, since) for process, since in self.orphans if alive(process)]
            if not self.orphans or time.monotonic() >= end:
                return ""
            time.sleep(0.1)


def of_two(folder: Path) -> dict[str, Any]:
    """The config of a run that two processes share."""
    values = variant("lora", folder)
    values["training"] |= {"max_steps": STEPS, "hang_seconds": 15, "rehearsal": False}
    values["checkpointing"]["save_steps"] = 5
    values["evaluation"]["eval_steps"] = 20
    return values


def start(values: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """The launcher, in a process group of its own."""
    folder = Path(values["training"]["output_dir"])
    path = write(values, folder.with_name(f"{folder.name}.yaml"))
    words = ["train", str(path), "--resume", "auto", "--plain", "--nproc-per-node", "2", "--max-restarts", str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "luthier", *words],
            stdout=file, stderr=file, cwd=log.parent, env=environment, start_new_session=True,
        )  # fmt: skip


def end(launcher: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a launcher that still runs, because something is wrong."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def ranks_of(launcher: int) -> dict[int, psutil.Process]:
    """The ranks that a launcher has started and that are there."""
    found = {}
    with suppress(psutil.Error):
        for child in psutil.Process(launcher).children(recursive=True):
            with suppress(psutil.Error):
                if child.ppid() == launcher and "RANK" in child.environ():
                    found[int(child.environ()["RANK"])] = child
    return found


def alive(process: psutil.Process) -> bool:
    """Whether it runs."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@functools.cache
def straight() -> tuple[Path, dict[str, float]]:
    """Folder of the uninterrupted run, and its seconds to the first step, and from there to the last one."""

    def make(folder: Path) -> None:
        began = time.monotonic()
        launcher, first, last = start(of_two(folder), folder.with_name(f"{folder.name}.log")), 0.0, 0.0
        while launcher.poll() is None:
            steps, now = len(losses(folder)["log"]), time.monotonic() - began
            first = first or (now if steps else 0.0)
            last = last or (now if steps == STEPS else 0.0)
            time.sleep(0.02)
        if launcher.returncode:
            raise RuntimeError(tail(folder.with_name(f"{folder.name}.log")))
        (folder / "seconds").write_text(f"{first} {last - first}")

    folder = made_once(workshop() / "straight" / NAME, make)
    first, rest = (folder / "seconds").read_text().split()
    return folder, {"start": float(first), "training": float(rest)}
