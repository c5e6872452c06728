"""`luthier merge`, `export` and `verify merge` as a user runs them; the hub is a server of this test."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from gguf import GGUFReader
from huggingface_hub import ModelCard

from luthier.errors.extras import install
from luthier.export import agree, gguf_run, llama_cpp
from luthier.export.card import _renamed, base_licence
from luthier.generate.weights import Base
from tests.cli.support import process, run_here
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
RATE = {"tasks": 100, "share": 0.5, "low": 0.404, "high": 0.596}
CHANGE = {"split": "all", "base": {**RATE, "share": 0.1}, "tuned": RATE, "difference": 0.4, "low": 0.3, "high": 0.5,
          "p": 0.0001, "gained": ["a"], "lost": []}  # fmt: skip
RESULTS = {"comparisons": [{"tasks": "quickstart", "changes": [CHANGE], "verdict": "It raised pass@1."}]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file, {"quantization": {"load_in_4bit": True}})
    return folder


@pytest.mark.slow
def test_merge_then_verify(run, tmp_path, capsys):
    done = run_here(capsys, "merge", run, "--to", tmp_path / "m", "--json", tmp_path / "m.json")
    assert done.code == 0, done.err
    assert "the values of the 4-bit nf4 weights" in done.out and "8 prompts of held-out rows" in done.out
    (proof,) = json.loads((tmp_path / "m.json").read_text())["agreements"]
    assert proof["passed"] and proof["mean_kl"] < 1e-8 and proof["bounds"]["most_mean_kl"] == agree.MOST_KL
    checked = run_here(capsys, "verify", "merge", run, "--merged", tmp_path / "m", "--json", tmp_path / "v.json")
    assert checked.code == 0 and "is the run that was trained" in " ".join(checked.out.split())
    assert json.loads((tmp_path / "v.json").read_text())["passed"] is True
    taken = run_here(capsys, "merge", run, "--to", tmp_path / "m")
    assert taken.code == 2 and "E-EXPORT-001" in taken.err and "--overwrite" in taken.err


@pytest.mark.slow
def test_what_is_not_the_run_ends_with_3(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(agree, "LEAST_TOP1", 1.1)
    for command in (["merge", run, "--to"], ["export", run, "--to", "gguf", "--out"]):
        done = run_here(capsys, *command, tmp_path / "m")
        assert done.code == 3 and "E-EXPORT-002" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quant", ["f16", "q8_0"])
def test_export_gguf(quant, run, tmp_path, capsys):
    done = run_here(
        capsys, "export", run, "--to", "gguf", "--quant", quant, "--out", tmp_path / "g", "--json", tmp_path / "g.json"
    )
    assert done.code == 0, done.err
    flat = " ".join(done.out.split())
    assert f"{quant} in llama.cpp" in flat and "become the same token ids in llama.cpp" in flat
    assert "llama.cpp renders the chat template as transformers does" in flat
    (proof,) = json.loads((tmp_path / "g.json").read_text())["agreements"]
    assert proof["passed"] and proof["mean_kl"] < (1e-4 if quant == "f16" else 5e-3)
    reader = GGUFReader(tmp_path / "g" / "model.gguf")
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("general.name").contents() == run.name
    assert "### Instruction:" in reader.get_field("tokenizer.chat_template").contents()


def test_export_ollama(run, tmp_path, capsys):
    done = run_here(capsys, "export", run, "--to", "ollama", "--out", tmp_path / "o")
    assert done.code == 0, done.err
    text = (tmp_path / "o" / "Modelfile").read_text()
    assert "FROM ./model.gguf" in text and 'PARAMETER stop "</s>"' in text and "PARAMETER num_ctx 512" in text
    assert "Not as in training: a message that holds `### Input:`" in text
    assert "<s>" not in text, "Ollama puts BOS in front by itself"
    assert (tmp_path / "o" / "model.gguf").stat().st_size > 100_000


def test_a_template_that_ollama_cannot_have_is_refused_before_the_work(run, tmp_path, capsys):
    shutil.copytree(Path(run) / "final_model", tmp_path / "run")
    template = "{% for m in messages %}Q: {{ m.content | upper }}\n{% endfor %}A:"
    (tmp_path / "run" / "chat_template.jinja").write_text(template)
    done = run_here(capsys, "export", tmp_path / "run", "--to", "ollama", "--out", tmp_path / "o")
    assert done.code == 3 and "E-EXPORT-005" in done.err and not (tmp_path / "o").exists()
    assert "loading" in done.err and "it answers" not in done.err


def test_without_llama_cpp_it_says_so(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama_cpp, "installed", lambda: "")
    done = run_here(capsys, "export", run, "--to", "gguf", "--out", tmp_path / "g")
    assert done.code == 0 and "NOT tried in llama.cpp" in done.out and "pip install xllamacpp" in done.out


def test_e_export_011_without_the_library(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gguf_run, "find_spec", lambda name: None)
    done = run_here(capsys, "export", run, "--to", "gguf", "--out", tmp_path / "g")
    assert done.code == 2 and "E-EXPORT-011" in done.err and install("gguf") in done.err


@pytest.mark.slow
def test_e_export_004_other_tokens_are_refused_unless_allowed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gguf_run, "TEXTS", (*gguf_run.TEXTS, "\ud7ff\u0e33\u0301"))
    known = llama_cpp.listen

    def otherwise(*arguments):
        heard = known(*arguments)
        heard.tokens[3] = [*heard.tokens[3], 7]
        return heard

    monkeypatch.setattr(llama_cpp, "listen", otherwise)
    refused = run_here(capsys, "export", run, "--to", "gguf", "--out", tmp_path / "g")
    assert refused.code == 3 and "E-EXPORT-004" in refused.err and not (tmp_path / "g").exists()
    taken = run_here(capsys, "export", run, "--to", "gguf", "--allow", "tokenizer", "--out", tmp_path / "g")
    assert taken.code == 0 and "1 of " in taken.out and "cut into other tokens" in taken.out


def test_e_export_006_an_adapter_whose_base_nobody_else_has(run, tmp_path, capsys):
    done = run_here(capsys, "export", run, "--to", "hub", "--out", tmp_path / "h")
    assert done.code == 2 and "E-EXPORT-006" in done.err and "--merged" in done.err


def test_export_hub_the_adapter_with_a_card(run, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    done = run_here(capsys, "export", run, "--to", "hub", "--base-name", "tiny/Llama", "--out", tmp_path / "h",
                    "--results", tmp_path / "r.json")  # fmt: skip
    assert done.code == 0, done.err
    files = {path.name: path.read_text(errors="replace") for path in (tmp_path / "h").iterdir()}
    weights = (tmp_path / "h" / "adapter_model.safetensors").read_bytes()
    assert weights == (run / "final_model" / "adapter_model.safetensors").read_bytes()
    card = ModelCard(files["README.md"])
    assert card.data.base_model == "tiny/Llama" and card.data.library_name == "peft"
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert "50.0 % (40 to 60)" in card.text and "It raised pass@1." in card.text and "load_in_4bit=True" in card.text
    trained_in = json.loads(files["luthier.json"])["dtype"]
    assert f"bnb_4bit_compute_dtype={trained_in!r})  # as in training" in card.text and trained_in != "auto"
    assert "licence of the base is not known" in card.text and "on nothing else" in card.text
    assert card.text.index("## Use") < card.text.index("## Results") < card.text.index("## Limits")
    settings = yaml.safe_load(card.text.rpartition("```yaml")[2].rpartition("```")[0])
    assert settings["config"]["training"]["max_steps"] == 8
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny/Llama"
    for name, text in files.items():
        assert str(tmp_path.parent.parent) not in text, f"a path of this machine is in {name}"


@pytest.mark.parametrize(("base_name", "revision"), [(None, "4e20de3"), ("tiny/Llama", None)])
def test_export_hub_keeps_the_pinned_commit_of_the_base_unless_it_gets_another_name(
    base_name, revision, run, tmp_path, capsys
):
    final = shutil.copytree(run, tmp_path / "run") / "final_model"
    for file, key in ((final / "adapter_config.json", "base_model_name_or_path"), (final / "luthier.json", "base")):
        file.write_text(json.dumps({**json.loads(file.read_text()), key: "me/base", "revision": "4e20de3"}))
    named = ["--base-name", base_name] if base_name else []
    done = run_here(capsys, "export", tmp_path / "run", "--to", "hub", *named, "--out", tmp_path / "h")
    assert done.code == 0, done.err
    for name in ("adapter_config.json", "luthier.json"):
        assert json.loads((tmp_path / "h" / name).read_text())["revision"] == revision
    card = (tmp_path / "h" / "README.md").read_text()
    assert f'from_pretrained("{base_name or "me/base"}"' in card and ('revision="4e20de3"' in card) == bool(revision)


def test_an_adapter_that_is_not_what_the_run_wrote_is_not_published(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    with (tmp_path / "run" / "final_model" / "adapter_model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x55")
    words = ("--to", "hub", "--base-name", "tiny/Llama", "--out", tmp_path / "h")
    done = run_here(capsys, "export", tmp_path / "run", *words)
    assert done.code == 2 and "E-MODEL-010" in done.err and not (tmp_path / "h").exists()


def test_export_hub_merged(run, tmp_path, capsys):
    done = run_here(capsys, "export", run, "--to", "hub", "--merged", "--out", tmp_path / "h")
    assert done.code == 0, done.err
    card = ModelCard((tmp_path / "h" / "README.md").read_text())
    assert card.data.library_name == "transformers" and "mean KL" in card.text and "PeftModel" not in card.text
    assert "No results are given here" in card.text


def test_e_export_012_results_of_something_else(run, tmp_path, capsys):
    for text in ("[]", "[" * 200_000, '{"comparisons": [{"tasks": 5, "changes": [], "verdict": "v"}]}'):
        (tmp_path / "r.json").write_text(text)
        done = run_here(capsys, "export", run, "--to", "hub", "--merged", "--out", tmp_path / "h", "--results",
                        tmp_path / "r.json")  # fmt: skip
        assert done.code == 2 and "E-EXPORT-012" in done.err and not (tmp_path / "h").exists()


def test_a_base_whose_name_is_a_common_word_is_renamed_where_it_is_named():
    text = 'base_model: x\n- base model: `model`\nmodel = load("model")\n  model_name_or_path: model\n'
    renamed = _renamed(text, "model", "me/base")
    assert renamed == (
        'base_model: x\n- base model: `me/base`\nmodel = load("me/base")\n  model_name_or_path: me/base\n'
    )


@pytest.mark.parametrize(
    ("written", "licence"),
    [("license: mit", "mit"), ("license: [mit", ""), ("tags: 5", ""), ("1: a\nlicense: mit", ""), ("- mit", "")],
)
def test_whatever_a_bases_own_card_holds_it_stops_no_export(tmp_path, written, licence):
    (tmp_path / "README.md").write_text(f"---\n{written}\n---\n# A base\n")
    assert base_licence(Base(str(tmp_path))) == licence


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        if self.path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.say({"files": [{**file, "shouldIgnore": False} for file in files]})
        url = f"http://127.0.0.1:{self.server.server_port}/me/my-model"
        if "/commit/" in self.path:
            return self.say({"success": True, "commitUrl": f"{url}/commit/{'a' * 40}", "commitOid": "a" * 40})
        return self.say({"url": url, "name": "me/my-model", "id": "me/my-model", "errors": [], "warnings": []})

    def do_GET(self):
        about = {"id": "me/my-model", "siblings": [], "sha": "a" * 40, "private": self.server.private}
        self.say(about | {"name": "me", "type": "user", "auth": {}})

    def say(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.private = [], True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pushed(run, tmp_path, hub):
    return process(
        "export", run, "--to", "hub", "--base-name", "tiny/Llama", "--out", tmp_path / "h", "--push", "me/my-model",
        cwd=tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HUB_OFFLINE="0", HF_TOKEN="hf_pushpushpush",
        HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1",
    )  # fmt: skip


@pytest.mark.slow
def test_e_export_008_nothing_is_sent_into_a_public_repository(run, tmp_path, hub):
    hub.private = False
    done = pushed(run, tmp_path, hub)
    assert done.code == 2 and "E-EXPORT-008" in done.err and "public" in done.err and "hf upload" in done.err
    assert (tmp_path / "h" / "README.md").is_file() and not any("upload" in path for path, _, _ in hub.seen)
    assert not any("/commit/" in path for path, _, _ in hub.seen)


@pytest.mark.slow
def test_push(run, tmp_path, hub):
    done = pushed(run, tmp_path, hub)
    assert done.code == 0, done.err
    assert "Pushed to me/my-model, a private repository." in done.out and "hf_pushpushpush" not in done.out + done.err
    created = json.loads(next(body for path, _, body in hub.seen if path == "/api/repos/create"))
    assert created["visibility"] == "private" and created["name"] == "my-model"
    (commit,) = [body for path, _, body in hub.seen if "/commit/" in path]
    files = [json.loads(line)["value"] for line in commit.splitlines() if b'"file"' in line[:20]]
    sent = {file["path"]: base64.b64decode(file["content"]) for file in files}
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(sent)
    assert "manifest.json" not in sent
    assert all(sent[name] == (tmp_path / "h" / name).read_bytes() for name in sent)


def test_e_export_008_no_network_keeps_the_folder(run, tmp_path, capsys):
    words = ("--to", "hub", "--base-name", "tiny/Llama", "--out", tmp_path / "h", "--push", "me/my-model")
    done = run_here(capsys, "export", run, *words)
    assert done.code == 2 and "E-EXPORT-008" in done.err and "hf upload me/my-model" in done.err
    assert (tmp_path / "h" / "README.md").is_file() and "Traceback" not in done.err


def test_e_export_008_a_name_that_is_none(run, tmp_path, capsys):
    done = run_here(capsys, "export", run, "--to", "hub", "--out", tmp_path / "h", "--push", "my model")
    assert done.code == 2 and "OWNER/NAME" in done.err


def test_help_needs_no_torch(tmp_path):
    program = "import sys; from luthier.cli.main import app; sys.exit('torch' in sys.modules or 'gguf' in sys.modules)"
    done = process("-c", program, cwd=tmp_path, command=[sys.executable])
    assert done.code == 0
    for verb in (["merge"], ["export"], ["verify", "merge"]):
        assert process(*verb, "--help", cwd=Path(tmp_path)).code == 0


@pytest.mark.parametrize("words", [("safetensors", "--push", "me/x"), ("gguf", "--merged"), ("hub", "--quant", "q8_0")])
def test_options_of_other_forms_are_refused(run, capsys, words):
    done = run_here(capsys, "export", run, "--to", *words)
    assert done.code == 2 and f"{words[1]}: is for --to" in " ".join(done.err.split()).replace("│ ", "")
