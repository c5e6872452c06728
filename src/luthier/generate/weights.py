"""Weights of a finished run, and of the base that it started from, in the number format of the training.

An adapter learns what its frozen base lacks, rounding included: put on other numbers than those, it computes something
near what was trained, and not the same. `final_model/luthier.json` says what the base was and in which format, so that
default loading gives the training's own loss, bit for bit. Plain peft loads the base in the format of its files, which
for a run in 4 bits is other numbers. After a run in 8-bit floats the base has the values of its 8-bit weights, in plain
layers: what goes into them is not rounded as it was in training.

A base whose weights are others than those of the training is refused: an adapter on them is another model.

Not covered: adapters of other kinds than LoRA.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import cached_file

from luthier.config.outputs import MANIFEST, TRAINED_ON
from luthier.config.record import load_record
from luthier.config.schema import ModelSection
from luthier.config.values import PACKAGED, packaged
from luthier.data.sources.files import nearest
from luthier.errors import LuthierError, ModelError, Problem
from luthier.errors.trace import brief
from luthier.machine.probe import probe
from luthier.model.attention import with_capped_scores
from luthier.model.forward import DTYPES, to_evaluation
from luthier.model.hashes import base_hashes, differing, file_hashes, weights_of
from luthier.model.lean.fp8 import round_as_fp8
from luthier.model.unpacking import unpack_rightly
from luthier.model.vet import vet

FILES = "base_files"


@dataclass(frozen=True)
class Base:
    """The model that a run started from.

    Attributes:
        name: Folder or name on the hub; empty when nobody knows, or when the run started from random weights.
        revision: Commit on the hub.
        dtype: Number format of the frozen weights and of the computing; `auto` is that of the files.
        quantization: How bitsandbytes stored the frozen weights in 4 bits; None: it did not.
        base_precision: `fp8` when the frozen weights were 8-bit floats.
        files: File name -> SHA-256 of the weights that the run was trained on; empty where nobody knows.
        unpacked: Whether to hold, instead of 4 bits, the numbers that these stand for: the same values, plain layers.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    quantization: dict[str, Any] | None = None
    base_precision: str = "default"
    files: dict[str, str] = field(default_factory=dict)
    unpacked: bool = False

    @property
    def numbers(self) -> str:
        """The format of the frozen weights in a few words: `4-bit nf4`, `bfloat16`, `as in the files`."""
        if self.quantization is not None:
            return f"4-bit {self.quantization.get('bnb_4bit_quant_type', 'nf4')}"
        if self.base_precision == "fp8":
            return "8-bit e4m3"
        return "as in the files" if self.dtype == "auto" else self.dtype

    @property
    def rounded(self) -> bool:
        """Whether the frozen weights had other values in training than in the base's files."""
        return self.quantization is not None or self.base_precision == "fp8"

    def wrong(self) -> str:
        """Names of the attributes that no run has written so; empty when all are in order."""
        four_bits: Any = self.quantization
        files: Any = self.files
        right = {
            "base": isinstance(self.name, str),
            "revision": self.revision is None or isinstance(self.revision, str),
            "dtype": self.dtype in ("auto", *DTYPES),
            "quantization": four_bits is None or isinstance(four_bits, dict),
            "base_precision": self.base_precision in ("default", "fp8"),
            FILES: isinstance(files, dict) and all(isinstance(value, str) for value in files.values()),
        }
        return ", ".join(name for name, is_right in right.items() if not is_right)

    @staticmethod
    def of(folder: Path, name: str | None = None, load_in_4bit: bool | None = None) -> Base:
        """What final_model says of its base; `name` and `load_in_4bit` win over that.

        Raises:
            ModelError: E-MODEL-012 when a file there is damaged.
        """
        written = read_json(folder / TRAINED_ON) if (folder / TRAINED_ON).is_file() else {}
        adapter = folder / "adapter_config.json"
        settings = read_json(adapter) if adapter.is_file() else {}
        base = Base(
            settings.get("base_model_name_or_path") or written.get("base") or "",
            settings.get("revision") or written.get("revision"),
            written.get("dtype") or "auto",
            written.get("quantization"),
            written.get("base_precision") or "default",
            written[FILES] if FILES in written else _recorded(folder),
        )
        if wrong := base.wrong():
            problem = Problem(
                "E-MODEL-012", f"what it says of its base is damaged: {wrong}", "copy it again", str(folder)
            )
            raise ModelError(problem)
        if name:
            base = replace(base, name=packaged(os.path.expanduser(name)), revision=None)  # noqa: PTH111
        if load_in_4bit is not None:
            four_bits = (base.quantization or {}) if load_in_4bit else None
            base = replace(base, quantization=four_bits, base_precision="default")
        return base


def _recorded(folder: Path) -> dict[str, str]:
    """The weights that a run's plan.yaml names, where its final_model does not."""
    with suppress(LuthierError):
        record = load_record(folder.parent).record
        base = record.facts["inputs"].get("base") if record else None
        return weights_of(base) if isinstance(base, dict) else {}
    return {}


def require_trained_on(base: Base) -> None:
    """Compare the weights under the base's name with those that the run was trained on.

    Raises:
        ModelError: E-MODEL-017, they are others.
    """
    if not base.files:
        return
    hashes = base_hashes(ModelSection(model_name_or_path=base.name, revision=base.revision))
    if found := differing(base.files, hashes):
        fix = "give the base that it was trained on: --base PATH, load(run, base=PATH)"
        raise ModelError(Problem("E-MODEL-017", f"its weights are not those of the training: {found}", fix, base.name))


_COMES_ALONG = "/luthier/quickstart/base"
ELSEWHERE = "say where it is now: --base PATH, load(run, base=PATH)"


def load_base(base: Base, called: str = "the run's base model", elsewhere: str = ELSEWHERE) -> nn.Module:
    """The base's weights on the best device, in evaluation mode.

    Args:
        base: What it is.
        called: What an error calls it.
        elsewhere: What to do when it is not where it should be.

    Raises:
        ModelError: E-MODEL-001 when it is not on this machine, E-MODEL-010 when a file is damaged, E-MODEL-017 when it
            is another one than that of the training.
    """
    dtype = _dtype(base)
    try:
        if Path(base.name).is_file():
            raise ValueError("it is a file, no folder")
        if not Path(base.name).is_dir():  # one look at the hub, and not one for each file that could be there
            cached_file(base.name, "config.json", revision=base.revision)
        vet(base.name, base.revision)
        model = AutoModelForCausalLM.from_pretrained(
            base.name,
            revision=base.revision,
            dtype=dtype,
            device_map={"": probe().device},
            quantization_config=None if base.quantization is None else _four_bits(base.quantization, dtype),
            use_safetensors=True,
            trust_remote_code=False,  # left out, transformers would ask on the terminal
        )
        model = with_capped_scores(model)
    except SafetensorError as error:
        found = f"a weights file of {base.name} is damaged: {brief(error)}"
        raise ModelError(Problem("E-MODEL-010", found, "delete it and fetch it again")) from error
    except ModelError:
        raise
    except Exception as error:  # its JSON files can hold anything, and each wrong thing fails in its own way
        if Path(base.name).is_dir() or not isinstance(error, OSError):  # it is here, and something else is wrong
            found = f"{called} {base.name} cannot be read: {brief(error)}"
            raise ModelError(Problem("E-MODEL-004", found, f"mend its files, or {elsewhere}")) from error
        found = f"{called} {base.name!r} is not on this machine"
        if elsewhere == ELSEWHERE and base.name.endswith(_COMES_ALONG):  # where Luthier lies on another machine
            elsewhere = f"it comes with Luthier: --base {PACKAGED}{_COMES_ALONG.removeprefix('/luthier/')}"
        near = "" if elsewhere == ELSEWHERE else nearest(Path(base.name))
        if near and Path(near).is_dir():
            raise ModelError(Problem("E-MODEL-001", found, f"did you mean {near}?")) from error
        fetch = "" if Path(base.name).is_absolute() else f"hf download {base.name}, or "
        raise ModelError(Problem("E-MODEL-001", found, fetch + elsewhere)) from error
    require_trained_on(base)  # a model of the hub is here by now
    if base.base_precision == "fp8":
        round_as_fp8(model)
    return to_evaluation(model.dequantize() if base.unpacked else model)


def format_of_files(base: Base) -> torch.dtype | None:
    """The number format that the base's config.json names; None where it names none, or where nobody knows the base."""
    try:
        vet(base.name, base.revision)
        config = AutoConfig.from_pretrained(base.name, revision=base.revision, trust_remote_code=False)
    except Exception:  # a run that was trained from scratch, or a base that is not here any more
        return None
    return config.dtype if isinstance(config.dtype, torch.dtype) else None


def _dtype(base: Base) -> Any:
    """What the base is computed in here; for a model trained in full, what it was computed in."""
    if base.dtype == "auto":
        return "auto"
    facts = probe()
    computed = {"float32": True, "bfloat16": facts.supports_bfloat16, "float16": facts.device != "cpu"}
    # float32 holds every number of the 16-bit formats, so where these do not compute it is the nearest.
    return DTYPES[base.dtype] if computed[base.dtype] else torch.float32


def load_tuned(folder: Path, base: Base, *, float32_adapter: bool = False) -> nn.Module:
    """The trained weights of a final_model folder: the base with the adapter on it, or the whole model.

    Args:
        folder: The final_model folder.
        base: Its base.
        float32_adapter: Keep the adapter in the format that it was trained in, whatever the base is in.

    Raises:
        ModelError: E-MODEL-001, E-MODEL-010, E-MODEL-012.
    """
    adapter = (folder / "adapter_config.json").is_file()
    check_written(folder)
    under = load_base(base) if adapter else None
    with _reading(folder, base):
        vet(str(folder))
        if under is None:
            device, dtype = {"": probe().device}, _dtype(base)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, device_map=device, use_safetensors=True, trust_remote_code=False
            )
            model = with_capped_scores(model)
        else:
            _check_rank(folder)
            # In the format of the base, as autocast computed it in training; peft by default would take float32.
            model = PeftModel.from_pretrained(under, str(folder), autocast_adapter_dtype=float32_adapter)
    return to_evaluation(model)


def add_adapter(model: nn.Module, folder: Path, base: Base, name: str) -> None:
    """Put the adapter of another run onto the same base, not switched on.

    Args:
        model: Of `load_tuned`.
        folder: final_model of the other run, for which `fits_beside` holds.
        base: What both started from.
        name: Of the adapter in `model`.

    Raises:
        ModelError: E-MODEL-010, E-MODEL-012.
    """
    check_written(folder)
    with _reading(folder, base):
        vet(str(folder))
        _check_rank(folder)
        model.load_adapter(str(folder), name, autocast_adapter_dtype=False)  # type: ignore[operator]
    to_evaluation(model)


def fits_beside(folder: Path) -> bool:
    """Whether a final_model is an adapter that others can lie beside on one base.

    PiSSA changes the base's weights, and a module that was trained whole takes the place of one that another adapts.
    """
    if not (folder / "adapter_config.json").is_file():
        return False
    settings = read_json(folder / "adapter_config.json")
    return not (settings.get("modules_to_save") or str(settings.get("init_lora_weights")).startswith("pissa"))


@contextmanager
def _reading(folder: Path, base: Base) -> Iterator[None]:
    """What a library raises over the files of a final_model becomes a ModelError."""
    try:
        yield
    except SafetensorError as error:
        found = f"the weights in {folder} are damaged: {brief(error)}"
        raise ModelError(Problem("E-MODEL-010", found, "copy the folder again, or train again")) from error
    except (ModelError, Warning):  # warnings are errors where somebody wants them to be
        raise
    except Exception as error:  # its JSON files can hold anything, and each wrong thing fails in its own way
        found = f"its weights cannot be read: {brief(error)}"
        fix = "copy the folder again, or train again"
        if (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file():
            found = f"its adapter does not fit the base {base.name}: {brief(error)}"
            fix = "give the base that it was trained on: --base PATH, load(run, base=PATH)"
        raise ModelError(Problem("E-MODEL-012", found, fix, str(folder))) from error


def check_written(folder: Path) -> None:
    """The weights are those that the run wrote, by the manifest beside them; a folder of peft's own has none.

    Raises:
        ModelError: E-MODEL-010; E-MODEL-012 for a damaged manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    written = read_json(manifest).get("files")
    written = weights_of(written) if isinstance(written, dict) else {}
    for name, found in file_hashes(folder, *map(glob.escape, written)).items():
        if found != written[name]:
            said = f"{folder / name} is not what the run wrote: its SHA-256 is not the one in {MANIFEST}"
            fix = f"copy the folder again; where the weights were changed on purpose, delete {MANIFEST} there"
            raise ModelError(Problem("E-MODEL-010", said, fix))


def _check_rank(folder: Path) -> None:
    """Before it looks at the matrices in the file, peft makes some of the rank that adapter_config.json names."""
    settings = read_json(folder / "adapter_config.json")
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        ranks = [file.get_slice(name).get_shape()[0] for name in file.keys() if "lora_A" in name]  # noqa: SIM118
    named = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
    if ranks and any(isinstance(rank, int) and rank > max(ranks) for rank in named):
        raise ValueError(f"adapter_config.json names a rank above {max(ranks)}, which its weights have")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of final_model.

    Raises:
        ModelError: E-MODEL-012 when it is not one.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        problem = Problem("E-MODEL-012", f"{path.name} is damaged: {brief(error)}", "copy it again", str(path.parent))
        raise ModelError(problem) from error
    return content


def _four_bits(quantization: dict[str, Any], dtype: torch.dtype | str) -> BitsAndBytesConfig:
    unpack_rightly()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.get("bnb_4bit_quant_type", "nf4"),
        bnb_4bit_use_double_quant=quantization.get("bnb_4bit_use_double_quant", True),
        bnb_4bit_compute_dtype=torch.float32 if isinstance(dtype, str) else dtype,
    )
