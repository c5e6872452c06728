"""`luthier serve` as users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import openai
import pytest

from luthier.errors.extras import install
from tests.cli.support import LUTHIER, environment, process, run_here
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
KEY = "a-long-secret-key-4711"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("serve") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


class Process:
    """The server as a process."""

    def __init__(self, *arguments, **variables):
        self.child = subprocess.Popen(
            [*LUTHIER, "serve", *map(str, arguments), "--port", "0"],
            env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.greeting = ""
        while "Ctrl-C ends" not in self.greeting:
            line = self.child.stdout.readline()
            assert line, self.child.communicate()
            self.greeting += line
        self.url = re.search(r"http://\S+/v1", self.greeting)[0]

    def ended(self):
        out, err = self.child.communicate(timeout=30)
        return self.child.returncode, out, err


def client_of(url, key="none"):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)


def served_here(capsys, run, *arguments, asking=lambda url: None):
    """What the command wrote in this process, which told it to end once it answered and `asking` was done."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, left = f"http://127.0.0.1:{port}/v1", threading.Event()

    def ask_and_end():
        while not left.wait(0.02):
            with suppress(openai.APIConnectionError):
                with suppress(openai.AuthenticationError):  # an answer, too
                    client_of(url).models.list()
                try:
                    return asking(url)
                finally:
                    os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_and_end)
        result = run_here(capsys, "serve", run, *arguments, "--port", port)
        left.set()
        asked.result()
    assert result.code == 0 and result.out.endswith("Ctrl-C ends.\nended\n"), result
    return result


def ask(client, **fields):
    messages = [{"role": "user", "content": "Add"}]
    return client.chat.completions.create(model="run", messages=messages, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_a_signal_ends_it(run, number):
    server = Process(run)
    assert "run" in server.greeting and "the base" in server.greeting and "curl" in server.greeting
    client = client_of(server.url)
    answer = ask(client, max_tokens=3)  # drawn: now and then its end comes before the third token
    assert answer.usage.completion_tokens == 3 or answer.choices[0].finish_reason == "stop"
    stream = ask(client, max_tokens=100, temperature=0, stream=True)
    next(iter(stream))
    server.child.send_signal(number)
    rest = list(stream)
    assert rest[-1].choices[0].finish_reason in ("length", "stop"), "what is being written may end"
    assert server.ended() == (0, "ended\n", "")


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(run):
    server = Process(run)
    stream = ask(client_of(server.url), max_tokens=450, n=16, stream=True)
    next(iter(stream))
    started = time.monotonic()
    server.child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    server.child.send_signal(signal.SIGINT)
    assert server.child.stdout.readline() == "ended\n"
    assert time.monotonic() - started < 5, "long before what is being written would have been cut short"
    assert server.ended() == (0, "", "")


def test_a_key_from_the_environment_is_asked_for_and_not_shown(capsys, monkeypatch, run):
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)

    def asking(url):
        with pytest.raises(openai.AuthenticationError):
            ask(client_of(url, "wrong"))
        assert ask(client_of(url, KEY), max_tokens=2).usage.completion_tokens in (1, 2)

    result = served_here(capsys, run, "--host", "0.0.0.0", asking=asking)
    assert KEY not in result.out + result.err and "no API key" not in result.out
    assert 'Bearer $LUTHIER_API_KEY"' in result.out


def test_a_key_by_the_option_is_in_no_variable(capsys, monkeypatch, run):
    monkeypatch.setenv("LUTHIER_API_KEY", "another")
    result = served_here(capsys, run, "--api-key", KEY)
    assert 'Bearer YOUR_KEY"' in result.out and KEY not in result.out


def test_an_open_door_is_warned_of(capsys, run):
    result = served_here(capsys, run, "--host", "0.0.0.0")
    assert "there is no API key" in " ".join(result.out.split())


def test_wrong_requests(capsys, run, tmp_path):
    result = run_here(capsys, "serve", tmp_path / "nowhere", "--port", 0)
    assert result.code == 2 and "E-MODEL-012" in result.err and result.out == ""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_here(capsys, "serve", run, "--port", taken.getsockname()[1])
    assert result.code == 2 and "E-SERVE-002" in result.err and "--port" in result.err
    result = run_here(capsys, "serve", run, "--host", "no.such.host.invalid")
    assert result.code == 2 and "E-SERVE-002" in result.err
    assert "E-SERVE-003" in run_here(capsys, "serve", run, run).err


def test_without_its_libraries_it_says_how_to_get_them(capsys, run, monkeypatch):
    monkeypatch.setattr("luthier.cli.serve.find_spec", lambda name: None)
    result = run_here(capsys, "serve", run)
    assert result.code == 2 and "E-SERVE-001" in result.err and install("serve") in result.err


def test_the_line_for_vllm_is_printed_and_nothing_is_served(capsys, run, tiny_model_dir):
    result = run_here(capsys, "serve", f"mine={run}", "--print-vllm")
    assert result.code == 0 and result.out.startswith(f"vllm serve {tiny_model_dir} --enable-lora")
    assert f"mine={run}/final_model" in result.out
    assert run_here(capsys, "serve", run, "--base", "/moved", "--print-vllm").out.startswith(
        "vllm serve /moved --enable"
    )
    assert "E-SERVE-004" in json.dumps(run_here(capsys, "explain", "E-SERVE-004").out)


def test_help_imports_nothing_heavy_and_shows_an_example(tmp_path):
    result = process("serve", "--help", cwd=tmp_path)
    assert result.code == 0 and "luthier serve checkpoints" in result.out
