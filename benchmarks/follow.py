"""Opening long logs: time, CPU time and memory until a log of a million lines is on the screen, for each shape of log.

    python benchmarks/follow.py [--lines 1000000] [--folder FOLDER] [--json FILE]

Each log is written once (FOLDER, else a temporary one; about 2 GiB), then opened in a fresh process, which polls until
nothing is new and then once more after one more line was appended. `cpu` is user + system time of that whole process,
start and imports included: on shared cores it says more than `wall`, the time of the first poll. `next` is the wall
time of the poll after the appended line. The file cache is warm.

Not covered: cold disks, network file systems.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Lines = Iterator[bytes]


def events(count: int) -> Lines:
    """Luthier's events.jsonl."""
    for step in range(1, count + 1):
        yield (
            b'{"event":"log","time":%d.25,"attempt":"3f2a91bc","step":%d,"epoch":%.6f,"loss":2.45%06d,'
            b'"grad_norm":0.9123456789,"learning_rate":0.00019998123,"num_tokens":%d,"tokens_per_second":1234.4567891,'
            b'"trained_tokens_per_second":600.123456,"step_seconds":0.412345678,"memory_gib":2.3141592,'
            b'"remaining_seconds":%d.5}\n'
            % (1700000000 + step, step, step / 1e5, step % 10**6, 3520 * step, count - step)
        )  # fmt: skip


def training_log(count: int) -> Lines:
    """Luthier's training.log."""
    yield b"run long: %d steps, 3 epochs\n" % count
    for step in range(1, count + 1):
        yield (
            b"{'loss': 2.4512, 'grad_norm': 0.9123, 'learning_rate': 0.000199981, 'epoch': %.4f, 'step': %d, "
            b"'num_tokens': %d, 'tokens_per_second': 1234, 'memory_gib': 2.31, 'eta_seconds': %d}\n"
            % (step / 1e5, step, 3520 * step, count - step)
        )


def trainer(count: int) -> Lines:
    """The Trainer's dicts without progress bars, transformers 5."""
    for step in range(1, count + 1):
        yield (
            b"{'loss': '2.451', 'grad_norm': '0.9759', 'learning_rate': '0.001833', 'entropy': '5.678', "
            b"'mean_token_accuracy': '0.52', 'num_tokens': '%d', 'epoch': '%.4g'}\n" % (391 * step, step / 1e5)
        )


def trainer_bars(count: int) -> Lines:
    """The same with a progress bar before and after each."""
    for step, line in enumerate(trainer(count), 1):
        bar = b"\r 33%%|###       | %d/%d [1:00:00<10:00:00,  2.10it/s]" % (step, count)
        yield bar + b"\r" + b" " * 40 + b"\r" + line + bar


def trainer_late(count: int) -> Lines:
    """The same with the dicts in blocks of 8 KiB, as Python writes a redirected output."""
    late = b""
    for step, line in enumerate(trainer(count), 1):
        late += line
        yield b"\r" + b" " * 40 + b"\r"
        if len(late) >= 8192:
            yield late[:8192]
            late = late[8192:]
        yield b"\r 33%%|###       | %d/%d [1:00:00<10:00:00,  2.10it/s]" % (step, count)
    yield late


def factory(count: int) -> Lines:
    """LLaMA-Factory's trainer_log.jsonl."""
    for step in range(1, count + 1):
        yield (
            b'{"current_steps": %d, "total_steps": %d, "loss": 2.4512, "lr": 0.000199981, "epoch": %.4f, '
            b'"percentage": 16.67, "elapsed_time": "0:00:21", "remaining_time": "0:01:46"}\n'
            % (step, count, step / 1e5)
        )  # fmt: skip


def one_line(count: int) -> Lines:
    """A line of a GiB."""
    for _ in range(1024):
        yield b"x" * 2**20


def state(count: int) -> Lines:
    """The Trainer's trainer_state.json with a tenth of the entries."""
    entry = '{\n   "epoch": 0.5,\n   "grad_norm": 0.97,\n   "learning_rate": 0.0018,\n   "loss": 2.4,\n   "step": %d}'
    history = ",\n  ".join(entry % step for step in range(1, count // 10 + 1))
    yield f'{{"log_history": [\n  {history}\n ], "max_steps": {count}, "num_train_epochs": 3}}'.encode()


def tfevents(count: int) -> Lines:
    """TensorBoard's file of a Trainer: a tenth of the steps, four scalars each."""
    from tensorboard.compat.proto import event_pb2, summary_pb2

    from luthier.events.codecs.records import masked_crc32c

    for step in range(1, count // 10 + 1):
        for tag in ("loss", "grad_norm", "learning_rate", "epoch"):
            value = summary_pb2.Summary.Value(tag=f"train/{tag}", simple_value=step / 1e5)
            summary = summary_pb2.Summary(value=[value])
            data = event_pb2.Event(step=step, wall_time=1.7e9 + step, summary=summary).SerializeToString()
            length = struct.pack("<Q", len(data))
            # The CRC of the data is not read by anyone here.
            yield length + struct.pack("<I", masked_crc32c(length)) + data + b"\0\0\0\0"


SHAPES: dict[str, tuple[str, Callable[[int], Lines]]] = {
    "events.jsonl": ("events.jsonl", events),
    "training.log": ("training.log", training_log),
    "Trainer": ("trainer.log", trainer),
    "Trainer, bars": ("bars.log", trainer_bars),
    "Trainer, bars, blocks": ("late.log", trainer_late),
    "trainer_log.jsonl": ("trainer_log.jsonl", factory),
    "a line of 1 GiB": ("junk.log", one_line),
    "trainer_state.json, 1/10": ("trainer_state.json", state),
    "tfevents, 1/10": ("events.out.tfevents.1700000000.host.1.0", tfevents),
}


def write(path: Path, lines: Lines) -> None:
    """Write a log, unless it is there."""
    if not path.exists():
        with path.open("wb", buffering=2**20) as file:
            file.writelines(lines)


def opened(path: Path, one_more: bytes) -> dict[str, Any]:
    """Open a log in this process."""
    from luthier.events.follow import open_log

    follower = open_log(path)
    start = time.perf_counter()
    told = len(follower.poll())
    wall, polls = time.perf_counter() - start, 1
    while polls < 3 or "yet to read" in follower.source:
        told += len(follower.poll())
        polls += 1
    with path.open("ab") as file:
        file.write(one_more)
    start = time.perf_counter()
    news = follower.poll()
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": peak_mib(),
        "events": told,
        "polls": polls - 2,
        "news": len(news),
        "next_seconds": seconds,
        "source": follower.source,
    }


def peak_mib() -> float:
    """Highest resident set of this program; `ru_maxrss` would count the parent's, which was this process once."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure all shapes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--open", nargs=2, metavar=("FILE", "HEX"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(opened(Path(arguments.open[0]), bytes.fromhex(arguments.open[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print(
            f"{'':<26} {'MiB':>6} {'wall s':>7} {'cpu s':>6} {'RSS MiB':>8} {'events':>7} {'polls':>5} {'next ms':>8}"
        )
        for name, (file, lines) in SHAPES.items():
            path = folder / file
            write(path, lines(arguments.lines))
            last = b"" if file == "trainer_state.json" else list(lines(20))[-1][:4096]
            command = [sys.executable, __file__, "--open", str(path), last.hex()]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row |= {"shape": name, "lines": arguments.lines, "mib": path.stat().st_size / 2**20}
            rows.append(row)
            print(
                f"{name:<26} {row['mib']:>6.0f} {row['wall_seconds']:>7.2f} {row['cpu_seconds']:>6.2f} "
                f"{row['peak_mib']:>8.0f} {row['events']:>7,} {row['polls']:>5} {row['next_seconds'] * 1e3:>8.1f}"
                f"   {row['source']}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
