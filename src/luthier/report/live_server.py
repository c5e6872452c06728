"""The live page over HTTP: whoever may reach the address may read the run, and nobody may do more.

    GET /            the whole page, as it stands
    GET /live        {"title": ..., "changed": {part: {"tag": ..., "html": ...}}}, without the tags in ?seen=
    GET /live.js     the page's script
    ?run=2           of several runs, the second one

The standard library's server, with a thread for each connection: a page asks once a second, and there are few readers.
The thread that serves looks at the files between two requests; all that is drawn is drawn under one lock, for all who
ask within half a second once.

A browser sends requests here for any page whose name leads here. A name in the Host header that is not ours is refused,
so that such a page reads nothing. Pages of others may show this one in a frame, as notebooks do: nothing on it can be
pressed.

Not covered: passwords and TLS (listen on localhost, and use ssh -L).
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from luthier.events.page import LIVE_POLICY
from luthier.machine.listening import host_in, is_local
from luthier.monitor.dashboard.scene import Scene
from luthier.monitor.dashboard.watching import Watch
from luthier.report.live import SCRIPT, Live, Part, page, title

MOST_CONNECTIONS = 64
_DRAWN_SECONDS = 0.5
_IDLE_SECONDS = 30.0
_MOST_FIELDS = 8
_NUMBER = re.compile(r"[0-9]{1,5}")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": LIVE_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveServer(ThreadingHTTPServer):
    """Serves the runs of a watch until `serve_forever` is interrupted.

    Args:
        watch: Where the scenes come from.
        listening: Of `luthier.machine.listening.listen`; it is closed at the end.
        host: As it was asked for: browsers may call us so.
        refresh: Seconds between two looks at the files.
        report: Told of the first exception that nobody foresaw.
    """

    daemon_threads = True

    def __init__(
        self,
        watch: Watch,
        listening: socket.socket,
        host: str,
        refresh: float = 0.5,
        report: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self._watch, self._refresh, self._report = watch, refresh, report
        self._live, self._lock = Live(), threading.Lock()
        self._looked = time.monotonic()
        watch.settle()
        self._drawn: dict[int, tuple[float, Scene, dict[str, Part]]] = {}
        self._failed = False
        self._room = threading.Semaphore(MOST_CONNECTIONS)
        bound = str(listening.getsockname()[0])
        self._everywhere = ip_address(bound).is_unspecified
        own = {socket.gethostname(), socket.gethostname().partition(".")[0]} if self._everywhere else {bound}
        self._names = {name.lower() for name in (host, *own)}

    def service_actions(self) -> None:
        """Between two requests: look at the files."""
        if time.monotonic() - self._looked >= self._refresh:
            with self._lock:
                self._watch.advance()
            self._looked = time.monotonic()

    def now(self, selected: int) -> tuple[Scene, dict[str, Part]]:
        """The runs as they stand, and the parts of the page of one of them (the first where there is no such)."""
        with self._lock:
            selected = selected if 0 <= selected < self._watch.count else 0
            at, scene, parts = self._drawn.get(selected, (0.0, None, {}))
            if scene is None or time.monotonic() - at >= _DRAWN_SECONDS:
                scene = Scene(self._watch.scene().runs, selected)
                parts = self._live.parts(scene)
                self._drawn[selected] = time.monotonic(), scene, parts
            return scene, parts

    def is_called(self, name: str) -> bool:
        """Whether a name in a Host header is one of ours; on all addresses, any address is."""
        if is_local(name) or name.lower() in self._names:
            return True
        try:
            return self._everywhere and bool(ip_address(name))
        except ValueError:
            return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, as long as there are not too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of the first connection that ended with an exception; one that was cut is nobody's fault."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError) and not self._failed:
            self._failed = True  # an open page would bring it about each second
            self._report(error)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        called = self.headers.get_all("Host") or [""]
        if len(called) > 1 or not self.server.is_called(host_in(called[0])):
            words = "this page answers to localhost, and to the name that --host gives it"
            return self.send_error(HTTPStatus.MISDIRECTED_REQUEST, words)
        try:
            asked = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(asked.query, max_num_fields=_MOST_FIELDS).items()}
        except ValueError:
            return self.send_error(HTTPStatus.BAD_REQUEST, "that is no question")
        self._answer(asked.path, query)

    do_HEAD = do_GET

    def _answer(self, path: str, query: Mapping[str, str]) -> None:
        run = _NUMBER.fullmatch(query.get("run", ""))
        if path == f"/{SCRIPT}":
            self._send(HTTPStatus.OK, "text/javascript", Path(__file__).with_name(SCRIPT).read_text("utf-8"))
        elif path == "/":
            self._send(HTTPStatus.OK, "text/html", page(*self.server.now(int(run[0]) - 1 if run else 0)))
        elif path == "/live":
            scene, parts = self.server.now(int(run[0]) - 1 if run else 0)
            seen = query.get("seen", "").split(",")
            changed = {name: vars(part) for name, part in parts.items() if part.tag not in seen}
            self._send(HTTPStatus.OK, "application/json", json.dumps({"title": title(scene), "changed": changed}))
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "there is nothing here but /")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A line of plain text; a method that is not known here is not allowed."""
        unknown = code == HTTPStatus.NOT_IMPLEMENTED
        code = HTTPStatus.METHOD_NOT_ALLOWED if unknown else HTTPStatus(code)
        self.close_connection = True
        self._send(code, "text/plain", f"{'this page can only be read' if unknown else message or code.phrase}\n")

    def _send(self, code: HTTPStatus, kind: str, content: str) -> None:
        self._take_body()
        body = content.encode("utf-8", "replace")
        self.send_response(code)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **_HEADERS}
        headers |= {"Allow": "GET, HEAD"} if code == HTTPStatus.METHOD_NOT_ALLOWED else {}
        headers |= {"Connection": "close"} if self.close_connection else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _take_body(self) -> None:
        """Nobody asks for one here: a short one is read, so that its sender reads the answer; then we hang up."""
        headers = getattr(self, "headers", None) or {}  # a first line that is none has none
        if "Content-Length" in headers or "Transfer-Encoding" in headers:
            self.close_connection = True
            if _NUMBER.fullmatch(headers.get("Content-Length", "")):
                self.rfile.read(int(headers["Content-Length"]))

    def version_string(self) -> str:
        return "luthier"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line a second for each reader."""
