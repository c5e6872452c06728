"""Faults planted into our own resume and commit code: a suite that sees none of them would prove nothing.

Each is planted in child processes only and given to the suite that ought to notice. A fault that survives is a failure.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture import corruption, kills, neighbours, power
from tests.torture.outcome import COUNTS, dice, one, workshop
from tests.torture.runs import forked, tail, train

NAME = "mutants"
FAST = 4
TRIES = 16
"""Runs that a fault may survive before it counts as not seen: on a machine with other work all kills of one may come
before its first checkpoint, and then nothing is restored."""

Plant = Callable[[], None]


@dataclass(frozen=True)
class Mutant:
    """A fault: what it is, how it is planted, and which suite must see it (with which kind of run, or trial)."""

    fault: str
    plant: Plant
    seen_by: str
    by: Any


def trial(number: int, seed: int) -> str:
    """One fault; empty when it was seen."""
    mutant = MUTANTS[number % len(MUTANTS)]
    see = {"kills": by_kills, "corruption": by_corruption, "power": by_power, "neighbours": by_neighbours}
    seen = next((seen for at in range(TRIES) if (seen := see[mutant.seen_by](mutant, number, seed + 1000 * at))), "")
    COUNTS.clear()  # what that suite counted is not ours
    if any(mistake in seen for mistake in ("AttributeError", "TypeError", "ImportError")):
        return f"{mutant.fault}: it is not planted well, what was seen is that: {seen}"
    COUNTS["faults_seen"] = bool(seen)
    if "--only" in sys.argv:
        print(f"{mutant.fault}: {seen[:300]}")
    return "" if seen else f"{mutant.fault}: not seen by {mutant.seen_by}"


def by_kills(mutant: Mutant, number: int, seed: int) -> str:
    """Three kills of runs whose every attempt has the fault."""

    def attempt(values: dict[str, Any], log: Path, kill_after: float | None) -> int:
        def with_the_fault() -> None:
            mutant.plant()
            train(values, resume="auto")

        return forked(with_the_fault, log, kill_after)

    return kills.tortured(mutant.by, dice(NAME, seed, number), workshop() / f"{NAME}-{number}", attempt, 3)


def by_corruption(mutant: Mutant, number: int, seed: int) -> str:
    """A hundred damages, in a fork, to checkpoints that were committed with the fault."""
    said = workshop() / f"{NAME}-{number}.json"

    def damage() -> None:
        mutant.plant()
        for name in ("lora", "full"):
            for path in corruption.checkpoints(corruption.copy(name)):
                commit_again(path)
        wrong = [text for at in range(100) if (text := one(corruption, at, seed)[1])]
        said.write_text(json.dumps(wrong))

    log = said.with_suffix(".log")
    code = forked(damage, log)
    if code:
        raise RuntimeError(tail(log))
    seen: list[str] = json.loads(said.read_text())
    return "; ".join(seen)


def commit_again(path: Path) -> None:
    """Commit what a checkpoint holds once more."""
    from luthier.training import checkpoint

    files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}
    shutil.rmtree(path)
    checkpoint.written(
        path, lambda folder: [(folder / name).write_bytes(data) for name, data in files.items()] and None
    )()


def by_power(mutant: Mutant, number: int, seed: int) -> str:
    """A power cut at every moment of a save that has the fault."""
    return power.cut(mutant.by, seed, mutant.plant)


def by_neighbours(mutant: Mutant, number: int, seed: int) -> str:
    """Two processes on one folder, both with the fault."""
    return neighbours.two_at_once(dice(NAME, seed, number), workshop() / f"{NAME}-{number}", mutant.plant)


def restored(change: Callable[[Any], None]) -> Plant:
    """The counters come back from a checkpoint with a change."""

    def plant() -> None:
        from luthier.training.state import TrainState

        whole = TrainState.from_dict

        def from_dict(values: dict[str, Any]) -> Any:
            state = whole(values)
            change(state)
            return state

        TrainState.from_dict = staticmethod(from_dict)  # type: ignore[method-assign,assignment]

    return plant


def replaced(module: str, name: str, make: Callable[[Any], Any]) -> Plant:
    """A function of the package is replaced with what `make` makes of it; it has to be there."""

    def plant() -> None:
        import importlib

        owner = importlib.import_module(f"luthier.{module}")
        setattr(owner, name, make(getattr(owner, name)))

    return plant


def several(*plants: Plant) -> Plant:
    """All of them."""
    return lambda: [plant() for plant in plants] and None


def nothing(_: Any) -> Any:
    """Instead of a function: one that does nothing."""
    return lambda *_, **__: None


def set_all(**values: Any) -> Callable[[Any], None]:
    """Sets attributes of the counters."""

    def change(state: Any) -> None:
        for name, value in values.items():
            getattr(state, name)  # it has to be there
            setattr(state, name, value)

    return change


def position(state: Any) -> None:
    state.step -= 1


def schedule_from_the_resume(whole: Any) -> Any:
    first: list[int] = []

    def learning_rate(plan: Any, step: int) -> Any:
        first.append(step)
        return whole(plan, step - first[0])

    return learning_rate


def optimizer_empty(whole: Any) -> Any:
    return lambda tensors, plain: {**whole(tensors, plain), "state": {}}


def moments_swapped(whole: Any) -> Any:
    def unflatten(tensors: dict[str, Any], plain: dict[str, Any]) -> Any:
        found = whole(tensors, plain)
        first = found["state"][min(found["state"])]
        first["exp_avg"], first["exp_avg_sq"] = first["exp_avg_sq"], first["exp_avg"].abs()
        return found

    return unflatten


def newest_deleted(whole: Any) -> Any:
    def rotate(output_dir: Path, *rest: Any, **more: Any) -> Any:
        from luthier.training.checkpoint import checkpoints
        from luthier.training.commit import remove

        removed = whole(output_dir, *rest, **more)
        if len(checkpoints(output_dir)) > 1:
            remove(checkpoints(output_dir)[-1])
        return removed

    return rotate


def best_deleted(whole: Any) -> Any:
    return lambda output_dir, keep, saved, best: whole(output_dir, keep, saved, None)


def hash_without_fsync(_: Any) -> Any:
    from luthier.training import commit

    return commit._hash


def manifest_without_fsync(whole: Any) -> Any:
    from luthier.training import commit

    return lambda path: commit._hash(path) if path.name == commit.MANIFEST else whole(path)


def renamed_first(_: Any) -> Any:
    """`commit`, but the folder gets its name before its manifest."""
    from luthier.training import commit as c

    def commit(target: Path, fill: Callable[[Path], None]) -> int:
        inflight = target.with_name(f"{c.INFLIGHT}{target.name}")
        inflight.mkdir()
        fill(inflight)
        if target.exists():
            c.remove(target)
        inflight.rename(target)
        return sealed_in_place(target)

    return commit


def in_place(_: Any) -> Any:
    """`commit`, but the files are written where they are to stay."""

    def commit(target: Path, fill: Callable[[Path], None]) -> int:
        target.mkdir(exist_ok=True)
        fill(target)
        return sealed_in_place(target)

    return commit


def sealed_in_place(target: Path) -> int:
    """Hash, seal and flush what already has its name."""
    from luthier.training import commit as c

    hashes = {path.name: c._flush_and_hash(path) for path in sorted(target.iterdir()) if path.name != c.MANIFEST}
    (target / c.MANIFEST).write_bytes(c._seal(hashes).encode())
    c._flush_and_hash(target / c.MANIFEST)
    c._flush_folder(target)
    c._flush_folder(target.parent)
    return 0


def seal_ignored(_: Any) -> Any:
    from luthier.training import commit as c

    def verify(folder: Path) -> str:
        try:
            hashes = json.loads((folder / c.MANIFEST).read_bytes())["files"]
            return "" if all(c._hash(folder / name) == wanted for name, wanted in hashes.items()) else "damaged"
        except Exception as error:
            return str(error) or "broken"

    return verify


def hashes_ignored(_: Any) -> Any:
    from luthier.training import commit as c

    return lambda folder: "" if (folder / c.MANIFEST).is_file() else "no manifest"


def one_file_left_out(whole: Any) -> Any:
    def seal(hashes: dict[str, str]) -> Any:
        return whole({name: value for name, value in hashes.items() if name != "optimizer.safetensors"})

    return seal


def file_left_out() -> None:
    """The manifest forgets a file when it is written; reading it is as ever."""
    from luthier.training import checkpoint, commit

    sealed = commit._seal

    def forgetful(*arguments: Any) -> int:
        commit._seal = one_file_left_out(sealed)
        try:
            return commit.commit(*arguments)
        finally:
            commit._seal = sealed

    checkpoint.written = at_once(forgetful)


def not_locked(_: Any) -> Any:
    import contextlib

    return lambda *_, **__: contextlib.nullcontext()


def at_once(commit: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """`written`, with nothing left for later."""

    def written(target: Path, fill: Callable[[Path], None]) -> Callable[[], int]:
        size = commit(target, fill)
        return lambda: size

    return written


def committed(make: Callable[[Any], Any]) -> Plant:
    """Both who commit do it another way."""
    return several(
        replaced("training.final", "commit", make),
        replaced("training.checkpoint", "written", lambda whole: at_once(make(lambda *those: whole(*those)()))),
    )


LOG_EMPTY = {
    "log_sums": [],
    "log_losses": 0,
    "log_trained_tokens": 0,
    "log_num_tokens": 0,
    "log_steps": 0,
    "log_seconds": 0.0,
}
MUTANTS = (
    Mutant("random generators not restored",
           replaced("training.checkpoint", "set_rng_state", nothing), "kills", "lora"),
    Mutant("files not fsynced", replaced("training.commit", "_flush_and_hash", hash_without_fsync), "power", 0),
    Mutant("seal not checked", replaced("training.checkpoint", "verify", seal_ignored), "corruption", None),
    Mutant("position off by one", restored(position), "kills", "lora"),
    Mutant("learning rate counted from the resume",
           replaced("training.job", "learning_rate", schedule_from_the_resume), "kills", "lora"),
    Mutant("optimizer state dropped", replaced("training.checkpoint", "_unflatten", optimizer_empty), "kills", "nf4"),
    Mutant("moments of one tensor swapped",
           replaced("training.checkpoint", "_unflatten", moments_swapped), "kills", "full"),
    Mutant("weights not restored", replaced("training.checkpoint", "load_trained", nothing), "kills", "lean"),
    Mutant("best evaluation forgotten", restored(set_all(best_loss=None, best_step=None)), "kills", "nf4"),
    Mutant("sums of the log line forgotten", restored(set_all(**LOG_EMPTY)), "kills", "nf4"),
    Mutant("token counter forgotten", restored(set_all(num_tokens=0)), "kills", "lora"),
    Mutant("patience forgotten",
           restored(set_all(evaluations_without_gain=0, patience_loss=None)), "kills", "full"),
    Mutant("rotation deletes the newest", replaced("training.checkpoint", "_rotate", newest_deleted), "kills", "lora"),
    Mutant("rotation deletes the best", replaced("training.checkpoint", "_rotate", best_deleted), "kills", "nf4"),
    Mutant("left-overs not swept", replaced("training.folder", "sweep", nothing), "kills", "lora"),
    Mutant("folders not fsynced", replaced("training.commit", "_flush_folder", nothing), "power", 0),
    Mutant("manifest not fsynced", replaced("training.commit", "_flush_and_hash", manifest_without_fsync), "power", 0),
    Mutant("renamed before the manifest", committed(renamed_first), "power", 1),
    Mutant("written in place", committed(in_place), "power", 3),
    Mutant("hashes not checked", replaced("training.checkpoint", "verify", hashes_ignored), "corruption", None),
    Mutant("a file left out of the manifest", file_left_out, "corruption", None),
    Mutant("folder not locked", replaced("training.folder", "locked", not_locked), "neighbours", None),
)  # fmt: skip
DEFAULT = len(MUTANTS)
