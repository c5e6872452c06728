"""The folder of a sweep, and optuna's study in it. Nothing of one sweep ever goes into that of another.

OUTPUT_DIR-sweep/
    config.yaml       what all trials have in common
    study.db          optuna's own record (SQLite): values, losses, states
    trial-000/        an ordinary run;  trial-000.log  what its process wrote
    best.yaml         the config with the best values, for `luthier train`
    sweep.png         the picture
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
from sqlalchemy.pool import NullPool

from luthier.config.load import Loaded
from luthier.config.render import dump_config_yaml
from luthier.config.schema import nested
from luthier.errors import ConfigError, MissingError, Problem
from luthier.events.printable import one_line
from luthier.machine.files import write_whole
from luthier.sweep.space import Space
from luthier.sweep.standing import Row

CONFIG, STUDY, BEST = "config.yaml", "study.db", "best.yaml"


def folder_of(loaded: Loaded) -> Path:
    """Where the sweep of a config lies: beside its output folder."""
    output_dir = Path(loaded.config.training.output_dir).expanduser()
    if output_dir.name in ("", ".."):
        output_dir = output_dir.resolve()
    return output_dir.parent / f"{output_dir.name}-sweep"


def keep_config(space: Space, folder: Path) -> None:
    """Write what all trials have in common, or compare it with what is there."""
    common, path = dump_config_yaml(space.loaded.written), folder / CONFIG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, common)  # half of it would be another config for ever
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        found = f"cannot write to {folder}: {error.strerror or error}"
        fix = "write an output_dir in a folder that you may write to"
        raise MissingError(Problem("E-ENV-002", found, fix, "training.output_dir")) from error
    if before != common:
        raise _another(folder, "another config")


def open_study(space: Space, folder: Path) -> optuna.Study:
    """The study in the folder, new or as it was."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = {"ranges": {r.key: [r.text, *r.choices] for r in space.ranges}, "fixed": [*space.fixed]}
    path = (folder / STUDY).absolute()
    try:
        connect = {"creator": lambda: sqlite3.connect(path, check_same_thread=False)}  # no URL holds every name
        # closed after each use: nobody would close what a pool keeps
        storage = optuna.storages.RDBStorage(f"sqlite:///{STUDY}", engine_kwargs={**connect, "poolclass": NullPool})
        study = optuna.create_study(storage=storage, study_name="luthier", load_if_exists=True)
        if "asked" not in study.user_attrs:
            study.set_user_attr("asked", asked)
        before = study.user_attrs["asked"]
    except Exception as error:  # of SQLAlchemy and alembic, whatever they find in a file that is not theirs
        found = f"{path} cannot be read: {one_line(str(error))[:200]}"
        fix = "move it aside, or write another output_dir"
        raise ConfigError(Problem("E-SWEEP-004", found, fix)) from error
    if before != asked:
        raise _another(folder, "other ranges")
    return study


def _another(folder: Path, what: str) -> ConfigError:
    fix = f"give the command as it was, move {folder} aside, or write another output_dir"
    return ConfigError(Problem("E-SWEEP-004", f"{folder} holds a sweep with {what}", fix))


def write_best(space: Space, best: Row, folder: Path, count: int) -> Path:
    """Write the config with the best values; returns where."""
    written = space.loaded.written
    for section, part in nested(best.values).items():
        written[section] |= part
    head = f"# The best of {count} trials: eval_loss {best.eval_loss:.4f}, {best.folder.name}.\n"
    path = folder / BEST
    write_whole(path, head + dump_config_yaml(written))
    return path
