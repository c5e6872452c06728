"""How a command begins and ends: Python's collector does not look through the libraries' objects."""

from __future__ import annotations

import subprocess
import sys

BEGIN = """
import gc, sys
from luthier.cli.libraries import import_libraries
before = gc.get_freeze_count()
import_libraries()
frozen = gc.get_freeze_count()
assert "torch" in sys.modules and gc.isenabled() and frozen > before + 100_000, frozen
held = [[number] for number in range(1000)]
import_libraries()
assert gc.get_freeze_count() == frozen, "what is made since may become garbage"
"""
END = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count()))
from luthier.cli.main import main
main(["--version"])
"""


def test_what_was_imported_is_never_looked_through_again():
    ended = subprocess.run([sys.executable, "-c", BEGIN], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_is_looked_through_when_a_command_ends():
    ended = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)
    version, frozen = ended.stdout.splitlines()
    assert version.startswith("luthier ") and int(frozen) > 1000
