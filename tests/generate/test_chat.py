"""A conversation: who remembers what, what reaches the terminal, what a Ctrl-C leaves."""

from __future__ import annotations

import shutil

import pytest

from luthier.data.template import AS_IT_IS
from luthier.errors import ModelError
from luthier.events.printable import printable
from luthier.generate.chat import Chat, Printable, once
from luthier.generate.choosing import Sampling
from luthier.generate.load import load
from tests.generate.support import train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("chat") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(scope="module")
def tuned(run):
    return load(run)


def said(chat, text, speaker="tuned"):
    pieces = []
    assert chat.answer(speaker, text, pieces.append)
    return "".join(pieces)


def test_the_second_question_is_asked_after_the_first_turn(tuned):
    chat = Chat(tuned, sampling=Sampling(12))
    assert chat.remembers
    first = said(chat, "Add")
    assert first == printable(tuned.generate("Add", 12))
    heard = tuned.generate("Add", 12)
    messages = [("user", "Add"), ("assistant", heard), ("user", "Reverse")]
    expected = tuned.stream([{"role": r, "content": c} for r, c in messages], lambda piece: None, 12)
    assert said(chat, "Reverse") == printable(expected) != printable(tuned.generate("Reverse", 12))
    chat.reset()
    assert said(chat, "Reverse") == printable(tuned.generate("Reverse", 12))


def test_each_speaker_has_its_own_history(tuned):
    chat = Chat(tuned, ("base", "tuned"), sampling=Sampling(12))
    base, own = said(chat, "Add", "base"), said(chat, "Add")
    assert base != own
    with tuned.as_base():
        assert base == printable(tuned.generate("Add", 12))
        heard = tuned.generate("Add", 12)
        turns = [("user", "Add"), ("assistant", heard), ("user", "Reverse")]
        expected = tuned.stream([{"role": r, "content": c} for r, c in turns], lambda piece: None, 12)
    assert said(chat, "Reverse", "base") == printable(expected)


TEMPLATES = {
    "one question only": (
        "{% if messages|length > 1 %}{{ raise_exception('one question') }}{% endif %}Q: {{ messages[0].content }}\nA: "
    ),
    "the last question only": "Q: {{ messages[-1].content }}\nA: ",
    "a changing beginning": "{{ messages|length }}{% for m in messages %} {{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_holds_no_conversation_gets_single_questions(run, tmp_path, template):
    folder = shutil.copytree(run / "final_model", tmp_path / "single")
    (folder / "chat_template.jinja").write_text(TEMPLATES[template])
    chat = Chat(load(folder), sampling=Sampling(8))
    assert not chat.remembers
    assert said(chat, "Add") == said(chat, "Add")
    said(chat, "Reverse")
    assert chat._turns == {}


def test_a_system_message_stands_before_the_first_turn(tuned):
    chat = Chat(tuned, sampling=Sampling(12), system="Be a poet.")
    first = said(chat, "Add")
    messages = [{"role": "system", "content": "Be a poet."}, {"role": "user", "content": "Add"}]
    assert tuned.tokenizer.decode(tuned.prompt_ids(messages)).startswith("<s>Be a poet.\n\n### Instruction:\nAdd")
    assert first == printable(tuned.stream(messages, lambda piece: None, 12)) != printable(tuned.generate("Add", 12))
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Reverse"}]
    assert chat._messages("tuned", "Reverse") == messages
    chat.reset()
    assert said(chat, "Add") == first
    (once_said,) = once(tuned, "Add", ["tuned"], Sampling(12), "Be a poet.")
    assert printable(once_said["text"]) == first


@pytest.mark.parametrize("template", [AS_IT_IS, TEMPLATES["one question only"], TEMPLATES["the last question only"]])
def test_e_eval_029_a_template_without_a_place_for_a_system_message(run, tmp_path, template):
    folder = shutil.copytree(run / "final_model", tmp_path / "single")
    (folder / "chat_template.jinja").write_text(template)
    alone = load(folder)
    assert said(Chat(alone, sampling=Sampling(4)), "Add")
    with pytest.raises(ModelError, match="E-EVAL-029"):
        Chat(alone, system="Be a poet.")
    with pytest.raises(ModelError, match="E-EVAL-029"):
        once(alone, "Add", ["tuned"], Sampling(4), "Be a poet.")


def test_a_stopped_answer_is_remembered_as_far_as_it_came(tuned):
    chat, pieces = Chat(tuned, sampling=Sampling(12)), []

    def write(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    assert chat.answer("tuned", "Add", write) is False
    (_, answer) = chat._turns["tuned"]
    assert answer["role"] == "assistant" and printable(answer["content"]) == "".join(pieces)
    assert said(chat, "Reverse")


def test_a_conversation_can_outgrow_the_model(tuned):
    chat = Chat(tuned, sampling=Sampling(64))
    turns = 0
    while chat.fits("Write a function number 3 to reverse a list " * 3):
        said(chat, "Write a function number 3 to reverse a list " * 3)
        turns += 1
    assert turns >= 1
    with pytest.raises(ModelError, match="E-EVAL-020"):
        said(chat, "Write a function number 3 to reverse a list " * 3)
    chat.reset()
    assert chat.fits("Add") and said(chat, "Add")


HOSTILE = "a\r\nb\r\x1b[31mred\x1b]0;title\x07\u202eright\t\x9b2J\rc\r"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
def test_pieces_are_made_safe_as_the_whole_would_be(size):
    """Also where an escape sequence or a line break lies across two pieces."""
    written = []
    safe = Printable(written.append)
    for start in range(0, len(HOSTILE), size):
        safe(HOSTILE[start : start + size])
    safe.end()
    assert "".join(written) == printable(HOSTILE)
    assert not {"\x1b", "\x07", "\u202e", "\x9b", "\r"} & set("".join(written))
