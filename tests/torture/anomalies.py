"""The k-th system call of a save fails, for k = 1, 2, ... until one goes through undisturbed.

strace lets the call fail in a real process. After each failure

- the run goes on, or ends with E-RUN-003 or an OSError, never with anything else;
- every checkpoint and final_model that can be seen is whole, and nothing older than the newest one of before is found;
- a final_model that was there is there;
- (of every third) a resume finishes with the straight run's losses and weights.

`short` is no call: a limit on the size of files makes the write that reaches it a short one, and the next one fail.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Iterator

from tests.torture.outcome import COUNTS
from tests.torture.power import newest, read_tree
from tests.torture.runs import forked, tail
from tests.torture.savepoint import SCENES, Held, held, place, resumed
from tests.torture.strace import traced, why_not

__all__ = ["DEFAULT", "FAST", "NAME", "trial", "why_not"]

NAME = "anomalies"
ERRORS = {
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "mkdir": ("ENOSPC", "EIO", "EDQUOT", "EROFS"),
    "short": ("EFBIG",),
    "write": ("ENOSPC", "EIO", "EDQUOT", "EINTR"),
    "openat": ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EINTR"),
    "rename": ("EIO", "ENOSPC", "EDQUOT", "EXDEV"),
    "renameat": ("EIO", "ENOSPC", "EDQUOT", "EXDEV"),
    "ftruncate": ("ENOSPC", "EIO", "EDQUOT"),
    "unlinkat": ("EIO", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "rmdir": ("EIO", "EROFS"),
    "chmod": ("EIO", "EROFS"),
}
KINDS = [(call, error) for call, errors in ERRORS.items() for error in errors]
DEFAULT = len(KINDS) * len(SCENES)
FAST = 1
WENT_ON, CLEAN, OS_ERROR, OTHER = 0, 10, 11, 12
"""Exit codes of a fork."""


def trial(number: int, seed: int) -> str:
    """One kind of failure in one scene, at every k."""
    call, error = KINDS[number % len(KINDS)]

    def work(run: Held) -> str:
        for k, inject in enumerate(limits(run) if call == "short" else failing(run, call, error), 1):
            code = inject()
            if code is None:
                break
            COUNTS["failures"] += 1
            COUNTS["runs_that_went_on"] += code == WENT_ON
            wrong = judged(run, code, k, log_may_end=call in ("write", "short"))
            if wrong:
                return f"{call} number {k} failed with {error}: {wrong}"
            run.put_back()
            (run.folder.parent / "log").unlink(missing_ok=True)
        return ""

    return held(SCENES[number // len(KINDS) % len(SCENES)], place(NAME, number), work)


def failing(run: Held, call: str, error: str) -> Iterator[Callable[[], int | None]]:
    """For each k: a save whose k-th call fails. None: it has no k-th."""
    record, k = run.folder.with_name("record"), 0

    def save() -> int | None:
        options = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={k}"]
        code = traced(lambda: sys.exit(go_through(run)), run.folder.with_name("log"), record, options)
        return code if "(INJECTED)" in record.read_text() else None

    while True:
        k += 1
        yield save


def limits(run: Held) -> Iterator[Callable[[], int | None]]:
    """For each size at which a file of a save can be cut: a save with that limit."""
    sizes = {path.stat().st_size for path in run.before.rglob("*") if path.is_file()}
    for limit in sorted({0, 1, 100} | {size - 1 for size in sizes if size} | {size // 2 for size in sizes}):

        def save(limit: int = limit) -> int:
            def limited() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    sys.exit(go_through(run))
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

            return forked(limited, run.folder.with_name("log"), strict=False)

        yield save


def go_through(run: Held) -> int:
    """The save; how it ended, as an exit code, for at that time nothing may be written."""
    from luthier.errors import RunError

    try:
        run.through()
    except RunError as error:
        return CLEAN if {problem.code for problem in error.problems} == {"E-RUN-003"} else OTHER
    except OSError:
        return OS_ERROR
    return WENT_ON


def judged(run: Held, code: int, k: int, log_may_end: bool) -> str:
    """What is wrong after a failure."""
    from luthier.training.checkpoint import checkpoints, find_checkpoint
    from luthier.training.commit import verify

    if code not in (WENT_ON, CLEAN, OS_ERROR):
        return f"the save ended with {code}:\n{tail(run.folder.with_name('log'))}"
    finals = [run.folder / "final_model"] if (run.folder / "final_model").is_dir() else []
    for path in (*checkpoints(run.folder), *finals):
        if broken := verify(path):
            return f"{path.name} can be seen and is not whole: {broken}"
    if (run.before / "final_model").is_dir() and not finals:
        return "final_model is gone"
    before = newest(read_tree(run.before))
    found = find_checkpoint(run.folder, "auto")
    if (found.step if found else 0) < before:
        return f"step {found.step if found else 0} is found, step {before} is lost"
    if k % 3 == 0:
        COUNTS["resumed_to_the_end"] += 1
        return finished_elsewhere(run, log_may_end)
    return ""


def finished_elsewhere(run: Held, log_may_end: bool) -> str:
    """Resume a copy (the run that is held has the lock of this one) and compare."""
    copy = run.folder.with_name("copy")
    shutil.copytree(run.folder, copy)
    wrong = resumed(run, copy, copy.with_suffix(".log"), log_may_end)
    shutil.rmtree(copy)
    return wrong
