"""A base model to measure on: Llama's shape, random weights, a tokenizer made from Python's own source.

Random weights cost what trained ones cost. Nothing is fetched, so the comparison runs anywhere.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path

VOCABULARY = 32_000
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""41.6 million parameters, of which 25.2 million in the layers and 16.4 million in the vocabulary."""
_SHORTEST, _LONGEST = 120, 2400  # characters of a function
_NOT_READ = {"test", "tests", "site-packages", "idlelib", "lib2to3"}


def library_functions(left_out: Collection[str] = _NOT_READ) -> Iterator[ast.FunctionDef]:
    """Each function and method of Python's standard library, in the order of files.

    Args:
        left_out: Names of folders that are not read.
    """
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if set(left_out) & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def functions() -> Iterator[str]:
    """Source of each function of the standard library that has a docstring and is of middle length."""
    for node in library_functions():
        if ast.get_docstring(node) and _SHORTEST <= len(text := ast.unparse(node)) <= _LONGEST:
            yield text


def make_tokenizer(texts: list[str], vocabulary: int, folder: Path) -> None:
    """A byte-level BPE tokenizer of at most `vocabulary` entries, with `<s>`, `</s>` and `<pad>`."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "</s>", "<pad>"]
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=special, show_progress=False)
    bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def make_base(
    folder: Path, shape: dict[str, int] = SHAPE, vocabulary: int = VOCABULARY, dtype: str = "bfloat16"
) -> None:
    """Write model and tokenizer into `folder`.

    Args:
        folder: Where to.
        shape: Of the model; with a `vocab_size` of its own it has more entries than the tokenizer uses.
        vocabulary: Entries of the tokenizer.
        dtype: Format of the weights; models are published in bfloat16, which every wider format holds exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    make_tokenizer(list(dict.fromkeys(functions())), vocabulary, folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": 2048, **shape}
    config = LlamaConfig(tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
