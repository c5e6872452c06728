"""README and guide: their commands parse, their YAML loads, their links lead somewhere, their numbers are measured."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

import luthier
from luthier.cli.main import app
from luthier.cli.request import parse
from luthier.config.keys import by_name, keys, source_keys
from luthier.config.load import from_dict, load
from luthier.config.resolve import resolve
from luthier.config.schema import Config
from luthier.errors import CODES
from luthier.events.types import EVENTS
from luthier.machine.probe import probe
from tests.data.support import TALK, make_tokenizer, pieces, run, write_jsonl

ROOT = Path(__file__).parents[2]
FRONT = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
FENCE = re.compile(r"(^`[\w/.]+`\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`[^`\n]+`")
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)


def _build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "guide" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "guide"))
        spec.loader.exec_module(module)
    return module


build = _build_module()
PAGES = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in build.pages()}
SITE = {f"docs/{name}": text for name, text in build.site().items()}
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in FRONT} | SITE


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every block in a language, except those that quote a file of the source."""
    found = [(name, *match.groups()) for name, text in TEXTS.items() for match in FENCE.finditer(text)]
    return [(name, code) for name, quoted, tongue, code in found if tongue == language and not quoted]


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every shell block, comments cut off."""
    lines = [(name, line.partition(" #")[0].strip()) for name, code in blocks("bash") for line in code.splitlines()]
    return [(name, line.removeprefix(".venv/bin/")) for name, line in lines if line and not line.startswith("#")]


def test_there_is_something_to_test():
    assert len(PAGES) >= 15 and len(commands()) > 20 and len(blocks("yaml")) >= 3 and len(blocks("python")) > 4


def test_every_number_was_measured():
    used = {match["number"] for text in PAGES.values() for match in build.BLANK.finditer(text) if match["number"]}
    measured = {f"{name}.{key}" for name, numbers in build.measured().items() for key in numbers}
    assert used and used <= measured
    assert not [name for name, text in SITE.items() if "{{ " in text]


def test_the_pages_are_those_that_make_docs_makes():
    there = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md")}
    stale = sorted(name for name in there | SITE if there.get(name) != SITE.get(name))
    assert stale == [], "their sources lie in guide/ and src/: run `make docs`, and commit what it writes"


def test_a_page_goes_with_its_source_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "DOCS", tmp_path)
    (tmp_path / "pictures").mkdir()
    kept = {"pictures/loss.svg": "<svg/>", "style.css": "a {}", "by_hand.md": "# By hand\n"}
    gone = {"old.md": f"{build.MADE}guide/old.md. -->\n\n# Old\n", "train.md": "# Stale\n"}
    for name, text in (kept | gone).items():
        (tmp_path / name).write_text(text, "utf-8")
    build.build()
    there = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.*")}
    assert there == kept | {name.removeprefix("docs/"): text for name, text in SITE.items()}


def test_a_number_that_was_not_measured_is_refused():
    with pytest.raises(KeyError, match=r"guide/measure\.py rank"):
        build.filled("{{ rank.nothing:d }}", build.measured())
    with pytest.raises(KeyError, match="nothing"):
        build.filled("{{ source luthier.training.step.nothing }}", build.measured())


def test_the_code_beside_the_words_is_the_code_that_runs():
    code, path = build.source("luthier.data.template.Template.stop_ids")
    assert path == "src/luthier/data/template.py" and code.startswith("def stop_ids(self")
    assert textwrap.indent(code, "    ").rstrip() in (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize(("name", "line"), [c for c in commands() if c[1].split()[0] == "luthier"])
def test_commands_of_luthier_parse(name: str, line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    _, verb, *words = shlex.split(line.partition(" > ")[0])
    result = CliRunner().invoke(app, [verb, *words, "--help"])
    assert result.exit_code == 0, f"{name}: {line}\n{result.output}"
    if verb in ("train", "plan") and "--from" not in words:
        plain = [word for word in words if not word.startswith("--") and word != "auto"]
        path, overrides = parse(plain)
        resolve(load(path, overrides), probe(), None, None)
        if str(path) == "configs/quickstart.yaml":  # its model and rows come with the package
            _, missing = luthier.plan(path, overrides)
            assert missing == (), line


def test_other_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name, line in commands():
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, f"{name}: {line}"
        if words[0] in ("python", "python3") and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{name}: {line}"


@pytest.mark.parametrize(("name", "code"), blocks("yaml"))
def test_yaml_loads(name: str, code: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(code, "utf-8")
    assert yaml.safe_load(code).keys() <= Config.model_fields.keys(), name
    load(path)


def test_lines_to_change_are_valid():
    found = {
        match
        for name, text in PAGES.items()
        if "concepts" in name
        for match in re.findall(r"`([a-z_]+(?:\.[a-z_]+)?): ([^`]+)`", text)
        if match[0].rpartition(".")[2] in by_name()
    }
    assert len(found) > 15
    for key, value in found:
        from_dict({}, [f"{key}={value}"])


@pytest.mark.parametrize(("name", "code"), blocks("python"))
def test_python_compiles_and_uses_what_is_public(name: str, code: str):
    compile(code, name, "exec")
    assert set(re.findall(r"\bluthier\.(\w+)\(", code)) <= set(luthier.__all__)


def test_the_template_of_the_guide_holds_every_message(tmp_path: Path):
    (code,) = (code for name, code in blocks("text") if "add_generation_prompt" in code)
    (tmp_path / "mine.jinja").write_text(code, "utf-8")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": TALK}])
    prepared = run(make_tokenizer(bos=False), rows, prompt_template=str(tmp_path / "mine.jinja"))
    shown = "".join(text for text, _ in pieces(make_tokenizer(), prepared.train.members(0)[0]))
    assert all(turn["content"] in shown for turn in TALK)


def anchors(text: str) -> set[str]:
    """Those that GitHub gives to a page's headings; mkdocs checks its own when it builds the site."""
    times: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(FENCED.sub("", text)):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "]", heading).lower()).replace(" ", "-")
        found.add(f"{anchor}-{times[anchor]}" if times[anchor] else anchor)
        times[anchor] += 1
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str):
    for target, anchor in LINK.findall(INLINE.sub("", FENCED.sub("", TEXTS[name]))):
        if target.startswith("https://"):
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(path.read_text("utf-8")), f"{name}: {target}#{anchor}"


def test_anchors_are_those_of_github():
    text = "# A b: `c_d`, e!\n## [One](x.md) - two\n```\n# no\n```\n## Same\n## Same\n"
    assert anchors(text) == {"a-b-c_d-e", "one---two", "same", "same-1"}


@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_a_table_have_its_columns(name: str):
    """GitHub takes a bar for the end of a cell even in code, and drops what is too much; mkdocs does not."""
    lines = FENCED.sub("", TEXTS[name]).split("\n")
    bars = [len(re.findall(r"(?<!\\)\|", line)) if ROW.match(line) else 0 for line in lines]
    for line, here, before in zip(lines[1:], bars[1:], bars, strict=False):
        assert not (here and before) or here == before, f"{name}: {line}"


def test_the_reference_covers_every_key_code_event_and_function():
    config, errors = build.config_page(), build.errors_page()
    assert [key for key in keys().values() if f"### `{key.name}`\n\n{key.text}\n" not in config] == []
    assert [key for key in source_keys().values() if f"#### `{key.name}`\n\n{key.text}\n" not in config] == []
    assert "- expects: a number above 0\n" in config
    assert [code for code, e in CODES.items() if f"### {code}: {e.title}\n" not in errors or e.text not in errors] == []
    events = build.events_page()
    names = {field.name for event in EVENTS.values() for field in fields(event)}
    assert [name for name in names if f"| `{name}` |" not in events] == []
    functions = [name for name in luthier.__all__ if not name.startswith("_")]
    python = build.python_page()
    assert functions and [name for name in functions if f"## luthier.{name}\n" not in python] == []


def test_architecture_names_what_exists():
    text = TEXTS["ARCHITECTURE.md"]
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), test
    package = ROOT / "src" / "luthier"
    rooms = {p.parent.name for p in package.glob("*/__init__.py")} | {"api", "notebook"}
    for path in re.findall(rf"`((?:{'|'.join(rooms)})/[\w/]+(?:\.py|/))`", text):
        assert (package / path).exists(), path
    assert set(re.findall(r"^\| \d \| `(\w+)` \|", text, re.MULTILINE)) == rooms


def test_pictures_are_small_used_and_say_nothing_of_the_machine_they_were_made_on():
    targets = [target for text in TEXTS.values() for target, _ in LINK.findall(text)]
    shown = {Path(target).name for target in targets if target.endswith((".svg", ".png"))}
    pictures = {p.name: p for p in (ROOT / "docs" / "pictures").iterdir()}
    assert shown == set(pictures)
    assert max(path.stat().st_size for path in pictures.values()) < 150_000
    drawn = [path for path in pictures.values() if path.suffix == ".svg"]
    for path in (*drawn, ROOT / "guide/measured.json"):
        text = path.read_text("utf-8")
        assert str(ROOT) not in text and "/home/" not in text and "/tmp/" not in text, path.name
    assert json.loads((ROOT / "guide/measured.json").read_text("utf-8"))["resume"]["largest_difference"] == 0


@pytest.mark.slow
def test_the_guide_builds(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    text = (tmp_path / "concepts" / "loss.html").read_text("utf-8")
    assert "p_BV = torch.softmax(" in re.sub(r"<[^>]+>", "", text) and "<title>Loss - Luthier</title>" in text
    assert "<summary>Answer</summary>\n<p>" in text
    assert re.findall(r'(?:src|href)="https?://(?:fonts|cdn|unpkg)[^"]*"', text) == []
