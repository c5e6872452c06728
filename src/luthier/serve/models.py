"""The models of a server by their names: each run, and the base of those that are adapters, in one copy of its weights.

    runs/a  runs/b  on Llama-3.2-1B     ->   Llama-3.2-1B, a, b      one copy of the base, two adapters
    runs/full                           ->   full                    its own weights; its base would be a second copy

A base is asked through the template of its first run, as in `compare`.

Not covered: loading and unloading while the server runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.config.outputs import FINAL
from luthier.errors import ModelError, Problem
from luthier.generate.load import Tuned, final_folder, load_several
from luthier.generate.system import check_system
from luthier.generate.weights import Base, read_json, require_trained_on
from luthier.serve.refusals import ApiError


@dataclass(frozen=True)
class Served:
    """A model as clients know it.

    Attributes:
        name: What they call it.
        tuned: The run; for a base, its first one.
        is_base: Whether it is the base of the run.
    """

    name: str
    tuned: Tuned
    is_base: bool = False

    @contextmanager
    def speaking(self) -> Iterator[Tuned]:
        """While the block runs, `tuned` answers as this model. In the thread that owns the models only."""
        self.tuned.switch_on()
        if self.is_base:
            with self.tuned.as_base():
                yield self.tuned
        else:
            yield self.tuned

    def chat_ids(self, conversation: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the template of the training.

        A conversation without a system message of its own begins with that of the training, if there was one.

        Raises:
            ApiError: 400 when the template cannot hold it.
        """
        asked = list(conversation)
        if self.tuned.system and not any(turn["role"] == "system" for turn in asked):
            asked.insert(0, {"role": "system", "content": self.tuned.system})
        try:
            shown = self.tuned.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program: it may raise anything
            message = f"the chat template of '{self.name}' cannot hold this conversation: {error}"
            raise ApiError(400, message, param="messages", code="unsupported_conversation") from error
        place = 0
        for number, turn in enumerate(conversation):
            # What a model thought in earlier turns is left out by templates of models that think.
            said = turn["content"].rpartition("</think>")[2].strip()
            place = max(shown.find(said, place), 0)  # from the last place on: thousands of turns are searched once
            if not place and said not in shown:
                message = f"the chat template of '{self.name}' leaves out the {turn['role']} message {number}"
                raise ApiError(400, message, param=f"messages.{number}", code="unsupported_conversation")
        return self.tuned.prompt_ids(asked)

    def text_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a plain prompt.

        Raises:
            ApiError: 400 for a prompt without tokens.
        """
        if isinstance(prompt, str):
            ids: list[int] = self.tuned.tokenizer(prompt).input_ids
            if not ids:
                raise ApiError(400, "the prompt holds no token", param="prompt", code="invalid_value")
            return ids
        return list(prompt)


def named(specs: Sequence[str]) -> dict[str, str]:
    """Name -> folder of `RUN` or `NAME=RUN`.

    Raises:
        ModelError: E-SERVE-003 when two have one name.
    """
    runs: dict[str, str] = {}
    for spec in specs:
        given, equals, folder = spec.partition("=")
        if not equals or os.path.exists(spec):  # noqa: PTH110
            folder, given = spec, ""
        name = given or short_name(folder)
        if name in runs:
            found = f"both {runs[name]} and {folder} are called {name!r}"
            raise ModelError(Problem("E-SERVE-003", found, f"name one of them: OTHER={folder}", name))
        runs[name] = folder
    return runs


def short_name(path: str) -> str:
    """The last part of a path or hub name that tells runs apart."""
    parts = [part for part in Path(os.path.abspath(path)).parts if part != FINAL]  # noqa: PTH100
    return parts[-1]


def load_models(runs: Mapping[str, str], base: str | None = None, system: str | None = None) -> dict[str, Served]:
    """Load all runs and name them and their bases.

    Args:
        runs: Name -> folder.
        base: Where the base model of all of them is, when it is not where it was in training.
        system: The system message of conversations that have none, empty for none; None: that of each run's training.

    Raises:
        ModelError: Of `generate.load`; E-EVAL-029 when a template has no place for a system message.
    """
    models = {
        name: Served(name, tuned) for name, tuned in zip(runs, load_several(list(runs.values()), base), strict=True)
    }
    for served in models.values() if system is not None else ():
        check_system(served.tuned, system or "")
        served.tuned.system = system or ""
    seen: list[Any] = []
    for served in list(models.values()):
        model = served.tuned.model
        if served.tuned.shares_base and not any(model is other for other in seen):
            seen.append(model)
            name = _free(short_name(served.tuned.base.name), models)
            models[name] = Served(name, served.tuned, is_base=True)
    return models


def _free(name: str, taken: Mapping[str, object]) -> str:
    if name not in taken:
        return name
    return next(other for n in range(1, len(taken) + 2) if (other := f"{name}-base{n if n > 1 else ''}") not in taken)


def vllm_line(runs: Mapping[str, str], base: str | None = None) -> str:
    """The command line that serves the same adapters with vLLM.

    Args:
        runs: Name -> folder.
        base: Where the base model of all of them is, when it is not where it was in training.

    Raises:
        ModelError: E-MODEL-012 for what is no run, E-SERVE-004 for what vLLM cannot serve, or not beside each other.
    """
    folders = {name: final_folder(folder) for name, folder in runs.items()}
    full = [name for name, folder in folders.items() if not (folder / "adapter_config.json").is_file()]
    if full:
        if len(folders) == 1:
            return shlex.join(["vllm", "serve", str(*folders.values()), "--served-model-name", *full])
        raise ModelError(Problem("E-SERVE-004", f"{full[0]!r} is a whole model and no adapter", "give it alone"))
    settings = {name: read_json(folder / "adapter_config.json") for name, folder in folders.items()}
    for name, of_run in settings.items():
        if found := _not_in_vllm(of_run):
            fix = f"luthier merge {shlex.quote(runs[name])}, and give the merged folder"
            raise ModelError(Problem("E-SERVE-004", f"{name!r} has {found}", fix))
    bases = {name: Base.of(folder, base) for name, folder in folders.items()}
    if len({(of_run.name, of_run.revision) for of_run in bases.values()}) > 1:
        named = [f"{name} on {of_run.name} {of_run.revision or ''}".rstrip() for name, of_run in bases.items()]
        found = f"the runs have different bases: {', '.join(named)}"
        raise ModelError(Problem("E-SERVE-004", found, "start a server for each base"))
    for origin in bases.values():
        require_trained_on(origin)
    under, first = next(iter(bases.values())), next(iter(folders.values()))
    rank = max(int(of_run.get("r", 16)) for of_run in settings.values())
    modules = [f"{name}={folder}" for name, folder in folders.items()]
    line = ["vllm", "serve", under.name, *(["--revision", under.revision] if under.revision else [])]
    line += ["--enable-lora", "--lora-modules", *modules]
    line += ["--max-lora-rank", str(next(size for size in VLLM_RANKS if size >= rank or size == VLLM_RANKS[-1]))]
    return shlex.join([*line, "--chat-template", str(first / "chat_template.jinja")])


def _not_in_vllm(settings: Mapping[str, Any]) -> str:
    """What of an adapter vLLM refuses, or passes over and then computes something else; empty for nothing.

    Source: `PEFTHelper` in vLLM's lora/peft_helper.py, which reads neither init_lora_weights nor what else it has not.
    """
    if str(settings.get("init_lora_weights")).startswith("pissa"):
        return "a base that PiSSA has changed, which vLLM would serve unchanged"
    if settings.get("use_dora"):
        return "DoRA, which vLLM has not"
    return "layers that were trained whole (modules_to_save), which vLLM has not" * bool(
        settings.get("modules_to_save")
    )


VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What its --max-lora-rank takes."""
