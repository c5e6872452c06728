"""The dashboard in the middle of a real run that learns by heart: on a small and a large terminal, and as a page.

Needs `chromium` on the path for the page.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from luthier.events.types import Evaluated, Log
from luthier.monitor.dashboard.app import Dashboard
from luthier.monitor.dashboard.watching import Watch
from luthier.report.live import Live, page
from measuring.drawing import PICTURES
from measuring.runs import WORK, material, of, run
from measuring.tensorboard import picture

RUN = "by_heart"
RECORDED = Path("tests/monitor/runs/by_heart")
PROMPT = "Write a Python function: Return the number of items."
SHOWN_STEP = 112
SIZES = {"dashboard_80x24": (80, 24), "dashboard_200x60": (200, 60)}
PAGE, PAGE_SIZE, COLOURS = "live_page", (1000, 1500), 64


def dashboard() -> dict[str, Any]:
    """Train, keep the events for the tests, and draw both screens at one moment of the run."""
    events = run(
        RUN,
        data={
            "datasets": [{"path": str(material().tasks), "format": "alpaca", "split": "train[:180]"}],
            "val_set_size": 100,
        },
        training={"num_train_epochs": 30},
        evaluation={"eval_steps": 10, "sample_prompts": [PROMPT], "sample_steps": [0, 50, 100],
                    "sample_max_new_tokens": 48},
        checkpointing={"save_steps": 50},
        logging={"logging_steps": 2},
    )  # fmt: skip
    RECORDED.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(WORK / RUN / "events.jsonl", RECORDED / "events.jsonl")
    draw()
    best = min(of(events, Evaluated), key=lambda event: event.eval_loss)
    return {"steps": of(events, Log)[-1].step, "shown_step": SHOWN_STEP, "best_step": best.step}


def draw() -> None:
    """Draw the recorded run; nothing is trained."""
    for name, size in SIZES.items():
        (PICTURES / f"{name}.svg").write_text(smaller(asyncio.run(screenshot(RECORDED, size))), encoding="utf-8")
    if not shutil.which("chromium"):
        raise SystemExit("chromium is needed to see the page as readers do")
    scene = in_the_middle(RECORDED).scene()
    html = re.sub("<script[^>]*></script>", "", page(scene, Live().parts(scene)))  # nobody answers it here
    WORK.mkdir(parents=True, exist_ok=True)
    file, drawn = WORK / f"{PAGE}.html", PICTURES / f"{PAGE}.png"
    file.write_text(html, encoding="utf-8")
    picture(f"file://{file.absolute()}", drawn, PAGE_SIZE)
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(drawn, optimize=True)


def in_the_middle(path: Path) -> Watch:
    """The run at the moment at which `SHOWN_STEP` was logged."""
    seconds = 0.0
    watch = Watch([path], 1.0, clock=lambda: seconds)
    while watch.scene().run.state.step < SHOWN_STEP:
        seconds += 0.1
        watch.advance()
    return watch


async def screenshot(path: Path, size: tuple[int, int]) -> str:
    """The screen at that moment, as SVG."""
    watch = in_the_middle(path)
    async with Dashboard(watch).run_test(size=size) as pilot:
        await pilot.press("down")
        await pilot.pause()
        return pilot.app.export_screenshot(title="luthier watch", simplify=True)


def smaller(svg: str) -> str:
    """With fonts of the reader's machine instead of a server's, and without what draws nothing."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas")
    svg = re.sub(r'<clipPath id="terminal-\d+-line-\d+">.*?</clipPath>\s*', "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="url\(#terminal-\d+-line-\d+\)"', "", svg)
    return re.sub(r"terminal-\d+-", "t-", svg).replace("&#160;", "\N{NO-BREAK SPACE}")
