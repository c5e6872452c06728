"""The loss on general text is that of plain transformers, and its change has an honest interval."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.errors import DataError
from luthier.evaluate.answers import Answers
from luthier.evaluate.candidate import Asked, Candidate
from luthier.evaluate.forgetting import Passages, forgotten, losses, read_passages

TEXT = "def add(a, b)\n  \nreverse a string\r\n\r\n\r\ncount vowels in two numbers\n"


@pytest.fixture
def passages(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, newline="")
    return read_passages(str(tmp_path / "text.txt"))


def test_passages_lie_between_empty_lines(passages):
    assert passages.texts == ("def add(a, b)", "reverse a string", "count vowels in two numbers")
    general = read_passages("general")
    assert len(general.texts) > 10 and all(len(text) > 200 for text in general.texts)
    assert read_passages("none") is None


def test_losses_are_those_of_plain_transformers(passages, tiny_model_dir):
    asked = Asked(Candidate(str(tiny_model_dir)))
    found = losses(asked, passages, Answers())
    model, tokenizer = (kind.from_pretrained(tiny_model_dir) for kind in (AutoModelForCausalLM, AutoTokenizer))
    for text, (total, tokens) in zip(passages.texts, found, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            mean = model(input_ids=ids, labels=ids).loss.item()
        assert tokens == ids.shape[1] - 1 and total == pytest.approx(mean * tokens, rel=1e-5)


def test_known_losses_load_no_model(passages, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = Asked(Candidate(str(tiny_model_dir)))
    first = losses(asked, passages, Answers(asked.about))
    loaded = []
    again = Asked(Candidate(str(tiny_model_dir), loading=lambda: loaded.append(1)))
    assert losses(again, passages, Answers(again.about)) == first and loaded == []


def test_the_change_is_a_mean_over_tokens_with_an_interval_over_passages():
    passages = Passages("x", ("a", "b", "c"))
    base, tuned = [(2.0, 2), (10.0, 10), (4.0, 4)], [(3.0, 2), (14.0, 10), (6.0, 4)]
    found = forgotten(passages, tuned, base)
    assert (found.base, found.tuned, found.tokens) == (1.0, 23 / 16, 16)
    assert found.difference == pytest.approx(7 / 16) and 0.4 <= found.low < found.difference < found.high <= 0.5
    assert str(found).startswith("loss rose from 1.000 to 1.438: +0.438 nats a token (95 % CI +0.4")
    assert "fell" in str(forgotten(passages, base, tuned))
    assert "did not clearly change, from 1.000 to 1.000" in str(forgotten(passages, base, base))
    alone = forgotten(passages, tuned, None)
    assert alone.base is None and str(alone) == "loss 1.438 nats a token, on x"


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "empty"])
def test_e_eval_028_a_text_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "text.txt"
    if kind == "folder":
        path.mkdir()
    if kind in ("binary", "empty"):
        path.write_bytes(b"\xff\xfe\x00" if kind == "binary" else b" \n\n")
    with pytest.raises(DataError) as caught:
        read_passages(str(path))
    assert caught.value.problems[0].code == "E-EVAL-028"
