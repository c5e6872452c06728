"""Builders for the data tests: tokenizers with and without BOS, chat templates, configs, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from luthier.config.schema import Config, DataSection, DatasetSource, Objective, TrainingSection
from luthier.data.prepare import Prepared, prepare
from luthier.data.rows import TokenRow
from luthier.errors import LuthierError

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n"
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}\n"
    "{{- 'Today Date: ' + date_string + '\n\n' }}\n"
    "{%- for message in messages %}\n"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}\n"
    "{{- message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}\n"
)
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
]


def make_tokenizer(*, bos: bool = True, chat_template: str | None = None) -> Any:
    """A byte-level tokenizer of 7 special tokens and the 256 bytes (no merges: any text is its bytes)."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([""], vocab_size=256 + len(SPECIAL), special_tokens=SPECIAL, show_progress=False)
    if bos:
        bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template
    return tokenizer


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def alpaca(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"instruction": f"Say {number}", "output": f"It is {number}."} for number in range(start, start + count)]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def preferences(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"Say {number}", "chosen": f"It is {number}.", "rejected": f"No {number}!"}
        for number in range(start, start + count)
    ]


def make_config(*sources: Path | DatasetSource, seed: int = 42, objective: Objective = "sft", **data: Any) -> Config:
    datasets = [item if isinstance(item, DatasetSource) else DatasetSource(path=str(item)) for item in sources]
    folder = Path(datasets[0].path).parent
    settings = {"val_set_size": 0.0, "cache_dir": str(folder / "cache"), **data}
    training = TrainingSection(seed=seed, objective=objective)
    return Config(data=DataSection(datasets=datasets, **settings), training=training)


def run(tokenizer: Any, *sources: Path | DatasetSource, **settings: Any) -> Prepared:
    return prepare(make_config(*sources, **settings), tokenizer)


def problems(tokenizer: Any, *sources: Path | DatasetSource, **data: Any) -> list[tuple[str, str, str]]:
    """(code, where, found) of the error that these settings must end in."""
    try:
        run(tokenizer, *sources, **data)
    except LuthierError as error:
        assert str(error)
        return [(problem.code, problem.where, problem.found) for problem in error.problems]
    raise AssertionError("no error")


def pieces(tokenizer: Any, row: TokenRow) -> list[tuple[str, bool]]:
    """A row as decoded stretches of text, each with whether it is trained."""
    stretches: list[tuple[str, bool]] = []
    start = 0
    for end in range(1, len(row.input_ids) + 1):
        if end == len(row.input_ids) or row.trained[end] != row.trained[start]:
            text = tokenizer.decode(row.input_ids[start:end], clean_up_tokenization_spaces=False)
            stretches.append((text, bool(row.trained[start])))
            start = end
    return stretches
