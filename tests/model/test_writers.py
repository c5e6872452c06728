"""Who writes: the lean path where it can and is proven, the model's own layers elsewhere, with the same answers."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM

from luthier.generate.weights import Base, load_base
from luthier.model import writers
from luthier.model.forward import autocast, to_evaluation, unwrap
from luthier.model.lean.graphs import CudaRecorder
from luthier.model.lean.writer import LeanWriter
from luthier.model.sampling import continue_many
from luthier.model.writers import write_lean
from tests.model.support import loaded_model
from tests.model.test_adapter import shake
from tests.model.test_sampling import PROMPTS
from tests.tiny import build_model

TOKENS = 12


@pytest.fixture
def lean(monkeypatch):
    """Counts the steps that lean writers write."""
    steps = []
    forward = LeanWriter.forward

    def counted(self, *args, **options):
        steps.append(self)
        return forward(self, *args, **options)

    monkeypatch.setattr(LeanWriter, "forward", counted)
    return steps


def answers(model):
    return continue_many(model, PROMPTS, [399], TOKENS)


def by_its_own_layers(model):
    """The answers without a writer, which is there again afterwards."""
    kept = vars(model).pop("luthier_writers", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "lean_of", lambda model: None)
        found = answers(model)
    if kept is not None:
        model.luthier_writers = kept
    return found


def base_of(folder, **keys):
    return load_base(Base(str(folder), dtype="float32", **keys))


def adapted(model, name="default", seed=0, **options):
    """An adapter that changes what is written; named after `name` beside those that there are."""
    torch.manual_seed(seed)
    lora = LoraConfig(r=options.pop("r", 4), target_modules="all-linear", task_type="CAUSAL_LM", **options)
    if isinstance(model, PeftModel):
        model.add_adapter(name, lora)
    else:
        model = get_peft_model(model, lora, adapter_name=name)
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if f"lora_B.{name}" in parameter_name:
                p.normal_(0.0, 0.3)
    return to_evaluation(model)


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_samples_in_training_are_written_lean_with_the_adapter_of_that_moment(tiny_model_dir, lean, load_in_4bit):
    _, model = loaded_model(tiny_model_dir, load_in_4bit=load_in_4bit)
    said = []
    for _ in range(2):
        shake(model)
        said.append(answers(model))
        assert said[-1] == by_its_own_layers(model)
    assert said[0] != said[1]
    assert len({id(writer) for writer in lean}) == 1
    assert len(lean) > 2 * TOKENS


def test_samples_of_a_run_in_8_bits_are_written_lean_too(tmp_path, lean):
    """Their rounding is far more than that of 16 bits."""
    build_model(tmp_path, num_hidden_layers=16)
    plan, model = loaded_model(tmp_path, base_precision="fp8", dtype="bfloat16")
    shake(model)
    with autocast(plan):
        assert answers(model)
    assert len(lean) > TOKENS


@pytest.mark.parametrize("four_bits", [None, {}])
def test_a_loaded_model_is_written_lean_and_so_is_its_base(tiny_model_dir, lean, four_bits):
    model = adapted(base_of(tiny_model_dir, quantization=four_bits))
    write_lean(model)
    tuned = answers(model)
    with model.disable_adapter():
        base = answers(model)
        assert base == by_its_own_layers(model)
    assert tuned == by_its_own_layers(model) != base
    assert len({id(writer) for writer in lean}) == 2
    held = [writer.parts.stacks for writer in dict.fromkeys(lean)]
    for one, other in zip(*held, strict=True):
        assert one.weight().data_ptr() == other.weight().data_ptr(), "one copy of the frozen weights serves both"


def test_each_adapter_on_a_base_writes_its_own_answers(tiny_model_dir, lean):
    model = adapted(base_of(tiny_model_dir))
    adapted(model, "second", seed=1, r=8)
    model.set_adapter("default", inference_mode=True)
    write_lean(model)
    first = answers(model)
    model.set_adapter("second", inference_mode=True)
    second = answers(model)
    assert second == by_its_own_layers(model) != first
    model.set_adapter("default", inference_mode=True)
    assert answers(model) == first
    assert len({id(writer) for writer in lean}) == 2


def test_an_adapter_beside_one_that_cannot_be_written_lean_is_written_lean(tiny_model_dir, lean):
    model = adapted(base_of(tiny_model_dir))
    adapted(model, "second", seed=1, use_dora=True)
    write_lean(model)
    for name, is_lean in (("default", True), ("second", False), ("default", True)):
        model.set_adapter(name, inference_mode=True)
        steps = len(lean)
        assert answers(model) == by_its_own_layers(model)
        assert (len(lean) > steps) == is_lean


def test_adapters_that_add_up_are_written_by_its_own_layers(tiny_model_dir, lean):
    model = adapted(adapted(base_of(tiny_model_dir)), "second", seed=1)
    write_lean(model)
    for together in (["default"], ["default", "second"], ["second", "default"]):
        model.base_model.set_adapter(together, inference_mode=True)
        steps = len(lean)
        assert answers(model) == by_its_own_layers(model)
        assert (len(lean) == steps) == (len(together) == 2)


def merge(model):
    model.merge_adapter()
    return model


def to_16_bits(model):
    model.to(torch.bfloat16)


def other_values(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.mul_(-1.5)


def scale(model):
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.set_scale("default", 3.0)


def merge_and_unmerge(model):
    model.merge_adapter()
    model.unmerge_adapter()


@pytest.mark.parametrize("change", [to_16_bits, other_values, merge, scale, merge_and_unmerge])
def test_what_is_done_to_a_loaded_model_is_seen(tiny_model_dir, lean, change):
    model = adapted(base_of(tiny_model_dir))
    write_lean(model)
    answers(model)
    change(model)
    assert answers(model) == by_its_own_layers(model)


def test_weights_of_4_bits_are_unpacked_at_each_use_where_memory_is_short(tiny_model_dir, lean, monkeypatch):
    monkeypatch.setattr(writers, "unclaimed_bytes", lambda device: 1 << 16)
    model = adapted(base_of(tiny_model_dir, quantization={}))
    write_lean(model)
    assert answers(model) == by_its_own_layers(model)
    assert lean
    assert all(stack._weight_OI is None for stack in lean[0].parts.stacks)


def saved_whole(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


@pytest.mark.parametrize("four_bits", [None, {}])
def test_a_copy_of_a_model_that_has_written_takes_nothing_of_that_with_it(tiny_model_dir, lean, monkeypatch, four_bits):
    monkeypatch.setattr(
        writers, "_recorder", lambda parts: CudaRecorder()
    )  # as on CUDA; here it fails, and is left out
    model = adapted(base_of(tiny_model_dir, quantization=four_bits))
    size = len(saved_whole(model))
    write_lean(model)
    expected = answers(model)
    saved = saved_whole(model)
    assert len(saved) < size + 4096
    for copied in (copy.deepcopy(model), torch.load(io.BytesIO(saved), weights_only=False)):
        steps = len(lean)
        assert answers(copied) == expected
        assert len(lean) > steps + TOKENS
        assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


def gemma():
    torch.manual_seed(0)
    return GemmaForCausalLM(GemmaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0, bos_token_id=0, eos_token_id=1,
    )).eval()  # fmt: skip


CANNOT = {
    "another architecture": lambda folder: gemma(),
    "DoRA": lambda folder: adapted(base_of(folder), use_dora=True),
    "a trained norm": lambda folder: adapted(base_of(folder), modules_to_save=["norm"]),
    "new tokens": lambda folder: adapted(base_of(folder), trainable_token_indices=[3, 5]),
    "merged": lambda folder: merge(adapted(base_of(folder))),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_the_lean_path_does_not_compute_its_own_layers_write(kind, tiny_model_dir, lean):
    model = CANNOT[kind](tiny_model_dir)
    expected = answers(model)
    write_lean(model)
    assert answers(model) == expected
    assert not lean


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_a_writer_that_is_not_exact_is_not_used(tiny_model_dir, monkeypatch, lean, fault):
    def spoilt(self, cache, ids_BT, real_BT, reach):
        if fault == "fails":
            raise RuntimeError("no kernel image is available")
        return torch.randn(len(ids_BT), self.parts.head.out_features)

    monkeypatch.setattr(LeanWriter, "_next", spoilt)
    model = base_of(tiny_model_dir)
    expected = by_its_own_layers(model)
    write_lean(model)
    assert answers(model) == expected
    tried = len(lean)
    assert 0 < tried <= 4
    assert answers(model) == expected
    assert len(lean) == tried, "it is tried once"


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_a_writer_that_is_not_used_leaves_nothing_unpacked(tiny_model_dir, monkeypatch, fault):
    def spoilt(writer, causal_lm):
        if fault == "fails":
            raise torch.OutOfMemoryError
        return False

    def unpacked():
        return [x for x in gc.get_objects() if type(x) is torch.Tensor and x.ndim == 2 and id(x) not in before]

    monkeypatch.setattr(writers, "writes_the_same", spoilt)
    model = base_of(tiny_model_dir, quantization={})
    before = {id(x) for x in gc.get_objects()}
    write_lean(model)
    assert answers(model) == by_its_own_layers(model)
    gc.collect()
    assert not unpacked()


def test_a_model_that_nobody_promised_to_leave_alone_is_written_by_its_own_layers(tiny_model_dir, lean):
    assert answers(base_of(tiny_model_dir))
    assert not lean


def test_what_ends_an_answer_in_the_middle_leaves_the_model_as_it_was(tiny_model_dir, lean):
    model = base_of(tiny_model_dir)
    write_lean(model)
    expected = answers(model)

    def broken(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continue_many(model, PROMPTS, [399], TOKENS, stop=broken)
    assert "forward" not in vars(unwrap(model))
    assert answers(model) == expected
