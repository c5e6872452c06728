"""The image's recipe, as far as it can be followed without Docker: what it copies is what an installation needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
COPIED = [line.split()[1:-1] for line in LINES if line.startswith("COPY ")]
INSTALLED = [line for line in LINES if line.startswith("RUN ") and "pip install" in line]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_what_is_copied_makes_the_same_wheel(tmp_path):
    """It is all that .dockerignore lets through."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for line in COPIED for source in line]
    assert sorted(sources) == sorted(let_through)
    build = tmp_path / "build"
    build.mkdir()
    for source in sources:
        place = build / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    names = []
    for folder, out in ((ROOT, "whole"), (build, "image")):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / out)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (wheel,) = (tmp_path / out).glob("*.whl")
        names.append(sorted(name for name in zipfile.ZipFile(wheel).namelist() if not fnmatch(name, "*/RECORD")))
    assert names[0] == names[1]


def test_versions_are_those_of_make_env_and_torch_comes_first():
    first, second = INSTALLED
    assert "-c constraints.txt torch" in first
    assert "PIP_CONSTRAINT=/build/constraints.txt" in second, "also for what a package's own build asks for"
    (extras,) = re.findall(r"\.\[([\w,]+)\]", second)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_its_python_is_supported_and_it_starts_what_an_installation_has():
    (version,) = re.findall(r"^FROM python:(\d\.\d+)-slim$", "\n".join(LINES), re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert 'ENTRYPOINT ["luthier"]' in LINES and "luthier" in PROJECT["scripts"]
    manifest = (ROOT / "src/luthier/launch/templates/kubernetes.yaml.jinja").read_text("utf-8")
    assert "workingDir: /workspace" in manifest and [line for line in LINES if line.startswith("WORKDIR")][-1].endswith(
        "/workspace"
    )
