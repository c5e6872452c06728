"""TensorBoard in a real browser, on the quickstart's run: what its users see, as pictures.

Needs `chromium` on the path. Not covered: clicking; each picture is a tab that an address opens.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring.drawing import PICTURES
from measuring.runs import WORK

LOGS = WORK / "quickstart" / "logs"
TABS = {
    "tensorboard_scalars": ("#scalars&tagFilter=%5E(train%2F(loss%7Cgrad%7Clearning)%7Ceval%2Floss)", (1300, 770)),
    "tensorboard_gradients": ("?tagFilter=gradients#timeseries", (1300, 900)),
    "tensorboard_graph": ("#graphs", (1300, 770)),
}
PATIENCE_SECONDS = 60
DRAWING_MS = 20_000


def tensorboard() -> dict[str, Any]:
    """Draw all tabs."""
    if not shutil.which("chromium"):
        raise SystemExit("chromium is needed to see TensorBoard as users do")
    with served(LOGS) as address:
        for name, (place, size) in TABS.items():
            picture(f"{address}/{place}", PICTURES / f"{name}.png", size)
    return {"pictures": len(TABS)}


@contextlib.contextmanager
def served(logs: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows these logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(logs), "--port", str(port)]
    server = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(10 * PATIENCE_SECONDS):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/data/runs") as answer:
                if answer.read().strip() not in (b"[]", b""):
                    break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def picture(address: str, file: Path, size: tuple[int, int]) -> None:
    """One page, after it has drawn itself."""
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--enable-unsafe-swiftshader"]
    options += [f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={DRAWING_MS}"]
    subprocess.run(["chromium", *options, f"--screenshot={file}", address], check=True, capture_output=True)
