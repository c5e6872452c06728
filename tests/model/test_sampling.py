"""Luthier's own sampling writes what transformers' generate writes."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from luthier.errors import ModelError
from luthier.model import sampling
from luthier.model.sampling import continue_ids, continue_many
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


def test_an_answer_ends_where_it_is_told_to_and_touches_no_other(model):
    """Each row of a batch is asked about its own answer, prompt and padding left out."""
    free, heard = singles(model, 16), []

    def ended(ids):
        heard.append(tuple(ids))
        return len(ids) == 5 and ids == free[2][:5]

    answers = continue_many(model, PROMPTS, [399], 16, ended=ended)
    assert answers == [answer[:5] if place == 2 else answer for place, answer in enumerate(free)]
    assert {ids for ids in heard if len(ids) == 1} == {tuple(answer[:1]) for answer in free}


@pytest.mark.parametrize(("most", "tokens"), [(1, 16_384), (3, 16_384), (64, 60), (64, 170)])
def test_the_size_of_a_batch_changes_nothing(model, monkeypatch, most, tokens):
    monkeypatch.setattr(sampling, "MAX_BATCH", most)
    monkeypatch.setattr(sampling, "MAX_BATCH_TOKENS", tokens)
    heard = []
    assert continue_many(model, PROMPTS, [399], 8, progress=lambda *told: heard.append(told)) == singles(model, 8)
    assert heard == sorted(heard) and len(heard) > 2 and (heard[0], heard[-1]) == ((0, 7), (7, 7))


def test_no_batch_is_larger_than_it_may_be():
    lengths, room = [9, 500, 30, 30, 30, 2, 2], [20] * 7
    assert list(sampling._batches(lengths, [20, 12, 20, 20, 20, 20, 20])) == [[1], [2, 3, 4, 0, 5, 6]]
    for most, tokens in ((2, 10_000), (64, 150), (64, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "MAX_BATCH", most)
            patch.setattr(sampling, "MAX_BATCH_TOKENS", tokens)
            batches = list(sampling._batches(lengths, room))
        assert sorted(i for batch in batches for i in batch) == list(range(7))
        for batch in batches:
            assert len(batch) <= most
            assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + 20) <= tokens


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


def test_a_seed_repeats_the_draws_and_leaves_torchs_generator_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = continue_many(model, PROMPTS, [399], 8, temperature=2.0, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert continue_many(model, PROMPTS, [399], 8, temperature=2.0, seed=1) == first
    assert continue_many(model, PROMPTS, [399], 8, temperature=2.0, seed=2) != first


def test_absolute_positions_are_padded_right(tmp_path):
    """GPT-2 adds a vector for each position: a wrong count under the padding would change every answer."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3)
    gpt2 = GPT2LMHeadModel(config).eval()
    assert continue_many(gpt2, PROMPTS, [399], 12) == singles(gpt2, 12)
