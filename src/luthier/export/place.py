"""Where an export goes: a folder that is not there yet, or one that an earlier export made.

A folder is filled beside its place, proven there, and renamed to it; what is refused leaves nothing behind
(`luthier.training.commit`), and what a killed export left there goes when the next one comes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from luthier.config.outputs import MANIFEST
from luthier.errors import MissingError, Problem
from luthier.machine.lock import held
from luthier.training.commit import committed, sweep, verify
from luthier.version import __version__

EXPORTED = "export.json"
"""The file that tells an export from checkpoints and runs, which have a manifest too."""
Say = Callable[[str], None]
"""Called with what is being done."""


def destination(run: Path, to: Path | None, name: str, *, overwrite: bool) -> Path:
    """The folder to write, checked before the work begins; of a link, the folder that it leads to.

    Args:
        run: The final_model folder of the run.
        to: What the user asked for; None: `name` in the run's output folder.
        name: Of the default folder.
        overwrite: Replace what an earlier export wrote there.

    Raises:
        MissingError: E-EXPORT-001 when something is there; E-ENV-002 when nothing can be written there.
    """
    folder = Path(os.path.expanduser(to)) if to else run.parent / name  # noqa: PTH111
    try:
        folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
        sweep(folder.parent, folder.name, EXPORTED)
        there = os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))
        parent = next(path for path in (folder.absolute().parent, *folder.absolute().parents) if path.exists())
        closed = not (parent.is_dir() and os.access(parent, os.W_OK))
    except OSError as error:
        raise _unwritable(folder, error) from error
    if closed:
        raise MissingError(Problem("E-ENV-002", f"{parent} is no folder that you may write to", "name another folder"))
    if not there:
        return folder
    ours = _as_an_export_left_it(folder)
    if not (overwrite and ours):
        found = f"{folder} is there already" + ("" if ours else ", and it is not as an export left it")
        fix = "--overwrite replaces it, or name another folder" if ours else "name another folder"
        raise MissingError(Problem("E-EXPORT-001", found, fix))
    return folder


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A folder to fill and to prove, which takes its place when the block has ended in order.

    Raises:
        MissingError: E-ENV-002 when it cannot be written; and what the block raises, with nothing left at its place.
    """
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        with ExitStack() as until_named, committed(folder) as aside:
            until_named.enter_context(held(aside))
            (aside / EXPORTED).write_text(json.dumps({"made_by": f"Luthier {__version__}"}) + "\n", encoding="utf-8")
            yield aside
    except MissingError:
        raise
    except OSError as error:
        raise _unwritable(folder, error) from error


def size(folder: Path) -> int:
    """Bytes of what was exported into a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _as_an_export_left_it(folder: Path) -> bool:
    """Whether an export wrote it, and nothing in it was changed, taken away or added since."""
    if not (folder / EXPORTED).is_file() or verify(folder):
        return False
    files = [Path(name) for name in json.loads((folder / MANIFEST).read_bytes())["files"]]
    own = {Path(MANIFEST), *files, *(parent for file in files for parent in file.parents)} - {Path()}
    return own == {path.relative_to(folder) for path in folder.rglob("*")}


def _unwritable(folder: Path, error: OSError) -> MissingError:
    return MissingError(
        Problem("E-ENV-002", f"cannot write {folder}: {error.strerror or error}", "name another folder")
    )
