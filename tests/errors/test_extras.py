"""The command that is given for an extra works where it is given."""

from __future__ import annotations

import shlex
from pathlib import Path

from luthier.errors import extras


def test_of_a_checkout_with_its_pins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(extras.install("sweep", "ray"))
    assert Path(words[0]).is_file() and words[1:4] == ["-m", "pip", "install"]
    constraints, checkout = Path(words[5]), Path(words[7].removesuffix("[sweep,ray]"))
    assert words[4] == "-c" and "torch==" in constraints.read_text()
    assert words[6] == "-e" and 'name = "luthier"' in (checkout / "pyproject.toml").read_text()


def test_from_the_checkout_it_is_short(monkeypatch):
    monkeypatch.chdir(extras.CHECKOUT)
    assert extras.install("gguf").endswith(" -m pip install -c constraints.txt -e '.[gguf]'")


def test_of_what_came_from_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    assert extras.install("serve") == "pip install 'luthier[serve]'"
