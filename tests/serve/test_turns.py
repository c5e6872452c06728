"""Who waits, who is told to come back, who has gone, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest

from luthier.generate.choosing import Sampling
from luthier.model import batching
from luthier.serve import server as server_module
from luthier.serve import worker as worker_module
from luthier.serve.app import Limits
from luthier.serve.exchange import Exchange
from luthier.serve.models import Served
from luthier.serve.refusals import ApiError
from luthier.serve.worker import Begun, Ended, Said, Worker, _together
from tests.serve.support import body, running

LONG = {"n": 16, "max_tokens": 450, "temperature": 1.0}
"""Takes a second or more."""


def ask(client, **fields):
    messages = [{"role": "user", "content": "Add"}]
    plain = {"model": "first", "messages": messages, "max_tokens": 2, "temperature": 0}  # a draw may end at once
    return client.chat.completions.create(**{**plain, **fields})


def send(server, **fields):
    """A connection on which a request was sent."""
    connection, content = server.connect(), body(**fields)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def until(condition, seconds=5.0):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
def test_who_has_gone_is_written_no_answer(server, client, stream):
    connection = send(server, **LONG, stream=stream)
    until(lambda: server.health()["writing"] == 1)
    if stream:
        assert b"text/event-stream" in connection.recv(1000)
    connection.close()
    assert server.until_idle() < 0.5
    waiting = [send(server, **LONG) for _ in range(3)]
    until(lambda: server.health()["writing"])
    for connection in waiting:
        connection.close()
    assert server.until_idle() < 0.5
    assert ask(client).usage.completion_tokens == 2


def test_the_client_that_leaves_a_stream_ends_it(server, client):
    with ask(client, **LONG, stream=True) as stream:
        next(iter(stream))
        assert server.health()["writing"] == 1
    assert server.until_idle() < 0.5


def test_a_full_queue_refuses_and_says_when_to_come_back(models):
    with running(models, most_waiting=1) as server:
        writing = send(server, **LONG, model="full")
        until(lambda: server.health()["writing"])
        waiting = send(server, **LONG)
        until(lambda: server.health()["waiting"])
        with pytest.raises(openai.RateLimitError) as caught:
            ask(server.client())
        assert caught.value.response.headers["retry-after"] == "1"
        assert server.health() == {"status": "ok", "writing": 1, "waiting": 1}
        waiting.close()
        writing.close()
        server.until_idle()
        assert ask(server.client()).usage.completion_tokens == 2


class _Thinks(Served):
    """A model that keeps the worker busy."""

    def chat_ids(self, conversation):
        time.sleep(1)
        return super().chat_ids(conversation)


def test_an_answer_is_cut_short_at_its_deadline(models):
    with running(models, limits=Limits(seconds=0.4)) as server:
        started = time.monotonic()
        said = ask(server.client(), **LONG)
        assert 0.3 < time.monotonic() - started < 1
        assert {choice.finish_reason for choice in said.choices} <= {"length", "stop"}
        assert 16 < said.usage.completion_tokens < 16 * 450


def test_who_gets_no_turn_before_the_deadline_is_told_to_come_back(models):
    with running({**models, "thinks": _Thinks("thinks", models["first"].tuned)}, limits=Limits(seconds=0.4)) as server:
        with ThreadPoolExecutor() as pool:
            busy = pool.submit(ask, server.client(), model="thinks")
            until(lambda: server.health()["writing"])
            with pytest.raises(openai.RateLimitError, match="no turn"):
                ask(server.client())
            with pytest.raises(openai.RateLimitError):
                busy.result()
        server.until_idle()
        assert ask(server.client()).usage.completion_tokens == 2


def test_a_longest_answer_for_all(models):
    with running(models, limits=Limits(most_tokens=7)) as server:
        client = server.client()
        assert ask(client, max_tokens=10**9).usage.completion_tokens == 7
        assert ask(client, max_tokens=None).usage.completion_tokens == 7


def test_sixty_four_at_once_get_their_own_answers(server, client, base):
    names, texts = ["first", "second", "full", base], ["Add", "Reverse a string", "x" * 50]
    asked = [(names[i % 4], texts[i % 3], i % 2) for i in range(64)]

    def answer(name, text, seed):
        messages = [{"role": "user", "content": text}]
        return ask(client, model=name, messages=messages, max_tokens=12, temperature=seed / 2, seed=seed)

    alone = {key: answer(*key).choices[0].message.content for key in set(asked)}
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda key: answer(*key).choices[0].message.content, asked))
    assert together == [alone[key] for key in asked]
    assert len(set(together)) > 6


def test_a_request_joins_one_that_is_being_written(server, client):
    """It is answered, with what it would be answered alone, long before the other ends."""
    alone = ask(client, max_tokens=12).choices[0].message.content
    with ask(client, **{**LONG, "n": 4}, stream=True) as stream:
        next(iter(stream))
        for _ in range(3):
            assert ask(client, max_tokens=12).choices[0].message.content == alone
            assert server.health()["writing"] == 1
    server.until_idle()


@contextmanager
def worker_of(most_waiting=9):
    """A worker without HTTP, for what has to come at a certain token; it fails at nothing."""
    failures = []
    worker = Worker(most_waiting, failures.append)
    worker.start()
    try:
        yield worker
    finally:
        worker.close()
        worker.cut()
        worker.join(30)
        assert failures == [] and not worker.alive


class Asking:
    """A job that remembers what it was told, and can do something at its pieces."""

    def __init__(self, model, text="Add", at=None, **options):
        self.told, self.at, self.over = [], at or {}, threading.Event()
        sampling = Sampling(options.pop("max_tokens", 60), temperature=1.0, seed=1)
        self.job = worker_module.Job(
            options.pop("of", model), lambda model: [model.text_ids(text)], sampling, self._tell, **options
        )

    def _tell(self, event):
        self.told.append(event)
        if isinstance(event, Said):
            self.at.pop(len(self.of(Said)), lambda: None)()
        if isinstance(event, ApiError) or len(self.of(Ended)) == self.job.rows:
            self.over.set()

    def of(self, kind):
        return [event for event in list(self.told) if isinstance(event, kind)]


@pytest.fixture
def room_for_one(monkeypatch):
    """The second row finds no memory as long as the first is written."""
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 100)


def test_who_waits_for_memory_and_is_cut_has_ended_at_the_next_token(models, room_for_one):
    """Neither is its prompt read, nor does it wait until somebody else has ended."""
    second, seen = Asking(models["first"], "x" * 40), []
    with worker_of() as worker:
        first = Asking(models["first"], at={
            3: lambda: worker.submit(second.job), 6: lambda: seen.append(worker.load),
            7: lambda: second.job.cut("cancelled"), 9: lambda: seen.extend([list(second.told), worker.load]),
        })  # fmt: skip
        worker.submit(first.job)
        assert first.over.wait(30)
    assert seen == [(2, 0), [second.told[0], Ended(0, "cancelled", 0)], (1, 0)]


def test_who_only_waits_for_memory_has_not_begun(models, room_for_one):
    second, seen = Asking(models["first"], max_tokens=3), []
    with worker_of() as worker:
        at = {3: lambda: worker.submit(second.job), 9: lambda: seen.append((list(second.told), worker.load))}
        first = Asking(models["first"], at=at)
        worker.submit(first.job)
        assert second.over.wait(30)
    assert seen == [([], (2, 0))] and isinstance(second.told[0], Begun) and len(first.of(Ended)) == 1


def test_who_finds_no_memory_before_the_deadline_is_told_to_come_back(models, room_for_one):
    async def asked(worker):
        text_ids = models["first"].text_ids
        job = {"model": models["first"], "prompts": lambda model: [text_ids("Add")], "sampling": Sampling(3)}
        await Exchange(worker, 0.2, **job).begin(asyncio.Event().wait)

    with worker_of() as worker:
        first = Asking(models["first"], max_tokens=90, answers=30)
        worker.submit(first.job)
        with pytest.raises(ApiError, match="no turn"):
            asyncio.run(asked(worker))
        assert len(first.of(Ended)) < 30, "it was not short of time, but of memory"


class Job:
    """What the queue looks at."""

    def __init__(self, model, rows, wanted=True):
        self.model, self.rows, self.going, self.wanted = model, rows, rows, wanted


def test_none_joins_past_one_that_has_to_wait():
    """Else a model that is always asked would be the only one, and who wants many answers would never get them."""
    jobs = [Job("a", 9), Job("a", 7, wanted=False), Job("a", 20), Job("b", 1), Job("a", 1)]
    worker = Worker(9, report=print)
    worker._writing, worker._waiting = [Job("a", 3), Job("a", 0)], deque(jobs)
    assert worker._joining("a") == [jobs[0], jobs[2]]
    assert list(worker._waiting) == jobs[3:] and worker._joining("a") == []
    worker._writing, worker._waiting = [Job("a", 3)], deque([Job("a", 30), Job("a", 1)])
    assert worker._joining("a") == [] and len(worker._waiting) == 2
    assert worker.load == (1, 2)


def test_jobs_of_one_model_go_together_as_far_as_they_fit():
    jobs = [Job("a", 10), Job("b", 1), Job("a", 20), Job("a", 5), Job("a", 2, wanted=False), Job("a", 2)]
    chosen, left = _together(jobs)
    assert chosen == [jobs[0], jobs[2], jobs[5]] and list(left) == [jobs[1], jobs[3]]
    assert _together([Job("a", 99)])[0][0].rows == 99, "one that is larger than a batch is still written"


# Connections ---------------------------------------------------------------------------------------------------------


def test_several_requests_on_one_connection(server):
    """Pipelined: the second is sent before the first is answered."""
    content = body(max_tokens=1, temperature=0)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    with server.connect() as connection:
        connection.sendall(request * 5)
        seen = b""
        while seen.count(b"HTTP/1.1 200") < 5 or not seen.endswith(b"}"):
            seen += connection.recv(65536)


def test_who_neither_asks_nor_reads_is_let_go(models, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_SECONDS", 0.3)
    with running(models) as server:
        silent, slow = server.connect(), server.connect()
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        greedy = socket.socket()
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        greedy.connect(server.address)
        head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        stop = threading.Event()

        def pour():
            with pytest.raises(OSError):
                while not stop.is_set():
                    greedy.sendall(head * 1000)  # and reads none of the answers

        pouring = threading.Thread(target=pour)
        pouring.start()
        until(lambda: closed(silent) and closed(slow))
        pouring.join(20)
        stop.set()
        assert not pouring.is_alive()
        assert server.health()["status"] == "ok"
        for connection in (silent, slow, greedy):
            connection.close()


def closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
