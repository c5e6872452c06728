"""Trackers that are extras: whether they are installed, and what to say when one does not start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from luthier.errors import MissingError, Problem
from luthier.events.printable import one_line

EXTRAS = ("wandb", "mlflow", "trackio")


def require_extras(report_to: Sequence[str]) -> None:
    """Check that every named tracker is installed, without importing it.

    Raises:
        MissingError: E-ENV-001, one problem for each that is not.
    """
    missing = [name for name in dict.fromkeys(report_to) if name in EXTRAS and not _installed(name)]
    if missing:
        raise MissingError(
            *(
                Problem(
                    code="E-ENV-001",
                    where="logging.report_to",
                    found=f"{name} is named but not installed",
                    fix=f'pip install "luthier[{name}]"',
                )
                for name in missing
            )
        )


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
