"""final_model is what plain peft and transformers load, and it is the model that was trained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.events.types import Architecture, Evaluated, Log, RunFinished, Sampled
from tests.training.test_resume import config

PROMPT = "Write a function number 3 to add"

# The lines that any user of peft writes, in a process that never heard of Luthier.
PLAIN = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, final, prompt, templated = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base)
model = PeftModel.from_pretrained(model, final)
inputs = tokenizer(prompt, return_tensors="pt")
logits = model(**inputs).logits[0, -1].tolist()
outputs = model.generate(**inputs, max_new_tokens=20, do_sample=False)
own = AutoTokenizer.from_pretrained(final)
chat = own.apply_chat_template([{"role": "user", "content": templated}], add_generation_prompt=True,
                               return_tensors="pt", return_dict=True)
answer = model.generate(**chat, max_new_tokens=20, do_sample=False, eos_token_id=own.eos_token_id)
print(json.dumps({"logits": logits, "text": tokenizer.decode(outputs[0][inputs.input_ids.shape[1]:]),
                  "chat_ids": chat["input_ids"][0].tolist(),
                  "answer": own.decode(answer[0][chat["input_ids"].shape[1]:], skip_special_tokens=True),
                  "luthier": "luthier" in sys.modules}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("interop") / "run"
    values = config(folder, tiny_model_dir, alpaca_file)
    values["lora"] = {"r": 8}
    values["training"]["learning_rate"] = 1e-2
    values["evaluation"] = {"sample_prompts": [PROMPT], "sample_steps": [0, 4], "sample_max_new_tokens": 20,
                            "load_best_model_at_end": False}  # fmt: skip
    return folder, list(luthier.train(values))


def test_plain_peft_in_a_new_process_computes_the_same(run, tiny_model_dir):
    folder, events = run
    arguments = [str(tiny_model_dir), str(folder / "final_model"), "def add", PROMPT]
    result = subprocess.run([sys.executable, "-c", PLAIN, *arguments], capture_output=True, text=True, check=True)
    plain = json.loads(result.stdout.splitlines()[-1])
    assert plain["luthier"] is False
    tuned = luthier.load(folder)
    with torch.no_grad():
        ids = tuned.tokenizer("def add", return_tensors="pt").input_ids
        logits = tuned.model(input_ids=ids).logits[0, -1]
    torch.testing.assert_close(torch.tensor(plain["logits"]), logits, atol=1e-5, rtol=1e-5)
    assert tuned.complete("def add", max_new_tokens=20) == plain["text"].split(tuned.tokenizer.eos_token)[0]
    assert tuned.generate(PROMPT, max_new_tokens=20) == plain["answer"]
    last = [event for event in events if isinstance(event, Sampled)][-1]
    assert last.text == plain["answer"], "sampling in the engine and plain peft write the same"


def test_the_prompt_that_is_served_is_the_prompt_that_was_trained(run, tiny_model_dir):
    from luthier.data.template import load_template

    folder, _ = run
    base = AutoTokenizer.from_pretrained(tiny_model_dir)
    trained = load_template("auto", base, folder).prompt_ids(base, PROMPT)
    saved = AutoTokenizer.from_pretrained(folder / "final_model")
    messages = [{"role": "user", "content": PROMPT}]
    served = saved.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert list(served) == list(trained)


def test_the_adapter_differs_from_the_base_and_samples_show_it(run):
    _, events = run
    samples = [event for event in events if isinstance(event, Sampled)]
    assert [sample.step for sample in samples] == [0, 4, 12]
    assert len({sample.text for sample in samples}) > 1
    (architecture,) = [event for event in events if isinstance(event, Architecture)]
    assert 0 < architecture.trainable_parameters < architecture.parameters


def test_full_fine_tuning_loads_with_plain_transformers(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, finetuning_type="full", max_steps=4)
    del values["lora"]
    events = list(luthier.train(values))
    assert isinstance(events[-1], RunFinished)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final_model")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.allclose(plain(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-4)
    tuned = luthier.load(tmp_path / "run")
    torch.testing.assert_close(tuned.model(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_the_best_weights_are_the_final_ones(tmp_path, tiny_model_dir, alpaca_file):
    """With a learning rate that ruins the model the first evaluation is the best one."""
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, learning_rate=2.0, warmup_steps=0)
    values["evaluation"] = {"eval_steps": 1, "early_stopping_patience": 3}
    values["training"]["max_steps"] = 30
    events = list(luthier.train(values))
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    best = min(evaluations, key=lambda event: event.eval_loss)
    end = events[-1]
    assert isinstance(end, RunFinished)
    assert "early stopping" in end.reason
    assert end.step < 30
    assert best.step < end.step
    final = (tmp_path / "run" / "final_model" / "adapter_model.safetensors").read_bytes()
    kept = (tmp_path / "run" / f"checkpoint-{best.step}" / "adapter_model.safetensors").read_bytes()
    assert final == kept


def test_tensorboard_shows_a_real_run(tmp_path, tiny_model_dir, alpaca_file):
    """Loss, learning rate, gradient flow, architecture: what the guide looks for under checkpoints/logs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["logging"] = {"logging_steps": 2, "histogram_steps": 4}
    values["evaluation"] = {"eval_steps": 6, "sample_prompts": [PROMPT], "sample_max_new_tokens": 4}
    logs = [event for event in luthier.train(values) if isinstance(event, Log)]
    shown = EventAccumulator(str(tmp_path / "run" / "logs"))
    shown.Reload()
    tags = shown.Tags()
    assert [point.value for point in shown.Scalars("train/loss")] == pytest.approx([log.loss for log in logs])
    assert {"train/learning_rate", "train/grad_norm", "eval/loss", "perf/tokens_per_second"} <= set(tags["scalars"])
    assert any(tag.startswith("gradients/norm/layers.0.") for tag in tags["scalars"])
    assert len(shown.PluginTagToContent("histograms")) == 2 * 2 * 7 * 2, (
        "weights and gradients of A and B on 7 linears in 2 layers"
    )
    assert shown.Graph()
