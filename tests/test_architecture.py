"""The house rules that no linter knows: floors, sizes, launchers, codes with tests, what may never be in the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import luthier
from luthier.errors import CODES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "luthier"
FILES = sorted(SOURCE.rglob("*.py"))
LAUNCHERS = sorted(p for folder in ("training", "utils") for p in (ROOT / "src" / folder).glob("*"))
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LAUNCHER = 450, 60, 12


def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def imported_by(node):
    """Names of packages."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def place(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_rooms_import_only_from_floors_below():
    done = python("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "2 kept, 0 broken" in done.stdout


def test_what_is_imported_is_declared():
    """Also what other packages bring along: they may cease to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[<>=\[;]", line)[0].strip().lower() for line in lines}
    names = [
        name
        for _, tree in trees()
        for node in ast.walk(tree)
        for name in imported_by(node)
        if name not in sys.stdlib_module_names
    ]
    distributions = packages_distributions()
    parts = {"starlette", "pydantic_core", "sqlalchemy"}  # of fastapi, pydantic and optuna
    beside = {"luthier", "IPython", "flash_attn", "unsloth", *parts}  # a notebook is there or not; so are the others
    missing = {
        name
        for name in {*names} - beside
        if not {d.lower().replace("_", "-") for d in distributions.get(name, [name])} & declared
    }
    assert missing == set()


def test_files_and_functions_stay_readable():
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in FILES if (n := len(p.read_text().splitlines())) > LONGEST_FILE]
    for path, tree in trees():
        for node in functions(tree):
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            lines = node.end_lineno - node.lineno + 1 - docstring
            if lines > LONGEST_FUNCTION:
                long.append(f"{place(path, node)} {node.name}: {lines} lines")
    assert long == []


def documents_its_members(node):
    """Private classes need not, and protocols describe their members in their own text."""
    return not node.name.startswith("_") and "Protocol" not in [ast.unparse(base) for base in node.bases]


def test_everything_public_says_what_it_is():
    silent = []
    for path, tree in trees():
        if not ast.get_docstring(tree):
            silent.append(str(path.relative_to(ROOT)))
        owners = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and documents_its_members(n))]
        for owner in owners:
            for node in owner.body:
                kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
                if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node):
                    silent.append(f"{place(path, node)} {node.name}")
    assert silent == []


def test_launchers_are_small_and_no_package():
    """`src/training` must never shadow an import, and holds no logic."""
    assert [p.name for p in LAUNCHERS if p.suffix == ".py"]
    assert [p.name for p in LAUNCHERS if p.name == "__init__.py"] == []
    assert [p.name for p in LAUNCHERS if p.suffix == ".py" and len(p.read_text().splitlines()) > LONGEST_LAUNCHER] == []


def test_every_error_code_has_a_test_that_names_it():
    mine = Path(__file__).resolve()
    text = "".join(p.read_text(encoding="utf-8") for p in ROOT.joinpath("tests").rglob("*.py") if p.resolve() != mine)
    assert sorted(set(CODES) - set(re.findall(r"E-[A-Z]+-\d{3}", text))) == []


def test_every_error_code_is_used_by_the_source():
    used = "".join(p.read_text(encoding="utf-8") for p in FILES if p.parent.name != "codes")
    assert sorted(set(CODES) - set(re.findall(r"E-[A-Z]+-\d{3}", used))) == []


def test_the_public_surface_is_pinned():
    assert luthier.__all__ == ["__version__", "compare", "load", "plan", "run", "score", "train"]
    assert {*luthier.__all__} <= {*dir(luthier)}, "for the Tab key"
    with pytest.raises(AttributeError, match="no attribute 'tune'"):
        _ = luthier.tune


LIGHT = ["luthier", "luthier.cli.main", "luthier.errors", "luthier.config", "luthier.config.load",
         "luthier.config.resolve", "luthier.config.render", "luthier.events", "luthier.events.read",
         "luthier.events.sinks", "luthier.monitor", "luthier.monitor.panel", "luthier.evaluate.sandbox",
         "luthier.gate.gate", "luthier.report.page", "luthier.report.several",
         "luthier.report.live_server"]  # fmt: skip


def test_reading_and_watching_import_no_torch():
    program = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'datasets'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = python(program, *LIGHT)
    assert done.returncode == 0, done.stderr


def test_only_the_screen_of_the_dashboard_imports_textual():
    program = (
        "import sys, luthier.report.live_server, luthier.monitor.dashboard.report; sys.exit('textual' in sys.modules)"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


def forbidden_in(tree):
    """Calls that run code out of data, or a shell; imports of pickle."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {name.partition(".")[0] for name in names}:
                yield node, "pickle"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "yaml.load"}:
                yield node, name
            if any(k.arg == "shell" and getattr(k.value, "value", True) for k in node.keywords):
                yield node, "shell=True"


# The process that runs a candidate, behind the walls of the sandbox: to run code out of data is all that it is for.
# Nothing of Luthier imports it outside that process, as the second test says.
RUNS_CODE = SOURCE / "evaluate" / "sandbox" / "child.py"


def test_nothing_runs_code_out_of_data():
    found = [(path, f"{place(path, node)} {what}") for path, tree in trees() for node, what in forbidden_in(tree)]
    assert [text for path, text in found if path != RUNS_CODE] == []
    assert sorted(text.split()[1] for path, text in found if path == RUNS_CODE) == [
        "compile",
        "compile",
        "eval",
        "exec",
    ]


def test_what_runs_code_is_imported_only_inside_the_sandbox():
    program = (
        "import sys, luthier.evaluate.sandbox as s; "
        "sys.exit('child' in {name.rpartition('.')[2] for name in sys.modules if name.startswith(s.__name__)})"
    )
    assert python(program).returncode == 0
    names = {"child", "luthier.evaluate.sandbox.child"}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                said = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not said & names or (path.parent == RUNS_CODE.parent and path.name == "server.py"), place(
                    path, node
                )


@pytest.mark.parametrize(
    "code", ["import pickle", "from torch import x\ntorch.load('a')", "eval('1')", "subprocess.run('ls', shell=True)"]
)
def test_the_rule_itself_finds_what_it_forbids(code):
    assert len(list(forbidden_in(ast.parse(code)))) == 1


def test_no_path_of_a_developers_machine_and_no_unfinished_mark():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|/(home|Users|root|work|tmp)/\w")
    found = []
    for path in [*FILES, *(p for p in LAUNCHERS if p.suffix == ".py")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if marks.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_the_wheel_holds_luthier_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"luthier"}
    assert {"luthier/py.typed", "luthier/data/templates/alpaca.jinja", "luthier/cli/main.py"} <= set(names)
    assert {"luthier/configs/quickstart.yaml", "luthier/configs/my_rows.yaml"} <= set(names)
    assert {"luthier/quickstart/base/model.safetensors", "luthier/report/live.js"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
