"""GGUF files of every layout and tokenizer, opened by real llama.cpp and compared token by token."""

from __future__ import annotations

import time

import gguf
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from luthier.errors import ModelError, RefusedError, RunError
from luthier.export import llama_cpp
from luthier.export.agree import Reference, reference
from luthier.export.gguf_file import check_architecture, interleaved, llama3_factors, write_gguf
from luthier.export.gguf_run import CONVERSATIONS, TEXTS
from luthier.export.gguf_vocab import _REST, _WORDS, vocabulary
from tests.tiny import CORPUS, build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "vocab_size": 420, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.15, "dtype": "float32",
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
NOTHING = Reference([], [], [], ())
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
LAYOUTS = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, untied, biases": lambda: LlamaConfig(
        **SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True
    ),
    "llama, heads of their own size": lambda: LlamaConfig(**SIZES, head_dim=24),
    "llama, rope of llama 3": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, linear rope": lambda: LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    ),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=32),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer that splits as GPT-2 does, with a chat template."""
    tokenizer = build_tokenizer(tmp_path_factory.mktemp("words"))
    tokenizer.chat_template = CHATML
    return tokenizer


def model_of(config):
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():  # biases and norms start as zeros and ones
            if parameter.ndim == 1:
                parameter.data = torch.randn_like(parameter) * 0.3 + (1.0 if "norm" in name else 0.0)
    return model.eval()


def prompts(count=3, length=40):
    """Long enough that rotations matter."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return [[0, *torch.randint(3, 380, (length + i,)).tolist()] for i in range(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_llama_cpp_computes_what_transformers_computes(layout, words, tmp_path):
    model = model_of(LAYOUTS[layout]())
    write_gguf(model, vocabulary(words, 420, (1,)), "f16", tmp_path / "m.gguf", "tiny")
    model = model.half().float()  # the file's own numbers
    known = reference(model, prompts(), (1,), 8)
    found = llama_cpp.agreement_with(layout, known, llama_cpp.listen(tmp_path / "m.gguf", known))
    assert found.top1 >= 0.96 and found.tokens > 20
    assert found.mean_kl < 1e-4, found


@pytest.mark.parametrize(("quant", "bound"), [("bf16", 1e-3), ("q8_0", 1e-2)])
def test_narrower_formats_lie_farther_away(quant, bound, words, tmp_path):
    model = model_of(LAYOUTS["llama"]())
    known = reference(model, prompts(), (1,), 8)
    write_gguf(model, vocabulary(words, 420, (1,)), quant, tmp_path / "m.gguf", "tiny")
    found = llama_cpp.agreement_with(quant, known, llama_cpp.listen(tmp_path / "m.gguf", known))
    assert 1e-9 < found.mean_kl < bound, found
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == quant.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_a_wrong_file_is_seen(words, tmp_path, monkeypatch):
    """The comparison can fail: q and k in the order of transformers are another model."""
    monkeypatch.setattr("luthier.export.gguf_file.interleaved", lambda data, heads: data)
    model = model_of(LAYOUTS["llama"]())
    known = reference(model, prompts(), (1,), 8)
    write_gguf(model, vocabulary(words, 420, (1,)), "f16", tmp_path / "m.gguf", "tiny")
    found = llama_cpp.agreement_with("wrong", known, llama_cpp.listen(tmp_path / "m.gguf", known))
    assert not found.passed and found.mean_kl > 0.02


def trained(pre, normalizer=None, ignore_merges=False, **kinds):
    """A byte-level BPE with this way to split, and ChatML's tokens."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre
    backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ends = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=419, special_tokens=ends, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    backend.train_from_iterator([*CORPUS, *TEXTS] * 3, trainer)
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return wrapped(backend)


def wrapped(backend):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **{}
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def bytes_after(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def split(digits):
    return pre_tokenizers.Split(Regex(_WORDS + digits + _REST), "isolated")


def sentencepiece():
    """As in Llama 2: no bytes but as a last resort, spaces as U+2581."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>", "<pad>", "<unk>"], show_progress=False)
    backend.train_from_iterator([*CORPUS] * 3, trainer)
    import json

    content = json.loads(backend.to_str())
    model = content["model"]
    start = len(model["vocab"])
    for number, name in enumerate(raw):
        model["vocab"][name] = start + number
    backend = Tokenizer.from_str(json.dumps(content))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return wrapped(backend)


TOKENIZERS = {
    "gpt-2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": lambda: trained(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "llama-bpe": lambda: trained(bytes_after(split(r"\p{N}{1,3}")), ignore_merges=True),
    "qwen2": lambda: trained(bytes_after(split(r"\p{N}")), normalizers.NFC()),
    "default": sentencepiece,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_cuts_texts_into_the_same_tokens(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    rows = len(tokenizer) + 3
    found = vocabulary(tokenizer, rows, (1, 4))
    assert found.split == name and found.inexact == "" and found.special["eot"] == 4
    assert found.tokens[-1] == f"[PAD{rows - 1}]" and found.types[-1] == gguf.TokenType.UNUSED
    config = LlamaConfig(**{**SIZES, "vocab_size": rows})
    write_gguf(model_of(config), found, "f16", tmp_path / "m.gguf", "tiny")
    texts = [*TEXTS, *CORPUS, "<s>a</s>", "x<tool>y", "<|im_start|>user\nhi<|im_end|>\n"]
    if name == "default":  # after a special token sentencepiece's own library and llama.cpp put a space, Luthier's not
        texts = [text for text in texts if "<" not in text]
    heard = llama_cpp.listen(tmp_path / "m.gguf", NOTHING, texts, CONVERSATIONS)
    for text, ids in zip(texts, heard.tokens, strict=True):
        assert ids == tokenizer(text).input_ids, text
    for messages, theirs in zip(CONVERSATIONS, heard.rendered, strict=True):
        ours = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert theirs == ours.removeprefix("<s>")


def test_a_split_that_llama_cpp_has_not_is_said():
    pieces = bytes_after(pre_tokenizers.Split(Regex(r"\w+| +"), "isolated"))
    assert "built into llama.cpp" in vocabulary(trained(pieces), 420, (1,)).inexact
    assert "merges inside" in vocabulary(trained(bytes_after(split(r"\p{N}{1,3}"))), 420, (1,)).inexact
    lower = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Lowercase())
    assert "changes texts first (Lowercase)" in vocabulary(lower, 420, (1,)).inexact


def test_e_export_004_another_kind_of_tokenizer():
    unigram = wrapped(Tokenizer(models.Unigram([("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("a", -1.0)], 2)))
    with pytest.raises(RefusedError, match="E-EXPORT-004") as caught:
        vocabulary(unigram, 4, (1,))
    assert "Unigram" in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gemma3_text"}, "gemma3_text"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "part of each head"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"]}, "window"),
    ],
)
def test_e_export_003_a_layout_that_is_not_known(change, words):
    config = LlamaConfig(**SIZES)
    for name, value in change.items():
        object.__setattr__(config, name, value) if name != "model_type" else setattr(config, name, value)
    with pytest.raises(RefusedError, match="E-EXPORT-003") as caught:
        check_architecture(config)
    assert words in str(caught.value)


def test_e_export_009_float16_ends_at_65504(words, tmp_path):
    model = model_of(LAYOUTS["llama"]())
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = 1e5
    with pytest.raises(ModelError, match="E-EXPORT-009") as caught:
        write_gguf(model, vocabulary(words, 420, (1,)), "f16", tmp_path / "m.gguf", "tiny")
    assert "blk.1.ffn_up.weight" in str(caught.value) and "bf16" in str(caught.value)


def test_e_export_007_a_file_that_llama_cpp_does_not_take(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(RunError, match="E-EXPORT-007"):
        llama_cpp.listen(tmp_path / "m.gguf", NOTHING, ["a"])


def test_the_scaling_is_that_of_transformers():
    config = LlamaConfig(**{**SIZES, "head_dim": 64}, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / (10000.0 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64))
    factors = llama3_factors(LLAMA3, 64, 256).double()
    torch.testing.assert_close(plain / factors, scaled.double(), rtol=1e-5, atol=0)
    assert factors.min() == 1.0 and factors.max() == 8.0


def test_rows_of_neighbouring_pairs():
    rows = torch.arange(12)[:, None] * torch.ones(1, 2)
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert interleaved(torch.arange(4), 1).tolist() == [0, 2, 1, 3]


def test_a_model_that_is_not_a_llama_inside(words, tmp_path):
    model = LlamaForCausalLM(LAYOUTS["llama"]())
    model.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(RefusedError, match=r"model\.extra\.weight"):
        write_gguf(model, vocabulary(words, 420, (1,)), "f16", tmp_path / "m.gguf", "tiny")


def test_e_export_007_a_file_on_which_llama_cpp_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "CHILD", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(llama_cpp, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(RunError, match=r"E-EXPORT-007.*did not answer within 0.5 seconds"):
        llama_cpp.listen(tmp_path / "model.gguf", NOTHING)
    assert time.monotonic() - began < 30
