"""`luthier serve` under 64 clients that ask rightly, wrongly, slowly, hugely, and leave in the middle.

A trial is one client's dealing with the server (`serving_dealings`). Allowed are 2xx and 4xx (429 among them), never
5xx; an answer must be the one that the same question got before the storm, and a stream must come to its end.
Afterwards the server must be idle, have the threads and files of before (when a tenth more of trials had warmed it up),
hardly more memory, answer within a second, and end with code 0 and without a word about a failure.

Not covered: networks that lose packets, more clients than the server has file descriptors for.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tests.torture.outcome import COUNTS, Outcome, add, made_once, workshop
from tests.torture.serving_dealings import PATIENCE, QUESTIONS, Target, ask, chat, deal, get, post, valid

NAME = "serving"
DEFAULT = 10_000
FAST = 120
CLIENTS = 64
MOST_MIB = 64
SLOWEST_SECONDS = 1.0
OPTIONS = ("--queue", "40", "--max-tokens", "32", "--timeout", "30", "--port", "0")


def run(count: int, seed: int) -> Outcome:
    """The storm."""
    started, outcome = time.monotonic(), Outcome(NAME, 0)
    target = start()
    try:
        asyncio.run(storm(target, max(count // 10, CLIENTS), seed + 1, outcome))
        outcome.failures = [(number, f"with seed {seed + 1}: {wrong}") for number, wrong in outcome.failures]
        before = asyncio.run(calm(target))
        outcome.tried, outcome.figures = 0, {}
        asyncio.run(storm(target, count, seed, outcome))
        if outcome.figures.get("health_failures"):
            outcome.failures.append((count, "/health did not answer in the storm"))
        after = asyncio.run(calm(target))
        wrong, figures = judged(target, before, after)
    finally:
        said = ended(target)
    if said:
        wrong.append(said)
    outcome.figures = dict(sorted({**outcome.figures, **figures}.items()))
    outcome.failures += [(count, text) for text in wrong]
    outcome.seconds = time.monotonic() - started
    return outcome


def trial(number: int, seed: int) -> str:
    """One dealing alone, for replays."""
    return asyncio.run(deal(_kept(), seed, number))


@functools.cache
def _kept() -> Target:
    target = start()
    atexit.register(ended, target)
    return target


async def storm(target: Target, count: int, seed: int, outcome: Outcome) -> None:
    """All dealings, by 64 clients at once."""
    numbers = iter(range(count))
    counts: Counter[str] = Counter()

    async def client() -> None:
        for number in numbers:
            wrong = await deal(target, seed, number)
            outcome.tried += 1
            if wrong:
                outcome.failures.append((number, wrong))

    COUNTS.clear()
    over = threading.Event()
    watching = threading.Thread(target=watch, args=(target, counts, over))
    watching.start()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    over.set()
    await asyncio.to_thread(watching.join)
    add(counts, COUNTS)
    COUNTS.clear()
    outcome.figures = dict(counts)


def watch(target: Target, counts: Counter[str], over: threading.Event) -> None:
    """How long /health takes in the middle of it; in a thread, since the clients keep the loop busy."""
    while not over.wait(0.2):
        started = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/health", timeout=PATIENCE) as answer:
                answer.read()
        except OSError:
            counts["health_failures"] += 1
        add(counts, Counter({"most_ms_of_health": int(1000 * (time.monotonic() - started))}))


async def calm(target: Target) -> tuple[int, int, float]:
    """Threads, files and memory, once nothing is written any more."""
    for _ in range(200):
        status, body = await ask(target, get("/health"))
        said = json.loads(body)
        if status == 200 and not said["writing"] and not said["waiting"]:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(6)  # connections that are kept alive are let go
    return target.facts()


def judged(target: Target, before: Any, after: Any) -> tuple[list[str], dict[str, Any]]:
    """What is left of the storm: what is wrong with it, and the figures."""
    threads, files, mib = (round(b - a) for a, b in zip(before, after, strict=True))
    health = json.loads(asyncio.run(ask(target, get("/health")))[1])
    started = time.monotonic()
    wrong = [text for text in [asyncio.run(valid(target, random.Random(0)))] if text]
    seconds = time.monotonic() - started
    if health["writing"] or health["waiting"]:
        wrong.append(f"still at work: {health}")
    if threads > 0 or files > 0 or mib > MOST_MIB:
        wrong.append(f"{threads} threads, {files} files, {mib} MiB more than before")
    if seconds > SLOWEST_SECONDS:
        wrong.append(f"the answer after the storm took {seconds:.1f} s")
    grown = {"threads_grown": threads, "files_grown": files, "mib_grown": mib}
    return wrong, {**grown, "ms_of_the_answer_afterwards": int(1000 * seconds), "clients": CLIENTS}


# The server ----------------------------------------------------------------------------------------------------------


def start() -> Target:
    """Two adapters on one tiny base, and a process that serves them."""
    folder = made_once(workshop() / "serving", _make)
    child = subprocess.Popen(
        [sys.executable, "-m", "luthier", "serve", "first", "second", *OPTIONS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    greeting = ""
    while "Ctrl-C ends" not in greeting:
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"no server: {child.communicate()}")
        greeting += line
    found = re.search(r"127\.0\.0\.1:(\d+)", greeting)
    assert found is not None
    target = Target(child, int(found[1]), ["first", "second", "model"], {})
    asyncio.run(_learn(target))
    return target


def _make(folder: Path) -> None:
    folder.mkdir()
    program = (
        "import sys; from pathlib import Path; from tests.tiny import build_model, write_rows\n"
        "from tests.generate.support import train_tiny\n"
        "d = Path(sys.argv[1]); build_model(d / 'model'); write_rows(d / 'rows.jsonl', 64)\n"
        "train_tiny(d / 'first', d / 'model', d / 'rows.jsonl')\n"
        "train_tiny(d / 'second', d / 'model', d / 'rows.jsonl', {'lora': {'r': 4}})\n"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join((str(root / "src"), str(root)))
    subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=root, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True,
    )  # fmt: skip


async def _learn(target: Target) -> None:
    for model in target.models:
        for question in QUESTIONS:
            status, body = await ask(target, post(chat(model, question)))
            assert status == 200, body
            target.answers[model, question] = json.loads(body)["choices"][0]["message"]["content"]


def ended(target: Target) -> str:
    """Ctrl-C; what was wrong with the end."""
    target.child.send_signal(signal.SIGINT)
    try:
        out, err = target.child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        target.child.kill()
        return "it did not end"
    right = target.child.returncode == 0 and not err and out.endswith("ended\n")
    return "" if right else f"ended with {target.child.returncode}: {out[-300:]} {err[-1000:]}"
