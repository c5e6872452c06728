"""A run becomes something else: load it as trained, let it answer, write the other form, compare, keep it or refuse.

    load -> reference -> merge -> write into a folder aside -> load that as strangers do -> agreement -> rename

Not covered: the forms themselves (`merge`, `gguf_file`, `ollama`, `hub`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from luthier.config.outputs import FINAL
from luthier.export.agree import Agreement, Reference, agreement, reference, require
from luthier.export.merge import Merged, Onto, merged, write_folder
from luthier.export.place import Say, destination, filled, size
from luthier.export.prompts import choose, read
from luthier.generate.load import Tuned, final_folder, load
from luthier.generate.weights import Base, load_tuned
from luthier.machine.memory import free_memory
from luthier.machine.probe import probe
from luthier.model.attention import with_capped_scores


@dataclass(frozen=True)
class Options:
    """What all forms have in common.

    Attributes:
        base: Where the base model is, when it is not where it was in training.
        onto: Which weights the adapter is added to.
        prompts: File of instructions to compare on; None: held-out rows of the run.
        overwrite: Replace what an earlier export wrote.
    """

    base: str | None = None
    onto: Onto = "trained"
    prompts: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Known:
    """The run as trained, when its weights are out of memory again.

    Attributes:
        reference: What it answered.
        prompts: Where the prompts come from, in words.
        dtype: What it was computed in.
        tokenizer: Its tokenizer, with the template of the training.
        base: What the run says of its base.
    """

    reference: Reference
    prompts: str
    dtype: torch.dtype
    tokenizer: Any
    base: Base


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        bytes: Of all files.
        form: In words.
        onto: Which weights the adapter was added to, in words; empty when none.
        prompts: What was compared on, in words.
        agreements: Those that had to pass.
        beside: Another one, for information: with the run as trained, when it was merged onto other weights.
        notes: What else the user should know.
    """

    folder: Path
    bytes: int
    form: str
    onto: str
    prompts: str
    agreements: tuple[Agreement, ...]
    beside: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()


def ask(run: str | Path, options: Options, say: Say, check: Callable[[Tuned], None] = lambda tuned: None) -> Known:
    """Load the run as it was trained and let it answer the prompts.

    Args:
        run: Its output folder, or its final_model folder.
        options: Those of every form.
        say: Told what is being done.
        check: Raises what can be said of the run before the work begins.

    Raises:
        DataError: E-EXPORT-010 when the prompts cannot be read; nothing is loaded then.
        ModelError: The run or its base cannot be loaded.
    """
    texts = read(options.prompts)
    say("loading the run as it was trained")
    tuned = load(run, options.base)
    check(tuned)
    prompts = choose(run, tuned, texts)
    say(f"it answers {prompts.source}")
    known = reference(tuned.model, prompts.ids, tuned.stop_ids)
    return Known(known, prompts.source, computed_in(tuned.model), tuned.tokenizer, tuned.base)


def reference_for(known: Known, merge: Merged) -> tuple[Reference, str]:
    """What a merged model is compared with, and that in words.

    On other weights than those of the training, the base's files, it is the adapter on these.
    """
    if not merge.elsewhere:
        return known.reference, "the run as it was trained"
    on_files = load_tuned(merge.run, replace(merge.base, quantization=None, base_precision="default"))
    return reference(on_files, known.reference.prompts, known.reference.stop_ids), "the adapter on these weights"


def computed_in(model: nn.Module) -> torch.dtype:
    """The number format of a model's activations."""
    return next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)


def merge_run(
    run: str | Path,
    to: Path | None,
    dtype: torch.dtype | None,
    options: Options,
    say: Say,
    *,
    name: str = "merged",
    more: Callable[[Path, Exported], None] = lambda folder, exported: None,
) -> Exported:
    """Write the merged model as a folder that plain transformers loads, after the proof.

    Args:
        run: Its output folder, or its final_model folder.
        to: Where to; None: `name` in the run's output folder.
        dtype: Number format of the weights; None: that of the base's files.
        options: Those of every form.
        say: Told what is being done.
        name: Of the default folder.
        more: Writes further files into the folder, when the proof is there.

    Raises:
        ModelError: The run or its base cannot be loaded.
        MissingError: E-EXPORT-001, E-ENV-002.
        RefusedError: E-EXPORT-002; nothing is left at the destination.
    """
    folder = destination(final_folder(run), to, name, overwrite=options.overwrite)
    known = ask(run, options, say)
    free_memory()
    say("merging")
    model = merged(run, options.base, options.onto, dtype)
    stored, onto, elsewhere = model.dtype, described(model), model.elsewhere
    compared_with, who = reference_for(known, model)
    form, prompts = f"merged weights, {str(stored).removeprefix('torch.')}", f"{known.prompts}, with {who}"
    with filled(folder) as aside:
        write_folder(model, aside)
        del model  # the same weights come back from the folder
        free_memory()
        say("loading the merged folder as plain transformers does, and comparing")
        plain = load_plain(aside, known.dtype)
        proofs = (agreement("merged", compared_with, plain),)
        name = f"merged, beside the run on {known.base.numbers}"
        beside = (agreement(name, known.reference, plain),) if elsewhere else ()
        require(proofs, "the merged model does not answer as the run does")
        exported = Exported(folder, 0, form, onto, prompts, proofs, beside)
        more(aside, exported)
    return replace(exported, bytes=size(folder))


def name_of(run: str | Path) -> str:
    """What a run is called: its folder, not the final_model in it."""
    folder = final_folder(run).resolve()
    return folder.parent.name if folder.name == FINAL else folder.name


def load_plain(name: str | Path, dtype: torch.dtype, revision: str | None = None) -> nn.Module:
    """A merged folder, or a base model, with nothing but transformers."""
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        name,
        revision=revision,
        dtype=dtype,
        device_map={"": probe().device},
        use_safetensors=True,
        trust_remote_code=False,
    )
    return with_capped_scores(model).eval()


def described(model: Merged) -> str:
    """Which weights the adapter was added to, in words."""
    if not model.onto:
        return "nothing: all weights were trained"
    if model.onto == "trained" and model.base.rounded:
        return f"the values of the {model.base.numbers} weights that the adapter was trained on"
    return "the weights in the base's files" + (
        f", not those of the training in {model.base.numbers[0]} bits" if model.base.rounded else ""
    )
