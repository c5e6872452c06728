"""How a step goes through the model: the cheapest way that memory holds, and the memory it really takes."""

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from luthier.config.load import from_dict
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts
from luthier.config.render import memory_bar
from luthier.config.resolve import resolve
from luthier.machine import GIB
from luthier.machine.cards import CARDS, as_if
from luthier.model.budget import MOST_TOKENS, SHARE, plan_passes
from luthier.model.memory import footprint, forecast

CONFIG = LlamaConfig(
    vocab_size=32_000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=4, tie_word_embeddings=True,
)  # fmt: skip
MODEL = ModelFacts("LlamaForCausalLM", 41_550_336, 1_000_000, 8, 512, 32_000, 2048, can_isolate_documents=True)
EIGHT = LlamaConfig(
    vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8,
)  # fmt: skip
EIGHT_FACTS = ModelFacts("LlamaForCausalLM", 8_030_261_248, 41_943_040, 32, 4096, 128_256, 131_072, True)
ONE = LlamaConfig(
    vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
)  # fmt: skip
ONE_FACTS = ModelFacts("LlamaForCausalLM", 1_235_814_400, 11_272_192, 16, 2048, 128_256, 131_072, True)
ONE_ROWS = DataFacts(17_682, 930, 3_890_040, 2_500_000, 1000, "alpaca", "x")
"""Shape and rows of the headline job."""
CPU = MachineFacts("cpu", "a CPU", 1, True, 24.0, 20.0, 2, True)
ROWS = DataFacts(1000, 0, 125_000, 70_000, 400, "alpaca", "x")


def passes(*overrides, free=20.0, machine=CPU, rows=ROWS, model=MODEL):
    return plan_passes(counted(*overrides, free=free, machine=machine, rows=rows, model=model), CONFIG)


def counted(*overrides, free=20.0, machine=CPU, rows=ROWS, model=MODEL, load_in_4bit=True):
    loaded = from_dict({"quantization": {"load_in_4bit": load_in_4bit}}, overrides)
    return resolve(loaded, replace(machine, free_memory_gib=free), model, rows)


def test_with_room_nothing_is_given_up():
    chosen = passes()
    assert (chosen.checkpointed_layers, chosen.unpack_once) == (0, True)
    assert chosen.micro_batch_tokens == 2 * MOST_TOKENS["cpu"]  # this CPU computes in bfloat16
    assert passes("dtype=float32").micro_batch_tokens == MOST_TOKENS["cpu"]
    assert "20.0 GiB" in chosen.how


def test_as_memory_shrinks_time_is_paid_in_the_order_of_its_price():
    room = [0.08 + 0.01 * n for n in range(170)]
    chosen = [passes(free=free) for free in room]
    paid = [
        (p.checkpointed_layers / 16 * 2000) + (0 if p.unpack_once else 180) + 2000 / p.micro_batch_tokens
        for p in chosen
    ]
    assert all(p.micro_batch_tokens >= ROWS.longest_row_tokens for p in chosen)
    assert chosen[-1].checkpointed_layers == 0 and chosen[-1].unpack_once
    assert {p.checkpointed_layers for p in chosen} >= {0, 8}
    assert any(0 < p.checkpointed_layers < 8 for p in chosen), "some layers, before all of them"
    assert paid[0] > paid[-1]
    config = from_dict({}, ["load_in_4bit=true"]).config
    sizes = footprint(config, CONFIG, MODEL, CPU, lean=True, row_tokens=125)
    for free, p in zip(room, chosen, strict=True):
        token = sizes.token(8, p.checkpointed_layers)
        left = free * GIB - sizes.weights - sizes.head - sizes.unpacked * p.unpack_once
        assert p.micro_batch_tokens * token <= left * SHARE or p.micro_batch_tokens == ROWS.longest_row_tokens


def test_through_pefts_layers_it_is_all_layers_or_none():
    for free in (0.3, 0.6, 1.0, 2.0, 8.0):
        chosen = passes("lean_path=false", free=free)
        assert chosen.checkpointed_layers in (0, 8)
        assert not chosen.unpack_once


def test_a_model_that_cannot_compute_layers_again_is_not_asked_to():
    model = replace(MODEL, supports_gradient_checkpointing=False)
    assert passes("lean_path=false", free=0.1).checkpointed_layers == 8
    assert passes("lean_path=false", free=0.1, model=model).checkpointed_layers == 0
    assert passes(free=0.1, model=model).checkpointed_layers == 8, "the lean path does it itself"


def test_what_is_written_is_kept():
    assert passes("gradient_checkpointing=true").checkpointed_layers == 8
    assert passes("gradient_checkpointing=false", free=0.5).checkpointed_layers == 0


def test_tokens_that_are_decided_already_decide_what_else_has_to_be_given_up():
    roomy = passes("max_tokens_per_micro_batch=8192")
    assert (roomy.micro_batch_tokens, roomy.checkpointed_layers, roomy.unpack_once) == (8192, 0, True)
    tight = passes("max_tokens_per_micro_batch=8192", free=1.05)
    assert (tight.micro_batch_tokens, tight.unpack_once) == (8192, False)
    assert tight.checkpointed_layers > 0
    resumed = plan_passes(counted(free=1.05), CONFIG, tokens=8192)
    assert resumed == tight
    assert passes("auto=false", "per_device_train_batch_size=2").micro_batch_tokens == 2 * ROWS.longest_row_tokens


def test_16_bit_weights_are_never_unpacked():
    assert not passes("load_in_4bit=false").unpack_once


def test_8_bit_floats_are_held_twice_on_a_gpu_with_room_and_never_on_a_cpu():
    gpu = replace(CPU, device="cuda", supports_fp8=True)
    keys = ("load_in_4bit=false", "base_precision=fp8")
    assert passes(*keys, machine=gpu).unpack_once
    assert not passes(*keys, machine=gpu, free=0.3).unpack_once
    assert not passes(*keys, machine=replace(CPU, supports_fp8=True)).unpack_once
    body = MODEL.parameters - 32_000 * 512
    sizes = footprint(from_dict({}, list(keys)).config, CONFIG, MODEL, gpu, lean=True)
    assert (sizes.frozen, sizes.unpacked) == (body + 2 * 32_000 * 512, body)


@pytest.mark.parametrize("card", ["4090", "A100-40", "L40S", "H200"])
def test_weights_that_fill_most_of_a_card_leave_the_rest_to_the_tokens(card):
    """The shape of Llama-3.1-8B in 16 bits, 15 GiB of weights: what is planned fits, and no row has to go alone."""
    loaded, machine = from_dict({}, ["lean_path=true"]), as_if(card, CPU)
    rows = DataFacts(17_000, 0, 3_400_000, 1_700_000, 512, "alpaca", "x")
    chosen = plan_passes(resolve(loaded, machine, EIGHT_FACTS, rows), EIGHT)
    assert chosen.micro_batch_tokens > 512 and chosen.checkpointed_layers < 32
    plan = resolve(loaded, machine, EIGHT_FACTS, rows, passes=chosen)
    tokens, free = chosen.micro_batch_tokens, machine.free_memory_gib
    held = forecast(plan, EIGHT, process_gib=0.0, free_gib=free, tokens=tokens, passes=2, row_tokens=200)
    assert held.gib < 0.95 * free


def test_each_card_gives_up_what_its_memory_asks_for():
    """The shape of Llama-3.1-8B, in steps of 16 rows of 500 tokens."""
    rows = DataFacts(1000, 0, 500_000, 300_000, 2000, "alpaca", "x")
    loaded = from_dict({"quantization": {"load_in_4bit": True}}, ["lean_path=true"])
    chosen = {name: plan_passes(resolve(loaded, as_if(name, CPU), EIGHT_FACTS, rows), EIGHT) for name in CARDS}
    assert (chosen["H200"].unpack_once, chosen["H200"].checkpointed_layers) == (True, 0)
    assert (chosen["4090"].unpack_once, chosen["4090"].checkpointed_layers) == (False, 0)
    assert chosen["3060"].checkpointed_layers > 0
    assert chosen["H200"].micro_batch_tokens > chosen["4090"].micro_batch_tokens
    assert "139.8 GiB" in chosen["H200"].how


def test_a_pass_always_holds_the_longest_row():
    long = replace(ROWS, longest_row_tokens=5000)
    assert passes(rows=long, free=0.1).micro_batch_tokens == 5000
    roomy = passes(rows=long)
    assert (roomy.micro_batch_tokens, roomy.checkpointed_layers, roomy.unpack_once) == (5000, 0, True)


@pytest.mark.parametrize("lean", [True, False])
def test_the_lean_path_keeps_less(lean):
    config = from_dict({}, ["load_in_4bit=true"]).config
    sizes = footprint(config, CONFIG, MODEL, CPU, lean=lean)
    # bfloat16: x, attention's output, the middle (512 each), q|k|v (1024), gate|up (3072), 7 thin products of rank 16
    exact = 3 * 512 + 1024 + 3072 + 7 * 16
    # through peft's layers: 4 of each, attention's q, k, v and output, thin products and norms' inputs in float32
    counted = 4 * 512 + 4 * 1536 + 2 * 512 + 2 * 256 + 7 * 16 + 2 * 512
    assert sizes.kept == 2 * (exact if lean else counted)


def planned(asked, machine, *overrides, process=0.0, model_config=ONE, model=ONE_FACTS, rows=ONE_ROWS):
    """Passes within so many GiB, and what a run of such passes is predicted to hold."""
    loaded = from_dict({"quantization": {"load_in_4bit": True}}, [f"memory_gib={asked}", *overrides])
    chosen = plan_passes(resolve(loaded, machine, model, rows), model_config, process)
    return chosen, predicted(loaded, machine, chosen, process, model_config, model, rows)


def predicted(loaded, machine, chosen, process, model_config, model, rows):
    return forecast(
        resolve(loaded, machine, model, rows, passes=chosen), model_config, process_gib=process,
        free_gib=machine.free_memory_gib, tokens=chosen.micro_batch_tokens, passes=2,
        row_tokens=rows.longest_row_tokens,
    )  # fmt: skip


PATHS = [
    (),
    ("load_in_4bit=false",),
    ("lean_path=false",),
    ("packing=false",),
    ("finetuning_type=full", "load_in_4bit=false"),
]


@pytest.mark.parametrize("keys", PATHS, ids=str)
def test_on_a_card_a_run_is_predicted_to_hold_what_was_asked_for_and_not_much_less(keys):
    machine, held = as_if("H200", CPU), 0
    for asked in [1.4 + 0.1 * n for n in range(20)] + list(range(4, 31, 2)):
        chosen, memory = planned(asked, machine, *keys)
        assert (memory.room_gib, memory.asked) == (asked, True)
        if "longest row" in chosen.how:  # everything is given up, and there is no room for doubts
            assert memory.gib > 0.8 * asked and not chosen.unpack_once
            assert (chosen.micro_batch_tokens, chosen.checkpointed_layers) == (1000, 16)
            continue
        assert 0.85 * asked <= memory.gib <= asked
        assert chosen.how == f"{chosen.micro_batch_tokens:,} tokens, in the {asked:g} GiB of training.memory_gib"
        held += 1
    assert held > 5


@pytest.mark.parametrize("keys", [*PATHS[:4], ("dtype=float32",), ("gradient_checkpointing=false",)], ids=str)
def test_on_a_cpu_it_holds_the_process_too(keys):
    tiny = {"model_config": CONFIG, "model": MODEL, "rows": ROWS, "process": 0.4}
    held = 0
    for asked in [0.5 + 0.05 * n for n in range(60)]:
        chosen, memory = planned(asked, CPU, *keys, **tiny)
        if "longest row" not in chosen.how:
            assert memory.gib <= asked
            held += 1
        elif memory.gib > asked:
            assert "It does not fit." in "\n".join(memory_bar(memory, 120))
    assert 10 < held < 60


def test_the_less_there_may_be_the_more_is_given_up():
    machine = as_if("H200", CPU)
    roomy, some, few, least = (planned(asked, machine)[0] for asked in (100, 6, 3, 1.8))
    assert (roomy.micro_batch_tokens, roomy.checkpointed_layers, roomy.unpack_once) == (MOST_TOKENS["cuda"], 0, True)
    assert some.unpack_once and not few.unpack_once
    assert roomy.micro_batch_tokens > some.micro_batch_tokens > few.micro_batch_tokens
    assert few.checkpointed_layers == 0 < least.checkpointed_layers
    eight = {"model_config": EIGHT, "model": EIGHT_FACTS}
    assert planned(9, machine, **eight)[0].checkpointed_layers > 0
    assert "longest row" in planned(5, machine, **eight)[0].how


def test_no_more_is_planned_with_than_is_free():
    machine = replace(as_if("H200", CPU), free_memory_gib=8.0)
    (more, memory), (all_of_it, _) = planned(100, machine), planned(8, machine)
    assert more == replace(all_of_it, how=more.how) and memory.gib <= memory.room_gib == 8.0
    assert not memory.asked and "8.0 GiB of free memory" in more.how


def test_tokens_that_are_decided_stay_and_the_rest_follows():
    machine = as_if("H200", CPU)
    wide, narrow, none = (planned(asked, machine, "max_tokens_per_micro_batch=4000") for asked in (9, 4, 2))
    assert [chosen.micro_batch_tokens for chosen, _ in (wide, narrow, none)] == [4000] * 3
    assert wide[0].unpack_once and wide[0].checkpointed_layers == 0
    assert not narrow[0].unpack_once and 0 < narrow[0].checkpointed_layers < 16 and narrow[1].gib <= 4
    assert none[0].checkpointed_layers == 16 and none[1].gib > 2
    text = "\n".join(memory_bar(none[1], 120))
    assert "training.memory_gib is 2. It does not fit." in text and "% of it" in text
