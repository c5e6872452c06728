"""A model that is asked: known by its files at once, loaded when the first answer is really wanted.

    Candidate(RUN)               the tuned model
    Asked(..., as_base=True)     its base, asked in the tuned model's words and tokens: only the weights differ
    Candidate(MODEL)             a plain model

Base and tuned share one load, unless the tuned model is put beside another base than its own. Not covered: several
devices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from luthier.config.schema import ModelSection
from luthier.config.values import packaged
from luthier.data.template import adds_nothing
from luthier.errors import ModelError, Problem
from luthier.evaluate.score import STYLES, Style
from luthier.generate.load import Tuned, final_folder
from luthier.generate.plain import is_run, load_any
from luthier.generate.system import trained_system
from luthier.generate.weights import Base, require_trained_on
from luthier.generate.writing import WRITING_VERSION
from luthier.machine.memory import free_memory
from luthier.machine.probe import probe
from luthier.model.hashes import base_folder, base_hashes, differing, file_hashes

_WORDS = ("tokenizer*", "chat_template*", "special_tokens_map.json", "vocab*", "merges.txt", "generation_config.json")
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")


class Candidate:
    """A run or a plain model that can be asked.

    Attributes:
        name: As the user wrote it.
        is_run: Whether it is a finished run.
    """

    def __init__(
        self,
        name: str,
        base: str | None = None,
        loading: Callable[[], None] = lambda: None,
        beside: bool = False,
    ) -> None:
        """Find it; nothing is loaded.

        Args:
            name: A run's folder, a model's folder, or a name on the hub.
            base: The base model, where it is not the one that the run names.
            loading: Called before weights are loaded.
            beside: Whether `base` may be another model than the one that the run was trained on: the run is then put
                beside it, and keeps its own.

        Raises:
            ModelError: E-MODEL-012 when a run has nothing to load.
        """
        self.name, self._place = name, packaged(name)
        self._base = None if base is None else packaged(base)
        self.is_run = is_run(self._place)
        self._loading = loading
        self._loaded: Tuned | None = None
        self._hashes: dict[tuple[str, str | None], dict[str, str]] = {}
        self._folder = final_folder(self._place) if self.is_run else self._model_folder()
        self._beside = beside and self._is_another()

    def _is_another(self) -> bool:
        """Whether the base that is given is none that the run was trained on."""
        if not (self._base and self.is_run and self._folder):
            return False
        own = Base.of(self._folder)
        found = base_hashes(ModelSection(model_name_or_path=self._base))
        return bool(differing(own.files, found)) if found else bool(own.files) and own.name != self._base

    def _model_folder(self) -> Path | None:
        """The folder, or what the hub's cache holds whole; it is what is loaded, and what is hashed."""
        folder = base_folder(ModelSection(model_name_or_path=self._place))
        whole = folder and any(folder.glob("*.safetensors")) and any(folder.glob("tokenizer*"))
        return folder if whole or os.path.isdir(self._place) else None  # noqa: PTH112

    @property
    def origin(self) -> Base:
        """The model it is put beside, as a rule the one it was trained from: by name empty where there is none."""
        if self.is_run and self._folder:
            base = Base.of(self._folder, self._base)
            return replace(base, files={}) if self._beside else base
        return Base(os.path.expanduser(self._base or ""))  # noqa: PTH111

    def loaded(self) -> Tuned:
        """The model in memory.

        Raises:
            ModelError: It cannot be loaded.
        """
        if self._loaded is None:
            self._loading()
            base = None if self._beside else self._base
            self._loaded = load_any(self._place if self.is_run else self._folder or self._place, base)
            self._loaded.beside = self.origin if self._beside else None
            self._folder = self._folder or self._model_folder()
        return self._loaded

    @property
    def system(self) -> str:
        """The system message that it was trained with; empty for none.

        Raises:
            ModelError: E-MODEL-012, the file that says so is damaged.
        """
        return trained_system(self._folder) if self.is_run and self._folder else ""

    def close(self) -> None:
        """Free its memory for the next one."""
        self._loaded = None
        free_memory()

    @cached_property
    def has_template(self) -> bool:
        """Whether a chat template comes with it, and one that puts words around a text."""
        with suppress(OSError, ValueError):
            if self._folder and adds_nothing((self._folder / "chat_template.jinja").read_text("utf-8")):
                return False
        if self._folder is None:
            return bool(self.loaded().tokenizer.chat_template)
        if any(self._folder.glob("chat_template*")):
            return True
        with suppress(OSError, ValueError, AttributeError, RecursionError):
            return bool(json.loads((self._folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template"))
        return False

    def style(self, wanted: str = "auto") -> Style:
        """How it is asked.

        Args:
            wanted: `template`, `completion`, or `auto`: in its chat template where it has one.

        Raises:
            ModelError: E-EVAL-027 when it has no template and is to be asked in one, or in none of these ways.
        """
        if wanted not in ("auto", *STYLES):
            found, why = f'"{wanted}" is no way to ask a model', "each way asks in words of its own"
            raise ModelError(Problem("E-EVAL-027", found, "write auto, template or completion", "prompt", why))
        if wanted == "template" and not self.has_template:
            found = f"{self.name} has no chat template"
            raise ModelError(Problem("E-EVAL-027", found, "leave --prompt out, or write --prompt completion"))
        return "template" if wanted == "template" or (wanted == "auto" and self.has_template) else "completion"

    @cached_property
    def _words(self) -> dict[str, str]:
        return file_hashes(self._here(), *_WORDS)

    @cached_property
    def _weights(self) -> dict[str, str]:
        return file_hashes(self._here(), "*.safetensors", "adapter_config.json", "config.json")

    def _here(self) -> Path:
        if self._folder is None:  # not fetched yet
            self.loaded()
        assert self._folder is not None, "a model that was loaded is on this machine"
        return self._folder

    def _own_base(self) -> Base:
        """The model it was trained from."""
        return Base.of(self._here()) if self._beside else self.origin

    def _hashes_of(self, base: Base) -> dict[str, str]:
        place = base.name, base.revision
        if place not in self._hashes:
            section = ModelSection(model_name_or_path=base.name, revision=base.revision)
            hashes = base_hashes(section)
            if not hashes:  # not fetched yet
                with self.loaded().as_base():
                    hashes = base_hashes(section)
            self._hashes[place] = hashes
        return self._hashes[place]

    def about(self, as_base: bool) -> dict[str, Any]:
        """What its answers depend on, in plain values.

        Args:
            as_base: Those of its base, asked in its words.
        """
        with_base = as_base or "adapter_config.json" in self._weights
        return {
            "words": self._words,
            "weights": {} if as_base else self._weights,
            "base": self._hashes_of(self.origin if as_base else self._own_base()) if with_base else {},
            "numbers": [
                self.origin.dtype,
                self.origin.quantization,
                *(["fp8"] * (self.origin.base_precision == "fp8")),
            ],
            "device": probe().device_name,
            "writing": WRITING_VERSION,
            **{library: version(library) for library in _LIBRARIES},
        }

    def check_trained_on(self) -> None:
        """That an adapter's base is the one that it was trained on; answers that are known do not load it.

        Raises:
            ModelError: E-MODEL-017.
        """
        if self.is_run and "adapter_config.json" in self._weights:
            require_trained_on(self._own_base())

    def check_base(self) -> None:
        """That there is a base, and that one given by the user reads the same tokens.

        Raises:
            ModelError: E-EVAL-023 when there is none, E-EVAL-025 when it reads others, and what a tokenizer raises.
        """
        if not self.origin.name:
            raise ModelError(Problem("E-EVAL-023", f"{self.name} names no base model", "give --base PATH"))
        folder = base_folder(ModelSection(model_name_or_path=self.origin.name, revision=self.origin.revision))
        if self._base is None or folder is None or not (folder / "tokenizer_config.json").is_file() or not self._folder:
            return
        ours, theirs = (
            AutoTokenizer.from_pretrained(where, trust_remote_code=False).get_vocab()
            for where in (self._folder, folder)
        )
        if not (ours.items() >= theirs.items() or theirs.items() >= ours.items()):
            found = f"the tokenizers of {self.name} and {self._base} give different ids"
            raise ModelError(Problem("E-EVAL-025", found, "give the base that it was trained from", self._base))


class Asked:
    """A candidate as a `Writer`: itself, or its base in its words."""

    def __init__(self, candidate: Candidate, as_base: bool = False) -> None:
        self.candidate, self.as_base = candidate, as_base

    @property
    def about(self) -> dict[str, Any]:
        """What the answers depend on."""
        return self.candidate.about(self.as_base)

    @contextmanager
    def ready(self) -> Iterator[Tuned]:
        """The model in memory, its adapter on or off."""
        tuned = self.candidate.loaded()
        if not self.as_base:
            yield tuned
            return
        with tuned.as_base():
            yield tuned

    def generate_many(self, *asked: Any, **options: Any) -> list[str]:
        """As the model's own."""
        with self.ready() as tuned:
            return tuned.generate_many(*asked, **options)

    def complete_many(self, *asked: Any, **options: Any) -> list[str]:
        """As the model's own."""
        with self.ready() as tuned:
            return tuned.complete_many(*asked, **options)
