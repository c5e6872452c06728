"""How a command begins and ends: nothing looks through the libraries' objects, and nothing is compiled."""

from __future__ import annotations

import subprocess
import sys

import torch

from luthier.cli.libraries import _compiled_when_called

BEGIN = """
import gc, sys
from luthier.cli.libraries import import_libraries
before = gc.get_freeze_count()
import_libraries()
frozen = gc.get_freeze_count()
assert "torch" in sys.modules and gc.isenabled() and frozen > before + 100_000, frozen
assert "bitsandbytes" in sys.modules and "torch._inductor.compile_fx" not in sys.modules, "nothing is compiled yet"
assert "datasets" not in sys.modules, "no rows of the hub are read yet"
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


def test_what_is_compiled_is_compiled_when_it_is_called():
    graphs, torch_compile = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with _compiled_when_called():
        twice = torch.compile(lambda x: x * 2, backend=backend)

        @torch.compile(backend=backend)
        def more(x, by=1):
            "Adds."
            return x + by

    assert torch.compile is torch_compile and graphs == [] and (more.__name__, more.__doc__) == ("more", "Adds.")
    assert [twice(torch.ones(1)).item() for _ in range(2)] == [2, 2] and len(graphs) == 1
    assert more(torch.ones(1), by=2).item() == 3 and len(graphs) == 2
