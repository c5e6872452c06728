"""The Modelfile's template renders what the Jinja template renders, or is refused."""

from __future__ import annotations

from importlib.resources import files

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from luthier.data.template import AS_IT_IS
from luthier.errors import RefusedError
from luthier.export.ollama import find_pieces, go_template, modelfile, modelfile_of
from tests.data.support import make_tokenizer
from tests.export.go_template import render as go

ALPACA = files("luthier.data").joinpath("templates/alpaca.jinja").read_text(encoding="utf-8")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system message') }}{% endif %}{% endfor %}"
)
BRACES = (
    "{% for m in messages %}{{ '{{' }}{{ m.role }}{{ '}}' }} {{ m.content }} end\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '{{assistant}} ' }}{% endif %}"
)
TEMPLATES = {
    "alpaca": ALPACA, "chatml": CHATML, "qwen": QWEN, "llama 3": LLAMA3, "mistral": MISTRAL, "braces": BRACES,
    "texts as they are": "{{ bos_token }}" + AS_IT_IS,
}  # fmt: skip


def renderer(source):
    def render(messages, generate):
        (text,), _ = render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>"
        )
        return text

    return render


def talk(*contents, system=None):
    roles = ["user", "assistant"] * 3
    said = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system else []) + said


TALKS = [
    talk("Reverse a string"),
    talk("One", "Two", "Three\n\nlines"),
    talk("a {{ .System }} b", 'say "hi"', "c", "d", "e"),
    talk("Be quick", system="You are a poet."),
    talk("x", "y", "z", system="Answer in French."),
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_renders_what_jinja_renders(name):
    render = renderer(TEMPLATES[name])
    pieces, odd = find_pieces(render)
    template = go_template(pieces)
    for messages in TALKS:
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        if system and pieces.system is None:
            assert name == "mistral" and any("system message" in kind for kind in odd)
            continue
        assert go(template, system, messages) == render(messages, True), messages
    assert '"""' not in template


def test_what_a_template_does_to_odd_contents_is_said():
    assert find_pieces(renderer(CHATML))[1] == []
    assert find_pieces(renderer(LLAMA3))[1] == ["spaces around a message"]
    assert find_pieces(renderer(ALPACA))[1] == ["a message that holds `### Input:`"]


def test_bos_is_left_out_where_ollama_adds_it():
    pieces, _ = find_pieces(renderer(LLAMA3))
    assert go(go_template(pieces.without("<s>")), "", TALKS[0]) == renderer(LLAMA3)(TALKS[0], True).removeprefix("<s>")
    assert go(go_template(pieces.without("<s>")), "Hm", TALKS[3]).startswith("<|start_header_id|>system")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}Q: {{ m.content | upper }}\n{% endfor %}A:",
        "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content }}{% if m.content | length > 15 %} (long){% endif %}\n{% endfor %}",
    ],
)
def test_e_export_005_a_template_that_is_a_program(source):
    with pytest.raises(RefusedError, match="E-EXPORT-005"):
        find_pieces(renderer(source))


def test_the_modelfile():
    pieces, odd = find_pieces(renderer(CHATML))
    text = modelfile("model.gguf", pieces, ["<|im_end|>", '"'], 2048, [*odd, "a\nb"])
    lines = text.splitlines()
    assert "# Not as in training: a b" in lines and "FROM ./model.gguf" in lines and "PARAMETER num_ctx 2048" in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines and 'PARAMETER stop "\\""' in lines
    assert text.count('"""') == 2


@pytest.mark.parametrize(
    ("system", "told"),
    [('Be a poet,\nand "brief".', True), ('Say """', False), (" Be a poet.", False), ('Say "yes"', False)],
)
def test_the_system_message_of_the_training_is_in_it_or_missed_aloud(system, told):
    tokenizer = make_tokenizer(chat_template=CHATML)
    text, said = modelfile_of("model.gguf", tokenizer, [1], 2048, "", system)
    assert (f'\nSYSTEM """{system}"""\n' in text) is told
    assert ("its system message" in said) is not told and ("# Not as in training" in text) is not told
    assert "SYSTEM" not in modelfile_of("model.gguf", tokenizer, [1], 2048, "")[0]
