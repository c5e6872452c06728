"""The pages of the reference that are made of the source alone, and the source of one function.

Not covered: the config's keys and the glossary, which make their own pages (`luthier.config`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luthier
from luthier.errors import CODES
from luthier.events.types import EVENTS

GUIDE = Path(__file__).resolve().parent
ROOT = GUIDE.parent
MARKS = re.compile(r"  # (?:type: ignore|noqa).*")
SIGNATURE = re.compile(r"\A(?:@.*\n)*def .*?:(?=\n)", re.DOTALL)
FAMILIES = {
    "E-CFG": "The config",
    "E-DATA": "Data",
    "E-MODEL": "The model",
    "E-ENV": "The environment",
    "E-CKPT": "Checkpoints",
    "E-GATE": "The gate before training",
    "E-RUN": "The run",
    "E-EVAL": "Evaluation",
    "E-EXPORT": "Export",
    "E-SERVE": "Serving",
    "E-SWEEP": "Sweeps",
    "E-LAUNCH": "Jobs on clusters",
    "E-LEARN": "Lessons",
}


def source(symbol: str) -> tuple[str, str]:
    """Source and file of `luthier.room.module.function`, or of a method or class.

    Raises:
        KeyError: No such symbol.
    """
    parts = symbol.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        path = ROOT / "src" / Path(*parts[:cut]).with_suffix(".py")
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            node = _find(ast.parse(text), parts[cut:])
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = text.splitlines()[first - 1 : node.end_lineno]
            code = "\n".join(MARKS.sub("", line[node.col_offset :]) for line in lines)
            return code, str(path.relative_to(ROOT))
    raise KeyError(symbol)


def _find(node: Any, names: list[str]) -> Any:
    for name in names:
        found = [child for child in node.body if getattr(child, "name", "") == name]
        if not found:
            raise KeyError(name)
        node = found[0]
    return node


def errors_page() -> str:
    """Every error code with its long text."""
    parts = [
        "# Error codes",
        "",
        "Every error has a code that stays the same. The screen shows the place, what was found, why it matters and "
        "one fix; `luthier explain CODE` prints the text below, and `luthier explain E-CFG` lists those that "
        "begin so.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | the run failed |",
        "| 2 | the request was wrong: config, data, model, environment |",
        "| 3 | a gate or a comparison said no |",
        "| 75 | stopped; `--resume auto` goes on |",
        "",
    ]
    for family, title in FAMILIES.items():
        parts += [f"## {title}", ""]
        for code, explanation in CODES.items():
            if code.rpartition("-")[0] == family:
                parts += [f"### {code}: {explanation.title}", "", f"Why it matters: {explanation.why.rstrip('.')}.", ""]
                parts += [explanation.text, ""]
    return "\n".join(parts)


def events_page() -> str:
    """Every event with its fields, from the text beside them."""
    tree = ast.parse((ROOT / "src/luthier/events/types.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    parts = [
        "# Events",
        "",
        "What `luthier.train` yields, and what the lines of `events.jsonl` hold. A line is one flat JSON object: "
        "`event` (the kind), `time` (epoch seconds), `attempt` (which start of the run), then the fields.",
        "",
    ]
    for kind, event in EVENTS.items():
        parts += [f"## {event.__name__}", "", f"`{kind}`: {' '.join((event.__doc__ or '').split())}", ""]
        parts += ["| field | type | meaning |", "|---|---|---|"]
        parts += [f"| `{n}` | `{t}` | {text} |" for n, t, text in _fields(classes[event.__name__])]
        parts.append("")
    return "\n".join(parts)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type and text of each field of a dataclass."""
    following = [*node.body[1:], None]
    for child, after in zip(node.body, following, strict=True):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and child.target.id != "kind":
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = " ".join(str(after.value.value).split())
            yield child.target.id, ast.unparse(child.annotation).replace(" | ", " or "), text


PUBLIC = {
    "run": "luthier.notebook.run",
    "train": "luthier.api.train",
    "plan": "luthier.api.plan",
    "load": "luthier.generate.load.load",
    "score": "luthier.evaluate.simple.score",
    "compare": "luthier.evaluate.simple.compare",
}
"""Where the functions of `luthier.__all__` are written."""


def python_page() -> str:
    """The public functions with signature and docstring."""
    text = (GUIDE / "reference" / "python.md").read_text(encoding="utf-8")
    parts = [text.rstrip(), ""]
    for name in luthier.__all__:
        if name in PUBLIC:
            parts += _described(f"luthier.{name}", PUBLIC[name])
    for method in ("generate", "generate_many", "stream", "complete", "as_base"):
        parts += _described(f"Tuned.{method}", f"luthier.generate.load.Tuned.{method}")
    return "\n".join(parts)


def _described(title: str, symbol: str) -> list[str]:
    code, _ = source(symbol)
    node: Any = ast.parse(code).body[0]
    signature = SIGNATURE.match(code)
    assert signature is not None, symbol
    docstring = ast.get_docstring(node) or ""
    return [f"## {title}", "", f"```python\n{signature[0]} ...\n```", "", *_prose(docstring), ""]


def _prose(docstring: str) -> Iterator[str]:
    """A Google-style docstring as markdown: its sections become bold words, their entries a list."""
    inside = ""
    for line in docstring.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes):", line)
        entry = re.fullmatch(r"    (\*{0,2}\w+): (.*)", line)
        if heading:
            inside = heading[1]
            yield f"**{inside}**"
            yield ""
        elif entry and inside in ("Args", "Raises", "Attributes"):
            yield f"- `{entry[1]}`: {entry[2]}"
        else:
            yield line[4:] if inside in ("Returns", "Yields") and line.startswith("    ") else line
