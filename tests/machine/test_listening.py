"""Listening on an address: who has it, which is free, and what a Host header names."""

from __future__ import annotations

import re
import socket

import pytest

from luthier.errors import MissingError
from luthier.machine.listening import host_in, is_local, listen, url_of


def test_e_serve_002_a_port_in_use_is_told_with_one_that_is_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MissingError) as raised:
            listen("127.0.0.1", port)
        free = int(re.search(r"--port (\d+)", raised.value.problems[0].fix)[1])
        with listen("127.0.0.1", free) as other:
            assert other.getsockname()[1] == free != port


def test_e_serve_002_a_host_that_is_no_address_here():
    for host in ("no.such.host.invalid", "n" * 300, "192.0.2.1"):
        with pytest.raises(MissingError) as raised:
            listen(host, 0)
        assert "E-SERVE-002" in str(raised.value) and "--host" in raised.value.problems[0].fix


@pytest.mark.parametrize(
    ("header", "name", "local"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST:8090", "LOCALHOST", True),
        ("127.0.0.1:1", "127.0.0.1", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("[::1]:8090", "::1", True),
        ("", "", False),
        ("localhost.evil.example:8090", "localhost.evil.example", False),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("10.0.0.1", "10.0.0.1", False),
        ("[::1", "::1", True),
    ],
)
def test_the_name_in_a_host_header(header, name, local):
    assert host_in(header) == name
    assert is_local(host_in(header)) is local


def test_addresses_as_a_browser_takes_them():
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80" and url_of("::1", 80) == "http://[::1]:80"
