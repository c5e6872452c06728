"""Templates and masks: the text of every row, decoded, and which part of it is trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data import template_limits
from luthier.data.collate import collate_packed
from luthier.data.messages import Message
from luthier.data.template import load_template
from luthier.errors import DataError
from tests.data.support import CHATML, LLAMA3, TALK, make_tokenizer, pieces, problems, run, write_jsonl

PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
EMPTY_THINKING = "<think>\n\n</think>\n\n"
FORGETS = CHATML.replace("message.content +", "(message.content if loop.last else message.content | upper) +")


def one(tokenizer: Any, tmp_path: Path, row: dict[str, Any], **data: Any) -> list[tuple[str, bool]]:
    prepared = run(tokenizer, write_jsonl(tmp_path / "rows.jsonl", [row]), **data)
    return pieces(tokenizer, prepared.train.members(0)[0])


def test_alpaca(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "output": "a + b\r\n\t"}
    assert one(make_tokenizer(), tmp_path, row) == [
        ("<s>" + PREAMBLE + "### Instruction:\nAdd.\n\n### Response:\n", False),
        ("a + b\r\n\t</s>", True),
    ]


def test_alpaca_with_input(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert one(make_tokenizer(), tmp_path, row) == [
        ("<s>" + PAIRED + "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n", False),
        ("3</s>", True),
    ]
    chat = one(make_tokenizer(chat_template=CHATML), tmp_path, row)
    assert chat[0][0] == "<s><|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n"


def test_alpaca_of_several_turns_and_a_system_message(tmp_path: Path) -> None:
    assert one(make_tokenizer(bos=False), tmp_path, {"messages": TALK}) == [
        ("Be short.\n\n### Instruction:\nOne?\n\n### Response:\n", False),
        ("1</s>", True),
        ("\n\n### Instruction:\nTwo?\n\n### Response:\n", False),
        ("2</s>", True),
    ]


def test_chatml_trains_every_answer_up_to_its_end_of_turn(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(bos=False, chat_template=CHATML)
    assert one(tokenizer, tmp_path, {"messages": TALK}) == [
        ("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n", False),
        ("1<|im_end|>", True),
        ("\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n", False),
        ("2<|im_end|>", True),
    ]


def test_llama3_brings_its_own_bos_and_a_date_that_stays(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(chat_template=LLAMA3)
    row = {"messages": TALK[1:3]}
    head = "<s>Today Date: 26 Jul 2024\n\n<|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>"
    assert one(tokenizer, tmp_path, row) == [
        (head + "<|start_header_id|>assistant<|end_header_id|>\n\n", False),
        ("1<|eot_id|>", True),
    ]
    template = load_template("chat", tokenizer, tmp_path)
    assert template.end_of_turn == "<|eot_id|>"
    assert tokenizer.decode(template.stop_ids(tokenizer)) == "</s><|eot_id|>"


def test_template_without_an_end_gets_eos(tmp_path: Path) -> None:
    plain = "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    row = {"instruction": "Q", "output": "A"}
    got = one(make_tokenizer(chat_template=plain), tmp_path, row)
    assert got == [("<s>user: Q\nassistant: ", False), ("A\n</s>", True)]


def test_raw_rows_use_no_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(chat_template=CHATML)
    pair = {"prompt": "2 + 2 =", "completion": " 4"}
    assert one(tokenizer, tmp_path, pair) == [("<s>2 + 2 =", False), (" 4</s>", True)]
    assert one(tokenizer, tmp_path, {"text": "Once."}) == [("<s>", False), ("Once.</s>", True)]
    closed = {"prompt": "<s>2 + 2 =", "completion": " 4</s>"}
    assert one(tokenizer, tmp_path, closed) == [("<s>2 + 2 =", False), (" 4</s>", True)]


def test_only_the_completion_of_message_lists_is_trained(tmp_path: Path) -> None:
    row = {"prompt": TALK[:4], "completion": TALK[4:]}
    got = one(make_tokenizer(bos=False, chat_template=CHATML), tmp_path, row)
    assert [text for text, trained in got if trained] == ["2<|im_end|>"]


def test_an_answer_of_weight_0_is_not_learned_as_a_part_of_a_prompt_either(tmp_path: Path) -> None:
    talk = [dict(turn) for turn in TALK]
    talk[2] |= {"weight": 0, "content": "wrong"}
    tokenizer = make_tokenizer(chat_template=CHATML)
    got = one(tokenizer, tmp_path, {"messages": talk}, completion_only_loss=False)
    assert [text for text, trained in got if not trained] == ["<s>", "wrong<|im_end|>"]


def test_prompts_too_trains_all_but_bos(tmp_path: Path) -> None:
    row = {"instruction": "Q", "output": "A"}
    got = one(make_tokenizer(), tmp_path, row, completion_only_loss=False)
    assert [trained for _, trained in got] == [False, True]
    assert got[0][0] == "<s>"
    got = one(make_tokenizer(bos=False), tmp_path, row, completion_only_loss=False)
    assert [trained for _, trained in got] == [False, True], "nothing predicts the first token"


@pytest.mark.parametrize("chat_template", [None, CHATML, LLAMA3])
@pytest.mark.parametrize("bos", [True, False])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    talk=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30).filter(
            str.strip
        ),
        min_size=2,
        max_size=6,
    ).filter(lambda texts: len(texts) % 2 == 0)
)
def test_invariants(tmp_path: Path, chat_template: str | None, bos: bool, talk: list[str]) -> None:
    """One BOS, a trained end, the prompt is what inference computes, and what apply_chat_template renders."""
    tokenizer = make_tokenizer(bos=bos, chat_template=chat_template)
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk)]
    prepared = run(tokenizer, write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages}]))
    template, row = prepared.template, prepared.train.members(0)[0]
    ids = row.input_ids.tolist()
    expects_bos = bos or chat_template == LLAMA3
    assert ids.count(tokenizer.bos_token_id) == int(expects_bos)
    assert not row.trained[0]
    assert prepared.report.bos_share == (1.0 if expects_bos else None)
    assert prepared.report.eos_share == 1.0
    assert row.trained[-1]
    assert ids[-1] in template.stop_ids(tokenizer)
    prompt = template.prompt_ids(tokenizer, talk[0])
    assert ids[: len(prompt)] == prompt
    assert not row.trained[: len(prompt)].any()
    assert row.trained[len(prompt)]
    rendered = tokenizer.apply_chat_template(
        messages[:1], chat_template=template.source, add_generation_prompt=True, return_dict=False
    )
    assert rendered == prompt
    assert prepared.train.trained[0] == row.trained.sum()


def test_a_file_is_a_template(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHATML)
    row = {"instruction": "Q", "output": "A"}
    got = one(make_tokenizer(), tmp_path, row, prompt_template=str(tmp_path / "mine.jinja"))
    assert got[1] == ("A<|im_end|>", True)


def test_auto_takes_the_tokenizers_template(tmp_path: Path) -> None:
    assert load_template("auto", make_tokenizer(chat_template=CHATML), tmp_path).name == "chat"
    assert load_template("auto", make_tokenizer(), tmp_path).name == "alpaca"
    assert load_template("alpaca", make_tokenizer(chat_template=CHATML), tmp_path).name == "alpaca"


@pytest.mark.parametrize("bos", [True, False])
def test_what_a_run_on_texts_leaves_is_no_template_for_questions(tmp_path: Path, bos: bool) -> None:
    first = run(
        make_tokenizer(bos=bos, chat_template=CHATML), write_jsonl(tmp_path / "texts.jsonl", [{"text": "A b."}])
    )
    first.template.save(make_tokenizer(bos=bos), tmp_path / "final_model")
    base = AutoTokenizer.from_pretrained(tmp_path / "final_model")
    assert base.chat_template  # it asks with the text alone
    alone = run(make_tokenizer(bos=bos), rows := write_jsonl(tmp_path / "rows.jsonl", [{"messages": TALK}]))
    after = run(base, rows)
    assert after.report.template == "alpaca" and after.template.source == alone.template.source
    assert pieces(base, after.train.members(0)[0]) == pieces(base, alone.train.members(0)[0])
    assert refusal("chat", base, tmp_path) == "E-DATA-030"
    again = run(base, tmp_path / "texts.jsonl")
    assert again.template.source == first.template.source and again.report.leaves_chat_template is False


def refusal(spec: str, tokenizer: Any, base_dir: Path) -> str:
    with pytest.raises(DataError) as error:
        load_template(spec, tokenizer, base_dir)
    return error.value.problems[0].code


def test_chat_needs_a_chat_template(tmp_path: Path) -> None:
    assert refusal("chat", make_tokenizer(), tmp_path) == "E-DATA-030"
    assert refusal("auto", make_tokenizer(chat_template={"tool_use": CHATML}), tmp_path) == "E-DATA-030"


def test_template_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean alpaca"):
        load_template("alpacca", make_tokenizer(), tmp_path)
    with pytest.raises(DataError, match=r"final_model/chat_template\.jinja"):
        load_template("gone.jinja", make_tokenizer(), tmp_path)
    (tmp_path / "wide.jinja").write_bytes("{{ messages }}".encode("utf-16"))
    assert refusal("wide.jinja", make_tokenizer(), tmp_path) == "E-DATA-031"
    assert refusal(".", make_tokenizer(), tmp_path) == "E-DATA-031"
    assert refusal("\0", make_tokenizer(), tmp_path) == "E-DATA-031"


@pytest.mark.parametrize(
    "source",
    [
        "{% for message in messages %}",
        "{{ messages[0].content }}",
        "{% for message in mesages %}{{ message.content }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}",
        "{{ strftime_now(messages[0].content) }}",
        "{{ strftime_now('%d' + '%b') }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "",
    ],
)
def test_template_that_does_not_work(tmp_path: Path, source: str) -> None:
    (tmp_path / "bad.jinja").write_text(source)
    assert refusal("bad.jinja", make_tokenizer(), tmp_path) == "E-DATA-032"


def test_template_that_refuses_a_row(tmp_path: Path) -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    tokenizer = make_tokenizer(chat_template=no_system)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": TALK[1:]}, {"messages": TALK}])
    (problem,) = problems(tokenizer, rows)
    assert problem[:2] == ("E-DATA-033", f"{rows}:2")
    assert "no system" in problem[2]


@pytest.mark.parametrize("template", [FORGETS, CHATML.replace("messages %}", "messages[-1:] %}")])
def test_template_that_rewrites_the_question(tmp_path: Path, template: str) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": TALK}])
    assert problems(make_tokenizer(chat_template=template), rows)[0][0] == "E-DATA-032"


def test_thinking_before_the_last_answer_only(tmp_path: Path) -> None:
    template = CHATML.replace(
        "+ '\n' + message.content",
        f"+ '\n' + ({EMPTY_THINKING!r} if loop.last and message.role == 'assistant' else '') + message.content",
    )
    tokenizer = make_tokenizer(bos=False, chat_template=template)
    single = one(tokenizer, tmp_path, {"messages": TALK[1:3]})
    assert single[1] == (EMPTY_THINKING + "1<|im_end|>", True)
    talk = problems(tokenizer, write_jsonl(tmp_path / "talk.jsonl", [{"messages": TALK}]))
    assert talk[0][0] == "E-DATA-034"


def test_template_with_two_bos(tmp_path: Path) -> None:
    twice = make_tokenizer(chat_template="{{ bos_token }}<s>" + CHATML)
    assert refusal("chat", twice, tmp_path) == "E-DATA-035"


def test_tokenizer_without_eos(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    assert refusal("auto", tokenizer, tmp_path) == "E-DATA-036"


def test_prompt_text_of_messages(tmp_path: Path) -> None:
    template = load_template("alpaca", make_tokenizer(bos=False), tmp_path)
    assert template.prompt_text("Q") == PREAMBLE + "### Instruction:\nQ\n\n### Response:\n"
    assert template.prompt_text([Message("user", "Q")]) == template.prompt_text("Q")


def test_a_saved_template_loads_as_itself(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    template = load_template("alpaca", tokenizer, tmp_path)
    tokenizer.chat_template = template.source
    again = load_template("chat", tokenizer, tmp_path)
    assert again.source == template.source
    assert again.prompt_ids(tokenizer, "Q") == template.prompt_ids(tokenizer, "Q")


def test_special_tokens_in_the_text_are_counted(tmp_path: Path) -> None:
    rows = [{"instruction": "What is <|im_end|>?", "output": "<|im_end|>"}, {"instruction": "Q", "output": "A"}]
    prepared = run(make_tokenizer(chat_template=CHATML), write_jsonl(tmp_path / "rows.jsonl", rows))
    assert prepared.report.special_tokens == {"<|im_end|>": 1}
    assert [Path(place).name for place in prepared.report.special_places] == ["rows.jsonl:1"]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(
    "row",
    [{"text": "def add"}, {"prompt": "Q:", "completion": " A"}, {"messages": TALK}],
    ids=lambda row: next(iter(row)),
)
def test_what_is_counted_as_trained_is_what_the_loss_is_a_mean_over(tmp_path: Path, bos: bool, row: Any) -> None:
    rows = run(make_tokenizer(bos=bos), write_jsonl(tmp_path / "rows.jsonl", [row] * 3)).train
    assert rows.trained.sum() == collate_packed([rows.members(index)[0] for index in range(3)]).num_trained


def test_a_text_of_one_token_has_nothing_to_train(tmp_path: Path) -> None:
    (code, _, found), *_ = problems(make_tokenizer(bos=False), write_jsonl(tmp_path / "a.jsonl", [{"text": "</s>"}]))
    assert code == "E-DATA-041" and "nothing left to train" in found


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("chat_template", [None, CHATML, LLAMA3])
def test_rows_as_they_are_are_asked_as_they_are(tmp_path: Path, bos: bool, chat_template: str | None) -> None:
    tokenizer = make_tokenizer(bos=bos, chat_template=chat_template)
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "Q: ", "completion": "A"}])
    prepared = run(tokenizer, plain)
    assert prepared.report.template == prepared.template.name == "none (rows as they are)"
    assert prepared.report.bos_share == (1.0 if bos else None)
    prepared.template.save(tokenizer, tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    asked = saved.apply_chat_template([{"role": "user", "content": "Q: "}], add_generation_prompt=True)["input_ids"]
    assert len(asked) == 3 + bos and asked == prepared.train.members(0)[0].input_ids[: len(asked)].tolist()
    assert asked == prepared.template.prompt_ids(saved, "Q: ")
    named = run(tokenizer, plain, prompt_template="alpaca")
    assert (named.report.template, named.template.name) == ("none (rows as they are)", "alpaca")
    said = "final_model will not have the model's own chat template; `prompt_template: chat` keeps it"
    assert (said in prepared.report.lines()) == bool(chat_template) and said not in named.report.lines()
    mixed = run(tokenizer, plain, write_jsonl(tmp_path / "talk.jsonl", [{"messages": TALK}]))
    assert mixed.report.template == mixed.template.name == ("chat" if chat_template else "alpaca")


def test_a_token_that_both_begins_and_ends(tmp_path: Path) -> None:
    """GPT-2 has one token for both; rows end with it and do not begin with it."""
    tokenizer = make_tokenizer(bos=False)
    tokenizer.bos_token = tokenizer.eos_token
    got = one(tokenizer, tmp_path, {"instruction": "Q", "output": "A"})
    assert got == [(PREAMBLE + "### Instruction:\nQ\n\n### Response:\n", False), ("A</s>", True)]
    tokenizer = make_tokenizer(bos=True)
    tokenizer.eos_token = tokenizer.bos_token
    prepared = run(tokenizer, write_jsonl(tmp_path / "b.jsonl", [{"instruction": "Q", "output": "A"}]))
    assert pieces(tokenizer, prepared.train.members(0)[0])[1] == ("A<s>", True)
    assert prepared.report.bos_share == 1.0


def test_texts_as_they_are_need_no_bos_of_a_template(tmp_path: Path) -> None:
    """A tokenizer that adds none, beside a chat template that writes one: rows of plain text have none, and rightly."""
    tokenizer = make_tokenizer(bos=False, chat_template=LLAMA3)
    assert run(tokenizer, write_jsonl(tmp_path / "a.jsonl", [{"text": "def add"}])).report.bos_share is None
    assert (
        run(tokenizer, write_jsonl(tmp_path / "b.jsonl", [{"instruction": "Q", "output": "A"}])).report.bos_share == 1
    )


ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def spaced_tokenizer(kind: str, chat_template: str | None) -> Any:
    """SentencePiece-like: a space in front of each text, as Llama 2, Mistral and T5 have it."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    if kind == "by normalizing":
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)  # type: ignore[arg-type]
        bpe.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(special_tokens=special, vocab_size=400, show_progress=False)
    bpe.train_from_iterator(
        [PREAMBLE + "### Instruction: def add Q A Response", "\n\r\t", "OTw?Be12short.<|>"], trainer
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize("kind", ["first", "always", "by normalizing"])
def test_words_with_their_space_in_front(tmp_path: Path, kind: str) -> None:
    """SentencePiece-like tokenizers, which put a space before a text: pieces stay what inference computes."""
    tokenizer = spaced_tokenizer(kind, None)
    prepared = run(tokenizer, write_jsonl(tmp_path / "a.jsonl", [{"instruction": "Q", "output": "A def"}]))
    row, prompt = prepared.train.members(0)[0], prepared.template.prompt_ids(tokenizer, "Q")
    assert row.input_ids.tolist()[: len(prompt)] == prompt
    assert tokenizer.decode(row.input_ids[row.trained]).strip() == "A def</s>"
    assert prepared.report.bos_share == prepared.report.eos_share == 1.0


@pytest.mark.parametrize("kind", ["first", "always", "by normalizing"])
@pytest.mark.parametrize("chat_template", [None, CHATML, ZEPHYR], ids=["alpaca", "chatml", "zephyr"])
def test_a_space_in_front_of_a_text_stands_in_front_of_no_piece(
    tmp_path: Path, kind: str, chat_template: str | None
) -> None:
    """All turns, in the tokens that transformers has for the whole; so a second question is asked as it was trained."""
    tokenizer = spaced_tokenizer(kind, chat_template)
    prepared = run(tokenizer, write_jsonl(tmp_path / "a.jsonl", [{"messages": TALK}]))
    ids = prepared.train.members(0)[0].input_ids.tolist()
    assert_as_a_whole(tokenizer, prepared, ids)


def assert_as_a_whole(tokenizer: Any, prepared: Any, ids: list[int]) -> None:
    """That the row of `TALK` has the tokens of inference before each answer, and of transformers in all."""
    messages = [Message(turn["role"], turn["content"]) for turn in TALK]  # type: ignore[arg-type]
    for asked in (2, 4):
        prompt = prepared.template.prompt_ids(tokenizer, messages[:asked])
        assert ids[: len(prompt)] == prompt
    tokenizer.chat_template = prepared.template.source
    whole = tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    assert whole[: len(ids)] == ids


def test_a_special_token_that_takes_the_line_after_it_away(tmp_path: Path) -> None:
    """As those of Phi-3: the line that a template writes between two turns has no token."""
    tokenizer = make_tokenizer(chat_template=CHATML)
    ends = [AddedToken(text, rstrip=True, normalized=False) for text in ("<|im_end|>", "<|im_start|>")]
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    prepared = run(tokenizer, write_jsonl(tmp_path / "a.jsonl", [{"messages": TALK}]))
    assert_as_a_whole(tokenizer, prepared, prepared.train.members(0)[0].input_ids.tolist())


def test_a_bos_that_only_marks_turns_is_not_counted(tmp_path: Path) -> None:
    """SmolLM2 calls <|im_start|> its BOS; nothing puts it in front of a text, and it stands before every turn."""
    tokenizer = make_tokenizer(bos=False, chat_template=CHATML)
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"
    template = load_template("auto", tokenizer, tmp_path)
    ids = template.prompt_ids(tokenizer, "hi")
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids[1] != ids[0]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is tried there")
@pytest.mark.parametrize("child", ["raise ImportError('no such thing')", "", "print('?')"])
def test_e_data_032_a_template_that_cannot_be_tried_is_refused(tmp_path: Path, monkeypatch: Any, child: str) -> None:
    monkeypatch.setattr(template_limits, "_CHILD", child)
    source = CHATML + f"{{# {child} #}}"
    with pytest.raises(DataError, match=r"E-DATA-032.*it cannot be tried"):
        load_template("chat", make_tokenizer(chat_template=source), tmp_path)


def test_the_child_finds_what_is_installed_for_one_user(tmp_path: Path, monkeypatch: Any) -> None:
    """`-I` hides such folders; the child is told where this process found things."""
    (tmp_path / "only_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    code = template_limits._CHILD.replace("import jinja2,", "import only_here, jinja2,")
    monkeypatch.setattr(template_limits, "_CHILD", code)
    assert template_limits.exceeded("{{ 'of one user' }}") == ""
    assert "characters" in template_limits.exceeded("{{ 'a' * 10**7 }}")


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        (CHATML.replace("messages %}", "messages if message.role != 'system' %}"), "system"),
        (
            CHATML.replace("message.content", "('' if message.role == 'user' and not loop.first else message.content)"),
            "user",
        ),
    ],
)
def test_template_that_leaves_a_message_out(tmp_path: Path, source: str, lost: str) -> None:
    talk = TALK if lost == "system" else TALK[1:]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": talk[-2:]}, {"messages": talk}])
    (problem,) = problems(make_tokenizer(chat_template=source), rows)
    assert problem[:2] == ("E-DATA-033", f"{rows}:2")
    assert f"leaves out the {lost} message" in problem[2]


def test_a_message_in_other_words_is_not_left_out(tmp_path: Path) -> None:
    template = CHATML.replace(
        "message.content +", "(message.content | upper if message.role == 'system' else message.content) +"
    )
    assert "BE SHORT." in one(make_tokenizer(chat_template=template), tmp_path, {"messages": TALK})[0][0]
