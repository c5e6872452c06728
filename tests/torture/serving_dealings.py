"""How one client deals with a server: rightly, wrongly, slowly, hugely, or by leaving in the middle.

A dealing returns what was wrong with what the server did; empty: nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tests.torture.outcome import COUNTS

PATIENCE = 60.0
QUESTIONS = ("Add", "Reverse a string", "x" * 60, "{{ 7 * 7 }} </s> é 🎸", "sum two numbers")
TOKENS = 16


@dataclass
class Target:
    """The server and what it said in peace."""

    child: subprocess.Popen[str]
    port: int
    models: list[str]
    answers: dict[tuple[str, str], str]

    def facts(self) -> tuple[int, int, float]:
        """Threads, open files, MiB of memory."""
        process = psutil.Process(self.child.pid)
        return process.num_threads(), process.num_fds(), process.memory_info().rss / 2**20


async def deal(target: Target, seed: int, number: int) -> str:
    """One dealing; what was wrong with it."""
    rng = random.Random(f"serving {seed} {number}")
    dealing = rng.choice(DEALINGS)
    try:
        async with asyncio.timeout(PATIENCE):
            return await dealing(target, rng)
    except TimeoutError:
        return f"{dealing.__name__}: nothing came within {PATIENCE:.0f} s"
    except Exception as error:
        return f"{dealing.__name__}: {type(error).__name__}: {error}"


# Words of HTTP -------------------------------------------------------------------------------------------------------


def chat(model: str, question: str, **more: Any) -> bytes:
    """A valid request."""
    messages = [{"role": "user", "content": question}]
    fields = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS}
    return json.dumps({**fields, **more}).encode()


def post(body: bytes, path: str = "/v1/chat/completions", more: str = "Connection: close\r\n") -> bytes:
    """A POST of JSON."""
    return head("POST", path, f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}") + body


def get(path: str) -> bytes:
    """A GET."""
    return head("GET", path, "Connection: close\r\n")


def head(method: str, path: str, more: str) -> bytes:
    """First line and headers."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


async def ask(target: Target, request: bytes) -> tuple[int, bytes]:
    """Send it, read until the other side closes; status and body. Status 0: closed without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        with suppress(ConnectionError):  # refused before all of it was sent
            writer.write(request)
            await writer.drain()
        response = await _rest(reader)
    finally:
        writer.close()
    return status_of(response), response.partition(b"\r\n\r\n")[2]


async def _rest(reader: asyncio.StreamReader) -> bytes:
    parts = []
    with suppress(ConnectionError):
        while part := await reader.read(65536):
            parts.append(part)
    return b"".join(parts)


def status_of(response: bytes) -> int:
    """Of the first line; counted."""
    status = int(response[9:12]) if response.startswith(b"HTTP/1.1 ") else 0
    kind = {0: "closed", 429: "told_to_come_back"}.get(status, f"answers_{status // 100}xx")
    COUNTS[kind] += 1
    return status


def refused(status: int, body: bytes, *allowed: int) -> str:
    """Whether that is how a wrong request is answered."""
    if status in (429, *allowed):
        return ""
    if not 400 <= status < 500:
        return f"status {status}: {body[:200]!r}"
    return "" if "error" in json.loads(body) else f"no error in {body[:200]!r}"


def pieces(body: bytes) -> tuple[str, bool]:
    """The text of a stream, and whether it came to its end."""
    text, events = "", re.findall(rb"data: (.+?)\n\n", body)
    for event in events:
        if event != b"[DONE]":
            for choice in json.loads(event)["choices"]:
                text += choice["delta"].get("content") or ""
    return text, events[-1:] == [b"[DONE]"]


# Dealings ------------------------------------------------------------------------------------------------------------


async def valid(target: Target, rng: random.Random) -> str:
    """A question that was asked before the storm."""
    model, question = rng.choice(target.models), rng.choice(QUESTIONS)
    status, body = await ask(target, post(chat(model, question)))
    if status == 429:
        return ""
    if status != 200:
        return f"valid: status {status}: {body[:200]!r}"
    text = json.loads(body)["choices"][0]["message"]["content"]
    return "" if text == target.answers[model, question] else f"valid: another answer than in peace: {text!r}"


async def drawn(target: Target, rng: random.Random) -> str:
    """Several answers with log-probabilities and stop strings."""
    more = {"n": rng.randint(1, 4), "temperature": 1.2, "logprobs": True, "top_logprobs": 2, "stop": ["return", "zz"]}
    status, body = await ask(target, post(chat("first", "Add", **more)))
    if status == 429:
        return ""
    choices = json.loads(body).get("choices", [])
    whole = status == 200 and [choice["index"] for choice in choices] == list(range(more["n"]))
    return "" if whole else f"drawn: status {status}: {body[:200]!r}"


async def stream(target: Target, rng: random.Random, pause: float = 0.0) -> str:
    """A stream that is read to its end, sometimes slowly."""
    model, question = rng.choice(target.models), rng.choice(QUESTIONS)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1024)
    try:
        writer.write(post(chat(model, question, stream=True)))
        response = b""
        while part := await reader.read(300 if pause else 65536):
            response += part
            await asyncio.sleep(pause)
    finally:
        writer.close()
    status = status_of(response)
    if status == 429:
        return ""
    text, whole = pieces(response)
    COUNTS["streams"] += 1
    if status != 200 or not whole:
        COUNTS["streams_lost"] += 1
        return f"stream: status {status}, {'whole' if whole else 'broken off'}: {response[-200:]!r}"
    return "" if text == target.answers[model, question] else f"stream: another answer than in peace: {text!r}"


async def slow_reader(target: Target, rng: random.Random) -> str:
    """The same, a few bytes at a time."""
    return await stream(target, rng, 0.02)


async def leaves(target: Target, rng: random.Random) -> str:
    """A client that goes: in the head, in the body, before the answer, in the middle of it."""
    request = post(chat(rng.choice(target.models), "Add", stream=rng.random() < 0.7, n=4, max_tokens=32))
    cut = rng.choice((len(request), len(request), rng.randrange(len(request))))
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(request[:cut])
    with suppress(TimeoutError):
        async with asyncio.timeout(rng.random() * 0.2):
            await reader.read(rng.randint(1, 2000))
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
    COUNTS["left_in_the_middle"] += 1
    return ""


async def slow_sender(target: Target, rng: random.Random) -> str:
    """A request that comes in drops."""
    request = post(chat("second", "Add", max_tokens=2))
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        for start_of in range(0, len(request), 40):
            writer.write(request[start_of : start_of + 40])
            await asyncio.sleep(rng.random() * 0.02)
        response = await _rest(reader)
    finally:
        writer.close()
    status = status_of(response)
    return "" if status in (200, 429) else f"slow_sender: status {status}"


WRONG: tuple[dict[str, Any], ...] = (
    {"n": 10**9}, {"n": -1}, {"n": "many"}, {"max_tokens": 0}, {"max_tokens": []}, {"temperature": 1e9},
    {"temperature": None, "top_p": 7}, {"stop": [""]}, {"stop": {}}, {"seed": 2**70},
    {"model": None}, {"model": "x" * 9999},
    {"messages": None}, {"messages": [[]]}, {"messages": [{"role": "user", "content": {"a": 1}}]},
    {"messages": [{"role": "user", "content": "x " * 2000}]}, {"messages": [{"role": "\x00", "content": "a"}] * 50},
    {"tools": [{}]}, {"logit_bias": {"1": 100}}, {"unknown": 1}, {"stream": "yes"}, {"stream_options": []},
    {"logprobs": True, "top_logprobs": 10**6}, {"top_logprobs": 3}, {"frequency_penalty": -99},
)  # fmt: skip


async def wrong_field(target: Target, rng: random.Random) -> str:
    """Valid JSON that asks for what cannot be."""
    fields = {**json.loads(chat("first", "Add")), **rng.choice(WRONG)}
    return refused(*await ask(target, post(json.dumps(fields).encode())))


NO_JSON = (
    b"", b"{", b"null", b"[" * 50_000, b'{"a":' * 20_000, b"\xff" * 500, b'{"n": NaN}', b'{"n": Infinity}',
    b'{"model": "\\udfff"}', b'{"n": 1' + b"0" * 50_000 + b"}",
    json.dumps(dict.fromkeys(map(str, range(20_000)))).encode(),
)  # fmt: skip


async def no_json(target: Target, rng: random.Random) -> str:
    """Bodies that are no request at all."""
    return refused(*await ask(target, post(rng.choice(NO_JSON))))


LONG_LISTS: tuple[tuple[str, Any], ...] = (
    ("prompt", [-1] * 500_000), ("prompt", [*[1] * 500_000, -1]), ("prompt", [[]] * 500_000), ("stop", [5] * 500_000),
    ("messages", [{"role": "user", "content": [1] * 1000}] * 600),
    ("messages", [{"role": "owl", "content": "a"}] * 4096),
)  # fmt: skip


async def long_lists(target: Target, rng: random.Random) -> str:
    """A body full of mistakes, as long as a body may be."""
    name, wrong = rng.choice(LONG_LISTS)
    path = "/v1/chat/completions" if name == "messages" else "/v1/completions"
    body = json.dumps({"model": "first", "prompt": "Add", name: wrong}, separators=(",", ":")).encode()
    return refused(*await ask(target, post(body, path)))


async def flipped(target: Target, rng: random.Random) -> str:
    """A valid body with a few bytes changed: still right, or refused."""
    body = bytearray(chat(rng.choice(target.models), "Add", max_tokens=2))
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return refused(*await ask(target, post(bytes(body))), 200)


async def ten_megabytes(target: Target, rng: random.Random) -> str:
    """A body of 10 MB, with its length announced or in chunks."""
    body = b" " * 10_000_000
    if rng.random() < 0.5:
        request = post(body)
    else:
        more = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        request = head("POST", "/v1/completions", more) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    status, answer = await ask(target, request)
    COUNTS["bodies_of_10_mb"] += 1
    return "" if status == 413 else f"ten_megabytes: status {status}: {answer[:200]!r}"


async def odd_heads(target: Target, rng: random.Random) -> str:
    """Heads that are huge, contradictory or no HTTP."""
    length = "Content-Type: application/json\r\nContent-Length: "
    request = rng.choice((
        head("GET", "/health", f"X: {'x' * 70_000}")[:-4],
        head("GET", "/" + "a" * 70_000, "Connection: close\r\n")[:-4],
        head("POST", "/v1/completions", f"{length}-1\r\n"),
        head("POST", "/v1/completions", f"{length}1e9\r\n"),
        head("POST", "/v1/completions", f"{length}5\r\nContent-Length: 6\r\n"),
        head("POST", "/v1/completions", f"{length}999999999999\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        bytes(rng.randrange(256) for _ in range(300)) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health\r\n\r\n",
    ))  # fmt: skip
    status, body = await ask(target, request)
    return "" if 400 <= status < 500 else f"odd_heads: {request[:60]!r}: status {status}: {body[:100]!r}"


async def elsewhere(target: Target, rng: random.Random) -> str:
    """Places and methods that are not there, hosts that are not this one."""
    request = rng.choice((
        get("/"), get("/v1/nothing"), get("/../../etc/passwd"), get("/v1/models/%00%ff"), get("/docs"),
        head("DELETE", "/v1/models", "Connection: close\r\n"),
        head("PUT", "/v1/chat/completions", "Connection: close\r\n"),
        b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        post(chat("nobody", "Add")), post(b"{}", more="Connection: close\r\nExpect: 100-continue\r\n"),
        post(chat("first", "Add")).replace(b"application/json", b"text/plain"),
    ))  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(request)
        response = (
            (await _rest(reader)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").removeprefix(b"HTTP/1.1 100 \r\n\r\n")
        )
    finally:
        writer.close()
    return refused(status_of(response), response.partition(b"\r\n\r\n")[2])


async def pipelined(target: Target, rng: random.Random) -> str:
    """Several requests at once on one connection; all are answered, in their order."""
    kinds = [rng.random() < 0.7 for _ in range(rng.randint(2, 6))]
    good, bad = chat("first", "Add", max_tokens=1), chat("first", "Add", n=0)
    requests = [post(good if kind else bad, more="") for kind in kinds]
    requests[-1] = post(good if kinds[-1] else bad)
    status, rest = await ask(target, b"".join(requests))
    statuses = [status, *(int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", rest))]
    right = len(statuses) == len(kinds) and all(
        code in ((200, 429) if kind else (400,)) for kind, code in zip(kinds, statuses, strict=True)
    )
    return "" if right else f"pipelined: {kinds} got {statuses}"


Dealing = Callable[[Target, random.Random], Awaitable[str]]
DEALINGS: tuple[Dealing, ...] = (
    valid, valid, valid, drawn, stream, stream, stream, slow_reader, leaves, leaves, leaves, slow_sender,
    wrong_field, wrong_field, wrong_field, no_json, long_lists, flipped, flipped, ten_megabytes, odd_heads, elsewhere,
    pipelined,
)  # fmt: skip
