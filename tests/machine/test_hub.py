"""A hub that does not answer is given up once, and what lies in the cache is used."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from luthier.config.schema import ModelSection
from luthier.errors import ModelError
from luthier.machine import hub
from luthier.model.hub import load_config


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub._Known, "answers", False)
    monkeypatch.setattr(hub._Known, "away_until", 0.0)


@pytest.fixture
def listener(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_one_that_answers_is_left_alone(listener):
    assert not hub.out_of_reach()
    assert constants.HF_HUB_OFFLINE is False


def test_one_that_nobody_answers_for_is_given_up_soon(listener, monkeypatch):
    """A full queue of connections: the system drops further ones without a word, as a firewall does."""
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    waiting = [socket.socket() for _ in range(8)]
    for other in waiting:
        other.setblocking(False)
        other.connect_ex(listener.getsockname())
    started = time.monotonic()
    assert hub.out_of_reach()
    assert time.monotonic() - started < 5 and constants.HF_HUB_OFFLINE
    for other in waiting:
        other.close()
    with pytest.raises(ModelError, match="is not on this machine, and the hub cannot be reached"):
        load_config(ModelSection(model_name_or_path="nobody/has-this"))


def test_one_that_is_back_is_found_again(listener, monkeypatch):
    there = constants.ENDPOINT
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.out_of_reach() and constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "ENDPOINT", there)
    assert hub.out_of_reach()  # nobody is asked again so soon
    monkeypatch.setattr(hub._Known, "away_until", time.monotonic())
    assert not hub.out_of_reach()
    assert constants.HF_HUB_OFFLINE is False


def test_behind_a_proxy_it_is_left_to_the_libraries(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    assert not hub.out_of_reach()
