"""A disk that is really full, a limit on the size of files, and a folder that becomes read-only in mid-run.

The first attempt meets it at a random place; it goes on, or ends with a named error. Then there is room again, and
`--resume auto` finishes with the weights of the straight run. Nothing of this needs privileges: it happens in a user
and mount namespace of the attempt's own, on a file system in memory.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.torture.outcome import COUNTS, dice, workshop
from tests.torture.runs import NAMES, difference, ended, forked, start, straight, tail, train, variant

NAME = "full_disk"
DEFAULT = 300
FAST = 3
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
ROOMY = 512 * 2**20
ABORT = 6


def why_not() -> str:
    """Why it cannot be done here."""
    if shutil.which("unshare") is None:
        return "no unshare"
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"user namespaces are not allowed: {done.stderr.strip()}"


def trial(number: int, seed: int) -> str:
    """One attempt without room, and one with."""
    rng, name = dice(NAME, seed, number), NAMES[number // 3 % len(NAMES)]
    trouble = (tmpfs, size_limit, read_only)[number % 3]
    place = workshop() / f"{NAME}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    (place / "disk").mkdir(parents=True)
    straight(name)

    def in_a_namespace() -> None:
        own_mounts(place / "disk")
        wrong = trouble(rng, variant(name, place / "disk" / "run"), place) or finished(name, place)
        (place / "said").write_text(json.dumps([wrong, COUNTS]))

    code = forked(in_a_namespace, place / "log", longest=300)
    if code:
        return f"{trouble.__name__}, {name}: ended with {code}:\n{tail(place / 'log')}"
    wrong, counts = json.loads((place / "said").read_text())
    COUNTS.update(counts)
    shutil.rmtree(place, ignore_errors=True)
    return f"{trouble.__name__}, {name}: {wrong}" if wrong else ""


def own_mounts(disk: Path) -> None:
    """A namespace of this process's own, with an empty file system at `disk`."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", Path("/"), MS_REC | MS_PRIVATE)
    mount("tmpfs", disk, 0, f"size={ROOMY}")


def mount(source: str, target: Path, flags: int, options: str = "") -> None:
    """mount(2)."""
    _call("mount", source.encode(), str(target).encode(), b"tmpfs", ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def tmpfs(rng: random.Random, values: dict[str, Any], place: Path) -> str:
    """The file system is smaller than what the run writes."""
    whole = straight_bytes(values)
    mount("tmpfs", place / "disk", MS_REMOUNT, f"size={4096 * int(rng.uniform(1, 1.3 * whole / 4096))}")
    wrong = ended_well(forked(functools.partial(attempt, values), place / "attempt", strict=False), place)
    mount("tmpfs", place / "disk", MS_REMOUNT, f"size={ROOMY}")
    return wrong


def straight_bytes(values: dict[str, Any]) -> int:
    """What the straight run left on the disk, in bytes of whole pages."""
    name = next(n for n in NAMES if variant(n, Path(values["training"]["output_dir"])) == values)
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in straight(name)[0].rglob("*") if path.is_file())


def size_limit(rng: random.Random, values: dict[str, Any], place: Path) -> str:
    """No file may grow beyond a size (`ulimit -f`): the write that reaches it is a short one."""
    limit = int(10 ** rng.uniform(1, 5.3))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        attempt(values)

    return ended_well(forked(limited, place / "attempt", strict=False), place)


def read_only(rng: random.Random, values: dict[str, Any], place: Path) -> str:
    """The folder becomes read-only at a random time; what is open stays writable, as after a remount on an error."""
    disk = place / "disk"
    name = next(n for n in NAMES if variant(n, disk / "run") == values)
    child = start(functools.partial(attempt, values), place / "attempt", strict=False)
    time.sleep(rng.random() * straight(name)[1])
    mount(str(disk), disk, MS_BIND)
    mount("none", disk, MS_BIND | MS_REMOUNT | MS_RDONLY)
    code = ended(child, 120, ABORT)
    _call("umount", str(disk).encode())
    return ended_well(code, place)


NAMED, UNNAMED = 10, 11
"""Exit codes of an attempt."""


def attempt(values: dict[str, Any]) -> None:
    """Train; how it ended is the exit code."""
    from luthier.errors import LuthierError

    try:
        train(values, resume="auto", allow=["disk-space"])  # the gate would not let it come to this
    except LuthierError as error:
        unlimited()
        print(error)
        sys.exit(NAMED)
    except OSError:
        unlimited()
        traceback.print_exc()
        sys.exit(UNNAMED)


def unlimited() -> None:
    """Lift the limit on the size of files, so that the log takes what is to be said."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def ended_well(code: int, place: Path) -> str:
    """Whether the attempt went on or ended with a named error."""
    COUNTS["attempts"] += 1
    COUNTS["attempts_that_went_on"] += code == 0
    text = tail(place / "attempt")
    if code == NAMED and not any(known in text for known in ("E-RUN-003", "E-ENV-", "E-GATE-")):
        return f"another error was named: {text}"
    COUNTS["attempts_with_an_unnamed_error"] += code == UNNAMED
    return "" if code in (0, NAMED, UNNAMED) else f"the attempt ended with {code}:\n{text}"


def finished(name: str, place: Path) -> str:
    """With room again, the same command finishes; how that differs from the straight run."""
    folder = place / "disk" / "run"
    log = place / "resume"
    code = forked(functools.partial(train, variant(name, folder), resume="auto"), log, strict=False)
    return f"the resume ended with {code}:\n{tail(log)}" if code else difference(name, folder, holes=True)
