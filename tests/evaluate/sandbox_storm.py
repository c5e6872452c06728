"""Runs all attempts against one tier and prints, as JSON, those that went wrong. A program of its own.

python sandbox_storm.py TIER        as this user
as_nobody([...])                    the command that runs it as an ordinary user, when root asks
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import tempfile
import time
from pathlib import Path

from luthier.errors import MissingError
from luthier.evaluate.sandbox import Program, Sandbox, tiers
from tests.evaluate.sandbox_abuses import ABUSES, SLOW
from tests.evaluate.sandbox_escapes import ESCAPES, PRELUDE, numbers

GOOD = Program("def f(x): return x + 1", ("assert f(1) == 2",))
STOPPED = ("assert stopped() == 'stopped'",)


def names_in(folder):
    return {path.name for path in folder.iterdir()} if os.access(folder, os.R_OK) else set()


class Outside:
    """What there is to be reached, and whether it was."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.secret = self.folder / "secret"
        self.secret.write_text("secret")
        (self.folder / "empty").mkdir()
        for path in (self.folder, self.secret, self.folder / "empty"):
            path.chmod(0o777)
        self.tcp, self.udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stream, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.udp.bind(("127.0.0.1", 0))
        self.stream.bind(str(self.folder / "stream"))
        self.abstract.bind(f"\0luthier-{os.getpid()}")
        self.datagrams.bind(str(self.folder / "datagrams"))
        for name in ("stream", "datagrams"):
            (self.folder / name).chmod(0o777)
        for listener in (self.tcp, self.stream, self.abstract):
            listener.listen()
        for listener in (self.tcp, self.udp, self.stream, self.abstract, self.datagrams):
            listener.setblocking(False)
        self.before = self.state()

    def state(self):
        about = self.secret.stat()
        return (sorted(names_in(self.folder)), self.secret.read_text(), about.st_mode, about.st_uid, about.st_mtime)

    def facts(self, sandbox):
        site = [path for path in sys.path if path.endswith("-packages")]
        return {
            "secret": str(self.secret),
            "folder": str(self.folder),
            "home": str(Path.home()),
            "cwd": str(Path.cwd()),
            "tmp": tempfile.gettempdir(),
            "in_home": sorted(names_in(Path.home()) - set(Path(sys.base_prefix).parts)),
            "in_tmp": [self.folder.name],
            "site": site or ["/nowhere"],
            "package": next((str(p) for path in site for p in Path(path).glob("*/__init__.py")), "/nowhere"),
            "names": ["LUTHIER_SECRET"],
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "path": str(self.folder / "stream"),
            "abstract": f"\0luthier-{os.getpid()}",
            "datagrams": str(self.folder / "datagrams"),
            "numbers": numbers(platform.machine()),
            "many": sandbox._link.walls.processes + 300,
        }

    def touched(self):
        """What was reached, in words."""
        found = []
        if self.state() != self.before:
            found.append(f"files changed: {self.state()}, were {self.before}")
        for name in ("tcp", "stream", "abstract"):
            try:
                getattr(self, name).accept()
                found.append(f"{name} was connected to")
            except BlockingIOError:
                pass
        for name in ("udp", "datagrams"):
            try:
                getattr(self, name).recv(1)
                found.append(f"{name} got a message")
            except BlockingIOError:
                pass
        return found


def storm(tier):
    """What went wrong, and how long it took."""
    tiers.candidates = lambda: (tier,)
    os.environ["LUTHIER_SECRET"] = "secret"
    wrong, began = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="luthier-outside-") as folder:
        outside = Outside(folder)
        with Sandbox(seconds=20.0) as sandbox:
            canaries = sandbox.canaries
            prelude = f"F = {outside.facts(sandbox)!r}\n{PRELUDE}"
            bodies = [f"{prelude}\ndef attempt():\n    {body.strip()}\n" for body in ESCAPES.values()]
            programs = [Program(code, STOPPED) for code in bodies]
            programs += [Program(code, tests) for code, tests, _ in ABUSES.values()]
            *verdicts, good = sandbox.run([*programs, GOOD], workers=3)
            wrong += outside.touched()
        with Sandbox(seconds=0.7) as sandbox:
            slow = sandbox.run([Program(code, tests) for code, tests, _ in SLOW.values()], workers=len(SLOW))
        with Sandbox(seconds=20.0) as sandbox:
            after = sandbox.run([GOOD])[0]
    for name, verdict in zip(ESCAPES, verdicts, strict=False):
        if not verdict.passed:
            wrong.append(f"{name}: {verdict}")
    abuses = {**ABUSES, **SLOW}
    for name, verdict in zip(abuses, [*verdicts[len(ESCAPES) :], *slow], strict=True):
        causes = abuses[name][2]
        if verdict.passed or (causes and verdict.cause not in causes):
            wrong.append(f"{name}: {verdict}")
    wrong += [f"a good program: {verdict}" for verdict in (good, after) if not verdict.passed]
    count = len(ESCAPES) + len(abuses)
    seconds = time.monotonic() - began
    return {
        "tier": tier,
        "uid": os.getuid(),
        "canaries": canaries,
        "attempts": count,
        "wrong": wrong,
        "seconds": seconds,
    }


if __name__ == "__main__":
    try:
        told = storm(sys.argv[1])
    except MissingError as error:
        told = {"tier": "", "reason": str(error)}
    print(json.dumps(told))
