"""What comes piece by piece is the answer: whole characters, nothing lost, nothing of the stop token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.generate.load import load
from luthier.generate.streaming import Pieces
from tests.generate.support import train_tiny

CODE = "def f(x):\n    if x:\n        return 'é 🎸 弦'\n    return\t0  \n"


def streamed(tokenizer, ids, before=()):
    pieces = []
    streamer = Pieces(tokenizer, pieces.append, before)
    for token in ids:
        streamer.add(token)
    streamer.end()
    return pieces


def sentencepiece_like():
    """Metaspace with bytes for what it does not know, as Llama 2 has it: a decoded text loses its first space."""
    model = models.BPE(byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=list("▁defrtun(x):i0"))
    tokenizer.train_from_iterator(["def f(x): return x if x"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_pieces_are_whole_characters_and_add_up_to_the_answer(tiny_tokenizer_dir, kind):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir) if kind == "byte-level" else sentencepiece_like()
    ids = tokenizer(CODE, add_special_tokens=False).input_ids
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) == CODE
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(ids) > len(pieces) > 15, "some tokens are parts of characters, and pieces come early"


@pytest.mark.parametrize("rest", ["    return x", "return x", "\n  x"])
def test_what_goes_on_on_a_new_line_keeps_its_indentation(tiny_tokenizer_dir, rest):
    """As a function does after its head: HumanEval's are written so."""
    head, tokenizer = "def f(x):\n", sentencepiece_like()
    before, whole = (tokenizer(text, add_special_tokens=False).input_ids for text in (head, head + rest))
    assert whole[: len(before)] == before
    assert "".join(streamed(tokenizer, whole[len(before) :], before)) == rest
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (head, rest))
    assert "".join(streamed(tokenizer, after, before)) == rest


@pytest.fixture(scope="module")
def tokenizers(tiny_tokenizer_dir):
    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir), sentencepiece_like()


@settings(deadline=None)
@given(st.data())
def test_whatever_is_written_comes_whole(tokenizers, data):
    """Any tokens of a byte-level tokenizer, halves of characters among them; any text in SentencePiece's way."""
    byte_level, sentencepiece = tokenizers
    ids = data.draw(st.lists(st.integers(0, len(byte_level) - 1), max_size=40))
    assert "".join(streamed(byte_level, ids)) == byte_level.decode(ids)
    text = data.draw(st.text(st.sampled_from("  \n\tdefrtun(x):i0é弦🎸"), max_size=40))
    ids = sentencepiece(text, add_special_tokens=False).input_ids
    assert "".join(streamed(sentencepiece, ids)) == sentencepiece.decode(ids)


class Counting:
    """A tokenizer that notes how many tokens it decodes at once."""

    def __init__(self, tokenizer):
        self.tokenizer, self.counts = tokenizer, []

    def decode(self, ids):
        self.counts.append(len(ids))
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize("text", [CODE * 20, " " * 500, "🎸" * 100])
def test_a_token_costs_the_same_at_any_length(tokenizers, text):
    for tokenizer in tokenizers:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        counting = Counting(tokenizer)
        assert "".join(streamed(counting, ids)) == tokenizer.decode(ids)
        assert max(counting.counts) <= 40 and len(counting.counts) <= 2 * len(ids) + 1


def test_half_a_character_at_the_end_is_shown_as_that(tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    ids = tokenizer("a🎸", add_special_tokens=False).input_ids[:-1]
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == "a\ufffd"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("stream") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return load(folder)


def test_a_streamed_answer_is_the_answer(tuned):
    pieces = []
    answer = tuned.stream("Reverse a string", pieces.append, 24)
    assert "".join(pieces) == answer == tuned.generate("Reverse a string", 24)
    assert len(pieces) > 5


def test_a_conversation_is_asked_as_the_template_writes_it(tuned):
    turns = [("user", "Add"), ("assistant", "def add(a, b): ..."), ("user", "Now three")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tuned.tokenizer.decode(tuned.prompt_ids(messages))
    assert text.index("Add") < text.index("def add(a, b): ...</s>") < text.index("Now three")
    assert tuned.stream(messages, lambda piece: None, 12) != tuned.stream("Now three", lambda piece: None, 12)


def test_an_interruption_ends_the_answer_and_leaves_the_model_whole(tuned):
    pieces = []

    def write(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    whole = tuned.generate("Reverse a string", 24)
    with pytest.raises(KeyboardInterrupt):
        tuned.stream("Reverse a string", write, 24)
    assert len(pieces) == 3 and whole.startswith("".join(pieces))
    assert tuned.generate("Reverse a string", 24) == whole
