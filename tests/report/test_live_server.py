"""The live page over HTTP: real requests to a real server in this process, on a port that the system chooses."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from contextlib import closing, contextmanager, suppress

import pytest

from luthier.machine.listening import listen
from luthier.monitor.dashboard.watching import Watch
from luthier.report.live_server import MOST_CONNECTIONS, LiveServer
from tests.events.stream import finished, log, started, whole_run
from tests.monitor.dash import write


class Running:
    """A server in a thread, and how to ask it."""

    def __init__(self, port, failures):
        self.port, self.failures = port, failures

    def ask(self, path="/", method="GET", body=None, **headers):
        """(status, headers, body)"""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def live(self, path="/live"):
        return json.loads(self.ask(path)[2])

    def raw(self, *sent):
        """All that comes back for these bytes until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(b"".join(sent))
            received = b""
            with suppress(ConnectionResetError):  # it does not read on when it hangs up
                while part := connection.recv(65536):
                    received += part
            return received.decode()


@contextmanager
def serving(*paths, host="127.0.0.1", watch=None):
    failures = []
    listening = listen(host, 0)
    with LiveServer(watch or Watch(paths), listening, host, 0.02, failures.append) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Running(listening.getsockname()[1], failures)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that is finished; many requests ask for it."""
    path = write(tmp_path_factory.mktemp("run") / "events.jsonl", whole_run(""), start=time.time() - 100)
    with serving(path) as running:
        yield running
    assert running.failures == []


def until(look, seconds=20):
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_the_page_its_script_and_their_headers(run):
    with urllib.request.urlopen(f"http://localhost:{run.port}/") as answer:
        html = answer.read().decode()
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "run-1a2b" in html and "prefers-color-scheme: dark" in html
    policy = answer.headers["Content-Security-Policy"]
    assert policy == re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none';") and "script-src 'self';" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
    assert "Python" not in answer.headers["Server"]
    (script,) = re.findall(r'<script src="([^"]+)" defer></script>', html)
    status, headers, text = run.ask(f"/{script}")
    assert status == 200 and headers["Content-Type"].startswith("text/javascript") and "fetch(" in text


def test_without_scripts_the_page_loads_itself_again(run):
    assert re.search(r'<head>.*<noscript><meta http-equiv="refresh" content="\d"></noscript>', run.ask()[2], re.S)


def test_what_a_page_has_is_not_sent_again(run):
    whole = run.live()
    tags = [part["tag"] for part in whole["changed"].values()]
    assert whole["title"] == "done run-1a2b" and "final_model" in whole["changed"]["top"]["html"]
    html = run.ask()[2]
    assert re.findall(r'data-tag="(\w+)"', html) == tags, "the page has what is asked for next"
    assert run.live(f"/live?seen={','.join(tags)}")["changed"] == {}
    some = run.live(f"/live?seen={','.join(tags[1:])}")["changed"]
    assert list(some) == list(whole["changed"])[:1]


def test_a_log_that_grows_between_two_requests(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    with serving(path.parent) as running:
        html = running.ask()[2]
        assert "waiting for the file" in html
        path.parent.mkdir()
        write(path, [started(), log(10, 2.0)], start=time.time() - 2)
        seen = until(lambda: (told := running.live())["title"] == "10% run-1a2b" and told)
        assert "2.0000" in seen["changed"]["numbers"]["html"]
        tags = ",".join(part["tag"] for part in seen["changed"].values())
        write(path, [log(20, 1.25)], start=time.time())
        grown = until(lambda: (told := running.live(f"/live?seen={tags}"))["title"] == "20% run-1a2b" and told)
        assert "1.2500" in grown["changed"]["numbers"]["html"] and "machine" not in grown["changed"]
        write(path, [finished(step=100)], start=time.time())
        assert until(lambda: running.live()["title"] == "done run-1a2b")
        path.rename(path.with_name("events.jsonl.1"))
        assert running.live()["title"] == "done run-1a2b", "a log that was rotated away stays as it was"
        assert running.failures == []


def test_of_several_runs_the_named_one_is_shown(tmp_path):
    paths = [write(tmp_path / name, [started(), log(10, loss)]) for name, loss in (("a.jsonl", 2.0), ("b.jsonl", 3.0))]
    with serving(*paths) as running:
        for query, shown in (("", "2.0000"), ("?run=1", "2.0000"), ("?run=2", "3.0000"), ("?run=9", "2.0000"),
                             ("?run=x", "2.0000"), ("?run=-1", "2.0000"), ("?run=0", "2.0000")):  # fmt: skip
            assert shown in running.live(f"/live{query}")["changed"]["numbers"]["html"], query
            assert shown in running.ask(f"/{query}")[2]


def test_a_run_that_is_not_there_is_drawn_no_oftener_than_one_that_is(tmp_path):
    path = write(tmp_path / "events.jsonl", whole_run(""), start=time.time() - 100)
    listening = listen("127.0.0.1", 0)
    with LiveServer(Watch([path]), listening, "127.0.0.1") as server:
        scenes = [server.now(selected)[0] for selected in (0, 99, 98, -1, 10**9)]
    assert all(scene is scenes[0] for scene in scenes)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "localhost.evil.example", "10.0.0.1", "[::2]", ""]
)
@pytest.mark.parametrize("path", ["/", "/live", "/live.js", "/nowhere"])
def test_a_page_that_calls_localhost_by_a_name_of_its_own_reads_nothing(run, host, path):
    status, _, text = run.ask(path, Host=host)
    assert status == 421 and "run-1a2b" not in text and len(text) < 200


def test_names_of_this_machine_are_answered(run):
    for host in ("localhost", f"LOCALHOST:{run.port}", "127.0.0.1", "[::1]:1"):
        assert run.ask(Host=host)[0] == 200, host


def test_a_request_names_one_host():
    with serving("nothing") as running:
        assert " 421 " in running.raw(b"GET / HTTP/1.0\r\n\r\n")
        two = running.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert two.startswith("HTTP/1.1 421 ")


def test_on_all_addresses_any_address_is_answered_and_no_strange_name():
    with serving("nothing", host="0.0.0.0") as running:
        for host in ("192.0.2.7", "[2001:db8::1]:80", socket.gethostname(), "localhost"):
            assert running.ask(Host=host)[0] == 200, host
        assert running.ask(Host="evil.example")[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_the_page_can_only_be_read(run, method):
    status, headers, text = run.ask("/live", method, b"x" * 100)
    assert status == 405 and headers["Allow"] == "GET, HEAD" and "only be read" in text
    assert headers["Content-Type"].startswith("text/plain") and headers["Connection"] == "close"


def test_a_head_is_a_page_without_its_body(run):
    for path in ("/", "/live.js"):
        status, headers, text = run.ask(path, "HEAD")
        assert status == 200 and int(headers["Content-Length"]) > 1000 and text == ""


@pytest.mark.parametrize(
    "path", ["/nowhere", "/live/", "/../../etc/passwd", "/live.py", "//evil.example/", "/%2e%2e/", "/favicon.ico"]
)
def test_there_is_nothing_else(run, path):
    assert run.ask(path)[0] == 404


@pytest.mark.parametrize(
    ("request_line", "said"),
    [
        (b"GET\r\n", "Bad request syntax"),
        (b"GET / HTTP/9.9\r\n", "Invalid HTTP version"),
        (b"\x16\x03\x01\x02\r\n", "Bad request syntax"),
        (b"GET http://[ HTTP/1.1\r\n", "HTTP/1.1 400 "),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", "HTTP/1.1 414 "),
        (b"GET /?" + b"a=1&" * 20 + b" HTTP/1.1\r\n", "HTTP/1.1 400 "),
    ],
)
def test_what_is_no_request_is_told_so_and_the_server_goes_on(run, request_line, said):
    answer = run.raw(request_line, b"Host: localhost\r\n\r\n")
    assert said in answer and "run-1a2b" not in answer and "Traceback" not in answer
    assert run.ask()[0] == 200


def test_what_comes_behind_a_request_as_its_body_is_no_other_request(run):
    hidden = b"GET /live.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"GET /live HTTP/1.1\r\nHost: localhost\r\n"
    for line in (b"Content-Length: %d\r\n\r\n" % len(hidden), b"Transfer-Encoding: chunked\r\n\r\n"):
        answer = run.raw(head, line, hidden)
        assert answer.count("HTTP/1.1 200") == 1 and "text/javascript" not in answer


def test_connections_that_are_too_many_are_closed_and_others_go_on():
    with serving("nothing") as running:
        held = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(MOST_CONNECTIONS + 3)]
        held[-1].settimeout(20)
        assert held[-1].recv(1) == b"", "closed at once"
        for connection in held:
            connection.close()
        assert until(lambda: _answers(running))


def _answers(running):
    try:
        return running.ask()[0] == 200
    except OSError:
        return False


def test_a_reader_that_goes_away_is_no_failure(run):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", run.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert run.ask()[0] == 200 and run.failures == []


class Broken(Watch):
    """A mistake of ours, in the midst of drawing."""

    def scene(self, *arguments):
        raise RuntimeError("a mistake")


def test_a_mistake_of_ours_is_reported_and_shown_to_nobody():
    with serving(watch=Broken(["nothing"])) as running:
        for _ in range(3):
            with pytest.raises(http.client.HTTPException):
                running.ask()
        assert running.ask("/live.js")[0] == 200
        assert until(lambda: running.failures) and str(running.failures[0]) == "a mistake"
        assert len(running.failures) == 1, "an open page would bring it about each second"
