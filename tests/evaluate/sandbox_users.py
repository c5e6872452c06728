"""Commands as another user, for tests that root runs: an ordinary user must be held as well as root is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOBODY = 65534
# Root's Python and root's checkout may lie where nobody else may look, so they are bound to /mnt, in mounts of its own.
_DROP = """
import os, sys
from pathlib import Path
from luthier.evaluate.sandbox import linux
linux.call("unshare", linux.NEWNS)
linux.call("mount", None, b"/", None, linux.MS_REC | linux.MS_PRIVATE, None)
linux.mount_tmpfs("/mnt", mib=1, files=16, private=False)
linux.call("mount", None, b"/mnt", None, linux.MS_REMOUNT | linux.MS_NOSUID, b"mode=755,size=1m")
for name, source in (("python", sys.argv[1]), ("project", sys.argv[2])):
    Path("/mnt", name).mkdir()
    linux.call("mount", source.encode(), f"/mnt/{name}".encode(), None, linux.MS_BIND | linux.MS_REC, None)
linux.become(int(sys.argv[3]))
os.chdir("/mnt/project")
python = f"/mnt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/mnt/project/src:/mnt/project", "PYTHONDONTWRITEBYTECODE": "1"}
environment["LD_LIBRARY_PATH"] = "/mnt/python/lib"  # where the interpreter's own shared library may lie
os.execve(python, [python, *sys.argv[4:]], environment)
"""


def as_me(*arguments):
    """The command of a Python program, run from the project's root."""
    return [sys.executable, *arguments]


def as_nobody(*arguments):
    """The same, as the user nobody. Only root may ask."""
    return [sys.executable, "-c", _DROP, sys.base_prefix, str(ROOT), str(NOBODY), *arguments]


def environment():
    """For either command."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
