"""Nothing that a run reads from disk is unpickled: not the model, rows, optimizer, random generators or final_model.

An audit hook, which nothing can take off again, hears of every class that an unpickler looks up and of every code
object that is read as data, in a fresh process that trains, saves, resumes, and loads and uses the final model. No use
is excused, but for the code of imported modules, which Python itself keeps that way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.runs import config

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys, traceback
IMPORTS = ("<frozen importlib._bootstrap", "<frozen zipimport>")
heard, listening = [], [True]

def hook(event, arguments):
    if event in ("pickle.find_class", "marshal.loads", "marshal.load") and listening:
        listening.clear()  # a newer Python imports something to tell the frames
        try:
            note(event, arguments)
        finally:
            listening.append(True)

def note(event, arguments):
    frame = sys._getframe(2)  # below the hook
    if not frame.f_code.co_filename.startswith(IMPORTS):
        frames = [f"{line.filename}:{line.lineno}" for line in traceback.extract_stack(frame, 12)]
        heard.append([event, [str(argument)[:80] for argument in arguments], frames])

sys.addaudithook(hook)
import pickle
pickle.loads(pickle.dumps(sys.addaudithook))
from luthier import api
values = json.loads(sys.argv[1])
steps = [0]
for event in api.train(values, stop=lambda: steps[-1] >= 5):
    steps.append(getattr(event, "step", None) or steps[-1])
kinds = [event.kind for event in api.train(values, resume="auto")]
assert "resumed" in kinds and kinds[-1] == "run_finished", kinds
assert api.load(values["training"]["output_dir"]).generate("add two", max_new_tokens=3) is not None
print(json.dumps(heard))
"""


def unpickled(values: dict) -> list:
    """What was unpickled after a class that is on purpose: so the hook hears.

    The code of imported modules, which Python itself keeps in that way, is left out.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(values)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    provoked, *found = json.loads(done.stdout.splitlines()[-1])
    assert provoked[:2] == ["pickle.find_class", ["sys", "addaudithook"]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "four_bits"),
    [
        pytest.param({}, False, id="lora"),
        pytest.param({}, True, id="nf4", marks=pytest.mark.long),
        pytest.param({"finetuning_type": "full"}, False, id="full", marks=pytest.mark.long),
    ],
)
def test_no_class_comes_out_of_a_file(tmp_path, tiny_model_dir, alpaca_file, changes, four_bits):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, **changes)
    values["quantization"] = {"load_in_4bit": four_bits}
    if changes:
        del values["lora"]
    assert unpickled(values) == []
