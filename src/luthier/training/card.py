"""The model card of a finished run: what it is, how it was made, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.config.plan import Plan
from luthier.config.render import dump_plan_yaml
from luthier.config.schema import DpoSection, QuantizationSection
from luthier.errors.secrets import hide
from luthier.training.state import TrainState
from luthier.version import __version__

_CARD = """---
library_name: {library}
{base_model}tags: [luthier{tag}]
---

# Fine-tuned with Luthier {version}

- base model: `{base}`{quantized}
- {method}data: {data}
- {steps:,} optimizer steps of {examples} {unit}; {tokens:,} tokens, of them {trained:,} trained
- mean training loss {loss:.4f}{best}

{use}

## Settings

```yaml
{plan}
```
"""


USE, SETTINGS = "## Use\n", "## Settings\n"
"""Where these sections begin; an export replaces the one and puts its own before the other."""
_USE = """## Use

```python
{imports}
tokenizer = AutoTokenizer.from_pretrained("{folder}")
{load}
messages = [{system}{{"role": "user", "content": "Write a Python function that reverses a string"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))
```"""


def how_to_use(
    folder: str,
    base: str = "",
    revision: str | None = None,
    four_bits: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    system: str = "",
) -> str:
    """The section of a card that shows how plain transformers and peft load the model.

    Args:
        folder: Where the model is: a folder, or its name on the hub.
        base: Of an adapter; empty for a whole model.
        revision: The base's commit on the hub, where the run pinned one.
        four_bits: How bitsandbytes stored the base in training; the adapter belongs on these values. None: it did not.
        dtype: In which format they are multiplied; `auto`: nobody knows.
        system: The system message that all rows had; empty for none.
    """
    names = ["AutoModelForCausalLM", "AutoTokenizer", *(["BitsAndBytesConfig"] if four_bits else [])]
    imports = f"from transformers import {', '.join(names)}\n"
    pinned = f', revision="{revision}"' if base and revision else ""
    load = f'model = AutoModelForCausalLM.from_pretrained("{base or folder}"{pinned})'
    if base and four_bits:
        told = {**four_bits} | ({} if dtype == "auto" else {"bnb_4bit_compute_dtype": dtype})
        stored = ", ".join(f"{name}={value!r}" for name, value in told.items())
        load = (
            f"four_bits = BitsAndBytesConfig({stored})  # as in training\n{load[:-1]}, quantization_config=four_bits)"
        )
    if base:
        imports += "from peft import PeftModel\n"
        load += f'\nmodel = PeftModel.from_pretrained(model, "{folder}")'
    before = f'{{"role": "system", "content": {system!r}}}, ' if system else ""
    return _USE.format(folder=folder, imports=imports, load=load, system=before)


def card(plan: Plan, state: TrainState, system: str = "") -> str:
    """README.md of the final model, in the format of the hub; `system` as in `how_to_use`."""
    config = plan.config
    base = config.model.model_name_or_path
    adapter = config.training.finetuning_type == "lora"
    hub_id = "/" in base and not base.startswith((".", "/", "~"))
    best = f"; best eval_loss {state.best_loss:.4f} at step {state.best_step}" if state.best_loss is not None else ""
    quantization, pairs = config.quantization, plan.pairs
    text = _CARD.format(
        library="peft" if adapter else "transformers",
        base_model=f"base_model: {base}\n" if hub_id else "",
        tag=", lora" * adapter + ", dpo" * pairs,
        version=__version__,
        base=base,
        quantized=_quantized(quantization),
        method=_preferences(config.dpo) if pairs else "",
        unit="pairs" if pairs else "examples",
        data=", ".join(f"`{source.path}`" for source in config.data.datasets),
        steps=state.step,
        examples=plan.examples_per_step,
        tokens=state.num_tokens,
        trained=state.trained_tokens,
        loss=state.mean_loss,
        best=best,
        use=how_to_use(
            "final_model",
            base if adapter else "",
            config.model.revision,
            quantization.model_dump(exclude={"base_precision"}) if adapter and quantization.load_in_4bit else None,
            config.model.dtype,
            system,
        ),
        plan=dump_plan_yaml(plan, {}).strip(),
    )
    return hide(text)


def _preferences(dpo: DpoSection) -> str:
    """How it was trained on pairs, as a line of the list."""
    smoothed = f" and {dpo.label_smoothing:g} of label smoothing" if dpo.label_smoothing else ""
    return (
        f"method: direct preference optimization (DPO, arXiv 2305.18290) with beta {dpo.beta:g}{smoothed}; the "
        "reference is the base model as it was before step 1; a loss of log 2 = 0.693 is chance\n- "
    )


def _quantized(quantization: QuantizationSection) -> str:
    if quantization.load_in_4bit:
        return f", 4-bit {quantization.bnb_4bit_quant_type}"
    return ", computed in 8-bit floats (e4m3)" * (quantization.base_precision == "fp8")
