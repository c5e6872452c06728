"""Listening on an address of this machine, for what is read in a browser or asked over HTTP.

A browser sends requests to localhost for any page whose name was made to lead there (DNS rebinding). Who listens there
therefore looks at the name that it was called by (`host_in`, `is_local`).

Not covered: HTTP itself.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from luthier.errors import MissingError, Problem

_NEXT_PORTS = 20


def listen(host: str, port: int) -> socket.socket:
    """A socket on that address; port 0 takes a free one.

    Raises:
        MissingError: E-SERVE-002 when it cannot be had.
    """
    try:
        return _socket(host, port)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        fix = f"write --port {_free(host, port)}, which is free" if taken else "give another --port, --host"
        problem = Problem("E-SERVE-002", f"cannot listen on {host}, port {port}: {said}", fix)
        raise MissingError(problem) from error


def _socket(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=512)


def _free(host: str, port: int) -> int:
    """A port that is free at this moment: one of the next, or any."""
    for other in (*range(port + 1, min(port + _NEXT_PORTS, 2**16)), 0):
        try:
            with _socket(host, other) as found:
                return int(found.getsockname()[1])
        except OSError:
            continue
    return 0  # the system chooses when it listens


def url_of(host: str, port: int) -> str:
    """How a browser is told to come here."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def host_in(header: str) -> str:
    """The name or address in a Host header, without its port."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]


def is_local(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
