"""`luthier.run`: in a real notebook kernel, and in a terminal."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from IPython.lib.pretty import pretty
from jupyter_client.manager import KernelManager

import luthier
from luthier.errors import CheckpointError, ConfigError
from luthier.events.types import Log, Notice, RunFinished
from luthier.report.inline import AT_THE_END, WHILE_TRAINING, Inline, cell
from tests.training.test_resume import config

ROOT = Path(__file__).parents[1]


@contextmanager
def kernel(folder):
    """A client of a kernel of this Python."""
    manager = KernelManager()  # its native kernel is of this Python
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    manager.start_kernel(env={**os.environ, "PYTHONPATH": paths, "IPYTHONDIR": str(folder)}, cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def executed(client, code, seen=lambda message: None):
    """Messages of a cell, until the kernel is idle again."""
    asked, found = client.execute(code), []
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != asked:
            continue
        found.append(message)
        seen(message)
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found


def of(kind, messages):
    return [message["content"] for message in messages if message["msg_type"] == kind]


def failed(messages):
    return ["\n".join(content["traceback"]) for content in of("error", messages)]


@pytest.mark.slow
def test_a_cell_shows_the_run_and_keeps_it_and_what_is_wrong_and_the_stop_button_ends_it(
    tmp_path, tiny_model_dir, alpaca_file
):
    short = config(tmp_path / "short", tiny_model_dir, alpaca_file)
    long = config(tmp_path / "long", tiny_model_dir, alpaca_file, max_steps=100_000)
    (tmp_path / "configs.json").write_text(json.dumps({"short": short, "long": long}))
    with kernel(tmp_path) as (manager, client):
        start = "import json, luthier\nconfigs = json.load(open('configs.json'))\n"
        messages = executed(client, f"{start}ended = luthier.run(configs['short'])\nended.status, ended.step")
        assert not failed(messages)
        (first,) = of("display_data", messages)
        updates = of("update_display_data", messages)
        assert updates and all(update["transient"] == first["transient"] for update in updates), "one place, updated"
        html, words = (updates[-1]["data"][kind] for kind in ("text/html", "text/plain"))
        assert "<svg" in html and "The numbers" in html and "done" in html
        assert "done  step 12 of 12" in words
        (result,) = of("execute_result", messages)
        assert result["data"]["text/plain"] == "('done', 12)"
        messages = executed(client, "luthier.run(configs['short'], ['learning_rat=1e-4'], overwrite=True)")
        (shown,) = failed(messages)
        assert 'did you mean "learning_rate"' in shown and len(shown.splitlines()) < 8
        pressed = []

        def press(message):
            data = message["content"].get("data", {}).get("text/html", "")
            if "<svg" in data and not pressed:
                pressed.append(manager.interrupt_kernel())

        messages = executed(client, "stopped = luthier.run(configs['long'])\nstopped.status, stopped.step > 0", press)
        assert not failed(messages)
        (result,) = of("execute_result", messages)
        assert result["data"]["text/plain"] == "('stopped', True)"
        assert list((tmp_path / "long").glob("checkpoint-*"))
        assert "stopped" in of("update_display_data", messages)[-1]["data"]["text/html"]


def test_outside_of_a_notebook_it_is_what_train_shows(tmp_path, tiny_model_dir, alpaca_file, capsys):
    ended = luthier.run(config(tmp_path / "run", tiny_model_dir, alpaca_file), ["max_steps=5"])
    assert (ended.status, ended.step) == ("done", 5)
    assert Path(ended.final_model) == tmp_path / "run" / "final_model"
    assert capsys.readouterr().out.count("{'loss': ") == 5
    again = luthier.run(
        config(tmp_path / "run", tiny_model_dir, alpaca_file), ["max_steps=7"], resume=True, allow_changes=True
    )
    assert (again.status, again.step) == ("done", 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (({}, {"max_steps": 3}), r"E-CFG-014.*the overrides are \{'max_steps': 3\}"),
        (({}, [3]), r"E-CFG-014.*the overrides are \[3\]"),
        ((None,), r"E-CFG-001.*the config is None"),
    ],
)
def test_arguments_of_another_kind_are_errors_for_users(arguments, said):
    for function in (luthier.run, luthier.train, luthier.plan):
        with pytest.raises(ConfigError, match=said):
            function(*arguments)


def test_e_ckpt_001_what_is_no_checkpoint_is_refused():
    with pytest.raises(CheckpointError, match=r"E-CKPT-001.*resume is 3"):
        luthier.run({}, resume=3)


def test_a_notebook_shows_in_a_line_how_it_ended():
    ended = RunFinished("done", 12, 1.0, 0.5, 3.0, 100, 1.0, "run/final_model")
    assert pretty(ended) == "RunFinished(status='done', step=12, final_model='run/final_model', ...)"


class Cells:
    """What is displayed, and what takes its place."""

    def __init__(self):
        self.bundles = []

    def display(self, bundle):
        self.bundles.append(bundle)
        return self

    def update(self, bundle, *, raw):
        assert raw
        self.bundles.append(bundle)


def test_it_is_drawn_at_most_every_two_seconds_and_at_the_end(tmp_path, tiny_model_dir, alpaca_file):
    cells, now = Cells(), [0.0]
    screen = Inline(cells.display, clock=lambda: now[0])
    for event in luthier.train(config(tmp_path / "run", tiny_model_dir, alpaca_file)):
        screen.write(event)
        now[0] += 1.5 * isinstance(event, Log)
    drawn = sum("<h1>" in bundle["text/html"] for bundle in cells.bundles)
    assert 12 * 1.5 / 5 <= drawn <= 1 + 12 * 1.5 / 2, "long drawings are a reason to wait, five seconds at most"
    screen.close()
    while_training, at_the_end = (bundle["text/html"] for bundle in cells.bundles[-2:])
    assert set(AT_THE_END) > set(WHILE_TRAINING)
    assert "<details" not in while_training and "<details" in at_the_end


def test_what_a_run_says_cannot_be_markup():
    cells = Cells()
    Inline(cells.display).write(Notice("info", "<script>alert(1)</script>\nmore"))
    assert "<script" not in cells.bundles[0]["text/html"]


def test_its_style_reaches_nothing_else_of_the_notebook():
    html = cell("<p>x</p>")
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert style.startswith("@scope (.luthier) {") and style.count("{") == style.count("}")
    assert ":root" not in style and "body {" not in style
