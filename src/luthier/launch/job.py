"""What a job is made of, and which scheduler understands what.

Each scheduler has one template beside this file; what a template leaves open is edited in the file that it makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from luthier.config.load import Loaded, read_text
from luthier.config.values import PACKAGE
from luthier.errors import ConfigError, Problem

PORT = 29500
"""Where the first node waits for the others."""
BUCKET = "/checkpoints"
"""Where machines of SkyPilot see what survives them."""
SAVE_SECONDS = 180
"""Between the word that a job has to go and its end: for a step, and for a checkpoint."""
_GPUS = re.compile(r"(?:([A-Za-z][A-Za-z0-9-]*):)?(\d{1,3})")
_TIME = re.compile(r"\d+|(?:\d+-)?\d+:\d\d(?::\d\d)?")


@dataclass(frozen=True)
class Scheduler:
    """One of them.

    Attributes:
        template: Its file.
        ending: Of the job file.
        submit: The command that submits it; the file comes last.
        get: How to get that command.
        takes: Options that not all understand, and this one does.
        needs: Those that it cannot do without.
        copies: Machines get a copy of the folder that the command is given in, and see nothing else of this one.
    """

    template: str
    ending: str
    submit: str
    get: str
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    copies: bool = False


SCHEDULERS: Mapping[str, Scheduler] = {
    "slurm": Scheduler(
        template="slurm.sbatch",
        ending=".sbatch",
        submit="sbatch",
        get="take the file to a login node of the cluster",
        takes=("--time", "--partition"),
    ),
    "skypilot": Scheduler(
        template="skypilot.yaml",
        ending=".sky.yaml",
        submit="sky jobs launch --yes",
        get="pip install skypilot",
        takes=("--image", "--storage"),
        copies=True,
    ),
    "kubernetes": Scheduler(
        template="kubernetes.yaml",
        ending=".k8s.yaml",
        submit="kubectl apply -f",
        get="install kubectl: https://kubernetes.io/docs/tasks/tools",
        takes=("--image", "--storage"),
        needs=("--image",),
    ),
    "ray": Scheduler(
        template="ray.py",
        ending=".ray.py",
        submit="ray job submit --no-wait --working-dir . -- python",
        get='pip install "ray[default]"',
        copies=True,
    ),
}


@dataclass(frozen=True)
class Job:
    """A run, and the machines that it wants.

    Attributes:
        on: Name of the scheduler.
        loaded: The config, valid.
        overrides: ``key=value``, as on the command line of `luthier train`.
        name: Of letters, digits and hyphens.
        nodes: Machines.
        gpus: In each; 0: one process without a GPU.
        gpu_type: ``H100``; empty: whichever.
        time: Of one attempt, as Slurm writes it.
        partition: Of Slurm.
        image: Container that has Luthier in it.
        storage: What survives the machine: a claim of Kubernetes, or a bucket.
    """

    on: str
    loaded: Loaded
    overrides: tuple[str, ...]
    name: str
    nodes: int = 1
    gpus: int = 1
    gpu_type: str = ""
    time: str = ""
    partition: str = ""
    image: str = ""
    storage: str = ""

    def __post_init__(self) -> None:
        """Check what the schema of the config does not.

        Raises:
            ConfigError: E-LAUNCH-001, one problem for each option that is wrong.
        """
        scheduler = SCHEDULERS[self.on]
        given = {f"--{name}" for name in ("time", "partition", "image", "storage") if getattr(self, name)}
        problems = [
            _problem(option, f"{self.on} does not know {option}", f"leave it out; {_for(option)} takes it")
            for option in sorted(given.difference(scheduler.takes))
        ]
        problems += [
            _problem(option, f"{self.on} needs {option}", "--image NAME:TAG, a container that has Luthier in it")
            for option in scheduler.needs
            if option not in given
        ]
        if self.time and not _TIME.fullmatch(self.time):
            problems.append(_problem("--time", f'"{self.time}" is no time of Slurm', "--time 12:00:00, or 2-00:00:00"))
        if self.on == "skypilot" and self.gpus and not self.gpu_type:
            found = "skypilot rents machines by the kind of their GPU, which is not said"
            problems.append(_problem("--gpus-per-node", found, f"--gpus-per-node H100:{self.gpus}"))
        if self.on in ("kubernetes", "ray") and self.gpu_type:
            found = f"{self.on} names kinds of GPUs as its cluster labels them, which is not known here"
            fix = f"--gpus-per-node {self.gpus}; then say the kind in the written file"
            problems.append(_problem("--gpus-per-node", found, fix))
        for name in ("partition", "image", "storage"):
            text = getattr(self, name)
            if text and not re.fullmatch(r"[\w./:@-]+", text):
                found = f"{text!r} is no name"
                problems.append(_problem(f"--{name}", found, "letters, digits and . / : @ _ -"))
        if scheduler.copies and not self.loaded.path.resolve().is_relative_to(Path.cwd().resolve()):
            found = f"{self.on} copies the folder {Path.cwd()}, and {self.loaded.path} is not in it"
            problems.append(_problem("CONFIG", found, "give the command in a folder that holds the config"))
        if problems:
            raise ConfigError(*problems)

    @property
    def config(self) -> str:
        """The config's path, as the machines find it."""
        if SCHEDULERS[self.on].copies:
            return str(self.loaded.path.resolve().relative_to(Path.cwd().resolve()))
        return str(self.loaded.path)

    @property
    def left_here(self) -> list[str]:
        """Base and rows, as the config names them, that are files of this machine and do not travel with the job."""
        if self.on == "slurm":  # one file system
            return []
        config, copies, here = self.loaded.config, SCHEDULERS[self.on].copies, Path.cwd().resolve()
        named = [config.model.model_name_or_path, *(source.path for source in config.data.datasets)]
        return [
            name
            for name in dict.fromkeys(named)
            if os.path.exists(name)  # noqa: PTH110
            and not Path(name).is_relative_to(PACKAGE)
            and not (copies and not Path(name).is_absolute() and Path(name).resolve().is_relative_to(here))
        ]

    @property
    def own_name(self) -> str:
        """A name that no other run has, where one means storage that everybody sees (a bucket, a claim).

        The same command on the same config has the same name again, and goes on from what is there.
        """
        folder = os.path.abspath(self.loaded.config.training.output_dir)  # noqa: PTH100
        run = [socket.gethostname(), os.environ.get("USER", ""), folder, read_text(self.loaded.path), self.overrides]
        letters = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
        return f"{self.name[:41].rstrip('-')}-{letters}"

    @property
    def processes(self) -> int:
        """On each node."""
        return max(1, self.gpus)

    @property
    def python(self) -> str:
        """This one: nodes of a cluster see the same files."""
        return sys.executable

    @property
    def train(self) -> list[str]:
        """What comes behind the config on the command line of `luthier train`."""
        words = list(self.overrides)
        if self.on == "skypilot":
            words = [word for word in words if word.partition("=")[0] not in ("output_dir", "training.output_dir")]
            words.append(f"training.output_dir={BUCKET}/run")
        return [*words, "--resume", "auto"]


def read_gpus(text: str) -> tuple[str, int]:
    """``4`` or ``H100:4`` as kind and number.

    Raises:
        ConfigError: E-LAUNCH-001.
    """
    match = _GPUS.fullmatch(text)
    if not match:
        raise ConfigError(_problem("--gpus-per-node", f'"{text}" is no number of GPUs', "--gpus-per-node 4, or H100:4"))
    return match[1] or "", int(match[2])


def name_of(loaded: Loaded) -> str:
    """A name that every scheduler takes, from the output folder's."""
    word = re.sub(r"[^a-z0-9]+", "-", Path(loaded.config.training.output_dir).name.lower()).strip("-")
    return f"luthier-{word or 'run'}"[:50].rstrip("-")


def _for(option: str) -> str:
    return " or ".join(name for name, scheduler in SCHEDULERS.items() if option in scheduler.takes)


def _problem(option: str, found: str, fix: str) -> Problem:
    return Problem("E-LAUNCH-001", found, fix, option)
