"""Names, what shares weights, and the line for vLLM."""

from __future__ import annotations

import json
import shutil

import pytest

from luthier.errors import LuthierError
from luthier.serve.models import load_models, named, vllm_line


def test_runs_are_called_like_their_folders_or_as_you_say(tmp_path):
    assert named(["a/checkpoints", "b=other/checkpoints/", "c/run/final_model"]) == {
        "checkpoints": "a/checkpoints",
        "b": "other/checkpoints/",
        "run": "c/run/final_model",
    }
    odd = tmp_path / "lr=1e-4"
    odd.mkdir()
    assert named([str(odd)]) == {"lr=1e-4": str(odd)}
    with pytest.raises(LuthierError, match="E-SERVE-003"):
        named(["a/checkpoints", "b/checkpoints"])


def test_a_base_whose_name_is_taken_gets_another(runs, tiny_model_dir):
    models = load_models({tiny_model_dir.name: runs["first"]})
    assert [(name, model.is_base) for name, model in models.items()] == [
        (tiny_model_dir.name, False),
        (f"{tiny_model_dir.name}-base", True),
    ]
    assert list(load_models({"full": runs["full"]})) == ["full"], "its base would be a second copy of the weights"


def test_the_line_for_vllm(runs, tmp_path, tiny_model_dir):
    line = vllm_line({"a": runs["first"], "b": runs["second"]})
    assert line.startswith(f"vllm serve {tiny_model_dir} --enable-lora --lora-modules a={runs['first']}/final_model b=")
    assert "--max-lora-rank 16" in line and line.endswith(f"{runs['first']}/final_model/chat_template.jinja")
    assert vllm_line({"f": runs["full"]}) == f"vllm serve {runs['full']}/final_model --served-model-name f"
    with pytest.raises(LuthierError, match="E-SERVE-004"):
        vllm_line(runs)
    moved = shutil.copytree(runs["first"], tmp_path / "moved run")
    settings = moved / "final_model" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": "else", "r": 48}))
    with pytest.raises(LuthierError, match="E-SERVE-004"):
        vllm_line({"a": runs["first"], "b": str(moved)})
    assert f"a='{moved}/final_model'" in vllm_line({"a": str(moved)}).replace("'a=", "a='")
    assert "--max-lora-rank 64" in vllm_line({"a": str(moved)})
