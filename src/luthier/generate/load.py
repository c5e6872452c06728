"""A finished run, ready to write: reads `final_model/` from disk and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from luthier.data.template import plain_ids, with_bos
from luthier.errors import ModelError, Problem
from luthier.machine.probe import best_device
from luthier.model.sampling import continue_ids


@dataclass(frozen=True)
class Tuned:
    """A model with its tokenizer and the template it was trained with.

    Attributes:
        model: Of transformers, with peft's adapter where there is one, in evaluation mode.
        tokenizer: Its `chat_template` is the one of the training.
        stop_ids: Token ids that end an answer.
    """

    model: nn.Module
    tokenizer: Any
    stop_ids: tuple[int, ...]

    def generate(self, instruction: str, max_new_tokens: int = 256, temperature: float = 0.0) -> str:
        """The model's answer to an instruction, asked in the words it was trained with.

        Args:
            instruction: What the user wants.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy and repeatable; higher is more varied.
        """
        messages = [{"role": "user", "content": instruction}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = with_bos(self.tokenizer, plain_ids(self.tokenizer, [text])[0])  # as the rows of the training
        return self._continued(ids, max_new_tokens, temperature)

    def complete(self, text: str, max_new_tokens: int = 256, temperature: float = 0.0) -> str:
        """What follows `text`, with no template around it (as in `tokenizer(text)`)."""
        return self._continued(self.tokenizer(text).input_ids, max_new_tokens, temperature)

    def _continued(self, ids: list[int], max_new_tokens: int, temperature: float) -> str:
        return str(self.tokenizer.decode(continue_ids(self.model, ids, self.stop_ids, max_new_tokens, temperature)))


def load(run: str | Path, base: str | None = None) -> Tuned:
    """Load a finished run.

    Args:
        run: Its output folder, or its final_model folder.
        base: Base model to put the adapter on, when it is not where it was in training.

    Raises:
        ModelError: E-MODEL-012 when there is nothing to load, E-MODEL-001 when the base is not there.
    """
    folder = Path(run).expanduser()
    folder = folder / "final_model" if (folder / "final_model").is_dir() else folder
    adapter = (folder / "adapter_config.json").is_file()
    found = "" if adapter or (folder / "model.safetensors").is_file() else f"no adapter and no model in {folder}"
    lost = [name for name in ("tokenizer_config.json", "generation_config.json") if not (folder / name).is_file()]
    if not found and lost:
        found = f"{folder} holds weights but no {lost[0]}: checkpoints are for --resume, final_model is for use"
    if found:
        raise ModelError(Problem("E-MODEL-012", found, "give the output folder of a finished run", str(run)))
    model = _with_adapter(folder, base) if adapter else _whole(folder)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    stop_ids = tuple(stops) if isinstance(stops, list) else (stops,)
    return Tuned(model.to(best_device()).eval(), AutoTokenizer.from_pretrained(folder), stop_ids)


def _whole(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)


def _with_adapter(folder: Path, base: str | None) -> Any:
    """The base model that the adapter names, of the commit that it names, with the adapter on it."""
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    name = base or settings["base_model_name_or_path"]
    revision = None if base else settings.get("revision")
    try:
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype="auto", use_safetensors=True)
    except OSError as error:
        found = f"the adapter's base model {name!r} is not on this machine"
        raise ModelError(Problem("E-MODEL-001", found, f"hf download {name}, or load(run, base=PATH)")) from error
    return PeftModel.from_pretrained(model, str(folder))
