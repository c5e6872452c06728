"""A run as a GGUF file, tried in real llama.cpp: tokens, probabilities, answers, template.

Not covered: the file's layout (`gguf_file`), the tokenizer's (`gguf_vocab`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from luthier.errors import MissingError, Problem, RefusedError
from luthier.errors.extras import install
from luthier.errors.secrets import hide
from luthier.export import llama_cpp
from luthier.export.agree import Agreement, require
from luthier.export.merge import merged
from luthier.export.place import Say, destination, filled, size
from luthier.export.run import Exported, Known, Options, ask, described, name_of, reference_for
from luthier.generate.load import Tuned, final_folder
from luthier.machine.memory import free_memory
from luthier.model.forward import unwrap

if TYPE_CHECKING:
    from luthier.export.gguf_file import Quant

FILE = "model.gguf"


class Companion(NamedTuple):
    """A text file beside the GGUF file.

    Attributes:
        name: Its name.
        text: What is in it.
        note: What there is to say of it.
    """

    name: str
    text: str
    note: str

    def written(self, folder: Path) -> str:
        """Write it into the folder; returns the note."""
        (folder / self.name).write_text(self.text, encoding="utf-8")
        return self.note


TEXTS = (
    "Write a Python function that reverses a string.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(2, 40))  # 42\n",
    " leading and trailing spaces  ",
    "\ttabs\tand\r\nline ends\n\n\n",
    "numbers 0 7 42 1234567890 3.14159 1e-9 0xFF",
    "I'm sure you've seen they'll don't WE'RE",
    "snake_case camelCase UPPER_CASE __init__ ->  => != <= ** // ...",
    "naïve café — “quotes” … 漢字 かな 한국어 العربية עברית ไทย 🙂👩‍👩‍👧",
    "a" * 40 + " " * 17 + "=" * 40,
    "",
)
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Reverse a string"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n\n### Input:\nx = 1"}],
    [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "Three"}],
)


def require_gguf() -> None:
    """The library that writes the format.

    Raises:
        MissingError: E-EXPORT-011.
    """
    if find_spec("gguf") is None:
        raise MissingError(Problem("E-EXPORT-011", "gguf is not installed", install("gguf")))


def export_gguf(
    run: str | Path,
    to: Path | None,
    quant: Quant,
    options: Options,
    say: Say,
    *,
    allow_tokenizer: bool = False,
    name: str = "gguf",
    companion: Callable[[Tuned], Companion] | None = None,
) -> Exported:
    """Write FOLDER/model.gguf after the proof.

    Args:
        run: Output folder of the run, or its final_model folder.
        to: Where to; None: `name` in the run's output folder.
        quant: Number format of matrices.
        options: Those of every form.
        say: Told what is being done.
        allow_tokenizer: Write it although llama.cpp cuts texts into other tokens.
        name: Of the default folder.
        companion: Makes a file beside it of the run; it is asked before the work begins.

    Raises:
        RefusedError: E-EXPORT-002, E-EXPORT-003, E-EXPORT-004, E-EXPORT-005; nothing is left at the destination.
        RunError: E-EXPORT-007.
    """
    require_gguf()
    from luthier.export.gguf_file import check_architecture, write_gguf
    from luthier.export.gguf_vocab import vocabulary

    folder = destination(final_folder(run), to, name, overwrite=options.overwrite)
    companions: list[Companion] = []

    def check(tuned: Tuned) -> None:
        check_architecture(unwrap(tuned.model).config)
        words = vocabulary(tuned.tokenizer, len(tuned.tokenizer), tuned.stop_ids)
        if words.inexact and not allow_tokenizer:
            raise RefusedError(Problem("E-EXPORT-004", words.inexact, "--allow tokenizer, if that will do"))
        if companion:
            companions.append(companion(tuned))

    known = ask(run, options, say, check)
    free_memory()
    say("merging")
    model = merged(run, options.base, options.onto, torch.float32)
    embeddings: Any = model.model.get_input_embeddings()  # type: ignore[operator]
    onto, (compared_with, who) = described(model), reference_for(known, model)
    words = vocabulary(known.tokenizer, embeddings.num_embeddings, known.reference.stop_ids)
    proofs: tuple[Agreement, ...] = ()
    notes = [
        "NOT tried in llama.cpp, which is not installed here (pip install xllamacpp): its answers and its tokens were "
        "compared with nothing."
    ]
    with filled(folder) as aside:
        beside = [other.written(aside) for other in companions]
        say(f"writing {FILE}")
        write_gguf(model.model, words, quant, aside / FILE, hide(name_of(run)))
        if llama_cpp.installed():
            say(f"llama.cpp ({llama_cpp.LIBRARY} {llama_cpp.installed()}) reads it and answers")
            heard = llama_cpp.listen(aside / FILE, compared_with, _texts(known), CONVERSATIONS)
            proofs = (llama_cpp.agreement_with(f"{quant} in llama.cpp", compared_with, heard),)
            require(proofs, "llama.cpp does not answer as the run does")
            notes = [_tokens_note(known, heard, allow_tokenizer), _template_note(known, heard)]
    on = f"{known.prompts}, with {who}"
    return Exported(folder, size(folder), f"GGUF, {quant}", onto, on, proofs, notes=(*beside, *notes))


def _texts(known: Known) -> list[str]:
    special = [token for token in (known.tokenizer.bos_token, known.tokenizer.eos_token) if token]
    inside = ["one".join(["", *special, ""]), *(f"{token}\nuser: hi{token}" for token in special)]
    return [*TEXTS, *inside, *(known.tokenizer.decode(ids[1:]) for ids in known.reference.prompts)]


def _tokens_note(known: Known, heard: llama_cpp.Heard, allowed: bool) -> str:
    """How many texts become the same tokens.

    Raises:
        RefusedError: E-EXPORT-004 when not all do and that was not allowed.
    """
    texts = _texts(known)
    own = [known.tokenizer(text)["input_ids"] for text in texts]
    other = [text for text, ids, heard_ids in zip(texts, own, heard.tokens, strict=True) if ids != heard_ids]
    if other and not allowed:
        found = f"llama.cpp cuts {len(other)} of {len(texts)} texts into other tokens, for example {other[0][:60]!r}"
        raise RefusedError(Problem("E-EXPORT-004", found, "--allow tokenizer, if that will do"))
    if other:
        return (
            f"{len(other)} of {len(texts)} texts are cut into other tokens by llama.cpp. The comparison above was made "
            "with token ids; programs that send text get other answers."
        )
    return f"All of {len(texts)} texts, special tokens among them, become the same token ids in llama.cpp."


def _template_note(known: Known, heard: llama_cpp.Heard) -> str:
    """Whether llama.cpp renders the chat template as transformers does, BOS aside (llama.cpp adds it to the ids)."""
    bos = known.tokenizer.bos_token or ""
    same = tried = 0
    for messages, theirs in zip(CONVERSATIONS, heard.rendered, strict=True):
        try:
            ours = known.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:  # a template is a program, and may refuse a conversation
            continue
        tried += 1
        same += theirs is not None and theirs.removeprefix(bos) == ours.removeprefix(bos)
    if same == tried:
        return f"llama.cpp renders the chat template as transformers does ({tried} conversations)."
    return (
        f"llama.cpp renders {tried - same} of {tried} conversations otherwise than transformers: send prompts that "
        "transformers rendered, or use a plainer template."
    )
