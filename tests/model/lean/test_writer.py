"""Writing with a cache, against the model's own layers over whole rows; and steps that are replayed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier.model.lean import writer as writer_module
from luthier.model.lean.adapters import Adapters
from luthier.model.lean.fp8 import to_fp8
from luthier.model.lean.linears import Build
from luthier.model.lean.parts import Parts
from luthier.model.lean.proof import writes_the_same
from luthier.model.lean.writer import LeanWriter
from tests.model.lean.test_decoder import EXACT, MODELS, build

PROMPTS = [[5, 7], [3, 1, 40, 9, 8, 77, 12], [200, 5, 7, 9]]
ANSWERS = [[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26], [31, 5, 33, 5, 35, 36]]
LONGEST = max(map(len, PROMPTS))


def writer_of(model, recorder=None, dtype=torch.float64):
    parts = Parts.of(model.get_base_model(), Build(dtype, True, {}))
    return LeanWriter(parts, Adapters(parts.stacks, parts.build.pieces).refresh, recorder)


def padded(prompts):
    """Ids and mask (B, T), padded on the left."""
    longest = max(map(len, prompts))
    ids = [[250] * (longest - len(prompt)) + prompt for prompt in prompts]
    return torch.tensor(ids), torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])


def written(writer, prompts=PROMPTS, answers=ANSWERS):
    """The logits (B, V) after the prompts and after each token of the answers."""
    (ids, mask), steps = padded(prompts), len(answers[0])
    longest = ids.shape[1]
    cache = writer.cache(len(prompts), longest + steps)
    with torch.no_grad():
        logits = [writer.forward(ids, cache, mask).logits[:, -1].clone()]
        for token_B1 in torch.tensor(answers).T[:, :, None]:
            mask = torch.cat([mask, torch.ones_like(token_B1)], 1)
            logits.append(writer.forward(token_B1, cache, mask).logits[:, -1].clone())
    assert cache.get_seq_length() == longest + steps
    return logits


def own(model, prompts=PROMPTS, answers=ANSWERS):
    """The same by the model's own layers, one row at a time, without padding and without a cache."""
    causal_lm = model.get_base_model()
    causal_lm.set_attn_implementation("eager")
    rows = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            rows.append(causal_lm(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 :])
    return list(torch.stack(rows).transpose(0, 1))


def off(found, expected):
    parts = [(x - y).norm() / y.norm() for x, y in zip(found, expected, strict=True)]
    return float(torch.stack(parts).max())  # nan wins, unlike in max()


@pytest.mark.parametrize("kind", MODELS)
def test_the_logits_are_those_of_the_models_own_layers(kind):
    model = build(kind)
    assert off(written(writer_of(model)), own(model)) < EXACT


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_without_padding_no_mask_is_given(kind):
    model = build(kind)
    writer = writer_of(model)
    cache = writer.cache(1, 8)
    with torch.no_grad():
        found = [writer.forward(torch.tensor([PROMPTS[1]]), cache).logits[:, -1]]
        found.append(writer.forward(torch.tensor([[21]]), cache).logits[:, -1])
    assert off(found, own(model, PROMPTS[1:2], [[21]])) < EXACT


class Largest(TorchDispatchMode):
    """Remembers the numbers of the largest tensor that is made."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.most = max(self.most, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)), 0)
        return made


def test_a_long_prompt_without_padding_takes_no_mask_as_large_as_its_length_squared():
    """`generate` hands in a mask also where there is no padding."""
    writer = writer_of(build())
    ids = torch.arange(800)[None] % 290
    cache = writer.cache(1, 801)
    with torch.no_grad(), Largest() as seen:
        writer.forward(ids, cache, torch.ones_like(ids))
    assert 0 < seen.most < 800 * 800 // 2


def test_padding_is_seen_by_nobody():
    """Whatever stands there: the tokens of the padding change no bit."""
    writer = writer_of(build())
    longest = LONGEST + 3
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS])
    found = []
    for padding in (0, 250):
        ids = torch.tensor([[padding] * (longest - len(p)) + p for p in PROMPTS])
        with torch.no_grad():
            found.append(writer.forward(ids, writer.cache(3, longest), mask).logits)
    assert torch.equal(*found)


class Taped(TorchDispatchMode):
    """Records as CUDA does: operators and the tensors they were given; whatever Python computed is frozen into them."""

    made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "the device would be asked"
        made = function(*args, **(kwargs or {}))
        self.tape.append((function, args, kwargs or {}, made))
        return made

    def __call__(self, work):
        self.tape = tape = []
        Taped.made += 1
        places = [x.clone() for x in self.state()]
        with self:
            logits = work()
        for place, values in zip(self.state(), places, strict=True):  # a recording computes nothing yet
            place.copy_(values)

        def replay():
            for function, args, kwargs, made in tape:
                again = function(*args, **kwargs)
                for x, y in zip(tree_leaves(made), tree_leaves(again), strict=True):
                    if isinstance(x, torch.Tensor) and x.data_ptr() != y.data_ptr():
                        x.copy_(y)
            return logits

        return replay

    def watch(self, writer):
        """The tensors that a step changes are those of the caches that this writer makes."""
        make = writer.cache

        def cache(rows, most):
            found = make(rows, most)
            self.state = lambda: [found.place_1, found.position_B1, found.seen_BC, *sum(found.layers, ())]
            return found

        writer.cache = cache
        return writer


@pytest.fixture
def memory_holds_anything():
    """Tensors that are made without values hold nan."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_a_replayed_step_gives_the_logits_of_its_own_tokens(kind, memory_holds_anything):
    model, recorder = build(kind), Taped()
    before = Taped.made
    found = written(recorder.watch(writer_of(model, recorder)))
    assert Taped.made == before + 1, "one recording serves all steps of a batch"
    assert off(found, own(model)) < EXACT


@pytest.mark.parametrize("recorder", [None, Taped()], ids=["launched", "recorded"])
def test_a_cache_grows_with_what_is_written(monkeypatch, recorder, memory_holds_anything):
    monkeypatch.setattr(writer_module, "_PLACES", 8)
    model = build("mistral")
    one = writer_of(model, recorder)
    found = written(one if recorder is None else recorder.watch(one))
    assert off(found, own(model)) < EXACT


NEW = [[9, 8, 7, 6, 5, 4, 3, 2, 9, 10, 11, 12, 13, 14, 15], [61, 62]]
NEW_ANSWERS = [[41, 42, 43, 44, 45, 46], [51, 52, 53, 54, 55, 56]]
GROUPS = {"as many": ([1, 2], [1]), "fewer": ([2], []), "more": ([0, 1, 2], [0, 1]), "others": ([], [0, 1]),
          "a longer one": ([0, 1], [0])}  # fmt: skip


@pytest.mark.parametrize("recorder", [None, Taped()], ids=["launched", "recorded"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_rows_leave_and_others_join_them(monkeypatch, recorder, group, kind, memory_holds_anything):
    """After three tokens of the answers: those that stay go on where they were, those that join begin."""
    monkeypatch.setattr(writer_module, "_PLACES", 14)
    kept, joining = GROUPS[group]
    model = build(kind)
    writer = writer_of(model, recorder)
    other = writer.cache(len(joining), max([len(NEW[n]) for n in joining], default=0))
    if recorder is not None:
        recorder.watch(writer)
    cache = begun(writer, writer.cache(3, 40), PROMPTS, [answer[:3] for answer in ANSWERS])
    if joining:
        begun(writer, other, [NEW[n] for n in joining], [[] for _ in joining])
    before, recorded = Taped.made, cache.recorded
    cache.regroup(kept, other)
    assert cache.recorded == (recorded and group == "as many")
    rows = [(PROMPTS[n], ANSWERS[n][:3]) for n in kept] + [(NEW[n], []) for n in joining]
    assert cache.tokens == max(len(prompt) + len(said) for prompt, said in rows)
    going = [ANSWERS[n][3:] for n in kept] + [NEW_ANSWERS[n][:3] for n in joining]
    with torch.no_grad():
        found = [writer.forward(tokens[:, None], cache).logits[:, -1].clone() for tokens in torch.tensor(going).T]
    expected = own(model, [prompt + said for prompt, said in rows], going)[1:]
    assert off(found, expected) < EXACT
    assert Taped.made == before + (recorder is not None and group != "as many")


def test_who_is_no_number_leaves_nothing_behind(memory_holds_anything):
    """Sums of 16 bits overflow; a recorded step reads the places behind the last token, too."""
    model, recorder = build(), Taped()
    writer = writer_of(model, recorder)
    other = begun(writer, writer.cache(1, 2), NEW[1:], [[]])
    recorder.watch(writer)
    cache = begun(writer, writer.cache(2, 40), NEW, [answer[:3] for answer in NEW_ANSWERS])
    for both in cache.layers:
        for store_BKCS in both:
            store_BKCS[0, :, : cache.tokens] = torch.nan
    cache.regroup([1], other)
    assert cache.recorded
    going = [NEW_ANSWERS[1][3:], NEW_ANSWERS[1][:3]]
    with torch.no_grad():
        found = [writer.forward(tokens[:, None], cache).logits[:, -1].clone() for tokens in torch.tensor(going).T]
    expected = own(model, [NEW[1] + NEW_ANSWERS[1][:3], NEW[1]], going)[1:]
    assert off(found, expected) < EXACT


def begun(writer, cache, prompts, answers):
    """A cache that knows prompts, padded on the left, and what was written of them."""
    ids, mask = padded(prompts)
    with torch.no_grad():
        writer.forward(ids, cache, mask)
        for tokens in torch.tensor(answers).T:
            writer.forward(tokens[:, None], cache)
    return cache


def test_a_step_that_cannot_be_recorded_is_launched():
    tried = []

    def recorder(work):
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    model = build()
    writer = writer_of(model, recorder)
    assert off(written(writer), own(model)) < EXACT
    written(writer)
    assert len(tried) == 1


def test_where_memory_for_a_recording_runs_out_fewer_rows_are_recorded_still():
    tried = []

    def recorder(work):
        tried.append(work)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return work

    writer, prompts = writer_of(build(), recorder), [[3, 4], [5, 6, 7], [8]]
    recorded = [begun(writer, writer.cache(rows, 32), prompts[:rows], [[9, 10]] * rows).recorded for rows in (3, 3, 2)]
    assert recorded == [False, False, True] and len(tried) == 2


def sees_all(masks, *args, **options):
    return {window: mask.fill_(0.0) for window, mask in masks(*args, **options).items()}


@pytest.mark.parametrize(
    ("dtype", "in_8_bits"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float16, False), (torch.bfloat16, True)],
)
def test_the_proof_takes_rounding_and_sees_what_is_not_the_same(dtype, in_8_bits):
    model = build(dtype=dtype)
    causal_lm = model.get_base_model()
    causal_lm.set_attn_implementation("sdpa")
    if in_8_bits:
        to_fp8(causal_lm)
    with torch.no_grad():
        assert writes_the_same(writer_of(model, dtype=dtype), causal_lm)
        for spoil in (
            lambda writer: writer.parts.layers[1].o.up_OR.mul_(2),
            lambda writer: setattr(writer.parts.layers[0], "scaling", writer.parts.layers[0].scaling * 3),
            lambda writer: setattr(writer, "_masks", partial(sees_all, writer._masks)),
        ):
            writer = writer_of(model, dtype=dtype)
            spoil(writer)
            assert not writes_the_same(writer, causal_lm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_8_bits", [False, True], ids=["as it is", "8 bits"])
def test_the_proof_sees_one_product_with_twice_its_adapter(dtype, in_8_bits):
    """Also of a young adapter, which is no more of the logits than rounding is."""
    model = build(dtype=dtype)
    causal_lm = model.get_base_model()
    causal_lm.set_attn_implementation("sdpa")
    if in_8_bits:
        to_fp8(causal_lm)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.mul_(0.05)
        assert writes_the_same(writer_of(model, dtype=dtype), causal_lm)
        for number in range(4):
            writer = writer_of(model, dtype=dtype)
            writer.parts.layers[1].stacks[number].up_OR.mul_(2)
            assert not writes_the_same(writer, causal_lm)


def test_the_proof_takes_layers_that_do_nothing():
    """As those that were added to a model, or cut out of it."""
    model = build(targets=["q_proj"], dtype=torch.bfloat16)
    causal_lm = model.get_base_model()
    causal_lm.set_attn_implementation("sdpa")
    with torch.no_grad():
        for projection in (causal_lm.model.layers[1].self_attn.o_proj, causal_lm.model.layers[1].mlp.down_proj):
            projection.weight.zero_()
        assert writes_the_same(writer_of(model, dtype=torch.bfloat16), causal_lm)
