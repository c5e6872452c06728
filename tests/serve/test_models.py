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


def adapter_with(run, folder, **changes):
    """A copy of a run whose adapter_config.json says something else."""
    settings = shutil.copytree(run, folder) / "final_model" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_e_serve_004_what_vllm_would_compute_wrongly_or_refuse(changes, words, runs, tmp_path):
    odd = adapter_with(runs["first"], tmp_path / "my run", **changes)
    with pytest.raises(LuthierError, match="E-SERVE-004") as caught:
        vllm_line({"plain": runs["second"], "odd": odd})
    (problem,) = caught.value.problems
    assert words in problem.found and "'odd'" in problem.found and f"luthier merge '{odd}'" in problem.fix


def test_the_line_for_vllm_names_the_pinned_commit_of_the_base_and_where_it_is_now(runs, tmp_path):
    name = {"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}
    pinned = adapter_with(runs["first"], tmp_path / "pinned", **name, revision="4e20de3")
    newest = adapter_with(runs["first"], tmp_path / "newest", **name)
    assert vllm_line({"a": pinned}).startswith("vllm serve meta-llama/Llama-3.2-1B --revision 4e20de3 --enable-lora ")
    with pytest.raises(LuthierError, match=r"E-SERVE-004.*4e20de3"):
        vllm_line({"a": pinned, "b": newest})
    moved = vllm_line({"a": pinned, "b": newest}, "/models/llama")
    assert moved.startswith("vllm serve /models/llama --enable-lora ")
