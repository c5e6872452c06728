"""A server in a thread of this process, and ways to ask it that no client offers."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from openai import OpenAI

from luthier.machine.listening import listen
from luthier.serve.server import Server


class Running:
    """A server that answers."""

    def __init__(self, address: tuple[str, int], failures: list[BaseException]) -> None:
        self.address, self.failures = address, failures
        self._clients: list[OpenAI] = []

    def close(self) -> None:
        """Close what clients still hold open."""
        for client in self._clients:
            client.close()

    @property
    def url(self) -> str:
        """Where."""
        return "http://{}:{}".format(*self.address)

    def client(self, key: str = "none") -> OpenAI:
        """OpenAI's client, which asks once."""
        client = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        self._clients.append(client)
        return client

    def health(self) -> dict[str, Any]:
        """What /health says."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as response:
            return dict(json.load(response))

    def until_idle(self, seconds: float = 5.0) -> float:
        """Wait until nothing is written and nothing waits; how long that took."""
        started = time.monotonic()
        while (said := self.health())["writing"] or said["waiting"]:
            assert time.monotonic() - started < seconds, said
            time.sleep(0.01)
        return time.monotonic() - started

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=30)

    def raw(self, head: str, body: bytes = b"") -> bytes:
        """What comes back for these bytes; the head gets its end, and asks to close."""
        with self.connect() as connection:
            connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\nConnection: close\r\n\r\n" + body)
            return received(connection)

    def post(self, body: bytes, path: str = "/v1/chat/completions", headers: str = "") -> tuple[int, dict[str, Any]]:
        """Status and JSON of a POST of these bytes."""
        head = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: {len(body)}"
        return parsed(self.raw(head + headers, body))


def received(connection: socket.socket) -> bytes:
    """Everything until the other end closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def parsed(response: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a response with a Content-Length."""
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def body(**fields: Any) -> bytes:
    """A chat request."""
    return json.dumps({"model": "first", "messages": [{"role": "user", "content": "Add"}], **fields}).encode()


@contextmanager
def running(models: Any, host: str = "127.0.0.1", **options: Any) -> Iterator[Running]:
    """A server over `models`."""
    listening = listen(host, 0)
    failures: list[BaseException] = []
    server = Server(models, listening, report=failures.append, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with closing(Running(listening.getsockname()[:2], failures)) as answering:
            yield answering
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive() and failures == []
