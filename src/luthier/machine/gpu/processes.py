"""Whose a process is and what it runs, as far as this user may know. torch-free."""

from __future__ import annotations

from pathlib import PurePath

import psutil

from luthier.machine.gpu.readings import Process

LONGEST_COMMAND = 200


def describe(pid: int, memory_gib: float) -> Process:
    """The process with its user and command; both empty where they cannot be seen."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Process(pid, _user(process), _command(process), memory_gib)
    except (psutil.Error, OSError):
        return Process(pid, "", "", memory_gib)


def _user(process: psutil.Process) -> str:
    try:
        return str(process.username())
    except (psutil.Error, OSError, KeyError):
        return ""


def _command(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except (psutil.Error, OSError):
        words = []
    return shortened(words) or str(process.name())


def shortened(words: list[str]) -> str:
    """The program's name and what it runs: `/usr/bin/python -u train.py --token x` becomes `python train.py`.

    What may hold a key or a password is left out: options and all that follows the first long one, assignments, and the
    code after `-c`.
    """
    kept = [PurePath(words[0]).name] if words else []
    for word in words[1:]:
        if word.startswith("--") or word == "-c":
            break
        if not word.startswith("-") and "=" not in word:
            kept.append(word)
    return " ".join(kept)[:LONGEST_COMMAND]
