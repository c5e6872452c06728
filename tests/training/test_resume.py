"""Kill -9 anywhere, resume: the losses and the final weights are those of the run that was never killed, bit for bit.

The runs are real and on disk. To start fast, each attempt is a fork of a server process that has imported torch and
run nothing, so that no thread of torch is lost in the fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

from luthier import api
from luthier.events.types import Log, Notice
from luthier.training import engine
from luthier.training.checkpoint import checkpoints
from luthier.training.checkpoint import restore as restore_whole
from tests.torture.outcome import FORKS
from tests.torture.runs import config, losses, weights

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server")


def train(values: dict, kill: tuple[int, float] | None, stop_after: int | None, forgotten: str, options: dict) -> None:
    """In a child process: train, and perhaps be killed, stop, or resume with something forgotten."""
    torch.set_num_threads(1)
    steps = [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "restore", forgetful(forgotten))
        for event in api.train(values, stop=lambda: stop_after is not None and steps[-1] >= stop_after, **options):
            steps.append(getattr(event, "step", None) or steps[-1])
            suicide(event, kill)


def forgetful(what: str):
    """`restore`, but for one thing that it does not put back."""

    def restore(checkpoint, model, optimizer):
        before = torch.get_rng_state()
        state = restore_whole(checkpoint, model, optimizer)
        if what == "random generators":
            torch.set_rng_state(before)
        if what == "optimizer":
            optimizer.state.clear()
        if what == "position":
            state.step -= 1
        if what == "best evaluation":
            state.best_loss = None
        return state

    return restore


def suicide(event, kill: tuple[int, float] | None) -> None:
    """Once step `kill[0]` is logged, die without a word `kill[1]` seconds later."""
    if kill is None or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        return
    if (event.step if isinstance(event, Log) else 0) >= kill[0] and not isinstance(event, Notice):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, kill[1])


def in_child(
    values: dict, kill: tuple[int, float] | None = None, stop_after: int | None = None, forgotten: str = "", **options
) -> int:
    """Exit code of a forked attempt; -9 when it was killed."""
    child = FORKS.Process(target=train, args=(values, kill, stop_after, forgotten, options))
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the attempt hangs"
    return child.exitcode


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_model_dir, alpaca_file):
    """Folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert in_child(config(folder, tiny_model_dir, alpaca_file)) == 0
    return folder


def killed_until_done(values: dict, rng: random.Random, most: int = 5) -> int:
    """Resume and kill, again and again; the last attempt may live. Returns the number of kills."""
    folder = Path(values["training"]["output_dir"])
    for kills in range(most + 1):
        saved = max((int(path.name.split("-")[1]) for path in checkpoints(folder)), default=0)
        kill = (saved + rng.randint(0, 3), rng.uniform(0.0001, 0.03)) if kills < most else None
        code = in_child(values, kill, resume="auto")
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, code
    raise AssertionError("the last attempt was not to be killed")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_kill_9_at_random_moments_changes_nothing(tmp_path, tiny_model_dir, alpaca_file, straight, seed):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    kills = killed_until_done(values, random.Random(seed))
    assert kills >= 1, "no attempt was killed: the test proves nothing"
    assert losses(tmp_path / "run") == losses(straight)
    assert weights(tmp_path / "run") == weights(straight)


@pytest.mark.long  # `kills` of the torture does so in a faster way
@pytest.mark.slow
def test_the_same_in_4_bits_on_the_lean_path_and_in_full_fine_tuning(tmp_path, tiny_model_dir, alpaca_file):
    for name, changes in (("nf4", {}), ("lean", {"lean_path": True}), ("full", {"finetuning_type": "full"})):
        folders = [tmp_path / name / "straight", tmp_path / name / "killed"]
        several = [config(folder, tiny_model_dir, alpaca_file, **changes) for folder in folders]
        for values in several:
            values["quantization"] = {"load_in_4bit": name != "full"}
            if name == "lean":
                values["lora"]["lora_dropout"] = 0.0
            if name == "full":
                del values["lora"]
        assert in_child(several[0]) == 0
        assert killed_until_done(several[1], random.Random(7)) >= 1
        assert losses(folders[0]) == losses(folders[1])
        assert weights(folders[0]) == weights(folders[1])


@pytest.mark.parametrize("forgotten", ["random generators", "optimizer", "position", "nothing"])
def test_the_comparison_sees_what_a_resume_forgets(tmp_path, tiny_model_dir, alpaca_file, straight, forgotten):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    assert in_child(values, stop_after=5) == 0
    assert not (tmp_path / "run" / "final_model").exists()
    assert in_child(values, forgotten=forgotten, resume="auto") == 0
    assert (weights(tmp_path / "run") == weights(straight)) == (forgotten == "nothing")


def test_a_run_that_goes_on_in_less_memory_adds_up_the_same_passes(tmp_path, tiny_model_dir, alpaca_file):
    finals, passes = [], []
    for name, stop_after in (("once", None), ("stopped", 4)):
        values = config(tmp_path / name, tiny_model_dir, alpaca_file)
        values["quantization"], values["lora"]["lora_dropout"] = {"load_in_4bit": True}, 0.0
        del values["training"]["max_tokens_per_micro_batch"]
        assert in_child(values, stop_after=stop_after) == 0
        if stop_after:
            values["training"]["memory_gib"] = 0.05
            assert in_child(values, resume="auto") == 0
        record = yaml.safe_load((tmp_path / name / "plan.yaml").read_text())
        assert not [text for text in record["record"]["resumed_with"] if "bit-identical" in text or "memory" in text]
        passes.append(record["record"]["passes"])
        finals.append(weights(tmp_path / name))
    assert finals[0] == finals[1]
    assert passes[0]["micro_batch_tokens"] == passes[1]["micro_batch_tokens"]
    assert passes[0]["unpack_once"] and not passes[1]["unpack_once"]
    assert passes[0]["checkpointed_layers"] == 0 < passes[1]["checkpointed_layers"]


def test_a_resume_of_an_earlier_checkpoint_leaves_the_later_ones_behind(tmp_path, tiny_model_dir, alpaca_file):
    """Else the next `--resume auto` went on from what this one had turned away from."""
    folder = tmp_path / "run"
    values = config(folder, tiny_model_dir, alpaca_file)
    values["checkpointing"]["save_total_limit"] = None
    assert in_child(values) == 0
    first, *later = saved_steps(folder)
    assert in_child(values, stop_after=first + 1, resume=str(folder / f"checkpoint-{first}")) == 0
    assert saved_steps(folder) == [first, first + 1]
    aside = {path.name.rpartition("-")[0] for path in folder.glob("abandoned-*")}
    assert aside == {f"abandoned-checkpoint-{step}" for step in later} != set()


def saved_steps(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in checkpoints(folder)]
