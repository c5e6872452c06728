"""Make the quickstart's base model from nothing: text, tokenizer, configuration, training, the files in the package.

    python recipes/quickstart/make_base.py             all of it; an interrupted training goes on when started again
    python recipes/quickstart/make_base.py --prepare   only the text and the tokenizer

The text is the functions of Python's standard library (`library.py`), twice, and made-up commented statements
(`sentences.py`), each once. The tokenizer comes first: many names of the statements are put together from pieces of its
vocabulary, for a piece that the model hardly met could not be copied. The model is a Llama of 5.8 million parameters.
Same Python, same seed: same text and tokenizer.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import sys
from pathlib import Path

import torch
from library import functions, words
from safetensors.torch import load_file, save_file
from sentences import Writer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

import luthier
from luthier.events.line import format_line
from luthier.events.read import read
from luthier.events.types import Evaluated, RunFinished

HERE = Path(__file__).parent
WORK = Path("models/quickstart_base")
PACKAGE = HERE.parents[1] / "src" / "luthier" / "quickstart"
VOCABULARY = 4096
LIBRARY_REPEATS = 2
MADE_UP_DOCUMENTS, TOKENIZER_DOCUMENTS = 85_000, 20_000
INVENTED = 0.4
RUN = Path("checkpoints/quickstart_base")
# an instruction is a comment and its answer the code under it: what a base model of code has seen before
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ message.content + eos_token }}{% else %}"
    "{{ '# ' + message.content | replace('\\n', '\\n# ') + '\\n' }}{% endif %}{% endfor %}"
)


def main() -> None:
    """All steps in order."""
    library = functions()
    known = words(library)
    learned = tokenizer([*library, *Writer(known).documents(TOKENIZER_DOCUMENTS)])
    pieces = sorted(piece for piece in learned.get_vocab() if re.fullmatch("[a-z]+", piece))
    writer = Writer(known, seed=1, invented=INVENTED, pieces=pieces)
    texts = [*library * LIBRARY_REPEATS, *dict.fromkeys(writer.documents(MADE_UP_DOCUMENTS))]
    refuse_answers(texts)
    write_start(texts, learned)
    if "--prepare" not in sys.argv:
        publish(train(), len(texts))


def refuse_answers(texts: list[str]) -> None:
    """Ends with an error when a text is an answer of the quickstart."""
    secret = {normalised(row["output"]) for row in rows("heldout.jsonl")}
    known = [document for document in dict.fromkeys(texts) if normalised(document) in secret]
    if known:
        sys.exit(f"{len(known)} documents are answers of held-out tasks; the first:\n{known[0]}")


def rows(name: str) -> list[dict[str, str]]:
    """Rows of the quickstart."""
    return [json.loads(line) for line in (PACKAGE / "rows" / name).read_text("utf-8").splitlines()]


def normalised(code: str) -> str:
    """First statement without its docstring, as `ast` writes it."""
    node = ast.parse(code).body[0]
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
        node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def write_start(texts: list[str], learned: PreTrainedTokenizerFast) -> None:
    """text.jsonl, the tokenizer and config.json under `models/quickstart_base`."""
    start = WORK / "start"
    start.mkdir(parents=True, exist_ok=True)
    with (WORK / "text.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in texts)
    learned.save_pretrained(start)
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(start)


# Words that occur in all text take the spaces around them along; any other word has the same tokens everywhere, so that
# a name can be copied from English to code. Every digit is a token of its own, and so is an indent.
_COMMON = (
    "the|of|that|to|in|is|are|and|or|if|else|for|not|with|at|by|a|an|as|from|it|each|every|all|only|when|which|on|into|"
    "than|be|has|return|returns|def|import|raise|assert|print|while"
)
_PARTS = rf"\n *| ?(?<![A-Za-z_])(?:{_COMMON})(?![A-Za-z_]) ?|[A-Za-z]+|_| ?[^A-Za-z_ \n]+ ?| +"


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE inside of the parts above."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(_PARTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )


def train() -> dict[str, float]:
    """Train as base.yaml says, unless that is done already; what the card tells of it."""
    if not (RUN / "final_model").is_dir():
        for event in luthier.train(HERE / "base.yaml", resume="auto"):
            if line := format_line(event):
                print(line, flush=True)
    facts: dict[str, float] = {}
    for event, _ in read(RUN / "events.jsonl"):
        if isinstance(event, Evaluated):
            facts["eval_loss"] = event.eval_loss
        if isinstance(event, RunFinished):
            facts |= {"steps": event.step, "tokens": event.num_tokens, "train_loss": event.train_loss}
            facts["minutes"] = event.train_runtime / 60
    return facts


def publish(facts: dict[str, float], documents: int) -> None:
    """The weights in bfloat16, the tokenizer and the card into the package."""
    final, base = RUN / "final_model", PACKAGE / "base"
    base.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(final / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    (base / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (base / name).write_bytes((final / name).read_bytes())
    config = json.loads((final / "config.json").read_text("utf-8")) | {"dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card = (HERE / "base_card.md").read_text("utf-8")
    values = {
        "python": platform.python_version(),
        "documents": f"{documents:,}",
        "parameters": f"{sum(tensor.numel() for tensor in weights.values()):,}",
        "steps": f"{facts['steps']:,}",
        "tokens": f"{facts['tokens'] / 1e6:.1f} million",
        "cores": str(os.cpu_count()),
        "minutes": f"{facts['minutes']:.0f}",
        "train_loss": f"{facts['train_loss']:.3f}",
        "eval_loss": f"{facts['eval_loss']:.3f}",
    }
    (base / "README.md").write_text(card.format(**values), encoding="utf-8")


if __name__ == "__main__":
    main()
