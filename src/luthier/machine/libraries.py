"""What the libraries beneath print goes to a file of the run, not to the screen."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import transformers

from luthier.errors.secrets import hide

LIBRARIES = (
    "transformers",
    "datasets",
    "peft",
    "bitsandbytes",
    "huggingface_hub",
    "accelerate",
    "torch",
    "py.warnings",
)


class _Lenient(logging.FileHandler):
    """A log that cannot be written is lost, and nothing else is."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if the file can be opened."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the screen belongs to the run."""


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    logging.getLogger("py.warnings").warning("%s", warnings.formatwarning(message, category, filename, lineno, line))


@contextmanager
def library_output_to(path: Path) -> Iterator[None]:
    """Send log lines, warnings and progress bars of the libraries to `path` while the block runs.

    Downloads keep their progress bar: they are the one wait that needs one.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it would warn of each process that is started
    handler = _Lenient(path, encoding="utf-8", delay=True)
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # logging.captureWarnings would end for an outer block where an inner one ends
            warnings.showwarning = _warned
            yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        if bars:
            transformers.utils.logging.enable_progress_bar()
        handler.close()
