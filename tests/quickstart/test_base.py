"""The base model that comes with Luthier: what it is, and that it cannot do the tasks."""

import json
from pathlib import Path
from statistics import mean

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

import luthier
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.score import Settings, score
from luthier.evaluate.tasks import quickstart as heldout
from luthier.evaluate.tasks import spread
from luthier.generate.load import load
from luthier.quickstart.story import MAX_NEW_TOKENS

BASE = Path(luthier.__file__).parent / "quickstart" / "base"


def test_it_is_small_and_holds_no_code():
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 16 * 2**20
    assert {path.suffix for path in BASE.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    assert AutoConfig.from_pretrained(BASE).architectures == ["LlamaForCausalLM"]
    with safe_open(BASE / "model.safetensors", "pt") as weights:
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        formats = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    parameters = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert 5e6 <= parameters <= 10e6
    assert formats == {"BF16"}
    assert f"{parameters:,} parameters" in (BASE / "README.md").read_text("utf-8").replace("\n", " ")


def test_every_digit_is_a_token_of_its_own():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    ids = tokenizer("x > 1234", add_special_tokens=False).input_ids
    assert [tokenizer.decode([token]) for token in ids][-4:] == list("1234")
    assert tokenizer.decode(ids) == "x > 1234"


def test_the_prompt_is_a_comment_and_answers_fit():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    messages = [{"role": "user", "content": "Add\ntwo"}, {"role": "assistant", "content": "pass"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<s># Add\n# two\npass</s>"
    lengths = [len(tokenizer(task.reference).input_ids) for task in heldout.load()]
    assert max(lengths) < MAX_NEW_TOKENS


def test_its_text_comes_from_python_and_from_the_recipe(monkeypatch):
    recipe = Path("recipes/quickstart").resolve()
    monkeypatch.syspath_prepend(str(recipe))
    from library import functions, words
    from sentences import Writer

    library = functions()
    assert len(library) > 5000
    known = words(library[:2000])
    documents = list(Writer(known, seed=3).documents(300))
    assert documents == list(Writer(known, seed=3).documents(300))
    for document in documents:
        compile(document, "document", "exec")


@pytest.mark.slow
@pytest.mark.long
def test_it_cannot_do_the_tasks():
    tasks = spread(heldout.load(), 60)
    with Sandbox() as sandbox:
        scores = score(load(BASE), tasks, sandbox, Settings(max_new_tokens=MAX_NEW_TOKENS))
    assert scores.pass_at_1.share <= 0.05


def test_the_readme_tells_what_was_measured():
    runs = json.loads(Path("benchmarks/results/quickstart_cpu.json").read_text("utf-8"))["runs"]
    kinds = {kind: [run for run in runs if run["kind"] == kind] for kind in ("LoRA bf16", "QLoRA NF4")}
    assert len({run["seed"] for run in kinds["QLoRA NF4"]}) >= 3
    lines = Path("README.md").read_text("utf-8").splitlines()
    for split in ("phrasing", "parameter", "composition"):
        (row,) = [line for line in lines if line.startswith(f"| {split}: ")]
        shares = [runs[0]["base"][split], *(mean(run["tuned"][split] for run in kinds[kind]) for kind in kinds)]
        assert row.endswith("".join(f"| {share:.0%} ".replace("%", " %") for share in shares) + "|")
    assert max(run["base"]["all"] for run in runs) <= 0.05
    assert max(run["process_peak_gib"] for run in runs) < 3
