"""The report of the quickstart's run, as a browser shows it: its top, and its curve with what follows.

Needs `chromium` on the path, and the run of the experiment `quickstart`. Not covered: the rest of the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

import luthier
from measuring.drawing import PICTURES
from measuring.runs import WORK
from measuring.tensorboard import picture

RUN = WORK / "quickstart"
COMPARED = RUN / "comparison.json"
WIDTH = 1000
COLOURS = 64
PARTS = {"report_top": ("<h1>", 640), "report_curve": ('<h2 id="the-curve">', 1100)}
"""Picture -> where on the page it begins, and how high it is."""


def report() -> dict[str, Any]:
    """Compare the run with its base, sum it up, and draw two parts of the page."""
    if not shutil.which("chromium"):
        raise SystemExit("chromium is needed to see the page as readers do")
    command = [sys.executable, "-m", "luthier"]
    if not COMPARED.is_file():
        words = ["compare", str(RUN), "--tasks", "quickstart", "--json", str(COMPARED)]
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "report", str(RUN)], check=True, stdout=subprocess.DEVNULL)
    # without the folder of this machine
    page, package = (RUN / "report.html").read_text("utf-8"), f"{Path(luthier.__file__).parent}/"
    for place in (package, package.replace("/", "/<wbr>")):
        page = page.replace(place, "luthier:")
    head = page.partition("<body>")[0] + "<body>"
    for name, (start, height) in PARTS.items():
        part, file = WORK / f"{name}.html", PICTURES / f"{name}.png"
        part.write_text(head + start + page.partition(start)[2], "utf-8")
        picture(f"file://{part.absolute()}", file, (WIDTH, height))
        Image.open(file).convert("RGB").quantize(COLOURS).save(file, optimize=True)
    change = json.loads(COMPARED.read_text("utf-8"))["comparisons"][0]["changes"][0]
    return {"tasks": change["tuned"]["tasks"], "bytes": len(page.encode())}
