"""Job -> the text of its file -> the file -> the scheduler's own command."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.config.load import read_text
from luthier.errors import ConfigError, MissingError, Problem, RunError
from luthier.launch.job import BUCKET, PORT, SAVE_SECONDS, SCHEDULERS, Job


def render(job: Job) -> str:
    """The text of the job file."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["sh"] = shlex.join
    environment.filters["json"] = _json
    template = files(__package__).joinpath("templates", f"{SCHEDULERS[job.on].template}.jinja")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        job=job,
        config_text=read_text(job.loaded.path).replace("\r\n", "\n").strip("\n"),
        bucket=BUCKET,
        port=PORT,
        save_seconds=SAVE_SECONDS,
        file=f"{job.name}{SCHEDULERS[job.on].ending}",
        submit=SCHEDULERS[job.on].submit,
    )


def _json(value: Any) -> str:
    """A value as JSON, which is YAML and Python too for what a job holds: texts, numbers and lists of them."""
    return json.dumps(value, ensure_ascii=False)


def write(text: str, path: Path, *, overwrite: bool) -> None:
    """Write the job file.

    Raises:
        ConfigError: E-LAUNCH-003 when another one is there: it may have been edited.
        MissingError: E-ENV-002 when it cannot be written.
    """
    try:
        if path.exists() and not overwrite and path.read_text(encoding="utf-8") != text:
            fix = "--overwrite, or another --output; it may have been edited, and can be submitted as it is"
            raise ConfigError(Problem("E-LAUNCH-003", f"{path} is there already and says something else", fix))
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        found = f"cannot write {path}: {error.strerror}"
        raise MissingError(Problem("E-ENV-002", found, "name another file", "--output")) from error


def submit(job: Job, path: Path) -> None:
    """Give the file to the scheduler; what its command says goes to the screen.

    Raises:
        MissingError: E-LAUNCH-002 when its command is not there.
        RunError: E-LAUNCH-004 when it says no.
    """
    scheduler = SCHEDULERS[job.on]
    command = [*scheduler.submit.split(), str(path)]
    if shutil.which(command[0]) is None:
        raise MissingError(Problem("E-LAUNCH-002", f"there is no command {command[0]} here", scheduler.get))
    ended = subprocess.run(command, check=False)
    if ended.returncode:
        found = f"{shlex.join(command)} ended with exit code {ended.returncode}; its own words are above"
        raise RunError(Problem("E-LAUNCH-004", found, f"mend that, and give the command again; {path} is written"))
