"""What counts as a secret, and what must stay readable."""

from __future__ import annotations

import json

import pytest

from luthier.errors import Problem
from luthier.errors.secrets import hide, hide_in, holds_secret
from luthier.errors.trace import keep_trace


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A home of its own, and no variable that is named like a secret."""
    import os

    for name in list(os.environ):
        if any(word in name.upper() for word in ("TOKEN", "KEY", "SECRET", "PASS", "CRED", "AUTH")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "DB_PASSWD", "MY_CREDENTIAL", "AUTH"]
)
def test_the_value_of_a_variable_that_is_named_like_a_secret(monkeypatch, name):
    text = "the server said: c4nary-value-1 is wrong"
    assert hide(text) == text and not holds_secret(text)
    monkeypatch.setenv(name, "c4nary-value-1")
    assert hide(text) == f"the server said: <{name}> is wrong"
    assert holds_secret(text)


@pytest.mark.parametrize(
    "name",
    ["corpora/sk-news-articles-2023.jsonl", "data/sk-learn-documentation-qa-2024", "runs/hf_llama32instruct20kcode"],
)
def test_names_of_files_and_runs_are_no_secrets(name):
    assert hide(name) == name and not holds_secret(name)


def test_a_longer_secret_goes_before_the_one_that_it_begins_with(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "c4nary-value")
    monkeypatch.setenv("B_TOKEN", "c4nary-value-longer")
    assert hide("x c4nary-value-longer y c4nary-value") == "x <B_TOKEN> y <A_TOKEN>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MY_TOKEN", "false"), ("TOKENIZERS_PARALLELISM", "true"), ("AUTH_METHOD", "certificate"),
        ("TOKENIZER_NAME", "meta-llama/Llama-3.2-1B"), ("GIT_AUTHOR_NAME", "jane doe 1"),
        ("KEY_OF_TIER", "a1-b2-c3-d4"),
        ("SORT_KEY", "checkpoints"), ("KEY_FILE", "/"), ("GITHUB_TOKEN_PATH", "/dev/null"), ("KEY_COUNT", "1234567890"),
    ],
)  # fmt: skip
def test_switches_words_and_paths_are_no_secrets(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    text = f"{value} in checkpoints/{value}"
    assert hide(text) == text


def test_a_word_is_one_when_the_name_leaves_no_doubt(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "swordfish")
    assert hide("tried swordfish") == "tried <DB_PASSWORD>"


def test_the_hubs_token_and_passwords_of_hosts(bare):
    (bare / ".cache" / "huggingface").mkdir(parents=True)
    (bare / ".cache" / "huggingface" / "token").write_text("c4nary-of-the-hub\n")
    (bare / ".netrc").write_text("machine a.b login me password c4nary-of-netrc\nmachine c password 'quoted c'\n")
    assert hide("c4nary-of-the-hub, c4nary-of-netrc, me") == "<hub token>, <netrc password>, me"


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 12, "sk-" + "aB3" * 8, "ghp_" + "aB3" * 10, "github_pat_" + "a1_" * 8, "AKIA" + "A1B2" * 4,
        "xoxb-123456789012-abc", "wandb_v1_" + "aB3" * 6,
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_shapes(secret):
    assert hide(f"before ({secret}) after") == "before (<secret>) after"
    assert holds_secret(f"a/{secret}")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET https://me:c4nary@hub.org/x", "GET https://<credentials>@hub.org/x"),
        ("s3://k3y@bucket/rows", "s3://<credentials>@bucket/rows"),
        ("/x?a=1&token=c4nary&b=2", "/x?a=1&token=<secret>&b=2"),
        ("?X-Amz-Signature=0123abc&x", "?X-Amz-Signature=<secret>&x"),
        ("{'Authorization': 'Bearer c4nary-1'}", "{'Authorization': 'Bearer <secret>'}"),
        ("authorization: Basic bWU6YzRuYXJ5", "authorization: Basic <secret>"),
        (f"wandb: api key {'0a' * 20}", "wandb: api key <secret>"),
    ],
)
def test_places(text, hidden):
    assert hide(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "commit " + "0a" * 20, "a@b.org", "https://hub.org/a@b", "the bearer of good news", "authorization: none",
        "def key(token): return token", "sk-1", "task-2", "hf_hub", "lora.r=32", "{'loss': 2.451, 'step': 10}",
    ],
)  # fmt: skip
def test_what_stays_as_it_is(text):
    assert hide(text) == text


def test_other_spellings_of_a_value(monkeypatch):
    secret = "p@ss/\"wö'rd\\9"
    monkeypatch.setenv("DB_PASSWORD", secret)
    for text in (json.dumps({"a": secret}), repr([secret]), "postgres://x/?p=p%40ss%2F%22w%C3%B6%27rd%5C9"):
        assert "<DB_PASSWORD>" in hide(text), text


def test_inside_of_data(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "c4nary-value-1")
    assert hide_in({"c4nary-value-1": [("x c4nary-value-1", 1.5, None)]}) == {
        "<HF_TOKEN>": [["x <HF_TOKEN>", 1.5, None]]
    }


def test_a_problem_never_holds_one(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "c4nary-value-1")
    problem = Problem("E-RUN-004", *["c4nary-value-1"] * 4)
    assert "c4nary" not in repr(problem) + problem.render()


def test_a_trace_is_appended_without_them_and_goes_elsewhere_when_it_must(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "c4nary-value-1")
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        try:
            raise ValueError(f"c4nary-value-1, number {number}")
        except ValueError as error:
            kept, other = keep_trace(error, tmp_path), keep_trace(error, tmp_path / "not" / "there")
    assert (kept, other) == (tmp_path / "error.log", tmp_path / "luthier-error.log")
    text = kept.read_text()
    assert (
        text.count("Traceback") == 2
        and "<HF_TOKEN>, number 1" in text
        and "c4nary-" not in text.replace('f"c4nary-value-1, number', "")
    )
