"""Hashes of a base model's files: read in a local folder, known without reading in the hub's cache."""

from __future__ import annotations

import hashlib

from luthier.config.schema import ModelSection
from luthier.model.hashes import base_hashes


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
