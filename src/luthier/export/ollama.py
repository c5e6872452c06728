r"""Ollama's Modelfile: which file, how a conversation becomes a prompt, where an answer ends, how long a text may be.

Ollama's templates are Go's, not Jinja. A chat template is not translated as a program: it is rendered on marked
conversations, and the fixed texts between the marks are its pieces.

    [without a system message]                          what every prompt begins with
    before S after      the system message, in its place
    before Q after      a question                      before A after      an answer
    [generation prompt]                                 what an answer begins with

The pieces are then put together again for conversations with all kinds of content and compared with what the Jinja
template renders. Plain ones must be equal; where odd ones differ (a template that strips spaces, or looks for a word),
the Modelfile says so.

Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md and template.md.

Not covered: tools, images, thinking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from luthier.data.template import adds_bos
from luthier.errors import Problem, RefusedError
from luthier.events.printable import one_line
from luthier.export.gguf_run import FILE, Companion, export_gguf
from luthier.generate.load import Tuned
from luthier.model.forward import unwrap

Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]
MODELFILE = "Modelfile"
_S, _Q, _A, _R = "first-SYSTEM-mark", "second-QUESTION-mark", "third-ANSWER-mark", "fourth-QUESTION-mark"
_ROLES = ("u", "su", "uau", "suau", "uauau", "ua", "suaua")
_PLAIN = ("Reverse a string", "two\nlines\n\nand a third", "ünï — 漢字 🙂", 'quotes " and \\n and {{ .System }}')
_ODD = {
    "spaces around a message": "  around \n",
    "an empty message": "",
    "a message that holds `### Input:`": "Add\n\n### Input:\nx = 1",
}


@dataclass(frozen=True)
class Pieces:
    """The fixed texts of a chat template.

    Attributes:
        opening: Begins a conversation that has no system message.
        system: Before and after the system message; None where the template takes none.
        question: Before and after.
        answer: Before and after.
        generation: After the last question.
    """

    opening: str
    system: tuple[str, str] | None
    question: tuple[str, str]
    answer: tuple[str, str]
    generation: str

    def text(self, messages: Messages, generate: bool) -> str:
        """A conversation, put together."""
        system = [m["content"] for m in messages if m["role"] == "system"]
        parts = [self.opening]
        if system and self.system:
            parts = [self.system[0], system[0], self.system[1]]
        for message in messages:
            if message["role"] != "system":
                before, after = self.question if message["role"] == "user" else self.answer
                parts += [before, message["content"], after]
        return "".join(parts) + (self.generation if generate else "")

    def without(self, bos: str) -> Pieces:
        """The same where the program that reads the prompt puts BOS in front itself."""
        system = (self.system[0].removeprefix(bos), self.system[1]) if self.system else None
        return Pieces(self.opening.removeprefix(bos), system, self.question, self.answer, self.generation)


def find_pieces(render: Render) -> tuple[Pieces, list[str]]:
    """The pieces of a chat template, and the kinds of content for which they are not all of it.

    Args:
        render: (messages, whether to add a generation prompt) -> text; raises what the template raises.

    Raises:
        RefusedError: E-EXPORT-005 when plain conversations come out otherwise.
    """
    try:
        pieces = _marked(render)
    except Exception as error:  # a template is a program: it may raise anything
        raise _refuse(f"a conversation of two questions: {one_line(str(error))[:160]}") from error
    if pieces is None:
        raise _refuse("what stands before a question depends on what came before it")
    for roles in _ROLES:
        if "s" in roles and pieces.system is None:
            continue
        for content in _PLAIN:
            if not _same(render, pieces, roles, content):
                raise _refuse(f"messages such as {content[:20]!r} are changed by it, or change what is around them")
    odd = [kind for kind, content in _ODD.items() if not all(_same(render, pieces, r, content) for r in ("u", "uau"))]
    return pieces, odd + ([] if pieces.system else ["a system message, which the template does not take"])


def _marked(render: Render) -> Pieces | None:
    question, answer = {"role": "user", "content": _Q}, {"role": "assistant", "content": _A}
    opening, after_question = render([question], True).split(_Q)
    _, between, answered = _cut(render([question, answer], False), _Q, _A)
    _, _, next_question, _ = _cut(render([question, answer, {"role": "user", "content": _R}], True), _Q, _A, _R)
    before = next_question.removeprefix(answered)
    if not next_question.startswith(answered) or not opening.endswith(before):
        return None
    shared = _shared_start(after_question, between)
    generation, before_answer = after_question.removeprefix(shared), between.removeprefix(shared)
    if generation == before_answer == "":  # all of it belongs to the answer
        shared, generation, before_answer = "", after_question, between
    return Pieces(
        opening.removesuffix(before),
        _system(render, question, before),
        (before, shared),
        (before_answer, answered),
        generation,
    )


def _shared_start(first: str, second: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(a for a, _ in pairs)


def _system(render: Render, question: dict[str, str], before: str) -> tuple[str, str] | None:
    try:
        first, second, _ = _cut(render([{"role": "system", "content": _S}, question], True), _S, _Q)
    except Exception:  # it refuses one, or leaves it out
        return None
    return (first, second.removesuffix(before)) if second.endswith(before) else None


def _cut(text: str, *marks: str) -> list[str]:
    """The texts between the marks, each of which stands there once."""
    parts = []
    for mark in marks:
        part, text = text.split(mark)
        parts.append(part)
    return [*parts, text]


def _same(render: Render, pieces: Pieces, roles: str, content: str) -> bool:
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": content} for role in roles]
    generate = roles.endswith("u")
    try:
        return render(messages, generate) == pieces.text(messages, generate)
    except Exception:  # a template may refuse such content; Ollama's cannot
        return False


def go_template(pieces: Pieces) -> str:
    """The template for Ollama: what `Pieces.text` does, in Go's language."""
    system = ""
    if pieces.system:
        system = (
            f"{{{{ if .System }}}}{_text(pieces.system[0])}{{{{ .System }}}}{_text(pieces.system[1])}{{{{ else }}}}"
        )
        system += f"{_text(pieces.opening)}{{{{ end }}}}"
    question, answer = ((_text(before), _text(after)) for before, after in (pieces.question, pieces.answer))
    return (
        f"{system or _text(pieces.opening)}"
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ if eq .Role "user" }}}}{question[0]}{{{{ .Content }}}}{question[1]}'
        f"{{{{ if $last }}}}{_text(pieces.generation)}{{{{ end }}}}"
        f'{{{{ else if eq .Role "assistant" }}}}{answer[0]}{{{{ .Content }}}}'
        f"{{{{ if not $last }}}}{answer[1]}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )


def _text(text: str) -> str:
    """A fixed text in a Go template; one that would be read as something else becomes a string of Go."""
    if "{{" in text or "}}" in text or '"""' in text or text != text.strip("{}"):
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return text


def modelfile(
    gguf: str, pieces: Pieces, stops: Sequence[str], context: int, odd: Sequence[str], system: str = ""
) -> str:
    """The Modelfile.

    Args:
        gguf: Name of the file beside it.
        pieces: Of the chat template, without BOS where the file says that BOS is added.
        stops: Texts that end an answer.
        context: Longest text in tokens.
        odd: For which contents the template is not the one of the training.
        system: The message of conversations that bring none; empty for none.
    """
    lines = ["# Made by Luthier. ollama create NAME -f Modelfile"]
    lines += [f"# Not as in training: {one_line(kind)}" for kind in odd]
    lines += [f"FROM ./{gguf}", f'TEMPLATE """{go_template(pieces)}"""', f"PARAMETER num_ctx {context}"]
    lines += [f'SYSTEM """{system}"""'] if system else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def modelfile_of(
    gguf: str, tokenizer: Any, stop_ids: Sequence[int], context: int, bos: str, system: str = ""
) -> tuple[str, str]:
    """The Modelfile of a run, and what there is to say of it.

    Args:
        gguf: Name of the file beside it.
        tokenizer: With the template of the training.
        stop_ids: What ends an answer.
        context: Longest text in tokens.
        bos: Text that Ollama will put in front itself, because the file says so; empty where it does not.
        system: The system message of the training; empty for none.

    Raises:
        RefusedError: E-EXPORT-005.
    """

    def render(messages: Messages, generate: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False))

    pieces, odd = find_pieces(render)
    if '"""' in system or system != system.strip().strip('"'):  # a Modelfile knows no way to write them
        odd, system = [*odd, "its system message, which Ollama has to be given with each request"], ""
    stops = [tokenizer.decode([token], skip_special_tokens=False) for token in stop_ids]
    text = modelfile(gguf, pieces.without(bos) if bos else pieces, stops, context, odd, system)
    exact = f"the template of the training, tried on {len(_ROLES) * len(_PLAIN)} conversations"
    return text, f"{MODELFILE}: {exact}" + (f"; NOT for {', '.join(odd)}." if odd else ".")


def _companion(tuned: Tuned) -> Companion:
    from luthier.export.gguf_file import context_length

    bos = tuned.tokenizer.bos_token if adds_bos(tuned.tokenizer) else ""
    context = context_length(unwrap(tuned.model).config)
    return Companion(MODELFILE, *modelfile_of(FILE, tuned.tokenizer, tuned.stop_ids, context, bos, tuned.system))


export_ollama = partial(export_gguf, name="ollama", companion=_companion)
"""A GGUF file with a Modelfile beside it."""


def _refuse(found: str) -> RefusedError:
    fix = "luthier export RUN --to gguf: llama.cpp renders the template itself"
    return RefusedError(Problem("E-EXPORT-005", found, fix))
