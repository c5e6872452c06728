"""Rows as tokens: whole, cut and left out ones, hostile ones; on a terminal and as a page."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.errors import DataError
from luthier.events.console import open_console
from luthier.gate.gate import examine
from luthier.gate.page import page
from luthier.gate.screen import show_checks, show_lengths, show_rows, strip
from luthier.gate.xray import Bar, Token, XRay, length_bars, pieces, special_ids, telling_rows, xray, xrays
from tests.data.support import CHATML, TALK, alpaca, make_tokenizer, preferences
from tests.gate.support import subject

HOSTILE = '\x1b[31mred\x1b]0;title\x07 \x9b2J\u202ebidi <script>alert(1)</script> [bold]x[/] & "quoted" ünï 弦\ttab'


def spelled(row: XRay) -> list[tuple[str, str]]:
    """The row as stretches of one part, each with its text."""
    stretches: list[tuple[str, str]] = []
    for token in row.tokens:
        if stretches and stretches[-1][0] == token.part:
            stretches[-1] = (token.part, stretches[-1][1] + token.text)
        else:
            stretches.append((token.part, token.text))
    return stretches


def screen(rows: list[XRay], most_lines: int | None = None, **options: Any) -> str:
    out = io.StringIO()
    show_rows(open_console(Console(file=out, highlight=False, width=80, **options)), rows, most_lines)
    return out.getvalue()


# Plain data ----------------------------------------------------------------------------------------------------------


def test_a_row_is_its_prompt_and_its_answer(tmp_path: Path):
    row = xray(subject(tmp_path, tokenizer=make_tokenizer(chat_template=CHATML)), 3)
    assert spelled(row) == [
        ("prompt", "<s><|im_start|>user\nSay 2<|im_end|>\n<|im_start|>assistant\n"),
        ("trained", "It is 2.<|im_end|>"),
    ]
    assert (row.number, Path(row.place).name, row.why, row.use) == (3, "rows.jsonl:3", "asked for", "trained on")
    special = [token.text for token in row.tokens if token.special]
    assert special == ["<s>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert row.count("prompt") + row.count("trained") == len(row.tokens) and row.count("cut") == 0


def test_every_turn_of_a_conversation(tmp_path: Path):
    row = xray(subject(tmp_path, [{"messages": TALK}], make_tokenizer(chat_template=CHATML)), 1)
    assert [part for part, _ in spelled(row)] == ["prompt", "trained", "prompt", "trained"]


def test_what_is_cut_is_shown_too(tmp_path: Path):
    rows = [*alpaca(30), {"instruction": "Say much", "output": "x" * 300 + "end"}]
    row = xray(subject(tmp_path, rows, overlong_rows="truncate", max_seq_length=400), 31)
    assert [part for part, _ in spelled(row)] == ["prompt", "trained", "cut"]
    assert spelled(row)[-1][1].endswith("xend</s>")
    assert len(row.tokens) - row.count("cut") == 400


def test_a_row_that_is_left_out_says_why(tmp_path: Path):
    rows = [*alpaca(30), {"instruction": "Say much", "output": "x" * 300}]
    row = xray(subject(tmp_path, rows, max_seq_length=400), 31)
    assert row.use == "left out: longer than max_seq_length (400 tokens)"
    assert row.count("cut") == 0
    prompt = [*alpaca(30), {"instruction": "x" * 400, "output": "Yes."}]
    row = xray(subject(tmp_path, prompt, overlong_rows="truncate", max_seq_length=400), 31)
    assert row.use == "left out: nothing left to train"


def test_rows_that_are_held_out_or_not_drawn(tmp_path: Path):
    what = subject(tmp_path, alpaca(20), val_set_size=5)
    uses = [xray(what, number).use for number in range(1, 21)]
    assert (uses.count("held out"), uses.count("trained on")) == (5, 15)


def test_both_answers_of_a_pair(tmp_path: Path):
    tokenizer = make_tokenizer(chat_template=CHATML)
    what = subject(tmp_path, preferences(6), tokenizer, objective="dpo", val_set_size=2)
    chosen, rejected = xrays(what, 3)
    asked = "<s><|im_start|>user\nSay 2<|im_end|>\n<|im_start|>assistant\n"
    assert spelled(chosen) == [("prompt", asked), ("trained", "It is 2.<|im_end|>")]
    assert spelled(rejected) == [("prompt", asked), ("trained", "No 2!<|im_end|>")]
    assert (chosen.title, rejected.title) == ("pair 3, chosen", "pair 3, rejected")
    assert Path(chosen.place).name == Path(rejected.place).name == "rows.jsonl:3"
    uses = [tuple(row.use for row in xrays(what, number)) for number in range(1, 7)]
    assert sorted(uses) == [("held out",) * 2] * 2 + [("trained on",) * 2] * 4
    assert "pair 3, rejected" in screen([rejected]) and "Pair 3, chosen" in page([chosen], length_bars(what), 2048)
    with pytest.raises(DataError, match="pair 7 is asked for, and there are 6"):
        xrays(what, 7)


def test_telling_pairs_come_whole(tmp_path: Path):
    rows = [*preferences(9), {"prompt": "Q", "chosen": "A" * 90, "rejected": "B"}]
    shown = telling_rows(subject(tmp_path, rows, objective="dpo"))
    assert [row.answer for row in shown] == ["chosen", "rejected"] * 5
    assert all(one.number == other.number for one, other in zip(shown[::2], shown[1::2], strict=True))
    assert (shown[0].number, shown[0].why) == (10, "longest") and len({row.number for row in shown}) == 5


def test_a_pair_that_is_left_out_says_why(tmp_path: Path):
    long = {"prompt": "Q", "chosen": "A", "rejected": "x" * 600}
    same = {"prompt": "R", "chosen": "y" * 500 + "!", "rejected": "y" * 500 + "?"}
    keys = {"objective": "dpo", "max_seq_length": 400}
    dropped = xrays(subject(tmp_path, [*preferences(20), long], **keys), 21)
    assert {row.use for row in dropped} == {"left out: longer than max_seq_length (400 tokens)"}
    cut = xrays(subject(tmp_path, [*preferences(20), same], overlong_rows="truncate", **keys), 21)
    assert {row.use for row in cut} == {"left out: both answers are the same tokens"}


@pytest.mark.parametrize("number", [0, -1, 21, 10**9])
def test_a_row_that_is_not_there(tmp_path: Path, number: int):
    with pytest.raises(DataError) as error:
        xray(subject(tmp_path), number)
    assert [problem.code for problem in error.value.problems] == ["E-GATE-003"]
    assert "1 to 20" in str(error.value)


def test_the_longest_the_shortest_and_some_others(tmp_path: Path):
    rows = [*alpaca(20), {"instruction": "Say much", "output": "x" * 200}, {"instruction": "a", "output": "b"}]
    shown = telling_rows(subject(tmp_path, rows), randoms=3)
    assert [(row.number, row.why) for row in shown[:2]] == [(21, "longest"), (22, "shortest")]
    assert [row.why for row in shown[2:]] == ["random"] * 3
    assert len({row.number for row in shown}) == 5
    assert shown == telling_rows(subject(tmp_path, rows), randoms=3), "chance is that of the seed"
    assert len(telling_rows(subject(tmp_path, alpaca(1)))) == 1


@pytest.mark.parametrize(
    "text", ["plain words", "  spaces  ", "ünïcödé 弦 👩‍👩‍👧", "\n\n\t x\r\n", "<s> as text</s>", "\ufffd"]
)
def test_the_pieces_are_the_text(text: str):
    tokenizer = make_tokenizer()
    ids = tokenizer(text)["input_ids"]
    texts = pieces(tokenizer, ids, special_ids(tokenizer))
    assert len(texts) == len(ids) and "".join(texts) == f"<s>{text}"


def test_the_pieces_of_a_character_that_is_not_whole():
    tokenizer = make_tokenizer()
    ids = tokenizer("弦")["input_ids"]
    assert pieces(tokenizer, [*ids[:-1], 1], special_ids(tokenizer))[-1] == "</s>"
    assert "\ufffd" in "".join(pieces(tokenizer, ids[:-1], special_ids(tokenizer)))


def test_the_bars_count_every_row(tmp_path: Path):
    rows = [*alpaca(20), {"instruction": "Say much", "output": "x" * 300}]
    what = subject(tmp_path, rows, max_seq_length=400)
    bars = length_bars(what)
    assert sum(bar.rows for bar in bars) == 21 and bars[0].low == 1
    lengths = what.data.train.store.lengths
    for bar in bars:
        assert bar.rows == ((lengths >= bar.low) & (lengths <= bar.high)).sum()
        assert bar.over == (bar.low > 400)
    assert sum(bar.rows for bar in bars if bar.over) == 1


# On a terminal -------------------------------------------------------------------------------------------------------


def test_the_strip_reads_without_colour(tmp_path: Path):
    text = screen([xray(subject(tmp_path, tokenizer=make_tokenizer(chat_template=CHATML)), 3)])
    assert "\x1b" not in text
    assert "  prompt  <s><|im_start|>user↵\n          Say 2<|im_end|>↵\n          <|im_start|>assistant↵\n" in text
    assert " trained  It is 2.<|im_end|>\n" in text
    assert "row 3  " in text and "rows.jsonl:3" in text and "read, not trained" in text


def test_the_strip_has_colours_on_a_terminal(tmp_path: Path):
    text = screen([xray(subject(tmp_path), 1)], force_terminal=True, color_system="truecolor")
    assert "\x1b[" in text and "48;2;134;200;134" in text


def test_long_rows_show_their_end(tmp_path: Path):
    rows = [{"instruction": "Say much", "output": "\n".join(f"line {n}" for n in range(100))}, *alpaca(3)]
    text = screen([xray(subject(tmp_path, rows), 1)], most_lines=12)
    assert "more lines ..." in text and "line 99</s>" in text and "line 50" not in text
    assert len([line for line in text.splitlines() if line.startswith((" " * 10, "  prompt", " trained"))]) <= 14


def test_no_line_is_wider_than_the_terminal(tmp_path: Path):
    rows = [{"instruction": "弦" * 90, "output": "y" * 200}]
    tokens = xray(subject(tmp_path, rows), 1).tokens
    for width in (30, 57, 80):
        assert all(line.cell_len < max(width, 32) for line in strip(tokens, width))


def test_hostile_rows_cannot_reach_the_terminal(tmp_path: Path):
    what = subject(tmp_path, [{"instruction": HOSTILE, "output": HOSTILE}, *alpaca(3)])
    text = screen([xray(what, 1)])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "\\x1b[31mred\\x1b]0;title\\x07" in text and "\\u202ebidi" in text and "[bold]x[/]" in text


def test_spaces_and_breaks_are_seen():
    texts = ["a ", "\n", "b\t", " c", "d ", "e"]
    lines = [line.plain.strip(" ") for line in strip([Token(1, text, "prompt", False) for text in texts], 60)]
    assert lines == ["prompt  a·↵", "b⇥    cd e"]
    texts = ["in", " ", "", "Ł", " "]  # a letter of two tokens, and a space that is the end
    (line,) = strip([Token(1, text, "prompt", False) for text in texts], 60)
    assert line.plain == "  prompt  in Ł·"


def test_bars_and_checks_on_a_screen(tmp_path: Path):
    out = io.StringIO()
    console = open_console(Console(file=out, highlight=False))
    what = subject(tmp_path, [*alpaca(20), {"instruction": "Say \x1b[31m", "output": "x" * 300}], max_seq_length=400)
    show_lengths(console, length_bars(what), 400)
    show_checks(console, examine(what))
    text = out.getvalue()
    assert "█" in text and "too long" in text and "max_seq_length is 400" in text
    assert "! rows-cut" in text and "change  data.max_seq_length: " in text and "18 checks passed, 1 warning" in text
    assert max(map(len, text.splitlines())) <= 100 and "\x1b" not in text


# As a page -----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser would make of the page: its tags, and the text of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._in_row = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._in_row = self._in_row or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._in_row = self._in_row and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data if self._in_row else ""


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_holds_hostile_rows_as_text(tmp_path: Path):
    what = subject(tmp_path, [{"instruction": HOSTILE, "output": HOSTILE}, *alpaca(3)])
    text = page([xray(what, 1)], length_bars(what), 2048)
    reader = read(text)
    assert not reader.tags & {"script", "img", "iframe", "link", "object", "embed", "form", "a", "svg"}
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "href")]
    assert "<script>alert(1)</script>" in reader.text and '& "quoted"' in reader.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text


def test_a_token_that_is_markup_by_itself():
    texts = ("<script>alert(1)</script>", "</pre>", '"><img src=x onerror=alert(1)>', "&lt;")
    row = XRay(1, "rows.jsonl:1", "random", "trained on", tuple(Token(1, text, "prompt", False) for text in texts))
    reader = read(page([row], [Bar(1, 10, 1, False)], 10))
    assert reader.text == "".join(texts) and not reader.tags & {"script", "img"}


def test_the_place_of_a_row_is_escaped():
    row = XRay(1, "<b>x</b>.jsonl:1", "random", "trained on", (Token(1, "a", "prompt", False),))
    assert "<b>" not in page([row], [Bar(1, 10, 1, False)], 10)


def test_the_page_marks_each_token(tmp_path: Path):
    row = xray(subject(tmp_path), 1)
    spans = re.findall(
        r'<span class="(prompt|trained|cut)(?: b)?( special)?" title="(\d+)">', page([row], [Bar(1, 9, 1, False)], 9)
    )
    assert [(part, bool(special), int(token)) for part, special, token in spans] == [
        (token.part, token.special, token.id) for token in row.tokens
    ]
