"""Records the logs in tests/events/logs: real runs of TRL and of Luthier on a tiny model, on CPU, in a few minutes.

    python recipes/logs/record.py FOLDER

Each run is its own process in a scratch folder with relative paths, its output redirected as a user does it
(`> NAME.txt 2>&1`; not .log, which git ignores here). What still names this machine (the folders of the libraries in
tracebacks and warnings, the host name in the names of TensorBoard's files) is replaced.

Not covered: LLaMA-Factory and Axolotl, which are not installed here; tests/events/test_codecs.py says where their
shapes come from.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("trl_run.py")
LUTHIER = [sys.executable, "-m", "luthier", "train", "run.yaml"]
TRL_RUNS = {
    "trl_bars": [["-u", "--bars", "--eval", "--report"]],
    "trl_late": [["--bars", "--steps", "90", "--every", "1"]],
    "trl_plain": [["--eval"]],
    "trl_resumed": [["-u", "--bars", "--kill", "9"], ["-u", "--bars", "--resume"]],
    "trl_crash": [["--bars", "--break", "7"]],
}
"""Name -> arguments of each attempt; `-u`, Python's own: lines are written at once, not in blocks of 8 KiB."""


def main() -> None:
    """Record all of them into the folder named on the command line."""
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder)
        for name, attempts in TRL_RUNS.items():
            for arguments in attempts:
                flags = [argument for argument in arguments if argument == "-u"]
                options = [argument for argument in arguments if argument != "-u"]
                command = [sys.executable, *flags, CHILD.name, "--output", name, *options]
                record(command, folder, folder / f"{name}.txt")
            keep(folder / f"{name}.txt", target, folder)
        keep(folder / "trl_bars" / "checkpoint-12" / "trainer_state.json", target, folder)
        for number, events in enumerate(sorted(folder.glob("trl_bars/**/events.out.tfevents.*"))):
            shutil.copy(events, target / f"events.out.tfevents.170000000{number}.host.1.{number}")
        record([*LUTHIER, "output_dir=luthier"], folder, folder / "luthier.txt")
        resumed = folder / "luthier_resumed.txt"
        record([*LUTHIER, "output_dir=resumed", "max_steps=9"], folder, resumed, kill_at=6)
        record([*LUTHIER, "output_dir=resumed", "max_steps=9", "--resume", "auto"], folder, resumed)
        for name in ("luthier.txt", "luthier_resumed.txt"):
            keep(folder / name, target, folder)
        keep(folder / "luthier" / "events.jsonl", target, folder)


def build(folder: Path) -> None:
    """A tiny model, rows, the config of Luthier's run and the script of TRL's."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import build_model, write_rows

    build_model(folder / "model")
    write_rows(folder / "rows.jsonl", 96)
    shutil.copy(CHILD, folder)
    config = {
        "model": {"model_name_or_path": "model", "dtype": "float32"},
        "data": {"datasets": [{"path": "rows.jsonl"}], "val_set_size": 16, "cache_dir": "cache"},
        "training": {"max_steps": 12, "learning_rate": 2e-3},
        "evaluation": {"eval_steps": 6, "sample_prompts": ["Add two numbers"], "sample_max_new_tokens": 8},
        "checkpointing": {"save_steps": 3},
        "logging": {"logging_steps": 1, "histogram_steps": 0, "report_to": []},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def record(command: list[str], folder: Path, log: Path, kill_at: int = 0) -> None:
    """Run a command, its output appended to `log`; `kill_at`: end it as soon as the log has that step."""
    print("recording", log.name, *command[1:], flush=True)
    # PYTHONUNBUFFERED would order the lines as few users see them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        while kill_at and child.poll() is None:
            if f"'step': {kill_at},".encode() in log.read_bytes():
                child.kill()
            time.sleep(0.01)
        child.wait()


def keep(source: Path, target: Path, folder: Path) -> None:
    """Copy a text file without this machine's paths."""
    text = source.read_bytes().decode("utf-8")
    for path, name in (
        (str(folder), "."),
        (os.path.realpath(folder), "."),
        (sysconfig.get_path("purelib"), "site-packages"),
        (str(ROOT), "."),
        (sysconfig.get_path("stdlib"), "lib/python3"),
        (os.path.realpath(sys.base_prefix), "python"),
        (sys.prefix, "venv"),
    ):
        text = text.replace(path, name)
    text = re.sub(r"(?<=PID:)\d+", "1", text)
    (target / source.name).write_bytes(text.encode("utf-8"))


if __name__ == "__main__":
    main()
