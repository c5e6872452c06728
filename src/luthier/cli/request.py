"""CONFIG and KEY=VALUE on the command line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from luthier.errors import ConfigError, Problem

if TYPE_CHECKING:
    from luthier.config.load import Loaded

DEFAULT_CONFIG = Path("configs/training_config.yaml")

Request: Any = typer.Argument(
    None, metavar="[CONFIG] [KEY=VALUE]...", help=f"A YAML file (default: {DEFAULT_CONFIG}), and keys to change."
)

Allow: Any = typer.Option([], "--allow", metavar="NAME", help="A check of the gate that may fail (more than once).")


Base: Any = typer.Option(None, "--base", help="Where the base model is, if not where it was in training.")


def parse(request: list[str] | None) -> tuple[Path, list[str]]:
    """Split the arguments into the config's path and the overrides.

    Without CONFIG: the default one.
    """
    words = list(request or [])
    # pathlib raises for what is no name of a file at all, such as a long value
    if words and ("=" not in words[0] or os.path.isfile(words[0])):  # noqa: PTH113
        return Path(words[0]), words[1:]
    return DEFAULT_CONFIG, words


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


class Verbs(TyperGroup):
    """The commands; where one with KEY=VALUE is given a key with dashes, it says how keys are written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words as they were typed, for `invoke`."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            ConfigError: E-CFG-014 when a key or a config is written as an option.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:  # click's NoSuchOption and BadParameter, which typer does not export
            _plainly(error)
            command = getattr(error, "ctx", None)
            if hasattr(error, "possibilities") and command and "request" in (p.name for p in command.command.params):
                option = str(getattr(error, "option_name", ""))
                if fix := _without_dashes(option, ctx.meta[_WORDS], error.possibilities):
                    found = f'"{option}" is no option of {command.info_name}'
                    raise ConfigError(Problem("E-CFG-014", found, fix, "command line")) from None
            raise


def _plainly(error: Any) -> None:
    """A word that is none of an option's: without the name of the library that saw it, with the one that was meant."""
    found = re.fullmatch(r"Value error, ('(.*)' is not one of (.*)\.)", str(getattr(error, "message", "")), re.DOTALL)
    if found:
        near = difflib.get_close_matches(found[2], re.findall(r"'(.*?)'", found[3]), n=1)
        error.message = found[1] + (f" Did you mean '{near[0]}'?" if near else "")


_WORDS = "luthier.words"
_CONFIG = ("c", "config", "config_file")


def _without_dashes(option: str, words: list[str], options: Sequence[str] | None) -> str:
    """How to write what was given as an option; empty when it is most likely one of our options, misspelt."""
    from luthier.config.placing import meant

    name = option.lstrip("-").replace("-", "_")
    at = next(number for number, word in enumerate(words) if word.startswith(option))
    following = words[at + 1] if at + 1 < len(words) else "--"
    value = words[at].partition("=")[2] or (following if not following.startswith("--") else "")
    if name in _CONFIG:
        return f"the config is the first argument, without {option}: {value or DEFAULT_CONFIG}"
    key = meant(name)
    if key is None or (key != name and options):
        return ""
    is_config = Path(value).suffix in (".yaml", ".yml")
    return f"keys are written without dashes: {key}={'true' if is_config or not value else value}"
