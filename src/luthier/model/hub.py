"""Finding a model: the local folder or the hub, and the one clear screen when it cannot be had."""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from luthier.config.outputs import FINAL
from luthier.config.schema import ModelSection
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.model.vet import check_code, check_config

KEY = "model.model_name_or_path"


def load_config(section: ModelSection) -> PretrainedConfig:
    """Read the model's config.json; a local folder is checked whole, weights included.

    Raises:
        ModelError: E-MODEL-001..005 and 010, saying what is missing, how to get it, and what runs without it.
    """
    name = section.model_name_or_path
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder, section)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            Problem("E-MODEL-004", f"no folder {name!r}", f"write {KEY}: the path of an existing model folder", KEY)
        )
    if not section.trust_remote_code:
        check_code(name, section.revision)
    try:
        config = AutoConfig.from_pretrained(
            name if not folder.is_dir() else str(folder),
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
        )
    except Exception as error:  # a config.json can hold anything, and each wrong thing fails in its own way
        raise ModelError(explain_failure(name, error)) from error
    check_config(name, config)
    return config


def load_tokenizer(section: ModelSection, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer and check that it fits the model.

    Raises:
        ModelError: E-MODEL-001..007.
    """
    name = section.tokenizer_name_or_path or section.model_name_or_path
    folder = Path(name).expanduser()
    if not section.trust_remote_code:
        check_code(name, section.revision if section.tokenizer_name_or_path is None else None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else name,
            revision=section.revision if section.tokenizer_name_or_path is None else None,
            trust_remote_code=section.trust_remote_code,
        )
    except Exception as error:  # tokenizers raise everything from KeyError to bare Exception for a broken file
        if folder.is_dir():
            found = f"no usable tokenizer in {name}: {brief(error)}"
            raise ModelError(
                Problem("E-MODEL-004", found, "put tokenizer.json and tokenizer_config.json beside the weights", KEY)
            ) from error
        raise ModelError(explain_failure(name, error)) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            Problem(
                "E-MODEL-006", f"the tokenizer of {name} has no EOS token", "add eos_token to tokenizer_config.json"
            )
        )
    if found := beyond(tokenizer, config.get_text_config().vocab_size):
        fix = "remove model.tokenizer_name_or_path, or use the tokenizer that belongs to the model"
        raise ModelError(Problem("E-MODEL-007", found, fix, "model.tokenizer_name_or_path"))
    return tokenizer


def beyond(tokenizer: PreTrainedTokenizerBase, embeddings: int) -> str:
    """Whether tokens that every text may have lie beyond the embeddings; empty: none does.

    Tokens that were added there do no harm until a text has one (the gate and `sampling.rooms` look for those): some
    published models have a placeholder for images beyond the embeddings of a text model.
    """
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    needed = max(tokenizer.vocab_size, *(token + 1 for token in special if token is not None))
    return f"the tokenizer has {needed:,} tokens, the model {embeddings:,} embeddings" if needed > embeddings else ""


def _check_folder(folder: Path, section: ModelSection) -> None:
    """A local folder must be whole before anything reads it."""
    if not (folder / "config.json").is_file():
        raise ModelError(_no_model(folder))
    if section.from_scratch:
        return
    _check_shards(folder)
    weights = sorted(folder.glob("*.safetensors"))
    for file in weights:
        _check_weights_file(file)
    if weights:
        return
    pickled = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
    found = f"no *.safetensors in {folder}" + (f" (only {pickled[0]}, a pickle)" if pickled else "")
    raise ModelError(
        Problem("E-MODEL-004", found, "add the weights as safetensors, or set model.from_scratch: true", KEY)
    )


def _no_model(folder: Path) -> Problem:
    """E-MODEL-004 for a folder without a config.json; what a run made is told what it is."""
    run = folder.parent if (folder.parent / FINAL).is_dir() else folder
    made = run / FINAL if (run / FINAL).is_dir() else folder
    if (made / "config.json").is_file():
        return Problem("E-MODEL-004", f"{folder} is a run, not a model", f"model_name_or_path: {made}", KEY)
    try:
        base = json.loads((made / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return Problem("E-MODEL-004", f"no config.json in {folder}", "point the key at a model folder", KEY)
    fix = f"luthier merge {run} --to my_model, then model_name_or_path: my_model"
    return Problem("E-MODEL-004", f"{folder} holds an adapter of {base}, not a model", fix, KEY)


def _check_shards(folder: Path) -> None:
    """Every file that the index of a model in several files names must be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{index} cannot be read ({type(error).__name__})"
        raise ModelError(Problem("E-MODEL-004", found, "fetch the model again", KEY)) from error
    missing = sorted(name for name in named if not (folder / str(name)).is_file())
    if missing:
        found = f"{len(missing)} of {len(named)} weights files are not in {folder}, for example {missing[0]}"
        raise ModelError(Problem("E-MODEL-004", found, "fetch the model again", KEY))


def _check_weights_file(file: Path) -> None:
    """A cut-off file is found by its header alone, before any row is tokenized."""
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:  # a folder or a link to itself is no file either
        raise ModelError(broken_weights(str(file), error)) from error


def broken_weights(place: str, error: Exception) -> Problem:
    """E-MODEL-010 for a file or a model."""
    return Problem("E-MODEL-010", f"{place} is damaged: {brief(error)}", "delete it and fetch it again", KEY)


def explain_failure(name: str, error: Exception) -> Problem:
    """Turn the many exceptions of transformers and the hub into one of five problems.

    Args:
        name: `model.model_name_or_path`, or the tokenizer's.
        error: What loading it raised; its causes are looked at too.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(e) for e in chain)
    if "trust_remote_code" in text:
        fix = "read that code; if you trust it, set model.trust_remote_code: true and pin model.revision"
        return Problem("E-MODEL-005", f"{name} needs Python code from its repository", fix, KEY)
    if not Path(name).expanduser().is_dir() and (problem := _hub_failure(name, chain, text)):
        return problem
    return Problem("E-MODEL-004", f"{name} cannot be read: {brief(error)}", "check the files of this model", KEY)


def _hub_failure(name: str, chain: list[BaseException], text: str) -> Problem | None:
    """Which of the three ways a model on the hub can be out of reach it was; None: none of them."""
    runs_now = "runs now, without network: luthier quickstart"
    if any(isinstance(e, hub_errors.GatedRepoError) for e in chain) or "gated repo" in text:
        fix = f"accept the licence at https://huggingface.co/{name}, then run: hf auth login   ({runs_now})"
        return Problem("E-MODEL-002", f"{name} is gated and this machine has no access", fix, KEY)
    if any(isinstance(e, (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError)) for e in chain):
        return Problem("E-MODEL-003", f"the hub has no model {name}", f"check the name; {runs_now}", KEY)
    switched_off = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    absent = any(isinstance(e, (hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError)) for e in chain)
    if switched_off or absent or "connect" in text.lower() or "couldn't find" in text.lower():
        why_offline = "HF_HUB_OFFLINE is set" if switched_off else "the hub cannot be reached"
        fix = f"with network and access: hf download {name}   ({runs_now})"
        return Problem("E-MODEL-001", f"{name} is not on this machine, and {why_offline}", fix, KEY)
    return None
