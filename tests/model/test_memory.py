"""The forecast of memory: each formula against what autograd keeps, and the whole against real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from luthier.config.plan import Memory, Part
from luthier.config.render import memory_bar
from luthier.machine import GIB
from luthier.model import head, memory
from luthier.model.forward import autocast, lean_of, summed_loss
from luthier.model.head import nll
from luthier.model.lean import gradients
from luthier.model.lean.pieces import PLAIN
from luthier.model.load import load_model
from luthier.model.memory import footprint, forecast
from tests.rows import MemoryRows, micro_batches, plan_for
from tests.tiny import build_model, write_rows

ROOT = Path(__file__).parents[2]
PATHS = {
    "LoRA through peft's layers": {"lean_path": "false"},
    "with dropout": {"lora_dropout": 0.1},
    "padded": {"auto": "false"},
    "all weights": {"finetuning_type": "full"},
    "all weights, padded": {"finetuning_type": "full", "auto": "false"},
}


def kept_by_autograd(folder, layers, rows, keys):
    """Bytes of the tensors that the graph of one pass holds, each memory once, weights not counted: those of the shape
    of what is trained, and the others."""
    build_model(folder, num_hidden_layers=layers)
    plan = plan_for(folder, rows, **keys)
    config = AutoConfig.from_pretrained(folder)
    model = load_model(plan, config)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    trained = [p.shape for p in model.parameters() if p.requires_grad and p.ndim == 2]
    shapes = {*trained, *(shape[::-1] for shape in trained)}
    (batch,) = micro_batches(rows, range(len(rows)), plan, len(rows))
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(plan):
        summed_loss(model, batch)
    copies = sum(size for size, tensor in seen.values() if tensor.shape in shapes)
    numbers = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "layers" in name)
    return copies, sum(size for size, _ in seen.values()) - copies, numbers, batch.input_ids_BT.numel(), plan, config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("keys", PATHS.values(), ids=PATHS)
def test_a_layer_keeps_what_the_formula_says(tmp_path, keys, dtype):
    rows, keys = MemoryRows(8, longest=60), {**keys, "dtype": dtype}
    few_copies, few, few_numbers, tokens, plan, config = kept_by_autograd(tmp_path, 2, rows, keys)
    copies, many, numbers, *_ = kept_by_autograd(tmp_path, 4, rows, keys)
    padded = keys.get("auto") == "false"
    usual = int(rows.lengths.max()) if padded else round(float((rows.lengths**2.0).sum() / rows.lengths.sum()))
    facts = replace(plan.model, trainable_parameters=few_numbers, parameters=few_numbers + 400 * 64)
    sizes = footprint(plan.config, config, facts, plan.machine, lean=False, row_tokens=usual)
    assert sizes.kept == pytest.approx((many - few) / 2 / tokens, rel=0.03)
    assert sizes.copied == pytest.approx((copies - few_copies) / (numbers - few_numbers) * few_numbers, rel=0.01)
    assert bool(sizes.copied) is (dtype == "bfloat16")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["k_proj", "gate_proj", "down_proj"]])
@pytest.mark.parametrize("most", [192, 16], ids=["", "ranks apart"])
def test_the_lean_path_holds_adapters_side_by_side_and_their_gradients(tmp_path, monkeypatch, targets, device, most):
    for module in (memory, gradients):
        monkeypatch.setattr(module, "MOST_RANKS", most)
    build_model(tmp_path)
    plan = plan_for(tmp_path, MemoryRows(4), dtype="float32")
    plan = replace(plan, config=plan.config.with_values({"lora.target_modules": targets}))
    config = AutoConfig.from_pretrained(tmp_path)
    model = load_model(plan, config)
    stacks = [stack for layer in lean_of(model).layers for stack in layer.stacks if stack.adapted]
    # on CUDA there is a kernel that fetches them
    rooms = gradients.Gradients(stacks, replace(PLAIN, copies=object if device == "cuda" else None)).rooms
    held = sum(room.down_RI.nbytes + sum(block.grad_OR.nbytes for block in room.ups) for room in rooms)
    held += sum(stack.down_RI.nbytes + stack.up_OR.nbytes for stack in stacks)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    facts, machine = replace(plan.model, trainable_parameters=trained), replace(plan.machine, device=device)
    assert footprint(plan.config, config, facts, machine, lean=True).copied == held


class OfShape(TorchDispatchMode):
    """The bytes of all tensors of a shape that are made in here."""

    def __init__(self, *shape):
        super().__init__()
        self.shape, self.held = shape, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.shape == self.shape:
            self.held[made.untyped_storage().data_ptr()] = made.untyped_storage().nbytes()
        return made


def test_logits_become_their_own_gradient_and_of_a_block_there_are_two_wide_copies(tiny_model_dir, monkeypatch):
    plan = plan_for(tiny_model_dir, MemoryRows(4), dtype="bfloat16", load_in_4bit="true")
    config, gpu = AutoConfig.from_pretrained(tiny_model_dir), replace(plan.machine, device="cuda")
    hidden, weight = (torch.randn(count, 64).bfloat16() for count in (300, 400))
    with OfShape(300, 400) as made:
        in_place = lambda logits, targets, gradient: logits.zero_()[:, 0].float()  # noqa: E731
        nll(hidden, weight, torch.zeros(300, dtype=torch.int64), hidden=True, in_place=in_place)
    assert footprint(plan.config, config, plan.model, gpu, lean=True, pass_tokens=300).head == sum(made.held.values())
    for device in head.BLOCK_BYTES:
        monkeypatch.setitem(head.BLOCK_BYTES, device, 40 * 400 * 4)
    plain = plan.config.with_values({"training.kernels": False})
    for settings, machine, lean in (
        (plain, gpu, True),
        (plan.config, gpu, False),
        (plan.config, plan.machine, True),
    ):
        forecast = footprint(settings, config, plan.model, machine, lean=lean, pass_tokens=300).head
        assert forecast == 300 * 400 * 2 + 40 * 400 * 8


def test_4_bit_weights_take_what_bitsandbytes_holds(tmp_path, tiny_model_dir):
    rows = MemoryRows(4)
    for double in ("true", "false"):
        keys = {"load_in_4bit": "true", "bnb_4bit_use_double_quant": double, "lean_path": "false", "dtype": "float32"}
        plan = plan_for(tiny_model_dir, rows, **keys)
        model = load_model(plan, AutoConfig.from_pretrained(tiny_model_dir))
        held = 0
        for name, tensor in model.named_parameters():
            if "lora" in name:
                continue
            held += tensor.untyped_storage().nbytes()
            if state := getattr(tensor, "quant_state", None):
                held += state.absmax.untyped_storage().nbytes()
                held += state.state2.absmax.untyped_storage().nbytes() if state.nested else 0
        body = 99_648 - 400 * 64 - 5 * 64  # norms are no linear layers
        sizes = footprint(
            plan.config, AutoConfig.from_pretrained(tiny_model_dir), replace(plan.model, parameters=body + 400 * 64),
            plan.machine, lean=False,
        )  # fmt: skip
        assert sizes.frozen == pytest.approx(held - 5 * 64 * 4, rel=0.01)


def test_what_costs_more_is_predicted_to(tmp_path, tiny_model_dir):
    rows, config = MemoryRows(16), AutoConfig.from_pretrained(tiny_model_dir)

    def gib(tokens=2048, **keys):
        plan = replace(plan_for(tiny_model_dir, rows, **keys), model=replace(counts, layers=16))
        if plan.config.training.gradient_checkpointing is True:
            plan = plan.with_passes(replace(plan.passes, checkpointed_layers=16))
        return forecast(plan, config, process_gib=0.5, free_gib=4.0, tokens=tokens, passes=1, row_tokens=100).gib

    counts = plan_for(tiny_model_dir, rows).model
    assert gib() < gib(tokens=4096)
    assert gib() < gib(lean_path="false") < gib(lora_dropout=0.1)
    assert gib(gradient_checkpointing="true") < gib(gradient_checkpointing="false")
    assert gib(finetuning_type="full") > gib()


def test_4_bits_and_their_unpacked_copies_hold_more_than_plain_weights_and_say_so(tiny_model_dir):
    config = AutoConfig.from_pretrained(tiny_model_dir)

    def parts(unpack_once, **keys):
        plan = plan_for(tiny_model_dir, MemoryRows(16), **keys)
        plan = plan.with_passes(replace(plan.passes, unpack_once=unpack_once))
        memory = forecast(plan, config, process_gib=0.5, free_gib=4.0, tokens=512, passes=1, row_tokens=100)
        return {part.name: part for part in memory.parts}

    plain, kept, each_use = parts(False), parts(True, load_in_4bit="true"), parts(False, load_in_4bit="true")
    assert "copies" not in each_use and each_use["weights"].gib < plain["weights"].gib
    assert kept["copies"].gib > plain["weights"].gib - kept["weights"].gib > 0
    assert kept["copies"].how.endswith("more than load_in_4bit saves")


def test_weights_that_are_unpacked_at_each_use_have_room_for_one_layer(tiny_model_dir):
    config, rows = AutoConfig.from_pretrained(tiny_model_dir), MemoryRows(16)
    plan = plan_for(tiny_model_dir, rows, load_in_4bit="true", dtype="float32")
    lean = lean_of(load_model(plan, config))
    stacks = [stack for layer in lean.layers for stack in layer.stacks]
    room = {buffer.data_ptr(): buffer.nbytes for stack in stacks for buffer in stack._buffers.values()}
    held = forecast(plan, config, process_gib=0.5, free_gib=4.0, tokens=512, passes=1, row_tokens=100)
    (unpacking,) = [part for part in held.parts if part.name == "unpacking"]
    assert unpacking.gib * GIB == pytest.approx(sum(room.values()), rel=0.01)
    assert unpacking.how == "room for one layer's frozen weights, unpacked at each use"


def test_gradients_of_a_second_pass_lie_beside_those_of_the_first(tiny_model_dir):
    plan, config = plan_for(tiny_model_dir, MemoryRows(16)), AutoConfig.from_pretrained(tiny_model_dir)

    def gradients(passes):
        memory = forecast(plan, config, process_gib=0.5, free_gib=4.0, tokens=512, passes=passes, row_tokens=100)
        return next(part.gib for part in memory.parts if part.name == "gradients")

    assert plan.config.training.lean_path is True
    assert gradients(passes=3) == gradients(passes=2) == 2 * gradients(passes=1)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_with_fsdp_a_rank_holds_its_part_and_what_is_gathered(tmp_path, kind):
    build_model(tmp_path)
    rows = MemoryRows(4)
    plan = plan_for(tmp_path, rows, fsdp="true", finetuning_type=kind, lean_path="false", dtype="float32")
    config = AutoConfig.from_pretrained(tmp_path)
    assert plan.model is not None
    one, four = (
        footprint(plan.config, config, plan.model, replace(plan.machine, world_size=n), lean=False) for n in (1, 4)
    )
    layers = plan.model.parameters - 400 * 64
    gathered = (400 * 64 + layers) * 4  # embedding and head are one, and there are two layers
    assert one.gathered == 0
    assert four.gathered == gathered * (2 if kind == "full" else 1)
    for part in ("frozen", "trained", "gradients", "moments"):
        assert getattr(four, part) == getattr(one, part) // 4


def test_the_bar_names_every_part_and_fits_the_terminal():
    parts = tuple(
        Part(name, gib, "what it is " * 8) for name, gib in (("process", 0.5), ("weights", 1.0), ("tiny", 0.001))
    )
    memory = Memory(parts, "a step", 2048, 4.0)
    for width in (60, 80, 100):
        lines = memory_bar(memory, width)
        assert max(map(len, lines)) <= width
        bar = lines[next(n for n, line in enumerate(lines) if line.strip().startswith("111"))].strip()
        assert bar.count("2") == pytest.approx(2 * bar.count("1"), abs=2)
    text = "\n".join(lines)
    assert "1.50 GiB at the fullest moment, in a pass of 2,048 tokens; 4.0 GiB are there." in text
    assert "38% of what is there" in text and all(part.name in text for part in parts)
    assert "It does not fit." in "\n".join(memory_bar(replace(memory, room_gib=1.0), 100))
    text = "\n".join(memory_bar(replace(memory, room_gib=2.5, asked=True), 100))
    assert "tokens; training.memory_gib is 2.5." in text and "60% of it" in text


RUN = """
import json, sys
from luthier import api
from luthier.events.types import MemoryForecast, Rehearsed, RunFinished
found = {type(event).__name__: vars(event) for event in api.train(json.loads(sys.argv[1]))
         if isinstance(event, (MemoryForecast, Rehearsed, RunFinished))}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A model and rows whose passes hold more than the interpreter does."""
    folder = tmp_path_factory.mktemp("larger")
    build_model(folder / "model", hidden_size=256, intermediate_size=768, num_hidden_layers=8)
    write_rows(folder / "rows.jsonl", 200)
    return folder


def told_by_a_run(folder, output, four_bit, **training):
    """Forecast, rehearsal and end of a run in a process of its own."""
    values = {
        "model": {"model_name_or_path": str(folder / "model"), "dtype": "float32"},
        "quantization": {"load_in_4bit": four_bit},
        "data": {"datasets": [{"path": str(folder / "rows.jsonl")}], "cache_dir": str(folder / "cache")},
        "training": {
            "output_dir": str(output), "max_steps": 2, "rehearsal": True, "gradient_accumulation_steps": 1, **training,
        },
        "logging": {"report_to": []},
    }  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(values)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    found = json.loads(output.splitlines()[-1])
    return (found[name] for name in ("MemoryForecast", "Rehearsed", "RunFinished"))


@pytest.mark.long
@pytest.mark.slow
def test_a_process_holds_no_more_than_it_was_asked_to(larger, tmp_path):
    roomy, _, _ = told_by_a_run(larger, tmp_path / "roomy", True, per_device_train_batch_size=64)
    asked = roomy["gib"] - 0.4 * roomy["parts"]["activations"]
    told, _, finished = told_by_a_run(larger, tmp_path / "run", True, per_device_train_batch_size=64, memory_gib=asked)
    assert told["gib"] <= told["room_gib"] == asked
    assert told["tokens"] < 0.9 * roomy["tokens"]
    assert 0.85 * asked < finished["peak_memory_gib"] <= asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "four_bit"),
    [
        pytest.param({}, True, id="QLoRA, lean"),
        pytest.param({"lean_path": False}, False, id="LoRA through peft's layers", marks=pytest.mark.long),
        pytest.param({"finetuning_type": "full"}, False, id="all weights"),  # through transformers' layers, too
    ],
)
def test_a_process_holds_what_was_predicted(larger, tmp_path, training, four_bit):
    keys = {"per_device_train_batch_size": 24, "max_tokens_per_micro_batch": 3000, **training}
    forecast_, rehearsed, finished = told_by_a_run(larger, tmp_path / "run", four_bit, **keys)
    assert forecast_["parts"]["activations"] + forecast_["parts"].get("holes", 0) > 0.15 * forecast_["gib"]
    assert sum(forecast_["parts"].values()) == pytest.approx(forecast_["gib"])
    assert forecast_["gib"] == pytest.approx(finished["peak_memory_gib"], rel=0.15)
    assert rehearsed["predicted_gib"] == forecast_["gib"]
    assert rehearsed["measured_gib"] == pytest.approx(finished["peak_memory_gib"], rel=0.15)
    assert rehearsed["measured_gib"] * GIB > 0 and rehearsed["measured_by"]
