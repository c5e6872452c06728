"""Following the log of a run, whoever wrote it, as events.

    log = open_log("checkpoints")        # a run folder, or one log file; it need not be there yet
    while True:
        for told in log.poll():          # never waits, never raises for the state of the file
            state = fold(state, told.event, told.time)
        time.sleep(0.5)

The format is found from the content. Of a folder the best log is taken: events.jsonl, else LLaMA-Factory's
trainer_log.jsonl, else the newest `*.log` with a loss in it, else TensorBoard's files, else the trainer_state.json of
the newest checkpoint, else any `*.log`. A better one that appears later takes over, with a `RunStarted` of its own.

The training.log of a run that has its events.jsonl still at hand is read there: a log line has no plan, no gradients
and no GPU. It names that file and the attempt that it tells of; where the file's latest attempt is another one, or
the file is not there (a log that was copied), the log itself is read.

What comes after a step back is told after a `RunStarted` or `Resumed` that says up to which step the earlier events
stand; `luthier.monitor.state.fold` then forgets the others.

A log that is longer than `tail.WHOLE` when it is opened is thinned: the first `tail.HEAD` and the last `tail.TAIL`
bytes are read whole, between them every k-th log step and all other lines up to `codecs.lines.OTHERS`, then every k-th
of those too; `source` names k. Of more than `tail.BUDGET` bytes only evenly spaced parts are read. Lost are therefore:
the log steps between, with their gradients, timing and machine events; a restart that goes back by fewer steps than
are left out (but for one that Luthier itself tells); beyond the budget any event in the parts between. Steps stay
right, but where so many lines are passed over unseen that lines and bars cannot be matched: there a step is that of
the latest bar, or, where lines are counted, too low. `open_log(path, whole=True)` loses nothing.

Times of logs that have none: the last line gets the time of the file's last change, the lines before it are set back
from there by what the log says of elapsed time.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from luthier.config.outputs import EVENTS
from luthier.events.codecs.base import Told
from luthier.events.codecs.lines import LineSource
from luthier.events.codecs.records import is_record_file
from luthier.events.codecs.state import StateSource, is_state, latest_state
from luthier.events.line import RECORD

__all__ = ["Follower", "Source", "Told", "open_log", "runs_in", "written"]

_SNIFF = 64 * 1024
_LATEST = 16 * 1024 * 1024
_NAMED = f"\n{RECORD}".encode()
_HEADER = 12
_LOOK_AROUND = 8
_BOARD_FOLDERS = ("logs", "runs")


class Source(Protocol):
    """One log that is being followed."""

    @property
    def words(self) -> str:
        """The format, or why there is nothing yet."""

    def poll(self) -> list[Told]:
        """What is new."""

    def everything(self) -> Iterator[Told]:
        """What is there now, to its end."""

    def close(self) -> None:
        """Let go of the files."""


class Follower:
    """A log that is followed; `open_log` makes it.

    Args:
        path: A run folder or a log file.
        whole: Thin nothing.
    """

    def __init__(self, path: Path, whole: bool = False) -> None:
        self._path = path
        self._whole = whole
        self._source: Source | None = None
        self._rank = len(_RANKS)
        self._named = ""
        self._polls = 0
        self._trouble = f"waiting for {path}"

    @property
    def source(self) -> str:
        """What is read, in words for the screen: the format, or what is waited for."""
        words = self._source.words if self._source else self._trouble
        return f"{words}, named by {self._path.name}" if self._named and self._rank == 0 else words

    def poll(self) -> list[Told]:
        """The events since the last call, in order; empty where nothing is new. Never blocks and never raises."""
        self._look()
        return self._source.poll() if self._source else []

    def everything(self) -> Iterator[Told]:
        """All events that are there now.

        Memory does not grow with events.jsonl; with a log that has no times of its own it does (about 1 kB an event).
        """
        self._look()
        if self._source:
            yield from self._source.everything()

    def close(self) -> None:
        """Let go of the files."""
        if self._source:
            self._source.close()

    def _look(self) -> None:
        """Choose what to follow, and from time to time whether there is something better by now."""
        self._polls += 1
        if self._source and self._polls % _LOOK_AROUND:
            return
        try:
            about = self._path.stat()
            if stat.S_ISDIR(about.st_mode):
                self._choose(self._path)
            elif not stat.S_ISREG(about.st_mode):
                self._trouble = f"cannot read {self._path}: not a file"
            elif about.st_size or self._source:
                self._take(self._path)
            else:
                self._trouble = "an empty file"
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._trouble = f"cannot read {self._path}: {getattr(error, 'strerror', None) or error}"

    def _take(self, log: Path) -> None:
        """A file, or the record that it names: looked at again, for the next run may be redirected into it."""
        named = _named_in(log)
        if named != self._named:
            self._named = named
            if self._rank == 0:
                self.close()
                self._source, self._rank = None, len(_RANKS)
        if self._rank and (record := _record(named, log)):
            self.close()
            self._source, self._rank = LineSource(record, _name(record.parent), self._whole), 0
        elif self._source is None:
            self._source = _source_of(log, self._whole)

    def _choose(self, folder: Path) -> None:
        for rank, make in enumerate(_RANKS[: self._rank]):
            if source := make(folder, self._whole):
                self.close()
                self._source, self._rank = source, rank
                return
        self._trouble = f"waiting for a log in {folder}"


def open_log(path: str | Path, *, whole: bool = False) -> Follower:
    """Follow the log of a run.

    Args:
        path: A run folder, or a log file of any of the shapes in `luthier.events.codecs`.
        whole: Thin nothing.
    """
    return Follower(Path(path), whole)


def runs_in(folder: Path) -> list[Path]:
    """The runs of a folder that has no log of its own, as that of a sweep; empty for anything else."""
    try:
        runs = sorted(path.parent for path in folder.glob(f"*/{EVENTS}"))
        own = [source for make in _RANKS[:-1] if runs and (source := make(folder, True))]
    except (OSError, ValueError):
        return []
    for source in own:
        source.close()
    return [] if own else runs


def written(path: Path) -> float:
    """When the log of a run, a folder or a file, was written last, in epoch seconds; 0 where there is none."""
    try:
        files = [path, *(_logs_of(path) if path.is_dir() else ())]
        return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    except (OSError, ValueError):
        return 0.0


def _logs_of(folder: Path) -> Iterator[Path]:
    """All that can be followed in the folder of a run."""
    yield from (folder / EVENTS, folder / "trainer_log.jsonl", *_logs(folder), *board_files(folder))
    if state := latest_state(folder):
        yield state


def _source_of(path: Path, whole: bool) -> Source | None:
    """The source for a file, by its first bytes; None while they are too few."""
    with path.open("rb") as file:
        first_bytes = file.read(_SNIFF)
    if len(first_bytes) < _HEADER and "tfevents" in path.name:
        return None
    if is_record_file(first_bytes):
        return _board(lambda: [path], path, _name(path.parent), whole)
    if is_state(first_bytes) or path.name == "trainer_state.json":
        return StateSource(lambda: path if path.is_file() else None, path, _name(path.parent))
    return LineSource(path, path.stem, whole)


def _named_in(log: Path) -> str:
    """The record that a training.log names last, with its attempt; empty where it names none."""
    with log.open("rb") as file:
        text = file.read(_SNIFF)
        if _NAMED not in text:
            return ""
        file.seek(max(0, log.stat().st_size - _LATEST))
        latest = file.read()
    text = latest if _NAMED in latest else text
    name, ended, _ = text.rpartition(_NAMED)[2].partition(b"\n")
    return name.decode("utf-8", "replace").strip() if ended else ""


def _record(named: str, log: Path) -> Path | None:
    """The events.jsonl of that name, from the log's folder or from here, whose latest attempt is the named one."""
    name, _, attempt = named.rpartition("#")
    if Path(name).name != EVENTS:
        return None
    places = (log.parent / name, Path(name))
    return next((place for place in places if place.is_file() and _latest_attempt(place) == attempt), None)


def _latest_attempt(events: Path) -> str:
    with events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - _LATEST))
        _, found, after = file.read().rpartition(b'"attempt":"')
    return after.partition(b'"')[0].decode("utf-8", "replace") if found else ""


def _board(find: Callable[[], list[Path]], place: Path, run: str, whole: bool) -> Source:
    # Read in only where it is needed: protobuf takes longer to import than everything else here.
    from luthier.events.codecs.tensorboard import BoardSource

    return BoardSource(find, place, run, whole)


def _file_of(name: str) -> Callable[[Path, bool], Source | None]:
    def source(folder: Path, whole: bool) -> Source | None:
        path = folder / name
        return LineSource(path, _name(folder), whole) if path.is_file() else None

    return source


def _training_log(folder: Path, whole: bool) -> Source | None:
    path = next((path for path in _logs(folder) if _has_loss(path)), None)
    return LineSource(path, path.stem, whole) if path else None


def _board_files(folder: Path, whole: bool) -> Source | None:
    if not board_files(folder):
        return None
    run = _name(folder.parent if folder.name in _BOARD_FOLDERS else folder)
    return _board(lambda: board_files(folder), folder, run, whole)


def _trainer_state(folder: Path, whole: bool) -> Source | None:
    return StateSource(lambda: latest_state(folder), folder, _name(folder)) if latest_state(folder) else None


def _any_log(folder: Path, whole: bool) -> Source | None:
    path = next(iter(_logs(folder)), None)
    return LineSource(path, path.stem, whole) if path else None


_RANKS = (
    _file_of(EVENTS),
    _file_of("trainer_log.jsonl"),
    _training_log,
    _board_files,
    _trainer_state,
    _any_log,
)


def board_files(folder: Path) -> list[Path]:
    """The TensorBoard files of a run: in its folder, its logs/ and runs/, and their subfolders; oldest start first."""
    places = ["", *(f"{name}/{below}" for name in _BOARD_FOLDERS for below in ("", "*/"))]
    if folder.name in _BOARD_FOLDERS:
        places.append("*/")
    found = {path for place in places for path in folder.glob(f"{place}events.out.tfevents.*") if path.is_file()}
    return sorted(found, key=lambda path: path.name)


def _logs(folder: Path) -> list[Path]:
    """The `*.log` of a folder, the one that was written last first."""
    dated = [(path.stat().st_mtime_ns, path) for path in folder.glob("*.log") if path.is_file()]
    return [path for _, path in sorted(dated, reverse=True)]


def _has_loss(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_SNIFF)
        file.seek(max(0, path.stat().st_size - _SNIFF))
        return b"'loss'" in start or b"'loss'" in file.read(_SNIFF)


def _name(folder: Path) -> str:
    return folder.absolute().name
