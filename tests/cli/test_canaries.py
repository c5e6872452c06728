"""Secrets planted everywhere, real runs, and a search through everything that they wrote.

The same is done once with `luthier.errors.secrets` switched off: there the canaries must be found, in every place that
is searched, so that a search that finds nothing means something.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from luthier import api
from luthier.cli.json_file import write_json
from luthier.data.report import DataReport
from luthier.errors import Problem, secrets
from luthier.events.sinks import Sinks
from luthier.events.types import Notice, Sampled
from luthier.training import milestones
from tests.cli.support import run_here, write_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CANARIES = {
    "HF_TOKEN": "hf_" + "cAnaRy01" * 3,
    "WANDB_API_KEY": "0c0a0a0e" * 5,
    "OPENAI_API_KEY": "sk-c4nary-02-" + "x1" * 8,
    "GITHUB_TOKEN": "ghp_" + "cAnaRy03" * 3,
    "AWS_ACCESS_KEY_ID": "AKIA" + "C4N4RY04" * 2,
    "AWS_SECRET_ACCESS_KEY": "c4nary/05+wJalrXUtnFEMI",
    "SLACK_TOKEN": "xoxb-123456-c4nary06",
    "DB_PASSWORD": "swordfishcanary",
    "SERVICE_CREDENTIAL": "c4nary-08-credential",
    "PROXY_AUTH": "c4nary-09-auth",
    "JWT_SECRET": "c4nary-10-secret",
}
NOT_IN_ENVIRONMENT = {
    "netrc": "c4nary-11-netrc",
    "token of the hub": "c4nary-12-hub",
    "url": "c4nary-13-url",
    "query": "c4nary-14-query",
    "header": "c4nary-15-header-of-enough-letters",
    "private key": "c4nary16base64base64",
    "shape alone": "ghp_" + "cAnaRy17" * 2 + "caN4",
}
ALL = {**CANARIES, **NOT_IN_ENVIRONMENT}
TEXT = " ".join(
    [
        *CANARIES.values(), ALL["netrc"], ALL["token of the hub"], f"https://me:{ALL['url']}@host/rows",
        f"https://host/rows?a=1&token={ALL['query']}&b=2", f"Authorization: Bearer {ALL['header']}",
        f"-----BEGIN PRIVATE KEY-----\n{ALL['private key']}\n-----END PRIVATE KEY-----", ALL["shape alone"],
    ]
)  # fmt: skip


EXPORTS = {
    "merge": ("merge", "out", "--json", "merge.json", "--to"),
    "verify merge": ("verify", "merge", "out", "--json", "verify.json", "--merged"),
    "export gguf": ("export", "out", "--to", "gguf", "--out"),
    "export hub": ("export", "out", "--to", "hub", "--merged", "--results", "results.json", "--out"),
}


@dataclass
class Tracker:
    """A sink like those of W&B or MLflow."""

    seen: list[str] = field(default_factory=list)

    def write(self, event):
        self.seen.append(repr(event))

    def close(self):
        pass


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """The canaries at the places where secrets live."""
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".netrc").write_text(f"machine api.host login me password {ALL['netrc']}\n")
    (home / ".cache" / "huggingface" / "token").write_text(ALL["token of the hub"])
    for name, value in {**CANARIES, "HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    for name in ("NETRC", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["luthier", "train", "note", TEXT])


@pytest.fixture
def leaky(monkeypatch):
    """A data report, a library, a model and a failure that say all of them."""
    load_model = api.load_model

    def loads(*arguments):
        logging.getLogger("transformers").warning("the server said: %s", TEXT)
        return load_model(*arguments)

    def sample(job):
        yield Sampled(job.state.step, f"prompt {TEXT}", f"answer {TEXT}")

    monkeypatch.setattr(api, "load_model", loads)
    monkeypatch.setattr(milestones, "sample", sample)
    monkeypatch.setattr(DataReport, "lines", lambda self: [f"the rows say {TEXT}"])


def switched_off(patch):
    """Luthier without its care for secrets."""
    never = secrets.re.compile(r"(?!)")
    patch.setattr(secrets, "_known", lambda: None)
    patch.setattr(secrets, "SHAPES", never)
    patch.setattr(secrets, "_USER_IN_URL", never)
    patch.setattr(secrets, "_PLACES", ())


def everything_written(capsys, monkeypatch, folder, model, rows):
    """Do all that writes; returns sink -> bytes."""
    work = folder / ALL["shape alone"]  # the path of the config and the folder we run in
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    config = write_config(work / "c.yaml", model, rows, Path("out"), max_steps=2)
    config.write_text(config.read_text().replace(str(work / "cache"), str(folder / "cache")))
    seen = {}
    done = run_here(capsys, "train", config, "save_steps=1", "warmup_ratio=0.1", "warmup_steps=1")
    assert done.code == 0, done.err
    seen["terminal"] = done.out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "run_engine", fails)
        failed = run_here(capsys, "train", config, "output_dir=failed")
    assert failed.code == 1 and "Traceback" not in failed.err
    seen["terminal of a failure"] = failed.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "resolve", fails)
        seen["terminal before a run"] = run_here(capsys, "plan", config).err
    seen["screen of the plan"] = "".join(run_here(capsys, "plan", config).out.split())  # lines are wrapped
    seen["screen of the watcher"] = run_here(capsys, "watch", "out", "--once").out
    seen["error of the command line"] = run_here(capsys, "train", config, TEXT).err
    seen["error in Python"] = repr(Problem("E-RUN-004", TEXT, TEXT, TEXT))
    results = {"comparisons": [{"tasks": TEXT, "changes": [], "verdict": TEXT}]}
    (work / "results.json").write_text(json.dumps(results))
    for name, words in EXPORTS.items():
        done = run_here(capsys, *words, work / {"verify merge": "merge"}.get(name, name))
        assert done.code == 0, done.err
        seen[f"terminal of {name}"] = done.out + done.err
    with Sinks() as sinks:
        sinks.add("tracker", tracker := Tracker())
        sinks.write(Notice("info", TEXT))
    seen["tracker"] = "".join(tracker.seen)
    write_json(work / "answer.json", {"text": [TEXT], TEXT: 1})
    files = {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    return {name: text.encode() for name, text in seen.items()} | {
        n: b for n, b in files.items() if n not in ("c.yaml", "results.json")
    }


def fails(*arguments, **keys):
    try:
        raise ValueError(TEXT)
    except ValueError as error:
        raise RuntimeError(f"it failed: {TEXT}") from error


def hits(written):
    """Sink -> the canaries in it."""
    found = {name: {kind for kind, value in ALL.items() if value.encode() in data} for name, data in written.items()}
    return {name: kinds for name, kinds in found.items() if kinds}


@pytest.mark.slow
def test_no_canary_is_in_anything_that_was_written(
    capsys, monkeypatch, tmp_path, tiny_model_dir, alpaca_file, planted, leaky
):
    with pytest.MonkeyPatch.context() as patch:
        switched_off(patch)
        control = hits(everything_written(capsys, monkeypatch, tmp_path / "off", tiny_model_dir, alpaca_file))
    sinks = {name.partition("/events.out")[0] for name in control}
    assert sinks >= {
        "terminal", "terminal of a failure", "terminal before a run", "screen of the plan", "screen of the watcher",
        "error of the command line", "error in Python", "tracker", "answer.json", "luthier-error.log",
        "out/events.jsonl", "out/logs", "out/library.log", "out/plan.yaml", "out/final_model/README.md",
        "failed/events.jsonl", "failed/error.log", "failed/plan.yaml", *(f"terminal of {name}" for name in EXPORTS),
        "merge.json", "verify.json", "export hub/README.md",
    }, sinks  # fmt: skip
    for name in (
        "out/events.jsonl",
        "out/library.log",
        "out/plan.yaml",
        "failed/error.log",
        "tracker",
        "answer.json",
        "export hub/README.md",
    ):
        assert control[name] == set(ALL), f"the search in {name} is blind for {set(ALL) - control[name]}"
    written = everything_written(capsys, monkeypatch, tmp_path / "on", tiny_model_dir, alpaca_file)
    assert {name.partition("/events.out")[0] for name in written} >= sinks
    assert hits(written) == {}
    assert b"<HF_TOKEN>" in written["out/events.jsonl"] and b"<netrc password>" in written["failed/error.log"]


@pytest.mark.parametrize("kind", [*CANARIES, "netrc", "token of the hub", "url", "private key", "shape alone"])
def test_e_cfg_013_none_of_them_can_stand_in_a_config(capsys, tmp_path, planted, kind):
    value = f"https://me:{ALL['url']}@host/x" if kind == "url" else ALL[kind]
    if kind == "private key":
        value = f"-----BEGIN PRIVATE KEY-----{value}"
    places = {
        f"data:\n  datasets:\n    - path: '{value}/rows.jsonl'\n",
        f"evaluation:\n  sample_prompts: ['ask {value} for it']\n",
        f"model:\n  model_name_or_path: '{value}'\n",
    }
    for text in places:
        (tmp_path / "c.yaml").write_text(text)
        result = run_here(capsys, "train", tmp_path / "c.yaml")
        assert result.code == 2 and "E-CFG-013" in result.err and "environment variable" in result.err
        assert ALL[kind] not in result.err + result.out


def test_e_cfg_013_nor_come_in_by_a_variable(capsys, tmp_path, planted):
    (tmp_path / "c.yaml").write_text("data:\n  datasets:\n    - path: 'https://x/${DB_PASSWORD}/rows.jsonl'\n")
    result = run_here(capsys, "train", tmp_path / "c.yaml")
    assert result.code == 2 and "E-CFG-013" in result.err and ALL["DB_PASSWORD"] not in result.err
