"""The walls of macOS: the server and its candidates run under sandbox-exec.

    deny everything, then allow: reading the system and Python, writing one folder, threads and forks of the server

A candidate cannot fork, because its limit of processes is zero.

Source: sandbox-exec(1), which Apple calls deprecated and whose profile language it does not document; the form here
follows the profiles in /System/Library/Sandbox/Profiles.
Not covered: a limit of memory. And a test: this tier was written without a Mac at hand, and has never run; the canaries
decide at every start whether it holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SYSTEM = ("/usr/lib", "/usr/share", "/System", "/Library/Frameworks", "/private/var/db/dyld", "/dev", "/private/etc")


def wrapper(folder: str) -> tuple[str, ...]:
    """The command in front of the server's.

    Args:
        folder: The only one that may be written.
    """
    return ("/usr/bin/sandbox-exec", "-p", profile(folder))


def profile(folder: str) -> str:
    """The text of the profile."""
    readable = [*_SYSTEM, sys.base_prefix, str(Path(sys.executable).parent), str(Path(__file__).parent)]
    reads = " ".join(f"(subpath {_quoted(path)})" for path in dict.fromkeys(readable))
    own = f"(subpath {_quoted(str(Path(folder).resolve()))})"
    return "\n".join(
        (
            "(version 1)",
            "(deny default)",
            "(allow process-fork process-exec-interpreter sysctl-read)",
            f"(allow process-exec (literal {_quoted(str(Path(sys.executable).resolve()))}))",
            "(allow signal (target same-sandbox))",
            "(allow file-read-metadata)",
            f"(allow file-read* {reads} {own})",
            f'(allow file-write* {own} (literal "/dev/null"))',
        )
    )


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
