"""A run in two sentences: what was done, and what came out.

Not covered: numbers that nobody needs in order to go on reading; they stand in the sections.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

from luthier.events.durations import duration
from luthier.monitor.drawing import count, decimal
from luthier.monitor.statistics import elapsed
from luthier.report.run import Run

NOT_COMPARED = "Whether it answers better than its base was not measured."


def done(run: Run) -> str:
    """What was done, in one sentence; what is not known is left out."""
    state = run.state
    steps = f"{state.step:,}"
    if state.total_steps and state.total_steps != state.step:
        steps += f" of {state.total_steps:,}"
    examples = run.derived("examples_per_step")
    each = f" of {examples:,.0f} {'pairs' if state.on_pairs else 'examples'}" if examples else ""
    epochs = f" ({count(state.epoch)} epochs)" if state.epoch else ""
    seconds = elapsed(state, state.updated)
    took = f" in {duration(seconds)}" if math.isfinite(seconds) else ""
    device = run.get("machine.device_name") if run.record is None else run.record.content["machine"]["device_name"]
    on = f" on {device}" if device else ""
    return f"{_trained(run)}: {steps} steps{each}{epochs}{took}{on}."


def came_out(run: Run) -> str:
    """What came out, in one sentence: how it ended, and the loss on rows that it did not learn."""
    state = run.state
    finished = state.finished
    endings = {"done": "", "stopped": "It was stopped", "failed": "It failed"}
    ending = endings[finished.status] if finished else "Its log has no end: it goes on, or was killed"
    if finished and finished.reason and finished.status != "done":
        ending += f" ({finished.reason})"
    losses = _losses(run)
    if not ending:
        return f"{losses[0].upper()}{losses[1:]}."
    return f"{ending}; {losses}."


def verdict(run: Run) -> str:
    """What the comparison says, or that there is none."""
    if run.results.compared:
        return " ".join(one.verdict for one in run.results.compared)
    if run.results.scored:
        named = [(one.tasks, share) for one in run.results.scored for name, share in one.shares[:1]]
        reached = ", ".join(f"{100 * share.share:.1f} % on {tasks}" for tasks, share in named)
        return f"It solves {reached}; {NOT_COMPARED[0].lower()}{NOT_COMPARED[1:]}"
    return NOT_COMPARED


def _trained(run: Run) -> str:
    base = run.get("model.model_name_or_path")
    if not base:
        return f"{run.state.run or run.name} was trained{' on pairs of answers' * run.state.on_pairs}"
    how = "every weight trained"
    if run.get("training.finetuning_type") == "lora":
        kind = "DoRA" if run.get("lora.use_dora") else "LoRA"
        stored = f" on {run.get('quantization.bnb_4bit_quant_type')} 4-bit weights"
        how = f"{kind} of rank {run.get('lora.r')}{stored * bool(run.get('quantization.load_in_4bit'))}"
    verb = "trained from random weights" if run.get("model.from_scratch") else "fine-tuned"
    if run.state.on_pairs:
        beta = run.get("dpo.beta")
        verb += " to prefer" + f" (DPO with beta {beta:g}, against itself as it was before step 1)" * bool(beta)
        return f"{_short(base, 2)} was {verb} the chosen of two answers ({how}) on {_rows(run)}"
    return f"{_short(base, 2)} was {verb} ({how}) on {_rows(run)}"


def _rows(run: Run) -> str:
    datasets: Any = run.get("data.datasets") or []
    names = ", ".join(_short(source["path"]) for source in datasets if isinstance(source, dict))
    counted = run.record.content.get("data") if run.record else None
    if not counted:
        return f"{'pairs' if run.state.on_pairs else 'rows'} of {names or 'a data set'}"
    return f"{counted['train_rows']:,} {'pairs' if counted.get('pairs') else 'rows'} of {names}"


def _losses(run: Run) -> str:
    state = run.state
    if state.evaluations and state.best is not None:
        first, best, last = state.evaluations[0], state.best, state.evaluations[-1]
        what = "pairs (chance: 0.6931)" if state.on_pairs else "rows"
        went = f"the loss on held-out {what} was {decimal(first.eval_loss)} at step {first.step:,}"
        if best.step != first.step:
            went += f" and {decimal(best.eval_loss)}, the lowest, at step {best.step:,}"
        if last.step not in (best.step, first.step):
            went += f"; at the last evaluation (step {last.step:,}) it was {decimal(last.eval_loss)}"
        if last.reward_accuracy is not None:
            went += f"; in {last.reward_accuracy:.0%} of them the chosen answer was then ahead"
        return went + f"; {run.kept}" * bool(run.kept)
    if state.first_loss is None or state.smoothed_loss is None:
        return "no loss was logged"
    went = f"the training loss went from {decimal(state.first_loss)} to {decimal(state.smoothed_loss)} (smoothed)"
    return f"{went}, and no held-out {'pairs' if state.on_pairs else 'rows'} were evaluated"


def _short(path: object, parts: int = 1) -> str:
    """The last parts of a path of this machine; a name on the hub as it is."""
    name = str(path)
    here = name.startswith(("/", ".", "~")) or name.count("/") > 1
    return "/".join(PurePath(name).parts[-parts:]) if here else name
