"""A merged folder beside its run: a right one passes, and each planted difference is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.errors import ModelError
from luthier.export.prompts import BUILT_IN
from luthier.export.run import Options, merge_run
from luthier.generate.weights import Base
from luthier.verify.merge import _plain_peft, verify_merge
from luthier.verify.screen import merge_as_json, merge_table
from tests.generate.support import train_tiny
from tests.tiny import build_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file, {"quantization": {"load_in_4bit": True}})
    return folder


@pytest.fixture
def merged(run, tmp_path):
    return merge_run(run, tmp_path / "m", None, Options(), silent).folder


def silent(text):
    pass


def test_a_right_one_passes_and_a_wrong_one_does_not(run, merged):
    right = verify_merge(str(run), merged, None, None, silent)
    assert right.passed and right.same_ids == right.tried_ids == len(BUILT_IN)
    assert [one.name for one in right.agreements] == ["merged", "plain peft, beside Luthier"]
    assert right.agreements[1].mean_kl < 1e-10
    assert (
        "is the run that was trained" in " ".join(merge_table(right).split()) and merge_as_json(right)["passed"] is True
    )
    tensors = load_file(merged / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 1.5
    save_file(tensors, merged / "model.safetensors", {"format": "pt"})
    wrong = verify_merge(str(run), merged, None, None, silent)
    assert not wrong.passed and "beyond what rounding does: merged." in " ".join(merge_table(wrong).split())


def test_one_on_the_bases_files_is_compared_with_the_adapter_on_these(run, tmp_path):
    folder = merge_run(run, tmp_path / "m", None, Options(onto="files"), silent).folder
    found = verify_merge(str(run), folder, None, None, silent)
    assert found.passed and found.agreements[0].mean_kl < 1e-8
    said = " ".join(merge_table(found).split())
    assert "the weights in the base's files, as --onto files asks for" in said and merge_as_json(found)["onto_files"]
    (folder / "luthier.json").unlink()
    claimed = verify_merge(str(run), folder, None, None, silent)
    assert claimed.agreements[0].mean_kl > 1000 * found.agreements[0].mean_kl, "as the run itself it is another model"


def test_another_template_is_seen(run, merged):
    template = merged / "chat_template.jinja"
    template.write_text(template.read_text().replace("### Response:", "### Answer:"))
    wrong = verify_merge(str(run), merged, None, None, silent)
    assert wrong.same_ids == 0 and not wrong.passed and all(one.passed for one in wrong.agreements)
    assert "prompt ids" in merge_table(wrong)


def test_a_template_that_never_ends_is_not_tried(run, merged):
    (merged / "chat_template.jinja").write_text("{% for i in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}")
    with pytest.raises(ModelError, match="chat template is not tried"):
        verify_merge(str(run), merged, None, None, silent)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("tokenizer*", "its tokenizer cannot be read"),
        ("chat_template*", "its tokenizer cannot be read"),
        ("*.safetensors", "its weights cannot be read"),
    ],
)
def test_e_model_012_a_damaged_folder_is_named(run, merged, lost, says):
    for file in merged.glob(lost):
        file.unlink()
    with pytest.raises(ModelError, match=f"E-MODEL-012.*{says}") as refusal:
        verify_merge(str(run), merged, None, None, silent)
    assert refusal.value.problems[0].where == str(merged)


def test_e_model_012_an_adapter_that_plain_peft_cannot_read_is_named(run, tmp_path):
    with pytest.raises(ModelError, match=r"E-MODEL-012.*by plain peft on its base"):
        _plain_peft(Base(str(tmp_path / "no base")), run / "final_model", torch.float32)


def test_plain_peft_gets_the_commit_of_the_base_that_the_run_pinned(run, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo, pinned, newest = tmp_path / "models--tiny--Llama", "a" * 40, "b" * 40
    shutil.copytree(tiny_model_dir, repo / "snapshots" / pinned)
    build_model(repo / "snapshots" / newest, initializer_range=0.2)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(newest)
    final = run / "final_model"
    expected, other, found = (
        _plain_peft(base, final, torch.float32)(input_ids=torch.tensor([[0, 5, 9]])).logits
        for base in (Base(str(tiny_model_dir)), Base("tiny/Llama"), Base("tiny/Llama", pinned))
    )
    assert torch.equal(found, expected) and not torch.allclose(other, expected, atol=0.1)


def test_a_home_is_found(run, merged, monkeypatch):
    monkeypatch.setenv("HOME", str(merged.parent))
    assert verify_merge(str(run), Path("~/m"), None, None, silent).passed


def test_without_a_merged_model(run):
    with pytest.raises(ModelError, match="luthier merge"):
        verify_merge(str(run), None, None, None, silent)
