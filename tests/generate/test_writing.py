"""How answers are written: draws, stops, log-probabilities, penalties; several at once, each as if it were alone."""

from __future__ import annotations

from math import nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from luthier.errors import ConfigError, ModelError
from luthier.generate import choosing
from luthier.generate.choosing import Chooser, Sampling, choose
from luthier.generate.load import load, load_several
from luthier.generate.stops import Stops
from luthier.generate.writing import write
from luthier.model.forward import inference
from tests.generate.support import train_tiny

QUESTIONS = ["Add", "Write a function number 3 to reverse a list", "Reverse a string", "sum two numbers"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("writing") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def tuned(folder):
    return load(folder)


class Heard:
    """An answer and what was heard of it."""

    def __init__(self, tuned, question, number=0, cut_after=None, **sampling):
        self.pieces, self.tokens, self.cut_after = [], [], cut_after
        self.answer = tuned.answer(tuned.prompt_ids(question), Sampling(24, **sampling), self.hear, number)

    def hear(self, text, tokens):
        self.pieces.append(text)
        self.tokens += tokens
        if self.cut_after and len(self.pieces) == self.cut_after:
            self.answer.cut = "cancelled"

    @property
    def text(self):
        return "".join(self.pieces)


def written(tuned, *heard):
    write(tuned.model, [one.answer for one in heard], tuned.stop_ids)
    return [one.text for one in heard]


# Stop strings --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_found_wherever_pieces_begin(pieces, strings):
    stops, passed, stopped = Stops(strings), "", False
    for piece in pieces:
        text, stopped = stops.take(piece)
        passed += text
        if stopped:
            break
    passed += stops.rest()
    whole = "".join(pieces)
    assert stopped == any(string in whole for string in strings)
    assert whole.startswith(passed) and not any(string in passed for string in strings)
    assert passed == whole if not stopped else any(whole[len(passed) :].startswith(string) for string in strings)


def test_nothing_is_held_back_that_cannot_be_a_stop():
    stops = Stops(["END"])
    assert stops.take("an E") == ("an ", False) and stops.take("x") == ("Ex", False)
    assert stops.take("EN") == ("", False) and stops.take("D and") == ("", True)


def test_an_answer_ends_before_its_stop_string(tuned):
    whole = tuned.generate("Add", 24)
    assert len(whole) > 12
    for start in (1, 5, 9):
        stop = whole[start : start + 4]
        heard = Heard(tuned, "Add", stop=(stop,), top_logprobs=0)
        assert written(tuned, heard) == [whole[: whole.index(stop)]]
        assert heard.answer.ended == "stop" and heard.answer.tokens <= 24
        assert "".join(token.text for token in heard.tokens).startswith(heard.text)
        assert len("".join(token.text for token in heard.tokens[:-1])) < max(len(heard.text), 1)


# Draws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": nan}, {"top_p": 1.5}])
def test_numbers_that_nothing_can_be_written_by_are_refused(number):
    """From Python; the command line and the server look for themselves."""
    with pytest.raises(ConfigError, match=f"E-CFG-011  {next(iter(number))} is .*, but must be"):
        Sampling(**number)


def test_greedy_answers_of_a_batch_are_those_of_generate(tuned):
    assert written(tuned, *(Heard(tuned, q) for q in QUESTIONS)) == [tuned.generate(q, 24) for q in QUESTIONS]


def test_a_draw_depends_on_its_seed_and_on_nothing_else(tuned):
    alone = written(tuned, Heard(tuned, "Add", temperature=1.5, seed=7))
    beside = [Heard(tuned, q, temperature=t, seed=s) for q, t, s in (("Reverse", 2.0, 1), ("Add", 1.5, 7), ("x", 0, 2))]
    assert written(tuned, *beside)[1:2] == alone
    assert written(tuned, Heard(tuned, "Add", temperature=1.5, seed=8)) != alone
    several = written(tuned, *(Heard(tuned, "Add", number, temperature=1.5, seed=7) for number in range(3)))
    assert several[:1] == alone and len(set(several)) == 3


def test_without_a_seed_the_draws_are_torchs(tuned):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn += written(tuned, Heard(tuned, "Add", temperature=1.5))
    assert drawn[0] == drawn[1] != drawn[2]


def test_many_at_once_are_drawn_as_one_answer_is(tuned):
    """The same road: each of many is the answer with that number."""
    many = tuned.generate_many(QUESTIONS, 24, temperature=1.5, seed=7)
    assert many == written(tuned, *(Heard(tuned, q, n, temperature=1.5, seed=7) for n, q in enumerate(QUESTIONS)))
    assert tuned.generate_many(["Add"] * 3, 24, 1.5, 7) == written(
        tuned, *(Heard(tuned, "Add", n, temperature=1.5, seed=7) for n in range(3))
    )


def test_with_a_seed_of_its_own_it_does_not_matter_beside_whom_it_is_asked(tuned):
    """So an evaluation that was killed goes on to the answers that it would have had."""
    together = tuned.generate_many(QUESTIONS, 24, temperature=1.5, seed=[5, 6, 7, 8])
    assert tuned.generate_many(QUESTIONS[2:], 24, temperature=1.5, seed=[7, 8]) == together[2:]
    assert tuned.generate_many(["Add"] * 2, 24, 1.5, seed=[5, 6]) != together[:1] * 2


def test_drawing_leaves_torchs_generator_alone_where_there_is_a_seed(tuned):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuned.generate_many(["Add"], 4, temperature=1.5, seed=7)
    assert torch.equal(torch.rand(3), expected)


def chosen(logits, chooser, written=()):
    return int(choose(torch.tensor([logits]), [chooser], [list(written)]))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0, 3.0, 9.0]), st.floats(0, 1, exclude_max=True),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3),
)  # fmt: skip
def test_top_p_is_that_of_the_whole_vocabulary_sorted(seed, scale, top_p, drawn):
    """Against a plain reference in float64: flat rows need the full sort, peaked ones do not; both in one batch."""
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(seed)) * torch.tensor([[scale], [0.5], [6.0]])
    probabilities = logits.softmax(-1)
    got = choosing._nucleus(probabilities, top_p, torch.tensor(drawn, dtype=torch.float64)).tolist()
    for row, u, token in zip(probabilities.double(), drawn, got, strict=True):
        reached = row.sort(descending=True).values.cumsum(0)
        mass = float(reached[min(int((reached < top_p).sum()), len(row) - 1)])
        likelier, as_likely = float(row[row > row[token]].sum()), float(row[row >= row[token]].sum())
        assert likelier < top_p + 1e-6 and likelier - 1e-6 <= u * mass <= as_likely + 1e-6


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.9)])
def test_draws_have_the_probabilities_they_should(temperature, top_p):
    """Ten thousand draws against the formula, written another way."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    expected = (logits.double() / temperature).exp()
    expected /= expected.sum()
    kept, mass = [], 0.0
    for token in sorted(range(5), key=lambda t: -expected[t]):
        if mass < top_p:
            kept.append(token)
        mass += float(expected[token])
    expected = torch.tensor([float(expected[t]) if t in kept else 0.0 for t in range(5)])
    expected /= expected.sum()
    chooser = Chooser(Sampling(temperature=temperature, top_p=top_p, seed=0))
    rows = choose(logits.expand(10_000, 5), [chooser] * 10_000, [[]] * 10_000)
    drawn = torch.bincount(rows, minlength=5) / 10_000
    torch.testing.assert_close(drawn, expected.float(), atol=0.02, rtol=0)
    assert (drawn[expected == 0] == 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 5e-324])
def test_the_coldest_temperatures_are_greedy(temperature):
    assert chosen([0.0, 60.0, 59.99], Chooser(Sampling(temperature=temperature))) == 1


def test_top_p_of_nothing_leaves_the_likeliest():
    chooser = Chooser(Sampling(temperature=1.0, top_p=0.0, seed=0))
    assert {chosen([0.0, 1.0, 0.9], chooser) for _ in range(50)} == {1}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_logits_that_are_no_numbers_give_a_token_all_the_same(top_p):
    assert 0 <= chosen([float("nan")] * 3, Chooser(Sampling(temperature=1.0, top_p=top_p, seed=0))) < 3


def test_penalties_are_subtracted_once_and_for_each_time():
    def after(written, **penalties):
        return chosen([5.0, 4.5, 4.0], Chooser(Sampling(**penalties)), written)

    assert after([0, 0, 0], presence_penalty=0.4) == 0 and after([0], presence_penalty=0.6) == 1
    assert after([0], frequency_penalty=0.4) == 0 and after([0, 0], frequency_penalty=0.4) == 1
    assert after([0, 1], presence_penalty=2.0) == 2 and after([1], presence_penalty=-2.0) == 1
    logits, penalized = torch.tensor([[5.0, 4.5, 4.0]] * 2), Chooser(Sampling(presence_penalty=0.6))
    assert choose(logits, [penalized, Chooser(Sampling())], [[0], [0]]).tolist() == [1, 0]
    assert logits.tolist() == [[5.0, 4.5, 4.0]] * 2, "the model's own logits are as they were"


# Log-probabilities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_log_probabilities_are_the_models_own(tuned, temperature, monkeypatch):
    wishes = GenerationConfig(repetition_penalty=3.0, suppress_tokens=list(range(100, 200)), top_k=2)
    monkeypatch.setattr(tuned.model.get_base_model(), "generation_config", wishes)
    heard = Heard(tuned, "Add", temperature=temperature, seed=3, top_logprobs=3, presence_penalty=0.5)
    written(tuned, Heard(tuned, "a longer neighbour of the same batch"), heard)
    ids = tuned.prompt_ids("Add")
    for token in heard.tokens:
        with inference(tuned.model):
            logprobs = tuned.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        likely = logprobs.topk(3)
        assert [text for text, _ in token.top] == [tuned.tokenizer.decode([i]) for i in likely.indices.tolist()]
        assert [value for _, value in token.top] == pytest.approx(likely.values.tolist(), abs=1e-4)
        (chosen,) = [i for i in range(len(logprobs)) if abs(float(logprobs[i]) - token.logprob) < 1e-4 and
                     tuned.tokenizer.decode([i]) == token.text][:1]  # fmt: skip
        ids = [*ids, chosen]
    assert tuned.tokenizer.decode(ids[len(tuned.prompt_ids("Add")) :]) == heard.text and len(heard.tokens) >= 10


# Ends ----------------------------------------------------------------------------------------------------------------


def test_an_answer_that_is_cut_ends_and_its_neighbours_go_on(tuned):
    cut, whole = Heard(tuned, "Add", cut_after=3), Heard(tuned, "Reverse a string")
    written(tuned, cut, whole)
    assert cut.answer.ended == "cancelled" and 3 <= cut.answer.tokens <= 8
    assert tuned.generate("Add", 24).startswith(cut.text)
    assert whole.text == tuned.generate("Reverse a string", 24)
    before = Heard(tuned, "Add")
    before.answer.cut = "cancelled"
    assert written(tuned, before) == [""] and before.answer.tokens == 0


def test_the_stop_token_counts_and_is_no_text(tuned):
    (first, *_) = tuned.tokenizer(tuned.generate("Add", 24), add_special_tokens=False).input_ids
    heard = Heard(tuned, "Add", top_logprobs=1)
    heard.answer._stop_ids = frozenset({first})
    write(tuned.model, [heard.answer], [first])
    assert (heard.text, heard.tokens, heard.answer.tokens, heard.answer.ended) == ("", [], 1, "stop")


def test_no_answer_reads_beyond_the_context(tuned):
    """A long prompt with little room and a short one with much are not written together."""
    with pytest.raises(ModelError, match="E-EVAL-020"):
        Heard(tuned, "x " * 600)
    ids = tuned.prompt_ids("x " * 250)
    long = tuned.answer(ids, Sampling(10_000), lambda *heard: None)
    assert long.sampling.max_new_tokens == 512 - len(ids)
    short = Heard(tuned, "Add")
    write(tuned.model, [long, short.answer], tuned.stop_ids)
    assert long.tokens <= 512 - len(ids) and short.text == tuned.generate("Add", 24)


# Several runs --------------------------------------------------------------------------------------------------------


KINDS = {
    "lora": {"lora": {"r": 4, "target_modules": ["q_proj"]}},
    "dora": {"lora": {"use_dora": True}, "training": {"max_steps": 4}},
    "whole modules": {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}},
    "pissa": {"lora": {"init_lora_weights": "pissa", "r": 8}},
    "full": {"training": {"finetuning_type": "full"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_runs_on_one_base_share_its_weights(folder, tuned, tmp_path, tiny_model_dir, alpaca_file, name):
    other = tmp_path / "other"
    train_tiny(other, tiny_model_dir, alpaca_file, KINDS[name])
    runs = [folder, other, folder]
    loaded = load_several(runs)
    alone = [load(run).generate("Reverse a string", 24) for run in runs]
    assert alone[0] != alone[1]
    with tuned.as_base():
        base = tuned.generate("Reverse a string", 24)
    for _ in range(2):
        for one, text in zip(loaded, alone, strict=True):
            one.switch_on()
            assert one.generate("Reverse a string", 24) == text
            if one.shares_base:
                with one.as_base():
                    assert one.generate("Reverse a string", 24) == base
    assert (loaded[0].model is loaded[1].model) == (name in ("lora", "dora")) and loaded[0].model is loaded[2].model
