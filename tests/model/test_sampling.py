"""Luthier's own sampling writes what transformers' generate writes."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from luthier.errors import ModelError
from luthier.model.sampling import continue_many
from tests.model.support import loaded_model, our_loss
from tests.model.test_adapter import shake

PROMPT = [0, 17, 42, 5]


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    """A packed LoRA model in mid-training, with adapters that change what it writes."""
    _, model = loaded_model(tiny_model_dir)
    shake(model)
    return model


def continue_ids(model, prompt, stop_ids, tokens):
    return continue_many(model, [prompt], stop_ids, tokens)[0]


def generated(model, stop_ids, tokens):
    """transformers' own greedy generation with its own attention, prompt left out."""
    causal_lm = model.get_base_model()
    causal_lm.set_attn_implementation("sdpa")
    model.eval()
    ids = torch.tensor([PROMPT])
    output = causal_lm.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
        eos_token_id=stop_ids, pad_token_id=2, use_cache=True,
    )  # fmt: skip
    model.train()
    causal_lm.set_attn_implementation("luthier_documents")
    return output[0, len(PROMPT) :].tolist()


def test_greedy_answers_are_those_of_transformers(model):
    expected = generated(model, [399], 12)
    assert len(set(expected)) > 2
    assert continue_ids(model, PROMPT, [399], 12) == expected


def test_any_stop_id_ends_the_answer_and_is_left_out(model):
    free = continue_ids(model, PROMPT, [399], 12)
    stop = free[6]
    cut = free[: free.index(stop)]
    assert continue_ids(model, PROMPT, [399, stop], 12) == cut
    assert generated(model, [399, stop], 12) == [*cut, stop]


WISHES = GenerationConfig(
    repetition_penalty=3.0, no_repeat_ngram_size=2, suppress_tokens=list(range(50, 300)), min_length=30, num_beams=2,
    do_sample=True, top_k=1, temperature=0.3, eos_token_id=5, max_length=7, return_dict_in_generate=True,
)  # fmt: skip


def test_what_the_models_generation_config_wishes_changes_nothing(model):
    causal_lm = model.get_base_model()
    before = continue_many(model, PROMPTS, [399], 12)
    own, causal_lm.generation_config = causal_lm.generation_config, WISHES
    try:
        assert continue_many(model, PROMPTS, [399], 12) == before
        with pytest.raises(ZeroDivisionError):
            continue_many(model, PROMPTS, [399], 12, stop=lambda: bool(1 / 0))
        assert causal_lm.generation_config is WISHES, "it is the model's again, whatever happened"
    finally:
        causal_lm.generation_config = own


def test_looking_leaves_training_as_it_was(tiny_model_dir):
    plan, model = loaded_model(tiny_model_dir, load_in_4bit=True)
    shake(model)
    before = our_loss(plan, model).item()
    continue_ids(model, PROMPT, [399], 4)
    assert model.training
    assert model.get_base_model().config._attn_implementation == "luthier_documents"
    assert our_loss(plan, model).item() == before


# Many at once --------------------------------------------------------------------------------------------------------

LENGTHS = (1, 3, 150, 7, 40, 7, 2)
PROMPTS = [[0, *((17 * i + 11 * n) % 390 + 3 for n in range(length))] for i, length in enumerate(LENGTHS)]


def singles(model, tokens):
    return [continue_ids(model, prompt, [399], tokens) for prompt in PROMPTS]


def test_a_batch_of_very_different_lengths_writes_what_single_prompts_write(model):
    expected = singles(model, 16)
    assert len({tuple(answer) for answer in expected}) == len(PROMPTS)
    assert continue_many(model, PROMPTS, [399], 16) == expected


def test_a_batch_on_4_bit_weights_writes_what_single_prompts_write(tiny_model_dir):
    _, model = loaded_model(tiny_model_dir, load_in_4bit=True)
    shake(model)
    assert continue_many(model, PROMPTS, [399], 16) == singles(model, 16)


def test_answers_that_stop_early_do_not_touch_the_others(model):
    free = singles(model, 16)
    stop = free[0][4]
    cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
    assert cut != free
    assert continue_many(model, PROMPTS, [399, stop], 16) == cut


def test_answers_end_where_the_context_does(model):
    """The tiny model reads 512 tokens: a prompt of 510 leaves room for 2, and its neighbour keeps all of its room."""
    long = [0, *[7] * 509]
    answers = continue_many(model, [PROMPT, long], [399], 12)
    assert [len(answer) for answer in answers] == [12, 2]
    assert answers[0] == continue_ids(model, PROMPT, [399], 12)
    for prompts in ([PROMPT, [0] * 512], [[0] * 600]):
        with pytest.raises(ModelError) as caught:
            continue_many(model, prompts, [399], 12)
        assert caught.value.problems[0].code == "E-EVAL-020"


def test_absolute_positions_are_padded_right(tmp_path):
    """GPT-2 adds a vector for each position: a wrong count under the padding would change every answer."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3)
    gpt2 = GPT2LMHeadModel(config).eval()
    assert continue_many(gpt2, PROMPTS, [399], 12) == singles(gpt2, 12)
