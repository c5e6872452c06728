"""CONFIG and KEY=VALUE on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from luthier.config.load import Loaded

DEFAULT_CONFIG = Path("configs/training_config.yaml")

Request: Any = typer.Argument(
    None, metavar="[CONFIG] [KEY=VALUE]...", help=f"A YAML file (default: {DEFAULT_CONFIG}), and keys to change."
)

Allow: Any = typer.Option([], "--allow", metavar="NAME", help="A check of the gate that may fail (more than once).")


def parse(request: list[str] | None) -> tuple[Path, list[str]]:
    """Split the arguments into the config's path and the overrides.

    Without CONFIG: the default one below this folder, or else beside this installation's source.
    """
    words = list(request or [])
    # pathlib raises for what is no name of a file at all, such as a long value
    if words and ("=" not in words[0] or os.path.isfile(words[0])):  # noqa: PTH113
        return Path(words[0]), words[1:]
    return shipped(DEFAULT_CONFIG), words


Again: Any = typer.Option(
    None, "--from", metavar="RUN/plan.yaml", help="Do a recorded run again, in place of CONFIG; into NAME-again."
)


def loaded(request: list[str] | None, again: Path | None) -> Loaded:
    """The config of a request: a file with overrides, or the record of a run with overrides.

    Raises:
        ConfigError: What is wrong with it.
    """
    from luthier.config.load import load
    from luthier.config.record import load_record

    if again is not None:
        return load_record(again, request or [])
    return load(*parse(request))


def shipped(config: Path) -> Path:
    """A config that comes with Luthier: the one below this folder, or else of this installation.

    Args:
        config: Its path in the repository, `configs/NAME.yaml`.
    """
    package = Path(__file__).parents[1]
    places = (config, package.parents[1] / config, package / config)  # here, a checkout, a wheel
    return next((place for place in places if place.is_file()), config)
