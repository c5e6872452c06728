"""The prompt template: always a Jinja chat template, so that what is trained is what `apply_chat_template` renders.

The mask comes from construction. For every answer i of a conversation

    before = render(messages up to answer i, add_generation_prompt=True)     not trained
    after  = render(messages up to and with answer i)                        must begin with `before`
    after[len(before):]  up to the end-of-turn token                         trained

and the pieces are tokenized one by one, so the tokens of a prompt are those that inference computes for it. Where a
tokenizer looks at what stands beside a piece (`reads_neighbours`), a piece has the tokens that it adds to those of the
text before it.

A tokenizer that begins texts with BOS does not do so in `apply_chat_template`: there the template must write it. One
that does not gets `{{ bos_token }}` in front, so that whoever renders it later starts as training did.

Templates that print today's date would make every day another dataset: calls of `strftime_now("...")` are replaced by
a fixed date when the template is loaded, for training and for models that write.

Rows that are final text are rendered by no template. What is saved for them is `AS_IT_IS`, so that whoever asks through
the saved template asks with the text alone, as training did; or the template that the config names. As a base's own
template it counts as none: questions and answers would touch.

Not covered: tools, documents, templates that change earlier turns (refused).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.messages import Message, Segment
from luthier.data.problems import RowError, refuse
from luthier.data.template_limits import exceeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE_QUESTION = "How many strings has a lute?"
_PROBE_ANSWER = "Often fifteen."
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(?P<format>((?!\1).)*)\1\s*\)""")
_FIXED_DATE = datetime(2024, 7, 26)  # the date that Llama 3's own template falls back to
_ALPACA_INPUT = "### Input:"
AS_IT_IS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NO_TEMPLATE = "none (rows as they are)"


@dataclass(frozen=True)
class Template:
    """A chat template that has passed its probe.

    Attributes:
        name: `alpaca`, `chat`, the path of the .jinja file, or `NO_TEMPLATE`.
        source: The Jinja text, BOS included: save it as the tokenizer's chat_template.
        tokenizer: Renders it, with its special tokens.
        end_of_turn: The special token that the template itself writes after an answer; empty if it writes none.
    """

    name: str
    source: str
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)
    end_of_turn: str

    @cached_property
    def _special_tokens(self) -> dict[str, Any]:
        return dict(self.tokenizer.special_tokens_map)

    @property
    def as_it_is(self) -> Template:
        """The one for texts with nothing around them, but BOS where the tokenizer wants one; the ends are the same."""
        bos = "{{ bos_token }}" if adds_bos(self.tokenizer) else ""
        return replace(self, name=NO_TEMPLATE, source=bos + AS_IT_IS)

    @property
    def hash(self) -> str:
        """SHA-256 of the Jinja text, in hex."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def prompt_text(self, conversation: str | list[Message]) -> str:
        """The prompt for an instruction, or for messages that end with the user; an answer follows it.

        Raises:
            RowError: The template refuses the conversation.
        """
        messages = [Message("user", conversation)] if isinstance(conversation, str) else conversation
        return self._render(messages, add_generation_prompt=True)

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, conversation: str | list[Message]) -> list[int]:
        """Token ids of `prompt_text`: exactly what a training row with this question begins with."""
        return with_bos(tokenizer, plain_ids(tokenizer, [self.prompt_text(conversation)])[0])

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Tokens that end an answer: EOS, and the template's own end of turn."""
        stop = [tokenizer.eos_token_id]
        if self.end_of_turn and self.end_of_turn != tokenizer.eos_token:
            stop.append(tokenizer.convert_tokens_to_ids(self.end_of_turn))
        return stop

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Write the tokenizer with this template into `folder`, as `final_model` holds it; it is not changed itself."""
        before = tokenizer.chat_template
        tokenizer.chat_template = self.source
        try:
            tokenizer.save_pretrained(folder)
        finally:
            tokenizer.chat_template = before

    def segments(self, messages: list[Message]) -> list[Segment]:
        """Text pieces of a conversation, in turn not trained and trained; the last one is trained.

        Raises:
            RowError: The template refuses the conversation, leaves a turn of it out or rewrites its earlier turns.
        """
        pieces: list[Segment] = []
        done = ""
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render(messages[:number], add_generation_prompt=True)
            self._hold(messages[:number], before)
            after = self._render(messages[: number + 1], add_generation_prompt=False)
            if not (before.startswith(done) and after.startswith(before)):
                fix = "use rows of one question and one answer, or a template that only appends"
                found = f'the template "{self.name}" changes earlier text when answer {number} is added'
                raise RowError("E-DATA-034", found, fix)
            end = len(before) + self._answer_length(after[len(before) :])
            pieces.append(Segment(before[len(done) :], trained=False))
            pieces.append(Segment(after[len(before) : end], message.trained, message.never))
            done = after[:end]
        return pieces

    def _hold(self, prompt: list[Message], rendered: str) -> None:
        """Refuse a prompt of which the last turn, or the system message, has no part in what is rendered."""
        for number in sorted({0, len(prompt) - 1}):
            message = prompt[number]
            if message.content.strip() in rendered:
                continue
            other = replace(message, content=_PROBE_QUESTION)
            if self._render([*prompt[:number], other, *prompt[number + 1 :]], add_generation_prompt=True) != rendered:
                continue  # it is there in other words
            found = f'the template "{self.name}" leaves out the {message.role} message "{message.content[:40]}"'
            fix = f"give the template a branch for the role {message.role}, or leave such messages out of the rows"
            raise RowError("E-DATA-033", found, fix)

    def _answer_length(self, answer: str) -> int:
        """Characters up to the end-of-turn token; white space that a template writes behind it is not learned."""
        stripped = answer.rstrip()
        ends = tuple(token for token in (self.end_of_turn, str(self.tokenizer.eos_token)) if token)
        return len(stripped) if stripped.endswith(ends) else len(answer)

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            # what apply_chat_template calls, without its work around it: rendering is half the time of preparing rows
            (rendered,), _ = render_jinja_template(
                [as_turns(messages, self.source)],
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except Exception as error:  # a template is a program: it may raise anything
            found = f'the template "{self.name}" refuses it: {str(error)[:200]}'
            raise RowError("E-DATA-033", found, "change the row, or choose another template") from error
        return str(rendered)


def load_template(spec: str, tokenizer: PreTrainedTokenizerBase, base_dir: Path) -> Template:
    """The template that `data.prompt_template` asks for, tried on a short conversation.

    Args:
        spec: `auto`, `alpaca`, `chat`, or the path of a .jinja file.
        tokenizer: The model's tokenizer.
        base_dir: Folder that a relative path starts from.

    Raises:
        DataError: No such template, or one that does not work with this tokenizer.
    """
    if tokenizer.eos_token_id is None:
        raise refuse("E-DATA-036", "the tokenizer has no eos_token", "set eos_token in tokenizer_config.json")
    name, source = _find(spec, tokenizer, base_dir)
    try:
        source = without_clock(source)
    except ValueError as error:
        fix = "write the date into the template, or a literal format: strftime_now('%d %b %Y')"
        raise refuse("E-DATA-032", str(error), fix, name) from error
    if name != "alpaca" and (too_much := exceeded(source, tuple(tokenizer.special_tokens_map.items()))):
        found = f"on two short messages {too_much}"
        raise refuse("E-DATA-032", found, "choose another template, or write `prompt_template: alpaca`", name)
    template = _probed(Template(name, source, tokenizer, end_of_turn=""))
    if adds_bos(tokenizer) and not template.prompt_text(_PROBE_QUESTION).startswith(str(tokenizer.bos_token)):
        return replace(template, source="{{ bos_token }}" + source)
    return template


def as_turns(messages: Sequence[Message], source: str) -> list[dict[str, str]]:
    """Messages as a chat template with this Jinja text takes them; it decides how a context is attached."""
    separator = f"\n\n{_ALPACA_INPUT}\n" if _ALPACA_INPUT in source else "\n\n"
    return [
        {"role": message.role, "content": message.content + (separator + message.context if message.context else "")}
        for message in messages
    ]


def adds_nothing(source: object) -> bool:
    """Whether a chat template is `AS_IT_IS`, which a run on final text leaves: no template for questions."""
    return isinstance(source, str) and source.rstrip().endswith(AS_IT_IS)


def without_clock(source: str) -> str:
    """A template's Jinja text with a fixed date in place of today's.

    Raises:
        ValueError: It reads the clock in a way that cannot be replaced.
    """
    fixed = _CLOCK.sub(lambda call: repr(_FIXED_DATE.strftime(call["format"])), source)
    if "strftime_now(" in fixed:
        raise ValueError("the template reads the clock")
    return fixed


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of texts, each by itself, without anything added."""
    from transformers import PreTrainedTokenizerFast

    plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = getattr(type(tokenizer), "_encode_plus", None)
    if backend is None or own is not getattr(PreTrainedTokenizerFast, "_encode_plus", None):
        ids: list[list[int]] = tokenizer(texts, verbose=False, **plain)["input_ids"]
        return ids
    # The same without offsets, masks and their copies, in two thirds of the time. The empty call lets transformers
    # switch off truncation and padding, which a tokenizer's file may have left on.
    tokenizer([""], verbose=False, **plain)
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def reads_neighbours(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a piece of a text can have other ids than where it stands.

    SentencePiece's tokenizers put a space in front of a text, and special tokens can take the white space beside them
    away (Phi-3's).
    """
    if any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values()):
        return True
    line, word, both = plain_ids(tokenizer, ["\n", "It", "\nIt"])
    return both != line + word


def continued_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that goes on after another, where it has others than at a beginning."""
    line, after, alone = plain_ids(tokenizer, ["\n", f"\n{text}", text])
    return after[len(line) :] if after[: len(line)] == line else alone


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer by itself begins a text with BOS."""
    ids = tokenizer("")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def with_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids with BOS in front, where the tokenizer wants one and the text has not brought it."""
    if adds_bos(tokenizer) and ids[:1] != [tokenizer.bos_token_id]:
        return [tokenizer.bos_token_id, *ids]
    return ids


def _find(spec: str, tokenizer: PreTrainedTokenizerBase, base_dir: Path) -> tuple[str, str]:
    where, own = "data.prompt_template", tokenizer.chat_template
    if spec == "chat" and adds_nothing(own):
        found = "the model was trained on texts as they are, and its chat template puts nothing around them"
        raise refuse("E-DATA-030", found, "write `prompt_template: alpaca`, or give the path of a .jinja file", where)
    if spec == "chat" or (spec == "auto" and own and not adds_nothing(own)):
        try:
            return "chat", str(tokenizer.get_chat_template())
        except ValueError as error:
            fix = "write `prompt_template: alpaca`, or give the path of a .jinja file"
            raise refuse("E-DATA-030", "the tokenizer has no chat template to use by default", fix, where) from error
    if spec in ("auto", "alpaca"):
        return "alpaca", files("luthier.data").joinpath("templates/alpaca.jinja").read_text(encoding="utf-8")
    path = base_dir / Path(spec).expanduser()
    try:
        return spec, path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        close = difflib.get_close_matches(spec, ("auto", "alpaca", "chat"), n=1)
        fix = f"did you mean {close[0]}?" if close else "write auto, alpaca, chat, or the path of a .jinja file"
        fix += "; a finished run has its own in final_model/chat_template.jinja" * spec.endswith(".jinja")
        said = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise refuse("E-DATA-031", f'cannot read "{spec}": {said}', fix, where) from error


def _probed(template: Template) -> Template:
    """The template with its end of turn, after a short conversation came out whole."""
    fix = "correct the template, or write `prompt_template: alpaca`"
    question, answer = Message("user", _PROBE_QUESTION), Message("assistant", _PROBE_ANSWER)
    try:
        prompt = template.prompt_text([question])
        whole = template._render([question, answer], add_generation_prompt=False)
    except RowError as problem:
        raise refuse("E-DATA-032", problem.found, fix, template.name) from problem
    lost = [text for text, rendered in ((_PROBE_QUESTION, prompt), (_PROBE_ANSWER, whole)) if text not in rendered]
    if lost:
        raise refuse("E-DATA-032", f'the template leaves out "{lost[0]}"', fix, template.name)
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise refuse("E-DATA-032", "the template writes half of a surrogate pair", fix, template.name) from None
    if not whole.startswith(prompt):
        found = f'with add_generation_prompt it renders "{prompt[-40:]}", which no conversation begins with'
        raise refuse("E-DATA-032", found, fix, template.name)
    tokenizer = template.tokenizer
    # ChatML models may call <|im_start|> their BOS; it is one only where tokenizer or template use it as that.
    begins = adds_bos(tokenizer) or "bos_token" in template.source
    if begins and tokenizer.bos_token and tokenizer.bos_token != tokenizer.eos_token:
        beginnings = with_bos(tokenizer, plain_ids(tokenizer, [whole])[0]).count(tokenizer.bos_token_id)
        if beginnings > 1:
            found = f"{tokenizer.bos_token} stands {beginnings} times in a rendered row"
            raise refuse("E-DATA-035", found, "keep one bos_token, at the start of the template", template.name)
    written = whole[len(prompt) :].rstrip()
    ends = [token for token in tokenizer.get_added_vocab() if token.strip() and written.endswith(token)]
    end = max(ends, key=len, default="")
    return replace(template, end_of_turn="" if end == tokenizer.eos_token else end)
