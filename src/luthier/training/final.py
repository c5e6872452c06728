"""`final_model/`: the adapter, its tokenizer and exact chat template, how to generate, and a model card.

`luthier.json` adds what neither adapter_config.json nor config.json says: which base it was, the hashes of its weights,
in which number format they were frozen while the adapter learned to work with them, and the system message that all
rows had, if they had one.

Everything that comes after training reads this folder and nothing else, and so does any tool that reads peft's format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from luthier.config.outputs import FINAL, TRAINED_ON
from luthier.config.plan import Plan
from luthier.events.line import KEPT
from luthier.machine.shards import GatherTensor
from luthier.model.hashes import weights_of
from luthier.model.store import save_trained
from luthier.training.card import card
from luthier.training.checkpoint import path_of
from luthier.training.commit import DAMAGED, commit, set_aside, verify

if TYPE_CHECKING:
    from luthier.training.job import Job


def best_checkpoint(job: Job) -> tuple[Path | None, str]:
    """Whose weights the plan wants in final_model. A damaged one is set aside.

    Returns:
        Its folder, and a sentence that says so; None where final_model holds the last step, with a sentence where
        another one had the lowest loss.
    """
    state = job.state
    if not job.plan.config.evaluation.load_best_model_at_end or state.best_step in (None, state.step):
        return None, ""
    best = path_of(job.output_dir, state.best_step)
    if not best.is_dir():  # it could not be written when it was the best
        return None, f"{KEPT} the last step: there is no {best.name}, which had the lowest eval_loss"
    if broken := verify(best):
        aside = set_aside(best, DAMAGED).name
        note = f"{KEPT} the last step: {best.name}, which had the lowest eval_loss, is not whole ({broken})"
        return None, f"{note}; it is kept as {aside}"
    return best, f"{KEPT} step {state.best_step}, the lowest eval_loss ({state.best_loss:.4f})"


def save_final(job: Job, gather: GatherTensor | None = None) -> None:
    """Write `final_model/`. `gather` gives what `luthier.model.store.trained` names, of a sharded model."""
    data, tokenizer = job.data, job.tokenizer

    def fill(folder: Path) -> None:
        save_trained(job.model, folder, gather, to_publish=True)
        data.template.save(tokenizer, folder)
        GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=data.template.stop_ids(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
        ).save_pretrained(folder)
        files = weights_of(job.identity.get("base", {}))
        written = {**trained_on(job.plan), "system": data.system or None, "base_files": files}
        (folder / TRAINED_ON).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(job.plan, job.state, data.system), encoding="utf-8")

    commit(job.output_dir / FINAL, fill)


def trained_on(plan: Plan) -> dict[str, Any]:
    """The base model and the format of its frozen weights; `base` is None for a run that started from random ones."""
    model, quantization = plan.config.model, plan.config.quantization
    four_bits = quantization.model_dump(exclude={"base_precision"}) if quantization.load_in_4bit else None
    name = None if model.from_scratch else model.model_name_or_path
    return {
        "base": name,
        "revision": model.revision,
        "dtype": model.dtype,
        "quantization": four_bits,
        "base_precision": quantization.base_precision,
    }
