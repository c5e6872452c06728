"""The lock of a folder, and who may be waited for."""

import subprocess
import sys
import time

import pytest

from luthier.errors import CheckpointError
from luthier.machine.lock import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks of this kind")
HELD = """
import os, sys, time
from pathlib import Path
from luthier.machine.lock import locked
held = locked(Path(sys.argv[1]))
held.__enter__()
if os.fork():
    os.write(1, b"held")
    os._exit(0)
time.sleep(1.5)
"""


def test_what_a_killed_process_was_about_to_start_is_waited_for(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.read(4) == b"held"
    began = time.monotonic()
    with locked(tmp_path):
        assert 0.2 < time.monotonic() - began < 4


def test_a_living_process_is_not_waited_for(tmp_path):
    with locked(tmp_path):
        began = time.monotonic()
        with pytest.raises(CheckpointError, match="in use by this program"), locked(tmp_path):
            pass
        assert time.monotonic() - began < 1
