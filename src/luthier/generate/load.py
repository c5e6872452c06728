"""A finished run, ready to write: reads `final_model/` from disk and nothing else.

    load(run) = Tuned --+-- generate        one answer
                        +-- generate_many   many at once
                        +-- complete_many   what follows texts, up to a stop text
                        `-- stream          one answer as it is written; a conversation

    with tuned.as_base():   the same of the base model
    load_several(runs)      several, those on one base with one copy of its weights

Not covered: models that were not trained here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer, GenerationConfig

from luthier.config.outputs import FINAL, RECORD
from luthier.data.sources.files import nearest
from luthier.data.template import plain_ids, with_bos, without_clock
from luthier.data.template_limits import exceeded
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.generate.choosing import Sampling
from luthier.generate.system import Conversation, first_turn, trained_system
from luthier.generate.weights import Base, add_adapter, fits_beside, load_base, load_tuned
from luthier.generate.writing import Answer, Hear
from luthier.generate.writing import write as write_answers
from luthier.machine.libraries import library_output_to
from luthier.model.hub import beyond
from luthier.model.sampling import rooms
from luthier.model.writers import write_lean

Heard = Callable[[int, str, bool], None]
"""Called with an answer's number, its text, and whether it had no room left before it ended."""


@dataclass(repr=False)
class Tuned:
    """A model with its tokenizer and the template it was trained with.

    Attributes:
        model: Of transformers, with peft's adapter where there is one, in evaluation mode.
        tokenizer: Its `chat_template` is the one of the training.
        stop_ids: Token ids that end an answer.
        base: The model that the run started from.
        adapter: Name of its adapter in `model`, which others may share.
        beside: Another model that `as_base` answers with in place of `base`.
        system: The system message that a bare instruction is asked with: that of the training, where all rows had one.
    """

    model: nn.Module
    tokenizer: Any
    stop_ids: tuple[int, ...]
    base: Base
    adapter: str = "default"
    beside: Base | None = None
    system: str = ""
    _base_model: nn.Module | None = None

    def __post_init__(self) -> None:
        """From here on nothing changes its weights."""
        write_lean(self.model)

    def __repr__(self) -> str:
        """What it is, in a line: the model's own is one line for each module."""
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"Tuned({type(self.model).__name__}, base={self.base.name!r}, {size:,} parameters)"

    def generate(self, instruction: str, max_new_tokens: int = 256, temperature: float = 0.0) -> str:
        """The model's answer to an instruction, asked in the words it was trained with.

        Args:
            instruction: What the user wants.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy and repeatable; higher is more varied.
        """
        return self.generate_many([instruction], max_new_tokens, temperature)[0]

    def generate_many(
        self,
        instructions: Sequence[Conversation],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | Sequence[int] | None = None,
        heard: Heard | None = None,
    ) -> list[str]:
        """The answers to many instructions, in their order; several are written at once, which is many times faster.

        Args:
            instructions: What the user wants; any may be a conversation, as in `prompt_ids`.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy and repeatable; higher is more varied.
            seed: Makes a temperature repeatable: one for all, each of which then draws for itself, or one for each.
            heard: Told of each answer when it has ended.
        """
        prompts = [self.prompt_ids(instruction) for instruction in instructions]
        return self.write_many(prompts, Sampling(max_new_tokens, temperature), seed, heard)

    def stream(
        self,
        conversation: Conversation,
        write: Callable[[str], None],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
    ) -> str:
        """Answer while `write` gets the text piece by piece; what it raises (a Ctrl-C) ends the answer.

        Args:
            conversation: An instruction, or messages `{"role": ..., "content": ...}` that end with the user.
            write: Gets pieces of whole characters; together they are the answer.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy and repeatable; higher is more varied.

        Returns:
            The whole answer.
        """
        said: list[str] = []

        def hear(text: str) -> None:
            said.append(text)
            write(text)

        self.say(conversation, hear, Sampling(max_new_tokens, temperature))
        return "".join(said)

    def say(self, conversation: Conversation, write: Callable[[str], None], sampling: Sampling) -> Answer:
        """As `stream`, in any way that `Sampling` knows.

        Returns:
            The answer, which says why it ended and how many tokens it has.
        """
        answer = self.answer(self.prompt_ids(conversation), sampling, lambda text, tokens: write(text))
        write_answers(self.model, [answer], self.stop_ids)
        return answer

    def answer(self, prompt_ids: Sequence[int], sampling: Sampling, hear: Hear, number: int = 0) -> Answer:
        """An answer for `generate.writing.write`.

        Args:
            prompt_ids: Ids of the prompt, BOS included.
            sampling: How it is written; shortened to the room that the model's context leaves.
            hear: Gets the text piece by piece.
            number: Which of several answers with the same seed.

        Raises:
            ModelError: E-EVAL-020 when there is no room.
        """
        (room,) = rooms(self.model, [prompt_ids], sampling.max_new_tokens)
        fitting = replace(sampling, max_new_tokens=room)
        return Answer(prompt_ids, fitting, hear, self.tokenizer, self.stop_ids, number)

    def complete(self, text: str, max_new_tokens: int = 256, temperature: float = 0.0) -> str:
        """What follows `text`, with no template around it (as in `tokenizer(text)`)."""
        return self.complete_many([text], (), max_new_tokens, temperature)[0]

    def complete_many(
        self,
        texts: Sequence[str],
        stops: Sequence[str],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | Sequence[int] | None = None,
        heard: Heard | None = None,
    ) -> list[str]:
        """What follows each of many texts, with no template around them, up to where the first stop text begins.

        Args:
            texts: Each is gone on from.
            stops: The answer ends before the first of these; none: only the model ends it.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy and repeatable; higher is more varied.
            seed: Makes a temperature repeatable: one for all, each of which then draws for itself, or one for each.
            heard: Told of each answer when it has ended.
        """
        prompts = [self.tokenizer(text).input_ids for text in texts]
        return self.write_many(prompts, Sampling(max_new_tokens, temperature, stop=tuple(stops)), seed, heard)

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Token ids of the prompt, as the rows of the training began.

        Args:
            conversation: An instruction, asked with `system`; or messages that end with the user, as they are.
        """
        messages = first_turn(conversation, self.system) if isinstance(conversation, str) else list(conversation)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return with_bos(self.tokenizer, plain_ids(self.tokenizer, [text])[0])

    def fits(self, conversation: Conversation) -> bool:
        """Whether the model's context has room for an answer to it."""
        try:
            rooms(self.model, [self.prompt_ids(conversation)], 1)
        except ModelError:
            return False
        return True

    @property
    def shares_base(self) -> bool:
        """Whether the base's weights are whole under the adapter, so that one copy serves both, and other adapters."""
        return isinstance(self.model, PeftModel) and not _moved_the_base(self.model)

    def switch_on(self) -> None:
        """Of several runs that share a base (`load_several`), let this one answer."""
        if isinstance(self.model, PeftModel) and self.model.active_adapter != self.adapter:
            self.model.set_adapter(self.adapter, inference_mode=True)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """While the block runs, all answers are those of the base model, asked in the same words.

        An adapter is switched off, so that no second copy of the weights is needed; both answer with the same frozen
        numbers (4 bits if the run trained in 4 bits). After full fine-tuning the base is loaded once beside the tuned
        model. So it is for adapters that begin as a part of the base (PiSSA), whose own base is the rest of it.

        Raises:
            ModelError: E-EVAL-023 when the run names no base model; E-MODEL-001 when it is not on this machine.
        """
        if self.beside is None and self.shares_base:
            with self.model.disable_adapter():  # type: ignore[operator]
                yield
            return
        if self._base_model is None:
            other = self.beside or self.base
            if not other.name:
                raise ModelError(Problem("E-EVAL-023", "the run names no base model", "give --base PATH"))
            self._base_model = load_base(other)
            write_lean(self._base_model)
        tuned, self.model = self.model, self._base_model
        try:
            yield
        finally:
            self.model = tuned

    def write_many(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int | Sequence[int] | None = None,
        heard: Heard | None = None,
    ) -> list[str]:
        """As `generate_many`, after token ids, in any way that `Sampling` knows; its seed is `seed`."""
        texts = ["" for _ in prompts]
        seeds = [(one, 0) for one in seed] if isinstance(seed, Sequence) else [(seed, n) for n in range(len(prompts))]

        def asked(number: int) -> Answer:
            def hear(text: str, tokens: object) -> None:
                texts[number] += text

            def end(reason: str) -> None:
                if heard is not None:
                    heard(number, texts[number], reason == "length")

            own, draw = seeds[number]
            answer = self.answer(prompts[number], replace(sampling, seed=own), hear, draw)
            answer.on_end = end
            return answer

        write_answers(self.model, [asked(number) for number in range(len(prompts))], self.stop_ids)
        return texts


def load(run: str | Path, base: str | None = None, load_in_4bit: bool | None = None) -> Tuned:
    """Load a finished run.

    Args:
        run: Its output folder, or its final_model folder.
        base: Where the base model is, when it is not where it was in training.
        load_in_4bit: Whether the frozen base is held in 4 bits. None: as it was in training, which is what the adapter
            learned to work with; False loads it as plain peft does.

    Raises:
        ModelError: E-MODEL-012 when there is nothing to load, E-MODEL-001 when the base is not there.
    """
    folder = final_folder(run)
    origin = Base.of(folder, base, load_in_4bit)
    with library_output_to(Path(os.devnull)):
        return _tuned(folder, origin, load_tuned(folder, origin), "default")


def load_several(runs: Sequence[str | Path], base: str | None = None) -> list[Tuned]:
    """Load finished runs; those with adapters on the same base, in the same numbers, share one copy of its weights.

    Of those that share, one answers at a time: call its `switch_on` first.

    Args:
        runs: Output folders, or final_model folders.
        base: Where the base model of all of them is, when it is not where it was in training.

    Raises:
        ModelError: As `load`.
    """
    for run in runs:  # a misspelt last one is found before the first is loaded
        final_folder(run)
    loaded: list[Tuned] = []
    hosts: list[Tuned] = []
    for run in runs:
        folder = final_folder(run)
        origin = Base.of(folder, base)
        fitting = fits_beside(folder)
        host = next((host for host in hosts if fitting and host.base == origin), None)
        if host is not None:
            adapter = f"run{len(loaded)}"
            add_adapter(host.model, folder, origin, adapter)
            loaded.append(_tuned(folder, origin, host.model, adapter))
        else:
            loaded.append(load(run, base))
            hosts += loaded[-1:] if fitting else []
    return loaded


def _tuned(folder: Path, origin: Base, model: nn.Module, adapter: str) -> Tuned:
    try:
        stops = GenerationConfig.from_pretrained(folder).eos_token_id
        stop_ids = tuple(stops) if isinstance(stops, list) else (stops,)
        if not _are_ids(stops):
            raise ValueError(f"eos_token_id is {stops!r}")
        tuned = Tuned(model, load_tokenizer(folder), stop_ids, origin, adapter, system=trained_system(folder))
        try_prompt(tuned)
    except Exception as error:  # tokenizers raise everything from KeyError to bare Exception for a broken file
        found = f"tokenizer, chat template or generation config is damaged: {brief(error)}"
        raise ModelError(Problem("E-MODEL-012", found, "copy the folder again", str(folder))) from error
    return tuned


def load_tokenizer(place: str | Path) -> Any:
    """A tokenizer whose chat template knows no clock, so that a question is the same prompt every day.

    Raises:
        ValueError: The template reads the clock in a way that cannot be replaced; and whatever a tokenizer raises.
    """
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if tokenizer.chat_template:
        tokenizer.chat_template = without_clock(tokenizer.get_chat_template())
    return tokenizer


def try_prompt(tuned: Tuned) -> None:
    """The template renders within limits, and its tokens are among the model's.

    Raises:
        ValueError: One of them does not hold; and whatever the template raises.
    """
    template = tuned.tokenizer.get_chat_template()
    if too_much := exceeded(template, tuple(tuned.tokenizer.special_tokens_map.items())):
        raise ValueError(f"the chat template is not tried: {too_much}")
    tuned.prompt_ids("How are you?")
    rows = tuned.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if found := beyond(tuned.tokenizer, rows):
        raise ValueError(found)


def _are_ids(value: Any) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(type(token) is int for token in ids)


def runs_in(folder: str | Path) -> list[Path]:
    """Finished runs whose output folders lie in a folder, by name."""
    try:
        return sorted(final.parent for final in Path(folder).glob(f"*/{FINAL}"))
    except (OSError, ValueError):  # a closed folder, or a name that is none
        return []


def final_folder(run: str | Path) -> Path:
    """The folder of a run that `load` reads.

    Raises:
        ModelError: E-MODEL-012 when there is nothing to load.
    """
    # `os.path` finds nothing where pathlib raises: no such user, a long name, a closed folder
    folder = Path(os.path.expanduser(run))  # noqa: PTH111
    folder = folder / FINAL if os.path.isdir(folder / FINAL) else folder  # noqa: PTH112

    def there(name: str) -> bool:
        return os.path.isfile(folder / name)  # noqa: PTH113

    found = "" if there("adapter_config.json") or there("model.safetensors") else f"no adapter and no model in {folder}"
    fix = "give the output folder of a finished run"
    if found and (runs := runs_in(folder)):
        found, fix = f"it is no run, and holds some: {', '.join(map(str, runs[:6]))}", f"give one: {runs[0]}"
    if not os.path.isdir(folder):  # noqa: PTH112
        found, fix = _not_a_folder(folder, str(run))
    lost = [name for name in ("tokenizer_config.json", "generation_config.json") if not there(name)]
    if not found and lost:
        found = f"{folder} holds weights but no {lost[0]}: checkpoints are for --resume, final_model is for use"
        if os.path.isdir(folder.parent / FINAL):  # noqa: PTH112
            fix = f"give the run: {folder.parent}"
    if not found and there("adapter_config.json") and not there("adapter_model.safetensors"):
        found = f"no adapter_model.safetensors in {folder}"  # peft would look for a pickle
    if found and there(RECORD):
        found, fix = (
            f"the run in {folder} has not ended",
            "wait for it, or go on with it: luthier train CONFIG --resume auto (from Python: resume='auto')",
        )
    if found:
        raise ModelError(Problem("E-MODEL-012", found, fix, str(run)))
    return folder


def _not_a_folder(path: Path, run: str) -> tuple[str, str]:
    """What is wrong with a path that is no folder, and what to write."""
    fix = "give the output folder of a finished run (training.output_dir of its config)"
    if os.path.exists(path):  # noqa: PTH110
        return f"{run} is a {'config' if path.suffix in ('.yaml', '.yml') else 'file'}, not a run", fix
    near = nearest(path)
    if os.path.isdir(near):  # noqa: PTH112
        return "there is no such folder", f"did you mean {near}?"
    is_name = run.count("/") == 1 and not os.path.isdir(path.parent)  # noqa: PTH112
    return "there is no such folder" + (" (it looks like a model's name)" if is_name else ""), fix


def _moved_the_base(model: PeftModel) -> bool:
    """Whether putting the adapter on took something out of the base's weights."""
    start = model.peft_config["default"].init_lora_weights
    return isinstance(start, str) and start.startswith("pissa")
