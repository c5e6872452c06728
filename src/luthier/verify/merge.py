"""Whether a merged folder is the run, and whether strangers read the run as Luthier does.

    run, as trained   <->  merged folder, loaded by plain transformers      KL, top-1, greedy texts
      (on the base's files, where the folder says that it was merged onto those)
    run, on the base's files  <->  plain peft on plain transformers         the same
    ids of a prompt in Luthier  <->  apply_chat_template of the saved tokenizer

Not covered: other exports, which are compared when they are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer

from luthier.config.outputs import TRAINED_ON
from luthier.data.template_limits import exceeded
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.export.agree import Agreement, agreement, reference
from luthier.export.prompts import BUILT_IN
from luthier.export.run import Options, ask, load_plain
from luthier.generate.load import Tuned, final_folder, load
from luthier.generate.system import first_turn
from luthier.generate.weights import Base, read_json
from luthier.machine.memory import free_memory
from luthier.model.vet import vet


@dataclass(frozen=True)
class MergeVerified:
    """What came out.

    Attributes:
        merged: The merged folder.
        prompts: What was compared on, in words.
        agreements: The merged model with the run; then plain peft with Luthier, where there is an adapter.
        same_ids: Prompts whose ids are those of the saved tokenizer.
        tried_ids: How many were tried.
        onto_files: Whether the folder was merged onto the base's files, which are not what the run was trained on; it
            is then compared with the adapter on these.
    """

    merged: str
    prompts: str
    agreements: tuple[Agreement, ...]
    same_ids: int
    tried_ids: int
    onto_files: bool

    @property
    def passed(self) -> bool:
        """Whether everything is within its bounds; ids have none, they are equal or not."""
        return all(one.passed for one in self.agreements) and self.same_ids == self.tried_ids


def verify_merge(
    run: str, merged: Path | None, base: str | None, prompts_file: Path | None, say: Callable[[str], None]
) -> MergeVerified:
    """Load the run and the merged model one after the other and compare them.

    Args:
        run: Output folder of the run.
        merged: The merged folder; None: `merged` in the run's output folder.
        base: Where the base model is, when it is not where it was in training.
        prompts_file: One instruction a line; None: held-out rows of the run.
        say: Told what is being done.

    Raises:
        ModelError: E-MODEL-012 when there is no run or no merged folder, or it is damaged, and others of loading.
    """
    final = final_folder(run)
    folder = Path(os.path.expanduser(merged)) if merged else final.parent / "merged"  # noqa: PTH111 (it raises nothing)
    if not (folder / "config.json").is_file():
        raise ModelError(Problem("E-MODEL-012", f"no merged model in {folder}", f"luthier merge {run}", "--merged"))
    vet(str(folder))
    same_ids: list[bool] = []
    known = ask(run, Options(base, prompts=prompts_file), say, lambda tuned: same_ids.extend(_same_ids(tuned, folder)))
    adapter = (final / "adapter_config.json").is_file()
    onto_files = adapter and known.base.rounded and _merged_onto(folder) == "files"
    free_memory()
    if adapter:
        say("loading the run on its base's files")
        on_files = load(run, base, load_in_4bit=False)
        on_files_known = reference(on_files.model, known.reference.prompts, on_files.stop_ids)
        del on_files
        free_memory()
    say(f"loading {folder} as plain transformers does")
    with _reading(folder, "weights", "merge again"):
        merged_is = on_files_known if onto_files else known.reference
        agreements = [agreement("merged", merged_is, load_plain(folder, known.dtype))]
    if adapter:
        say("loading the adapter as plain peft does")
        plain = _plain_peft(known.base, final, known.dtype)
        agreements.append(agreement("plain peft, beside Luthier", on_files_known, plain))
    return MergeVerified(str(folder), known.prompts, tuple(agreements), sum(same_ids), len(same_ids), onto_files)


def _merged_onto(folder: Path) -> object:
    """What a merged folder says of the weights that the adapter was added to."""
    return read_json(folder / TRAINED_ON).get("merged_onto") if (folder / TRAINED_ON).is_file() else None


def _plain_peft(base: Base, final: Path, dtype: torch.dtype) -> nn.Module:
    """The lines that any user of peft writes."""
    with _reading(final, "adapter, by plain peft on its base,", "give the base that it was trained on: --base PATH"):
        adapted: nn.Module = PeftModel.from_pretrained(load_plain(base.name, dtype, base.revision), str(final))
    return adapted.eval()


@contextmanager
def _reading(folder: Path, what: str, fix: str) -> Iterator[None]:
    """What a library raises over the files of a folder becomes a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # each wrong file fails in its own way
        raise ModelError(
            Problem("E-MODEL-012", f"its {what} cannot be read: {brief(error)}", fix, str(folder))
        ) from error


def _same_ids(tuned: Tuned, folder: Path) -> list[bool]:
    """Prompt by prompt, whether Luthier's ids are those that both saved tokenizers give by themselves."""
    with _reading(folder, "tokenizer", "merge again"):
        saved = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if too_much := exceeded(saved.get_chat_template(), tuple(saved.special_tokens_map.items())):
            found = f"its chat template is not tried: {too_much}"
            raise ModelError(Problem("E-MODEL-012", found, "merge again", str(folder)))

        def ids(tokenizer: Any, text: str) -> Any:
            messages = first_turn(text, tuned.system)
            return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]

        return [tuned.prompt_ids(text) == ids(tuned.tokenizer, text) == ids(saved, text) for text in BUILT_IN]
