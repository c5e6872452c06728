"""Damaged models and runs: a `ModelError` or a model that answers, and no code of the folder is ever run.

    base folder    --a file spoilt-->  load_config, load_tokenizer, describe, load_model
    final_model    --a file spoilt-->  load, generate
    chat template  --hostile------->   load_template

What is spoilt: bytes of any file, single values of the JSON files (sizes, types, names of classes and libraries),
headers of safetensors; and files are put beside that run code when somebody loads them. A hook and a canary tell.

Not covered: numbers in the weights that have changed and are still numbers; no hash says what they were.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.errors import DataError, ModelError
from tests.torture import damage
from tests.torture.datasets import tiny_model
from tests.torture.limits import LONGEST_SECONDS, TookTooLongError, bad_form, limited, peak_mib
from tests.torture.outcome import COUNTS, bench, dice

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any library reads it: nothing is to be fetched

NAME = "models"
DEFAULT = 2000
FAST = 25
MOST_MIB = 600
"""What one trial may add to the memory of its process."""


def trial(number: int, seed: int) -> str:
    """One damaged folder or template."""
    rng = dice(NAME, seed, number)
    warm()
    folder, canary = bench() / "damaged", bench() / "canary"
    shutil.rmtree(folder, ignore_errors=True)
    canary.unlink(missing_ok=True)
    kind, use, source = rng.choice(KINDS)
    shutil.copytree(source(), folder)
    what = kind if use is render else f"{kind}: {rng.choice(DAMAGES)(folder, rng)}"
    before = peak_mib()
    SEEN.watched = str(bench())
    SEEN.events.clear()
    try:
        with limited(LONGEST_SECONDS):
            wrong = outcome(lambda: use(folder, rng))
    except TookTooLongError:
        wrong = f"took longer than {LONGEST_SECONDS} s"
    finally:
        SEEN.watched = ""
    grown = int(peak_mib() - before)
    COUNTS["most_mib_grown"] = grown
    if canary.exists() or SEEN.events:
        wrong = f"code was run: {SEEN.events}"
    if not wrong and grown > MOST_MIB:
        wrong = f"memory grew by {grown} MiB"
    return f"{what}: {wrong}".encode("ascii", "backslashreplace").decode() if wrong else ""


def outcome(use: Callable[[], str]) -> str:
    """What is wrong with what comes of using a folder."""
    try:
        wrong = use()
    except (ModelError, DataError) as error:
        COUNTS["errors"] += 1
        return bad_form(error)
    COUNTS["loaded"] += 1
    return wrong


# What is done with a folder ------------------------------------------------------------------------------------------


def open_base(folder: Path, rng: random.Random) -> str:
    """As a run does: configuration, tokenizer, facts, weights."""
    from luthier.config.schema import ModelSection
    from luthier.model.hub import load_config, load_tokenizer
    from luthier.model.load import load_model
    from tests.model.support import planned

    section = ModelSection(model_name_or_path=str(folder))
    config = load_config(section)
    load_tokenizer(section, config)
    load_model(planned(folder), config)
    return ""


def open_run(folder: Path, rng: random.Random) -> str:
    """As `luthier chat` does."""
    from luthier.generate.load import load

    answer = load(folder).generate("Add two numbers", max_new_tokens=2)
    return "" if isinstance(answer, str) else f"the answer is {answer!r}"


def render(folder: Path, rng: random.Random) -> str:
    """A hostile or damaged chat template, as the rows meet it."""
    from luthier.data.template import load_template
    from tests.data.support import CHATML, LLAMA3, make_tokenizer

    text = rng.choice(TEMPLATES)
    if rng.random() < 0.4:
        spoilt = damage.spoilt(rng.choice((CHATML, LLAMA3)).encode(), rng)
        text = spoilt.decode("utf-8", "replace")
        (folder / "mine.jinja").write_bytes(spoilt)
    else:
        place = rng.randrange(3)
        whole = text if place == 0 else CHATML + text if place == 1 else text + CHATML
        (folder / "mine.jinja").write_text(whole.replace("CANARY", str(bench() / "canary")))
    template = load_template(str(folder / "mine.jinja"), make_tokenizer(), folder)
    question = template.prompt_text("How?")
    return "" if "How?" in question else f"{text[:80]!r} was accepted and loses the question"


_RUN = "self.__init__.__globals__['os'].system('touch CANARY')"
TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}", "{{ joiner." + _RUN + " }}",
    "{% for c in ().__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}", "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}", "{{ messages.append(1) }}", "{{ messages[0].update(content='x') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}", "{{ ''|attr('__class__') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}", "{% extends '/etc/passwd' %}", "{{ 'a' * 10**10 }}", "{{ 7 ** 7 ** 8 }}",
    "{{ [0] * 10**10 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ range(10**12)|list }}",
    "{% for i in range(99999) %}{{ messages[0].content * 9999 }}{% endfor %}", "{{ 'x'.center(10**10) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ '%9999999999d' % 1 }}", "{{ '{:>9999999999}'.format(1) }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}", "{{ lipsum(n=10**7) }}",
    "{{ 'x'|indent(10**10) }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{% if 1 %}" * 3000, "{{ 1/0 }}", "{{ messages[99].content }}", "{{",
    "{{ raise_exception('no') }}", "{{ raise_exception('\x1b[31m') }}", "{{ messages|tojson }}", "", "{# x #}", "\x00",
    "{{ strftime_now('%Y') }}", "{{ strftime_now(messages[0].content) }}", "{{ bos_token * 3 }}", "{{ '\\ud800' }}",
)  # fmt: skip
"""Templates that reach for Python's insides, for other files, for all memory or all time, or that are only wrong."""


# What is damaged -----------------------------------------------------------------------------------------------------


def any_bytes(folder: Path, rng: random.Random) -> str:
    """Bytes of one file."""
    file = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    way = rng.choice(damage.WAYS)
    file.write_bytes(way(file.read_bytes(), rng))
    return f"{file.name} {way.__name__}"


def one_value(folder: Path, rng: random.Random) -> str:
    """One value or name in a JSON file."""
    file = rng.choice(sorted(folder.glob("*.json")))
    content = json.loads(file.read_text())
    said = change(content, rng)
    file.write_text(json.dumps(content))
    return f"{file.name}: {said}"


def change(content: Any, rng: random.Random, path: str = "") -> str:
    """Change something somewhere; deep in large parts as often as at the top."""
    names = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not names:
        return "nothing"
    name = rng.choice(names)
    if isinstance(content[name], (dict, list)) and content[name] and rng.random() < 0.7:
        return change(content[name], rng, f"{path}.{name}")
    if rng.random() < 0.2:
        del content[name]
        return f"no {path}.{name}"
    content[name] = rng.choice(ODD)
    return f"{path}.{name} = {str(content[name])[:60]}"


ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 3, 7, 2.5, 1e30, 10**9, 10**18, "", "x", "\x1b[31m\ud83d", "a" * 5000, [], [1], {}, {"a": 1},
    float("nan"), "float16", "auto", "../../x", "owner/name", "LlamaForCausalLM", "GPT2Config", "llama", "os.system",
)  # fmt: skip


def hostile_value(folder: Path, rng: random.Random) -> str:
    """A value that has made some library run code or read other files."""
    name, extra = rng.choice([(name, extra) for name, extra in HOSTILE if (folder / name).is_file()])
    content = json.loads((folder / name).read_text()) | copy.deepcopy(extra)
    (folder / name).write_text(json.dumps(content))
    lay_traps(folder)
    return f"{name}: {str(extra)[:100]}"


_MAP = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel", "AutoModel": "evil.EvilModel"}
_TOKENIZER_MAP = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
HOSTILE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("config.json", {"auto_map": _MAP}), ("config.json", {"auto_map": _MAP, "model_type": "evil"}),
    ("config.json", {"auto_map": {"AutoConfig": "owner/name--evil.EvilConfig"}, "model_type": "evil"}),
    ("config.json", {"_attn_implementation": "owner/name:evil"}),
    ("config.json", {"attn_implementation": "evil/kernel"}),
    ("config.json", {"_attn_implementation_internal": "evil/kernel"}), ("config.json", {"trust_remote_code": True}),
    ("config.json", {"custom_pipelines": {"text-generation": {"impl": "evil.Evil", "pt": ["AutoModel"]}}}),
    ("config.json", {"quantization_config": {"quant_method": "evil"}}),
    ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    ("config.json", {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}),
    ("config.json", {"text_config": {"model_type": "llama", "auto_map": _MAP}}), ("config.json", {"dtype": "evil"}),
    ("config.json", {"rope_scaling": {"rope_type": "evil"}}), ("config.json", {"hidden_act": "evil"}),
    ("config.json", {"num_hidden_layers": 10**6}), ("config.json", {"vocab_size": 10**9}),
    ("config.json", {"hidden_size": 2**20}), ("config.json", {"max_position_embeddings": 10**12}),
    ("config.json", {"architectures": ["Evil"]}), ("config.json", {"pruned_heads": {"0": [0]}}),
    ("config.json", {"base_model_tp_plan": {"a": "b"}}), ("config.json", {"transformers_weights": "evil.safetensors"}),
    ("tokenizer_config.json", {"auto_map": _TOKENIZER_MAP}), ("tokenizer_config.json", {"tokenizer_class": "Evil"}),
    ("tokenizer_config.json", {"auto_map": _TOKENIZER_MAP, "tokenizer_class": "EvilTokenizer"}),
    ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}),
    ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
    ("tokenizer_config.json", {"eos_token": "not there"}), ("tokenizer_config.json", {"eos_token": {"content": 3}}),
    ("tokenizer_config.json", {"chat_template": "{{ cycler.__init__.__globals__ }}"}),
    ("tokenizer_config.json", {"chat_template": "{% for i in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}"}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"999999999": {"content": "x", "special": True}}}),
    ("generation_config.json", {"eos_token_id": "x"}), ("generation_config.json", {"eos_token_id": [[1]]}),
    ("generation_config.json", {"custom_generate": "owner/name"}), ("generation_config.json", {"max_length": -1}),
    ("generation_config.json", {"trust_remote_code": True, "watermarking_config": {"a": 1}}),
    ("adapter_config.json", {"base_model_name_or_path": "owner/name"}), ("adapter_config.json", {"peft_type": "EVIL"}),
    ("adapter_config.json", {"base_model_name_or_path": 3}), ("adapter_config.json", {"peft_type": "PREFIX_TUNING"}),
    ("adapter_config.json", {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}),
    ("adapter_config.json", {"task_type": None, "auto_mapping": {"base_model_class": "E", "parent_library": "evil"}}),
    ("adapter_config.json", {"r": 10**6}), ("adapter_config.json", {"target_modules": "(a+)+$"}),
    ("adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "evil"}),
    ("adapter_config.json", {"init_lora_weights": "evil"}), ("adapter_config.json", {"loftq_config": {"a": 1}}),
    ("adapter_config.json", {"modules_to_save": ["lm_head", "nothing"]}),
    ("adapter_config.json", {"layer_replication": 3}),
    ("luthier.json", {"dtype": "evil"}), ("luthier.json", {"quantization": {"bnb_4bit_quant_type": "evil"}}),
    ("luthier.json", {"quantization": []}), ("luthier.json", {"base": ["x"]}), ("luthier.json", {"dtype": 3}),
)  # fmt: skip


def lay_traps(folder: Path) -> None:
    """Python files and pickles that would be noticed if anything ran them."""
    touch = f"import pathlib\npathlib.Path({str(bench() / 'canary')!r}).touch()\n"
    for name in ("evil", "modeling_llama", "configuration_llama", "tokenization_evil", "setup", "conftest", "__init__"):
        (folder / f"{name}.py").write_text(touch + "class EvilConfig: pass\nEvilModel = EvilTokenizer = EvilConfig\n")
    command = f"touch {bench() / 'canary'}".encode()
    pickled = b"cos\nsystem\n(V" + command + b"\ntR."
    for name in (
        "pytorch_model.bin",
        "adapter_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
    ):
        (folder / name).write_bytes(pickled)


def only_pickles(folder: Path, rng: random.Random) -> str:
    """The weights are gone, and files that run code are there in their place."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    lay_traps(folder)
    return "only pickles"


def header(folder: Path, rng: random.Random) -> str:
    """The header of a safetensors file says something else than the file holds."""
    file = rng.choice(sorted(folder.glob("*.safetensors")))
    raw = file.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    if rng.random() < 0.3:
        file.write_bytes(struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**31, 2**62, 2**64 - 1))) + raw[8:])
        return f"{file.name}: another size of the header"
    content = json.loads(raw[8 : 8 + size])
    said = change({key: value for key, value in content.items() if key != "__metadata__"} and content, rng)
    text = json.dumps(content).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    return f"{file.name} header: {said}"


def no_file(folder: Path, rng: random.Random) -> str:
    """A file is missing, empty, a folder, a link to itself, or another one of the folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    file, how = rng.choice(files), rng.randrange(5)
    file.unlink()
    if how == 1:
        file.touch()
    elif how == 2:
        file.mkdir()
    elif how == 3:
        file.symlink_to(file)
    elif how == 4:
        shutil.copy(rng.choice([other for other in files if other != file]), file)
    return f"{file.name} {('missing', 'empty', 'a folder', 'a link to itself', 'another file')[how]}"


DAMAGES = (*[any_bytes] * 3, *[one_value] * 3, *[hostile_value] * 3, *[header] * 2, no_file, only_pickles)


# The bench --------------------------------------------------------------------------------------------------------


FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "socket.connect", "builtins.input")
"""Events of the audit hook. `input` would be the question whether custom code may be run."""


class Seen:
    """What the audit hook has seen while it was watching."""

    def __init__(self) -> None:
        self.watched = ""
        self.events: list[str] = []

    def hook(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.watched:
            return
        spawns = event in ("subprocess.Popen", "os.posix_spawn")
        if (spawns or event in FORBIDDEN) and not (spawns and details[0] == sys.executable):  # ours tries out templates
            self.events.append(f"{event} {details}"[:200])
        elif event in ("exec", "compile"):
            name = str(getattr(details[0], "co_filename", "") if event == "exec" else details[1])
            if name.startswith(self.watched) or "transformers_modules" in name:
                self.events.append(f"{event} {name}"[:200])


SEEN = Seen()


@functools.cache
def warm() -> None:
    """Load what trials need, bound the memory of this process, and begin to listen."""
    import torch

    torch.set_num_threads(1)
    for source in (base, sharded, adapter_run, full_run):
        source()
    open_base(base(), random.Random(0))
    for run in (adapter_run(), full_run()):
        open_run(run, random.Random(0))
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        most = pages * resource.getpagesize() + 8 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    sys.addaudithook(SEEN.hook)


def base() -> Path:
    return tiny_model()


@functools.cache
def sharded() -> Path:
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(base(), bench() / "sharded"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base()).save_pretrained(folder, max_shard_size="100KB")
    return folder


@functools.cache
def adapter_run() -> Path:
    return trained("lora")


@functools.cache
def full_run() -> Path:
    return trained("full")


def trained(kind: str) -> Path:
    """The final_model folder of a short run."""
    import luthier

    rows = bench() / "few.jsonl"
    rows.write_text('{"instruction": "Add", "output": "a + b"}\n' * 4)
    config = {
        "model": {"model_name_or_path": str(base()), "dtype": "float32"},
        "data": {"datasets": [str(rows)], "val_set_size": 0, "cache_dir": str(bench() / "cache")},
        "training": {"output_dir": str(bench() / kind), "max_steps": 1, "finetuning_type": kind},
        "logging": {"report_to": []},
    }
    list(luthier.train(config))
    return bench() / kind / "final_model"


KINDS: tuple[tuple[str, Callable[[Path, random.Random], str], Callable[[], Path]], ...] = (
    ("base", open_base, base), ("base in parts", open_base, sharded), ("adapter", open_run, adapter_run),
    ("adapter", open_run, adapter_run), ("full run", open_run, full_run), ("template", render, adapter_run),
)  # fmt: skip
