"""The model card of a finished run: what it is, how it was made, how to use it."""

from __future__ import annotations

from luthier.config.plan import Plan
from luthier.config.render import dump_plan_yaml
from luthier.errors.secrets import hide
from luthier.training.state import TrainState
from luthier.version import __version__

_CARD = """---
library_name: {library}
{base_model}tags: [luthier{tag}]
---

# Fine-tuned with Luthier {version}

- base model: `{base}`{quantized}
- data: {data}
- {steps:,} optimizer steps of {examples} examples; {tokens:,} tokens, of them {trained:,} trained
- mean training loss {loss:.4f}{best}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
tokenizer = AutoTokenizer.from_pretrained("final_model")
{load}
messages = [{{"role": "user", "content": "Write a Python function that reverses a string"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))
```

## Settings

```yaml
{plan}
```
"""


def card(plan: Plan, state: TrainState) -> str:
    """README.md of the final model, in the format of the hub."""
    config = plan.config
    base = config.model.model_name_or_path
    adapter = config.training.finetuning_type == "lora"
    hub_id = "/" in base and not base.startswith((".", "/", "~"))
    load_adapter = f'model = AutoModelForCausalLM.from_pretrained("{base}")\n'
    load_adapter += 'model = PeftModel.from_pretrained(model, "final_model")'
    best = f"; best eval_loss {state.best_loss:.4f} at step {state.best_step}" if state.best_loss is not None else ""
    quantization = config.quantization
    text = _CARD.format(
        library="peft" if adapter else "transformers",
        base_model=f"base_model: {base}\n" if hub_id else "",
        tag=", lora" if adapter else "",
        version=__version__,
        base=base,
        quantized=f", 4-bit {quantization.bnb_4bit_quant_type}" if quantization.load_in_4bit else "",
        data=", ".join(f"`{source.path}`" for source in config.data.datasets),
        steps=state.step,
        examples=plan.examples_per_step,
        tokens=state.num_tokens,
        trained=state.trained_tokens,
        loss=state.loss_sum / max(1, state.trained_tokens),
        best=best,
        imports="from peft import PeftModel\n" if adapter else "",
        load=load_adapter if adapter else 'model = AutoModelForCausalLM.from_pretrained("final_model")',
        plan=dump_plan_yaml(plan, {}).strip(),
    )
    return hide(text)
