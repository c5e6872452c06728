"""Hashes of a base model's files: read in a local folder, known without reading in the hub's cache."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest

from luthier.config.schema import ModelSection
from luthier.model import hashes
from luthier.model.hashes import base_hashes, differing, file_hashes


def test_a_local_folder_is_read(tiny_model_dir):
    hashes = base_hashes(ModelSection(model_name_or_path=str(tiny_model_dir)))
    assert set(hashes) == {"config.json", "model.safetensors"}
    for name, value in hashes.items():
        assert value == hashlib.sha256((tiny_model_dir / name).read_bytes()).hexdigest()
    scratch = base_hashes(ModelSection(model_name_or_path=str(tiny_model_dir), from_scratch=True))
    assert set(scratch) == {"config.json"}, "its weights are not read"


def hub_cache(folder, commit, files):
    """The layout that huggingface_hub gives a model: files are links to blobs named by their hash."""
    repo = folder / "models--owner--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, (blob, content) in files.items():
        (repo / "blobs" / blob).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")


def test_in_the_hubs_cache_the_name_of_a_blob_is_its_hash(tmp_path, monkeypatch):
    large, small = "ab" * 32, "cd" * 20
    files = {"model.safetensors": (large, b"not read"), "config.json": (small, b"{}")}
    hub_cache(tmp_path, "0" * 40, files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hashes = base_hashes(ModelSection(model_name_or_path="owner/name"))
    assert hashes == {"model.safetensors": large, "config.json": hashlib.sha256(b"{}").hexdigest()}


def test_a_model_that_is_not_here_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/name", "./nothing", "a/b/c"):
        assert base_hashes(ModelSection(model_name_or_path=name)) == {}


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file whose hash is kept, and that was not changed just now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "KEPT_FROM_BYTES", 8)
    monkeypatch.setattr(hashes, "_SETTLED_SECONDS", 0.05)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"0123456789")
    time.sleep(0.1)
    return file


def hash_of(file):
    return file_hashes(file.parent, file.name)[file.name]


def test_a_large_file_is_read_once(large, monkeypatch):
    first = hash_of(large)
    assert first == hashlib.sha256(b"0123456789").hexdigest()
    monkeypatch.setattr(hashes, "_read", lambda path: pytest.fail("it was read again"))
    assert hash_of(large) == first


def test_another_file_in_its_place_is_read_even_if_it_is_as_large_and_says_the_same_time(large):
    about, first = large.stat(), hash_of(large)
    other = large.with_suffix(".new")
    other.write_bytes(b"9876543210")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(large)
    assert large.stat().st_mtime_ns == about.st_mtime_ns
    assert hash_of(large) == hashlib.sha256(b"9876543210").hexdigest() != first


def test_the_hash_of_a_file_that_was_just_written_is_not_kept(large, monkeypatch, tmp_path):
    monkeypatch.setattr(hashes, "_SETTLED_SECONDS", 60.0)
    hash_of(large)
    assert not (tmp_path / "cache").exists()


def test_a_note_that_is_damaged_or_cannot_be_written_costs_a_reading(large, tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    first = hash_of(large)
    (tmp_path / "cache").unlink()
    assert hash_of(large) == first
    (note,) = (tmp_path / "cache" / "luthier" / "hashes").iterdir()
    for damaged in ("", "{", "[]", json.dumps([*json.loads(note.read_text())[:-1], "no hash"]), "7"):
        note.write_text(damaged)
        assert hash_of(large) == first


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({}, ""),
        ({"a.safetensors": "1", "config.json": "0", "b.safetensors": "9"}, ""),
        ({"a.safetensors": "2"}, "a.safetensors has SHA-256 1 then, 2 now"),
        ({"config.json": "5", "a.safetensors": "1"}, "config.json has SHA-256 0 then, 5 now"),
        ({"b.safetensors": "1"}, "there was a.safetensors, and is not now"),
        ({"config.json": "0"}, ""),
    ],
)
def test_what_two_bases_differ_in(now, says):
    assert differing({"config.json": "0", "a.safetensors": "1"}, now) == says
