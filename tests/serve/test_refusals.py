"""What is refused, and that the client's own exceptions say so."""

from __future__ import annotations

import json
import sys
import time
import urllib.request

import openai
import pytest
from rich.console import Console

from luthier.serve.door import DRAINED_BYTES, MOST_BYTES
from luthier.serve.models import Served
from luthier.serve.refusals import ApiError
from luthier.serve.requests import NOT_THERE, PASSED_OVER, ChatRequest, CompletionRequest, read
from luthier.serve.screen import greet
from tests.serve.support import body, parsed, received, running

MESSAGES = [{"role": "user", "content": "Add"}]


def ask(client, **fields):
    plain = {"model": "first", "messages": MESSAGES, "max_tokens": 2, "temperature": 0}  # a draw may end at once
    return client.chat.completions.create(**{**plain, **fields})


def problem_of(server, status, **fields):
    found, content = server.post(body(**fields))
    assert found == status, content
    assert content["error"].keys() == {"message", "type", "param", "code"}
    return content["error"]


# Wrong requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 10**9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [5]}, "stop.0"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "Add"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "owl", "content": "Add"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "Add"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages.0"),
        ({"model": 5}, "model"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_a_wrong_field_is_named(server, fields, param):
    problem = problem_of(server, 400, **fields)
    assert problem["type"] == "invalid_request_error" and problem["param"] == param and problem["message"]


def test_fields_that_ask_for_nothing_are_no_reason_to_refuse(server):
    nothing = dict.fromkeys(PASSED_OVER, "anything") | dict.fromkeys(NOT_THERE)
    nothing |= {
        "tools": [],
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "echo": False,
    }
    assert server.post(body(max_tokens=1, **nothing))[0] == 200
    assert problem_of(server, 400, echo=True)["code"] == "unsupported_parameter"
    assert problem_of(server, 400, suffix="x")["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"model": "first", "messages": [}', b"[" * 100_000,
     b'{"a":' * 100_000, body(n=1)[:-1] + b', "n": NaN}', body()[:-1] + b', "temperature": 1e999}',
     body()[:-1] + b', "seed": 1' + b"0" * 100_000 + b"}", b'{"model": "\\ud800", "messages": []}',
     json.dumps({f"field{i}": i for i in range(50_000)}).encode(), b'{"messages": ' + body() + b"}"],
)  # fmt: skip
def test_what_is_no_request_is_a_bad_request(server, content):
    started = time.monotonic()
    status, said = server.post(content)
    assert status == 400 and said["error"]["message"] and time.monotonic() - started < 2


LISTS = [
    (CompletionRequest, "prompt", [-1] * 5000, "prompt.0"),
    (CompletionRequest, "prompt", [*[1] * 5000, -1, *[1.5] * 5000], "prompt.5000"),
    (CompletionRequest, "prompt", [[1], *[[]] * 5000], "prompt.1"),
    (CompletionRequest, "prompt", [["x"]] * 5000, "prompt.0.0"),
    (CompletionRequest, "prompt", ["a", *[5] * 5000], "prompt.1"),
    (CompletionRequest, "stop", ["a", *[5] * 5000], "stop.1"),
    (ChatRequest, "messages", [{"role": "user", "content": [1] * 900}] * 900, "messages.0.content.0"),
    (ChatRequest, "messages", [{"role": "owl", "content": "a"}] * 4000, "messages.0.role"),
]


@pytest.mark.parametrize(("kind", "name", "wrong", "param"), LISTS)
def test_a_list_is_read_up_to_its_first_mistake(kind, name, wrong, param):
    """A body has room for a million mistakes, and while they are counted nobody else is answered."""
    fields = {"model": "first", "prompt": "Add", "messages": [{"role": "user", "content": "Add"}]}
    with pytest.raises(ApiError) as caught:
        read(kind, json.dumps({**fields, name: wrong}).encode())
    assert caught.value.param == param
    assert caught.value.__cause__.error_count() <= 4, "one for each kind that it could have been"


def test_the_clients_exceptions(client, server):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="nobody")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    assert "'nobody' does not exist; there are: " in str(caught.value) and "first" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="first", input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, n=17)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "x " * 600}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the model reads 512"):
        ask(client, messages=[{"role": "user", "content": "x " * 600}], stream=True)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="first", prompt=[5, 400])
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="first", prompt=["x"] * 9, n=2)
    assert ask(client).usage.completion_tokens == 2, "after all that it answers"


def test_a_method_or_a_place_that_is_not_there(server):
    for head, status in (("GET /nowhere HTTP/1.1\nHost: x.y", 404), ("DELETE /v1/models HTTP/1.1\nHost: x.y", 405)):
        found, said = parsed(server.raw(head))
        assert found == status and said["error"]["code"] == "unknown_url"
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert parsed(server.raw(f"GET {path} HTTP/1.1\nHost: localhost"))[0] == 404


# Templates -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_template(models):
    """The first run with another chat template."""
    tokenizer = models["first"].tuned.tokenizer
    before = tokenizer.chat_template

    def change(template):
        tokenizer.chat_template = template
        return models["first"]

    yield change
    tokenizer.chat_template = before


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[-1].content }}", "leaves out the system message 0"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}", "no system"),
        ("{{ messages[7].content }}", "cannot hold"),
    ],
)
def test_a_template_that_cannot_hold_a_conversation(with_template, template, says):
    model = with_template(template)
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add"}]
    with pytest.raises(ApiError, match=says) as caught:
        model.chat_ids(conversation)
    assert caught.value.status == 400 and caught.value.body()["error"]["code"] == "unsupported_conversation"


def test_a_template_may_trim_and_drop_what_was_thought(with_template):
    model = with_template("{% for m in messages %}{{ m.content.split('</think>')[-1] | trim }}\n{% endfor %}")
    turns = [("user", "  Add\n"), ("assistant", "<think>well</think> done "), ("user", "x")]
    ids = model.chat_ids([{"role": role, "content": content} for role, content in turns])
    assert "well" not in model.tuned.tokenizer.decode(ids)


def test_a_template_that_breaks_is_the_servers_word_and_not_its_end(with_template, server, client):
    with_template("{{ 1 / 0 }}")
    assert problem_of(server, 400)["code"] == "unsupported_conversation"
    with pytest.raises(openai.BadRequestError):
        ask(client, stream=True)


# Size ----------------------------------------------------------------------------------------------------------------


def test_a_body_of_10_mb_is_too_large_and_its_sender_hears_it(server, client):
    content = body(messages=[{"role": "user", "content": "x" * 10_000_000}])
    status, said = server.post(content)
    assert status == 413 and said["error"]["code"] == "request_too_large"
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, messages=[{"role": "user", "content": "x" * MOST_BYTES}])
    assert caught.value.status_code == 413


def test_a_body_without_an_announced_length(server):
    head = (
        "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
        "Transfer-Encoding: chunked"
    )

    def chunked(content):
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)

    assert parsed(server.raw(head, chunked(body(max_tokens=1))))[0] == 200
    assert parsed(server.raw(head, chunked(b"x" * (MOST_BYTES + 1))))[0] == 413


def test_a_body_of_gigabytes_is_not_read(server):
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {DRAINED_BYTES + 1}\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall(head.encode())
        assert parsed(received(connection))[0] == 413


def test_heads_that_are_none(server):
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000)
        assert received(connection).startswith(b"HTTP/1.1 400")
    assert server.raw("nonsense").startswith(b"HTTP/1.1 400")
    assert server.raw("POST /health HTTP/1.1\nHost: localhost\nContent-Length: -5").startswith(b"HTTP/1.1 400")


def test_the_health_is_told_to_probes_that_want_no_body(server):
    request = urllib.request.Request(f"{server.url}/health", method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert (response.status, response.read()) == (200, b"")


# Who may come in -----------------------------------------------------------------------------------------------------


def test_a_page_in_a_browser_cannot_ask(server):
    """Its requests are no JSON, or come by a name that is not localhost."""
    head = "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Length: {}\nContent-Type: text/plain"
    content = body()
    status, said = parsed(server.raw(head.format(len(content)), content))
    assert status == 415 and said["error"]["code"] == "unsupported_media_type"
    status, said = parsed(server.raw("GET /v1/models HTTP/1.1\nHost: evil.example"))
    assert status == 400 and said["error"]["code"] == "wrong_host"
    for host in ("localhost:8000", "127.0.0.1", "127.0.0.2:80", "[::1]:80", "LOCALHOST"):
        assert parsed(server.raw(f"GET /v1/models HTTP/1.1\nHost: {host}"))[0] == 200
    assert b"access-control" not in server.raw("OPTIONS /v1/models HTTP/1.1\nHost: localhost").lower()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.1 alone is there from the start")
def test_every_loopback_address_is_this_machine_alone(models):
    with running(models, host="127.0.0.2") as server:
        status, said = parsed(server.raw("GET /v1/models HTTP/1.1\nHost: evil.example"))
        assert status == 400 and said["error"]["code"] == "wrong_host"


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("127.0.0.2", "", False), ("::1", "", False), ("10.1.2.3", "", True), ("::", "K", False)],
)
def test_the_greeting_warns_of_an_open_door_alone(models, host, key, warned):
    console = Console(record=True, width=300)
    greet(console, models, (host, 80), key)
    shown = console.export_text()
    assert ("no API key" in shown) == warned and ('Authorization: Bearer K"' in shown) == bool(key)


def test_a_key(models):
    with running(models, key="a key é") as server:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(server.client("another"))
        assert caught.value.code == "invalid_api_key"
        for path in ("/v1/models", "/v1/models/first"):
            assert parsed(server.raw(f"GET {path} HTTP/1.1\nHost: localhost"))[0] == 401
        assert server.health()["status"] == "ok"
        given = "a key é".encode().decode("latin-1")
        assert parsed(server.raw(f"GET /v1/models HTTP/1.1\nHost: localhost\nAuthorization: Bearer {given}"))[0] == 200
        assert parsed(server.raw(f"GET /v1/models HTTP/1.1\nHost: localhost\nAuthorization: Basic {given}"))[0] == 401
    with running(models, key="plain") as server:
        assert ask(server.client("plain")).usage.completion_tokens == 2


# When something breaks -----------------------------------------------------------------------------------------------


class _Breaks(Served):
    """A model that fails in a way that nobody foresaw."""

    def chat_ids(self, conversation):
        raise ZeroDivisionError("secret details")


def test_what_nobody_foresaw_is_reported_here_and_not_to_the_client(models):
    broken = {**models, "broken": _Breaks("broken", models["first"].tuned)}
    with running(broken) as server:
        status, said = server.post(body(model="broken"))
        assert status == 500 and said["error"]["code"] == "internal_error" and "secret" not in json.dumps(said)
        assert [type(error) for error in server.failures] == [ZeroDivisionError]
        server.failures.clear()
        assert server.post(body(max_tokens=1))[0] == 200


def test_a_stream_that_breaks_says_so(models, monkeypatch):
    with running(models) as server:
        tokenizer = models["first"].tuned.tokenizer
        decoded, whole = [], type(tokenizer).decode

        def decode(self, ids, **options):
            decoded.append(ids)
            if len(decoded) > 5:
                raise MemoryError
            return whole(self, ids, **options)

        monkeypatch.setattr(type(tokenizer), "decode", decode)
        with pytest.raises(openai.APIError, match="failed"):
            list(ask(server.client(), stream=True, max_tokens=50))
        monkeypatch.undo()
        assert [type(error) for error in server.failures] == [MemoryError]
        server.failures.clear()
        assert ask(server.client()).usage.completion_tokens == 2


def test_the_message_of_an_error_is_short():
    assert len(ApiError(400, "x" * 10_000).body()["error"]["message"]) <= 500
