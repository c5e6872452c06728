"""Checks of what must fit together: template, tokenizer, model and device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors.trace import brief
from luthier.gate.check import Result, Subject, check, fails, passed, warns
from luthier.gate.checks.rows import count, some_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTIONS = (
    "How many strings has a lute?",
    "Explain this:\n\n    def f(x):\n\treturn x  # ünïcödé, 弦\n",
)


@check
def template_saved(subject: Subject) -> Result:
    """The template that is saved is the one that is trained.

    Whoever uses the result asks with the tokenizer and the chat template in final_model. Where these make other tokens
    of a question than training did, the model answers a kind of question that it never saw. So both are saved now,
    loaded again as any program would, and compared token by token: questions through the template, and rows as text.

    Fails when one token differs, or when they cannot be saved and loaded.

    Use the tokenizer that belongs to the model, and give the template as a .jinja file in prompt_template.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        try:
            subject.data.template.save(subject.tokenizer, Path(folder))
            loaded = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=subject.plan.config.model.trust_remote_code
            )
        except Exception as error:  # tokenizers raise everything from KeyError to bare Exception
            return fails(f"the tokenizer cannot be saved and loaded again: {brief(error)}")
    questions = (*_QUESTIONS, *subject.plan.config.evaluation.sample_prompts)
    for question in questions:
        try:
            trained = subject.data.template.prompt_ids(subject.tokenizer, question)
            served = _prompt_ids(loaded, question)
        except Exception as error:  # a template is a program: it may raise anything
            return fails(f"the template refuses a question: {brief(error)}")
        if served != trained:
            return fails(_difference(subject.tokenizer, trained, served))
    rows = [row for index in some_rows(subject) for row in subject.data.train.members(index)]
    for row in rows:
        text = subject.tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False)
        before, after = (_plain_ids(tokenizer, text) for tokenizer in (subject.tokenizer, loaded))
        if before != after:
            return fails(f"{row.place}: {_difference(subject.tokenizer, before, after)}")
    return passed(f"saved and loaded: the same tokens for {len(questions)} questions and {count(len(rows))}")


def _prompt_ids(tokenizer: Any, question: str) -> list[int]:
    messages = [{"role": "user", "content": question}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _difference(tokenizer: PreTrainedTokenizerBase, trained: list[int], served: list[int]) -> str:
    """The first place where two lists differ, in words."""
    pairs = zip(trained, served, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(trained), len(served)))
    sides = [repr(tokenizer.decode(ids[at : at + 4])) if ids[at:] else "nothing" for ids in (trained, served)]
    return f"from token {at + 1:,} on, training has {sides[0]} and final_model would have {sides[1]}"


@check
def vocabulary(subject: Subject) -> Result:
    """Every token has a place in the model.

    A token id is the number of a row of the model's embeddings. An id beyond the last one ends the run in the middle,
    on a GPU with an error that names anything but the cause.

    Fails when a row has such an id; warns when the tokenizer has more tokens than the model embeddings.

    Use the tokenizer that belongs to the model.
    """
    assert subject.plan.model is not None
    embeddings, tokens = subject.plan.model.vocab_size, len(subject.tokenizer)
    largest = subject.data.train.store.largest_id()
    if largest >= embeddings:
        found = f"the rows have token {largest:,}, and the model embeddings up to {embeddings - 1:,}"
        return fails(found, change="model.tokenizer_name_or_path: null")
    if tokens > embeddings:
        return warns(
            f"the tokenizer has {tokens:,} tokens, and the model {embeddings:,} embeddings; no row has the rest"
        )
    return passed(f"{tokens:,} tokens, {embeddings:,} embeddings; the largest id in the rows is {largest:,}")


@check
def sample_prompts(subject: Subject) -> Result:
    """The model can answer the sample prompts.

    What it writes to sample_prompts shows more than a loss. A prompt as long as the model's context leaves no room for
    an answer, and a token without an embedding cannot be read.

    Fails when one of them is such a prompt.

    Shorten it, or leave that token out of it.
    """
    assert subject.plan.model is not None
    context, embeddings = subject.plan.model.max_position_embeddings, subject.plan.model.vocab_size
    prompts, longest = subject.plan.config.evaluation.sample_prompts, 0
    for number, prompt in enumerate(prompts, 1):
        try:
            ids = subject.data.prompt_ids(subject.tokenizer, prompt)
        except Exception:  # `template_saved` says so
            continue
        if context is not None and len(ids) >= context:
            return fails(f"prompt {number} has {len(ids):,} tokens, and the model reads {context:,}", "shorten it")
        if max(ids, default=0) >= embeddings:
            found = f"prompt {number} has token {max(ids):,}, and the model embeddings up to {embeddings - 1:,}"
            return fails(found, "leave that token out of it")
        longest = max(longest, len(ids))
    return passed(f"{count(len(prompts), 'prompts')}, at most {longest:,} tokens" if prompts else "there are none")


@check
def dtype(subject: Subject) -> Result:
    """The device computes in the number format.

    Not every device multiplies in every format, and not every build of bitsandbytes packs weights into 4 bits. A small
    product, with its gradient, is really computed, and a small weight really packed and unpacked, or multiplied in 8
    bits.

    Fails when that raises an error, or does not give the numbers that it must.

    Write dtype: auto; where that is what does not work, dtype: float32, or load_in_4bit: false, or base_precision:
    default.
    """
    config, device = subject.plan.config, subject.plan.machine.device
    name, in_8_bits = str(config.model.dtype), config.quantization.base_precision == "fp8"
    bits = f", frozen weights in 4-bit {config.quantization.bnb_4bit_quant_type}" * config.quantization.load_in_4bit
    bits += ", frozen weights in 8-bit floats" * in_8_bits
    where = f"{name}{bits} on {subject.plan.machine.device_name} ({device})"
    try:
        right = _multiplies(device, name) and (not config.quantization.load_in_4bit or _packs(device, config))
        right = right and (not in_8_bits or _multiplies_8_bits(device))
    except Exception as error:  # what a device or a library lacks, it says in its own way
        return fails(f"{where} does not work: {brief(error)}")
    if not right:
        return fails(f"{where} gives wrong numbers")
    return passed(f"{where}, tried")


def _multiplies(device: str, name: str) -> bool:
    import torch

    ones = torch.ones(8, 8, dtype=getattr(torch, name), device=device, requires_grad=True)
    product = ones @ ones
    product.sum().backward()  # type: ignore[no-untyped-call]
    assert ones.grad is not None
    return bool((product == 8).all()) and bool((ones.grad == 16).all())


def _multiplies_8_bits(device: str) -> bool:
    import torch

    from luthier.model.lean.fp8 import product, quantize_rows

    ones8, scale_T1 = quantize_rows(torch.ones(16, 16, dtype=torch.bfloat16, device=device))
    return bool((product(ones8, scale_T1, ones8, scale_T1[:, 0], torch.bfloat16, fast=True) == 16).all())


def _packs(device: str, config: Any) -> bool:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.ones(64, 64, device=device)
    kind, double = config.quantization.bnb_4bit_quant_type, config.quantization.bnb_4bit_use_double_quant
    packed, state = quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    return bool(torch.allclose(dequantize_4bit(packed, state), weight, atol=0.1))


CHECKS = (template_saved, vocabulary, sample_prompts, dtype)
