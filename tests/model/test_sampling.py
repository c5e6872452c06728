"""Luthier's own sampling writes what transformers' generate writes."""

from __future__ import annotations

import pytest
import torch

from luthier.model.sampling import continue_ids
from tests.model.support import loaded_model, our_loss
from tests.model.test_adapter import shake

PROMPT = [0, 17, 42, 5]


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    """A packed LoRA model in mid-training, with adapters that change what it writes."""
    _, model = loaded_model(tiny_model_dir)
    shake(model)
    return model


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


def test_temperature_draws_and_follows_the_seed(model):
    torch.manual_seed(1)
    first = continue_ids(model, PROMPT, [399], 12, temperature=2.0)
    torch.manual_seed(1)
    assert continue_ids(model, PROMPT, [399], 12, temperature=2.0) == first
    assert continue_ids(model, PROMPT, [399], 12, temperature=2.0) != first


def test_looking_leaves_training_as_it_was(tiny_model_dir):
    plan, model = loaded_model(tiny_model_dir, load_in_4bit=True)
    shake(model)
    before = our_loss(plan, model).item()
    continue_ids(model, PROMPT, [399], 4)
    assert model.training
    assert model.get_base_model().config._attn_implementation == "luthier_documents"
    assert our_loss(plan, model).item() == before
