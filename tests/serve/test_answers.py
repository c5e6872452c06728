"""What the real client of OpenAI gets: the answers that the run gives itself, in every form that it can ask for."""

from __future__ import annotations

import pytest
import torch

from luthier.generate.choosing import Sampling
from luthier.generate.load import load
from luthier.generate.writing import write
from luthier.model.forward import inference

QUESTIONS = ["Add", "Reverse a string", "sum two numbers"]


def ask(client, text="Add", model="first", **options):
    options = {"temperature": 0, "max_tokens": 16, **options}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def text_of(response):
    return response.choices[0].message.content


def streamed(stream):
    """(texts, reasons, tokens) of each answer, and the usage."""
    texts, reasons, tokens, usage = {}, {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            piece = choice.text if hasattr(choice, "text") else choice.delta.content
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
            if choice.logprobs and getattr(choice.logprobs, "content", None):
                tokens.setdefault(choice.index, []).extend(choice.logprobs.content)
    return texts, reasons, tokens, usage


@pytest.fixture(scope="module")
def alone(runs):
    """Each run loaded by itself."""
    return {name: load(folder) for name, folder in runs.items()}


# By name -------------------------------------------------------------------------------------------------------------


def test_every_name_answers_as_the_run_itself(client, alone, base):
    for text in QUESTIONS:
        for name, tuned in alone.items():
            assert text_of(ask(client, text, name)) == tuned.generate(text, 16)
        with alone["first"].as_base():
            assert text_of(ask(client, text, base)) == alone["first"].generate(text, 16)
    assert len({text_of(ask(client, "Add", name)) for name in ("first", "second", "full", base)}) > 2


def test_the_models_are_listed(client, base):
    assert [model.id for model in client.models.list()] == ["first", "second", "full", base]
    assert client.models.retrieve("second").owned_by == "luthier"


def test_runs_on_one_base_are_one_model_in_memory(models, base):
    assert models["first"].tuned.model is models["second"].tuned.model is models[base].tuned.model
    assert models["full"].tuned.model is not models["first"].tuned.model


def test_a_conversation_is_asked_in_the_template_of_the_training(client, alone):
    turns = [("system", "Be brief."), ("user", "Add"), ("assistant", "def add(a, b): ..."), ("user", "Now three")]
    messages = [{"role": role, "content": content} for role, content in turns]
    said = client.chat.completions.create(model="first", messages=messages, temperature=0, max_tokens=12)
    assert text_of(said) == alone["first"].stream(messages, lambda piece: None, 12)
    assert said.usage.prompt_tokens == len(alone["first"].prompt_ids(messages))
    parts = [{"type": "text", "text": "Now "}, {"type": "text", "text": "three"}]
    messages = [{"role": "developer", "content": "Be brief."}, *messages[1:3], {"role": "user", "content": parts}]
    assert client.chat.completions.create(model="first", messages=messages, temperature=0, max_tokens=12).choices[
        0
    ].message.content == text_of(said)


def test_an_answer_can_be_sent_back_as_the_client_has_it(client):
    said = ask(client)
    messages = [{"role": "user", "content": "Add"}, said.choices[0].message, {"role": "user", "content": "And now?"}]
    assert client.chat.completions.create(model="first", messages=messages, max_tokens=4).usage.completion_tokens <= 4


def test_braces_in_a_message_are_text(client, alone):
    text = "{{ 7 * 7 }} {% for x in range(3) %}x{% endfor %} {{ ''.__class__ }}"
    assert text_of(ask(client, text)) == alone["first"].generate(text, 16)
    said = client.chat.completions.create(model="first", messages=[{"role": "user", "content": text}], max_tokens=1)
    assert said.usage.prompt_tokens == len(alone["first"].prompt_ids(text))


# Completions ---------------------------------------------------------------------------------------------------------


def test_a_completion_goes_on_with_the_text(client, alone):
    said = client.completions.create(model="first", prompt="def add", temperature=0, max_tokens=12)
    assert said.choices[0].text == alone["first"].complete("def add", 12)
    assert said.usage.prompt_tokens == len(alone["first"].tokenizer("def add").input_ids)
    ids = alone["first"].tokenizer("def add").input_ids
    assert client.completions.create(model="first", prompt=ids, temperature=0, max_tokens=12).choices[0].text == (
        said.choices[0].text
    )
    assert client.completions.create(model="first", prompt="def add", temperature=0).usage.completion_tokens <= 16


def test_several_prompts_and_several_answers(client, alone):
    prompts = ["def add", "for i in range(10):\n    print", "x"]
    said = client.completions.create(model="second", prompt=prompts, n=2, temperature=0, max_tokens=8)
    expected = [alone["second"].complete(prompt, 8) for prompt in prompts for _ in range(2)]
    assert [choice.text for choice in said.choices] == expected
    assert [choice.index for choice in said.choices] == list(range(6))
    ids = [alone["second"].tokenizer(prompt).input_ids for prompt in prompts]
    by_ids = client.completions.create(model="second", prompt=ids, n=2, temperature=0, max_tokens=8)
    assert [choice.text for choice in by_ids.choices] == expected


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"n": 3, "temperature": 1.5, "seed": 5}, {"logprobs": True, "top_logprobs": 2},
                                     {"stop": ["ef", "+ "], "logprobs": True}])  # fmt: skip
def test_a_stream_is_the_whole_answer(client, options):
    whole = ask(client, **options)
    texts, reasons, tokens, usage = streamed(
        ask(client, **options, stream=True, stream_options={"include_usage": True})
    )
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    if "logprobs" in options:
        assert tokens == {choice.index: choice.logprobs.content for choice in whole.choices}


def test_a_stream_comes_in_pieces_and_says_who_speaks(client):
    chunks = list(ask(client, stream=True, max_tokens=24))
    assert len(chunks) > 8 and chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks) and chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    pieces = client.completions.create(model="first", prompt="def", temperature=0, max_tokens=16, stream=True)
    whole = client.completions.create(model="first", prompt="def", temperature=0, max_tokens=16)
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole.choices[0].text


# How it is written ---------------------------------------------------------------------------------------------------


def test_stop_strings_end_the_answer_across_tokens(client):
    whole = text_of(ask(client, "Reverse a string", max_tokens=24))
    stop = whole[3:9]
    for form in (stop, [stop], ["never", stop]):
        said = ask(client, "Reverse a string", max_tokens=24, stop=form)
        assert text_of(said) == whole[: whole.index(stop)] and said.choices[0].finish_reason == "stop"


def test_lengths_and_counts(client, alone):
    said = ask(client, max_tokens=5)
    assert said.choices[0].finish_reason == "length" and said.usage.completion_tokens == 5
    assert said.usage.total_tokens == said.usage.prompt_tokens + 5
    assert ask(client, max_tokens=99, max_completion_tokens=3).usage.completion_tokens == 3
    assert ask(client, n=4, max_tokens=5).usage.completion_tokens == 20
    several = ask(client, n=4, max_tokens=5)
    assert several.usage.prompt_tokens == said.usage.prompt_tokens == len(alone["first"].prompt_ids("Add"))


def test_a_seed_repeats_and_no_seed_does_not(client):
    options = {"temperature": 1.5, "n": 3}
    drawn = [[c.message.content for c in ask(client, **options, seed=s).choices] for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) > 1
    assert text_of(ask(client, temperature=1.5, seed=1)) == drawn[0][0]
    assert len({text_of(ask(client, temperature=1.5)) for _ in range(4)}) > 1
    default = {text_of(ask(client, temperature=None)) for _ in range(4)}
    assert len(default) > 1, "as with OpenAI, the temperature is 1 when nobody says otherwise"


def test_penalties_change_what_is_repeated(client, alone):
    sampling = Sampling(24, presence_penalty=1.5, frequency_penalty=0.5)
    said = []
    tuned = alone["first"]
    answer = tuned.answer(tuned.prompt_ids("Add"), sampling, lambda text, tokens: said.append(text))
    write(tuned.model, [answer], tuned.stop_ids)
    asked = ask(client, max_tokens=24, presence_penalty=1.5, frequency_penalty=0.5)
    assert text_of(asked) == "".join(said) != text_of(ask(client, max_tokens=24))


def test_log_probabilities_are_the_models_own(client, alone):
    tuned = alone["second"]
    said = ask(client, "Add", "second", logprobs=True, top_logprobs=3, max_tokens=8)
    ids = tuned.prompt_ids("Add")
    for entry in said.choices[0].logprobs.content:
        with inference(tuned.model):
            logprobs = tuned.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        likely = logprobs.topk(3)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(likely.values.tolist(), abs=1e-4)
        assert [top.token for top in entry.top_logprobs] == [tuned.tokenizer.decode([i]) for i in likely.indices]
        assert entry.logprob == entry.top_logprobs[0].logprob and entry.token == entry.top_logprobs[0].token
        assert entry.bytes == list(entry.token.encode()) or (entry.bytes is None and "\ufffd" in entry.token)
        ids = [*ids, int(likely.indices[0])]
    assert ask(client).choices[0].logprobs is None
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_log_probabilities_of_a_completion(client):
    said = client.completions.create(model="first", prompt="def", temperature=0, max_tokens=6, logprobs=2).choices[0]
    assert len(said.logprobs.tokens) == len(said.logprobs.token_logprobs) == len(said.logprobs.text_offset) == 6
    assert all(1 <= len(top) <= 2 for top in said.logprobs.top_logprobs)
    assert [max(top.values()) for top in said.logprobs.top_logprobs] == said.logprobs.token_logprobs
