"""Trackers that are extras: whether they are installed, can log in, and what to say when one does not start."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from luthier.errors import MissingError, Problem
from luthier.errors.extras import install
from luthier.events.printable import one_line

DEFAULT_PROJECT = "luthier"
EXTRAS = ("wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class Named:
    """What trackers call a run.

    Attributes:
        run: Its name; None: they choose one.
        project: `logging.project`; None: what their own environment variables say.
    """

    run: str | None = None
    project: str | None = None

    def project_or(self, variable: str) -> str:
        """The project: as configured, as the environment variable says, or `luthier`."""
        return self.project or os.environ.get(variable) or DEFAULT_PROJECT


def require_extras(report_to: Sequence[str]) -> None:
    """Check that every named tracker is installed, without importing it.

    Raises:
        MissingError: E-ENV-001, one problem for each that is not.
    """
    if missing := missing_extras(report_to):
        raise MissingError(
            *(
                Problem(
                    code="E-ENV-001",
                    where="logging.report_to",
                    found=f"{name} is named but not installed",
                    fix=install(name),
                )
                for name in missing
            )
        )


def missing_extras(report_to: Sequence[str]) -> list[str]:
    """The named trackers that are not installed."""
    return [name for name in dict.fromkeys(report_to) if name in EXTRAS and not _installed(name)]


def missing_login(name: str) -> str:
    """What a tracker will want to know and this machine does not say; empty when it can start. Touches no network."""
    if name == "wandb" and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
        server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        tokens = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
        if not any(os.environ.get(token) for token in tokens) and not _in_netrc(server):
            return f"wandb finds no login for {server} (WANDB_API_KEY, or `wandb login`)"
    if name == "trackio" and os.environ.get("TRACKIO_SPACE_ID"):
        from huggingface_hub import get_token

        if not get_token():
            return "trackio is to log to a Space, and there is no token of the hub (HF_TOKEN, or `hf auth login`)"
    return ""


def _in_netrc(server: str) -> bool:
    path = Path(os.environ.get("NETRC") or Path.home() / (".netrc" if os.name != "nt" else "_netrc"))
    try:
        return netrc(path).authenticators(server) is not None
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return False


def _installed(name: str) -> bool:
    # Trackers leave folders of their own name behind, which look like packages without an origin.
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


@contextmanager
def starting(name: str, fix: str) -> Iterator[None]:
    """Wrap the start of a tracker, which may fail in any way its library likes.

    Raises:
        MissingError: E-ENV-003, with the first 300 characters of what the library said.
    """
    try:
        yield
    except Exception as error:
        raise MissingError(
            Problem(
                code="E-ENV-003",
                where="logging.report_to",
                found=f"{name} did not start: {one_line(f'{type(error).__name__}: {error}')[:300]}",
                fix=fix,
            )
        ) from error
