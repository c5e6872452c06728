"""For each check: a healthy case, and a planted defect that it alone sees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from luthier.data import collate
from luthier.data.rows import Selection
from luthier.errors.extras import install
from luthier.events.sinks.extra import missing_login
from luthier.gate.checks import CHECKS
from luthier.gate.checks.place import LEAST_KEPT, disk_need, size
from luthier.gate.checks.rows import percent
from luthier.gate.gate import examine
from tests.data.support import CHATML, alpaca, make_tokenizer, preferences
from tests.gate.support import TRAINED, subject, told, verdicts, with_spans


def long_row(characters: int) -> dict[str, str]:
    return {"instruction": f"Say {characters}", "output": "x" * characters}


def long_prompt(characters: int) -> dict[str, str]:
    return {"instruction": "x" * characters, "output": "Yes."}


def test_nothing_is_said_of_healthy_rows(tmp_path: Path):
    healthy = subject(tmp_path, alpaca(40), val_set_size=0.1)
    assert told(healthy) == {}
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".luthier*")), "looking leaves nothing behind"


def test_nothing_is_said_of_a_chat_template_without_bos(tmp_path: Path):
    assert told(subject(tmp_path, tokenizer=make_tokenizer(bos=False, chat_template=CHATML))) == {}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_explains_itself(check: Any):
    assert check.title and len(check.why) > 60 and check.why.endswith((".", ")"))
    assert check.when.startswith(("Warns when", "Fails when")) and check.remedy.endswith(".")


# Rows as tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("healthy", "verdict"), [(15, "failed"), (150, "warning")])
def test_a_second_bos_in_a_row(tmp_path: Path, healthy: int, verdict: str):
    rows = [*alpaca(healthy), {"instruction": "Two <s>", "output": "Yes."}]
    found = told(subject(tmp_path, rows))
    assert {name: check.verdict for name, check in found.items()} == {
        "one-bos": verdict,
        "special-tokens-in-text": "warning",
    }
    assert f"1 of {healthy + 1} rows" in found["one-bos"].found


@pytest.mark.parametrize(("rows", "verdict"), [(20, "failed"), (150, "warning")])
def test_an_end_that_is_masked(tmp_path: Path, rows: int, verdict: str):
    masked = with_spans(subject(tmp_path, alpaca(rows)), lambda number, span: [span[0], span[1] - (number == 7)])
    assert verdicts(masked) == {"end-trained": verdict}
    assert told(masked)["end-trained"].found == f"1 of {rows} rows ({percent(1 / rows)}) do not end with a trained </s>"


def test_rows_that_are_cut_are_not_said_to_end_wrongly(tmp_path: Path):
    rows = [*alpaca(60), long_row(500)]
    assert set(told(subject(tmp_path, rows, overlong_rows="truncate", max_seq_length=480))) == {"rows-cut"}


def test_a_batch_that_trains_its_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = collate.collate_padded

    def wrong(rows: Any) -> Any:
        batch = right(rows)
        first = int((batch.attention_mask_BT.flatten() == 0).nonzero()[0])
        positions = torch.cat([batch.positions_N, torch.tensor([first - 1])])
        return replace(batch, positions_N=positions, targets_N=batch.input_ids_BT.flatten()[positions + 1])

    what = subject(tmp_path, alpaca(12))
    monkeypatch.setattr(collate, "collate_padded", wrong)
    found = told(what)
    assert {name: check.verdict for name, check in found.items()} == {"pad-untrained": "failed"}
    assert found["pad-untrained"].found.startswith("1 of ")


def test_a_packed_batch_that_trains_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = collate.collate_packed

    def wrong(rows: Any, **options: Any) -> Any:
        batch = right(rows, **options)
        return replace(batch, targets_N=torch.cat([batch.targets_N, batch.input_ids_BT[0, :1]]))

    what = subject(tmp_path)
    monkeypatch.setattr(collate, "collate_packed", wrong)
    assert verdicts(what) == {"pad-untrained": "failed"}


@pytest.mark.parametrize(("long", "verdict"), [(1, "warning"), (4, "warning"), (5, "warning"), (6, "failed")])
def test_rows_that_are_left_out(tmp_path: Path, long: int, verdict: str):
    rows = [*alpaca(25 - long), *(long_row(500 + n) for n in range(long))]
    what = subject(tmp_path, rows, max_seq_length=400)
    assert verdicts(what) == {"rows-cut": verdict}
    check = told(what)["rows-cut"]
    assert f"{long} of 25 rows" in check.found and f"rows.jsonl:{26 - long}" in check.found
    assert check.change == f"data.max_seq_length: {what.data.report.length_max}"


@pytest.mark.parametrize(("limit", "change"), [(400, "data.max_seq_length: 450"), (450, "")])
def test_no_more_tokens_are_advised_than_the_model_has_positions_for(tmp_path: Path, limit: int, change: str):
    what = subject(tmp_path, [*alpaca(24), long_row(500)], max_seq_length=limit)
    assert what.plan.model is not None
    what = replace(what, plan=replace(what.plan, model=replace(what.plan.model, max_position_embeddings=450)))
    check = told(what)["rows-cut"]
    longest = what.data.report.length_max
    fix = f"shorten those rows: the model has positions for 450 tokens, and the longest row has {longest}"
    assert (check.fix, check.change) == (fix, change) and longest > 450


@pytest.mark.parametrize(("length", "verdict"), [(320, "warning"), (2000, "failed")])
def test_rows_that_are_cut(tmp_path: Path, length: int, verdict: str):
    what = subject(tmp_path, [*alpaca(20), long_row(length)], overlong_rows="truncate", max_seq_length=400)
    assert verdicts(what) == {"rows-cut": verdict}
    share = what.data.report.completion_share_cut
    assert (share > 0.2) == (verdict == "failed")
    assert (
        "1 of 21 rows (4.8%) are cut" in told(what)["rows-cut"].found and percent(share) in told(what)["rows-cut"].found
    )


@pytest.mark.parametrize(("long", "verdict"), [(5, "warning"), (6, "failed")])
def test_rows_whose_prompt_leaves_no_room(tmp_path: Path, long: int, verdict: str):
    rows = [*alpaca(25 - long), *(long_prompt(600 + n) for n in range(long))]
    assert verdicts(subject(tmp_path, rows, overlong_rows="truncate", max_seq_length=400)) == {
        "zero-label-rows": verdict
    }


def test_a_row_without_labels_among_those_that_are_trained(tmp_path: Path):
    what = subject(tmp_path)
    what.data.train.trained = what.data.train.trained.copy()
    what.data.train.trained[3] = 0
    assert verdicts(what) == {"zero-label-rows": "failed"}


@pytest.mark.parametrize(("bad", "verdict"), [(1, "warning"), (7, "warning"), (8, "failed")])
def test_rows_that_cannot_be_used(tmp_path: Path, bad: int, verdict: str):
    rows = [*alpaca(30), *({"instruction": f"Bad {n}", "output": ""} for n in range(bad))]
    what = subject(tmp_path, rows, bad_rows="drop")
    assert verdicts(what) == {"bad-rows": verdict}
    assert "E-DATA-" in told(what)["bad-rows"].found and "rows.jsonl:31" in told(what)["bad-rows"].found
    assert told(what)["bad-rows"].found.startswith(f"{bad} of {30 + bad} rows")


def test_special_tokens_in_the_text(tmp_path: Path):
    rows = [*alpaca(20), {"instruction": "What is <|im_end|>?", "output": "A token."}]
    what = subject(tmp_path, rows, make_tokenizer(chat_template=CHATML))
    assert verdicts(what) == {"special-tokens-in-text": "warning"}
    assert "<|im_end|> in 1 row" in told(what)["special-tokens-in-text"].found


# Questions and answers -----------------------------------------------------------------------------------------------


def test_repeated_rows(tmp_path: Path):
    rows = [*alpaca(10), {"instruction": "say   3", "output": "IT IS 3."}]
    what = subject(tmp_path, rows)
    assert verdicts(what) == {"duplicates": "warning"}
    assert told(what)["duplicates"].found.endswith(f"more than once ({tmp_path / 'rows.jsonl'}:11)"), "not the first"
    assert verdicts(subject(tmp_path, [*alpaca(10), {"instruction": "Say 3.", "output": "It is 3."}])) == {}


def test_two_answers_to_one_question(tmp_path: Path):
    rows = [*alpaca(10), {"instruction": "Say 3", "output": "No."}]
    what = subject(tmp_path, rows)
    assert verdicts(what) == {"contradictions": "warning"}
    both = f"{tmp_path / 'rows.jsonl'}:4 and {tmp_path / 'rows.jsonl'}:11"
    assert told(what)["contradictions"].found == f"1 question has more than one answer ({both})"


def test_questions_of_the_evaluation_that_are_trained(tmp_path: Path):
    what = subject(tmp_path, alpaca(30), eval_split="train[18:30]", datasets=_slice(tmp_path, "train[:20]"))
    assert verdicts(what) == {"train-eval-overlap": "warning"}
    assert "2 of 12 rows" in told(what)["train-eval-overlap"].found
    assert (
        verdicts(subject(tmp_path, alpaca(30), eval_split="train[20:30]", datasets=_slice(tmp_path, "train[:20]")))
        == {}
    )


def _slice(folder: Path, split: str) -> str:
    return json.dumps([{"path": str(folder / "rows.jsonl"), "split": split}])


def test_an_overlap_that_is_still_there(tmp_path: Path):
    what = subject(tmp_path)
    train = what.data.train
    overlapping = replace(what.data, eval=Selection(train.store, train.chosen[:2], train.limit))
    assert verdicts(replace(what, data=overlapping)) == {"train-eval-overlap": "failed"}


# Pairs ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_healthy_pairs(tmp_path: Path):
    what = subject(tmp_path, preferences(40), objective="dpo", val_set_size=0.1)
    assert told(what) == {}
    found = {check.name: check.found for check in examine(what)}
    assert found["end-trained"] == "</s> ends each of 40 pairs, and is trained"
    assert found["one-bos"].endswith("in each of 40 pairs, at the beginning")
    assert found["train-eval-overlap"] == "none of the 4 pairs held out asks what is trained"
    assert found["contradictions"] == "no two answers are each preferred to the other"


def test_pairs_that_contradict_each_other_or_stand_there_twice(tmp_path: Path):
    turned = {"prompt": "say  3", "chosen": "No 3!", "rejected": "It is 3."}
    another = {"prompt": "Say 4", "chosen": "It is 4.", "rejected": "Four?"}
    assert verdicts(subject(tmp_path, [*preferences(10), another], objective="dpo")) == {}
    assert verdicts(subject(tmp_path, [*preferences(10), turned], objective="dpo")) == {"contradictions": "warning"}
    what = subject(tmp_path, preferences(10) + preferences(1), objective="dpo")
    assert told(what)["duplicates"].found.startswith("1 of 11 pairs (9.1%) say what another pair says")


@pytest.mark.parametrize(("same", "verdict"), [(2, "warning"), (3, "failed")])
def test_pairs_without_a_difference(tmp_path: Path, same: int, verdict: str):
    rows = [{"prompt": f"Q{n}", "chosen": "y" * 500 + "!", "rejected": "y" * 500 + "?"} for n in range(same)]
    keys = {"objective": "dpo", "overlong_rows": "truncate", "max_seq_length": 400}
    found = told(subject(tmp_path, [*preferences(13 - same), *rows], **keys))
    assert found["zero-label-rows"].verdict == verdict
    assert f"{same} of 13 pairs" in found["zero-label-rows"].found
    assert "both answers are the same tokens" in found["zero-label-rows"].found


def test_pairs_that_are_left_out(tmp_path: Path):
    rows = [*preferences(24), {"prompt": "Q", "chosen": "A", "rejected": "x" * 600}]
    what = subject(tmp_path, rows, objective="dpo", max_seq_length=400)
    assert verdicts(what) == {"rows-cut": "warning"} and "1 of 25 pairs" in told(what)["rows-cut"].found


# What must fit together ----------------------------------------------------------------------------------------------


class OtherTemplate(PreTrainedTokenizerFast):
    """Saves another template than the one it has."""

    def save_pretrained(self, folder: Any, **options: Any) -> Any:
        saved = super().save_pretrained(folder, **options)
        path = Path(folder) / "chat_template.jinja"
        path.write_text(path.read_text().replace("### Instruction", "### Question"))
        return saved


class OtherVocabulary(PreTrainedTokenizerFast):
    """Forgets, when it is saved, how it takes texts apart."""

    def save_pretrained(self, folder: Any, **options: Any) -> Any:
        saved = super().save_pretrained(folder, **options)
        path = Path(folder) / "tokenizer.json"
        content = json.loads(path.read_text())
        content["normalizer"] = {"type": "Replace", "pattern": {"String": "Q"}, "content": "q"}
        path.write_text(json.dumps(content))
        return saved


class NotSaved(PreTrainedTokenizerFast):
    """Cannot be saved at all."""

    def save_pretrained(self, folder: Any, **options: Any) -> Any:
        raise KeyError("unk")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OtherTemplate, "final_model would have"),
        (NotSaved, "cannot be saved"),
    ],
)
def test_a_tokenizer_whose_saved_form_differs(tmp_path: Path, kind: Any, words: str):
    plain = make_tokenizer()
    other = kind(tokenizer_object=plain._tokenizer, bos_token="<s>", eos_token="</s>")
    what = subject(tmp_path, tokenizer=other)
    assert verdicts(what) == {"template-saved": "failed"}
    assert words in told(what)["template-saved"].found
    assert other.chat_template is None, "the tokenizer is as it was"


def test_a_difference_in_the_text_of_rows_only(tmp_path: Path):
    """Questions through the template are the same; one of the user's rows is not."""
    other = OtherVocabulary(tokenizer_object=make_tokenizer()._tokenizer, bos_token="<s>", eos_token="</s>")
    what = subject(tmp_path, [{"instruction": "Query", "output": "Yes."}, *alpaca(3)], other)
    assert verdicts(what) == {"template-saved": "failed"}
    assert "rows.jsonl:1: from token" in told(what)["template-saved"].found


def test_a_token_without_an_embedding(tmp_path: Path):
    assert verdicts(subject(tmp_path, vocabulary=100)) == {"vocabulary": "failed"}
    assert "the rows have token" in told(subject(tmp_path, vocabulary=100))["vocabulary"].found
    largest = subject(tmp_path).data.train.store.largest_id()
    assert f"the rows have token {largest:,}" in told(subject(tmp_path, vocabulary=largest))["vocabulary"].found
    assert verdicts(subject(tmp_path, vocabulary=largest + 1)) == {"vocabulary": "warning"}
    found = told(subject(tmp_path, vocabulary=largest + 1))["vocabulary"].found
    assert found == f"the tokenizer has 263 tokens, and the model {largest + 1} embeddings; no row has the rest"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sample_prompts": ["Say 3", "add two numbers " * 700]}, "prompt 2 has "),
        ({"sample_prompts": ["Say é"], "vocabulary": 200}, "prompt 1 has token "),
    ],
)
def test_a_sample_prompt_that_the_model_cannot_answer(tmp_path: Path, keys: dict[str, Any], words: str):
    what = subject(tmp_path, **keys)
    assert verdicts(what)["sample-prompts"] == "failed"
    assert told(what)["sample-prompts"].found.startswith(words)


def test_a_device_that_is_not_there(tmp_path: Path):
    what = subject(tmp_path, box={"device": "cuda", "supports_bfloat16": True})
    assert verdicts(what) == {"dtype": "failed"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_four_bits_are_really_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    what = subject(tmp_path, load_in_4bit=True)
    assert verdicts(what) == {}
    import bitsandbytes.functional as functional

    right = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *arguments: 2 * right(*arguments))
    assert told(what)["dtype"].found.endswith("gives wrong numbers")


def test_8_bit_floats_are_really_multiplied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    what = subject(tmp_path, base_precision="fp8")
    assert verdicts(what) == {}
    from luthier.model.lean import fp8

    right = fp8.plain_product
    monkeypatch.setattr(fp8, "plain_product", lambda *arguments: 2 * right(*arguments))
    assert told(what)["dtype"].found == "float32, frozen weights in 8-bit floats on test CPU (cpu) gives wrong numbers"


# Where it writes, and what it needs ----------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    what = subject(tmp_path, output_dir=tmp_path / "file" / "out")
    assert verdicts(what) == {"output-writable": "failed"}


def test_a_disk_that_refuses_to_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    what = subject(tmp_path)
    monkeypatch.setattr("os.fsync", refuse)
    assert verdicts(what) == {"output-writable": "failed"}
    assert not list(tmp_path.glob(".luthier*"))


@pytest.mark.parametrize(("share", "verdict"), [(0.99, "failed"), (1.0, "warning"), (1.19, "warning"), (1.2, None)])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, verdict: str | None):
    what = subject(tmp_path)
    free = round(share * disk_need(what.plan).total_bytes + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert verdicts(what) == ({"disk-space": verdict} if verdict else {})


@pytest.mark.parametrize(("room_for", "change"), [(4, True), (3, True), (2, False)])
def test_fewer_checkpoints_are_advised_only_where_that_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_for: int, change: bool
):
    what = subject(tmp_path, max_steps=20, save_steps=1)  # 3 kept, and one is written; 2 with the smallest limit
    free = replace(disk_need(what.plan), checkpoints=room_for).total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert bool(told(what)["disk-space"].change) == change


def test_checkpoints_that_are_there_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    what = subject(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert verdicts(what) == {"disk-space": "failed"}
    old = tmp_path / "out" / "checkpoint-4"
    old.mkdir(parents=True)
    with (old / "optimizer.safetensors").open("wb") as file:
        file.truncate(2 * disk_need(what.plan).total_bytes)
    assert verdicts(what) == {}


@pytest.mark.parametrize(
    ("keys", "checkpoints"),
    [
        ({}, 4),  # 3 kept, and one is written
        ({"save_total_limit": 1}, LEAST_KEPT + 1),
        ({"save_total_limit": 1, "val_set_size": 4, "eval_steps": 2}, LEAST_KEPT + 2),  # the best one as well
        ({"save_total_limit": "null"}, 20),
        ({"save_total_limit": "null", "save_steps": 15}, 3),
        ({"save_total_limit": "null", "save_steps": 15, "val_set_size": 4, "eval_steps": 4}, 7),  # 1 4 8 12 15 16 20
        ({"save_steps": 0}, 1),
        ({"save_steps": 0, "val_set_size": 4, "eval_steps": 2}, 5),  # each evaluation may be the best
        ({"save_steps": 0, "val_set_size": 4, "eval_steps": 2, "load_best_model_at_end": False}, 1),
        ({"save_steps": 15}, 4),  # by the clock there may be more
        ({"save_steps": 15, "save_minutes": 0}, 3),
        ({"save_steps": 15, "save_minutes": 0, "save_first_step": False}, 2),
    ],
)
def test_how_many_checkpoints_lie_there_at_once(tmp_path: Path, keys: dict[str, Any], checkpoints: int):
    settings = {"max_steps": 20, "save_steps": 1, **keys}
    need = disk_need(subject(tmp_path, **settings).plan)
    assert need.checkpoints == checkpoints
    assert need.checkpoint_bytes == 12 * TRAINED and need.final_bytes == 4 * TRAINED


def test_trackers_that_are_not_installed(tmp_path: Path):
    what = subject(tmp_path, report_to=["tensorboard", "trackio"])
    found = verdicts(what)
    if found:
        assert found == {"trackers": "failed"}
        assert install("trackio") in told(what)["trackers"].fix
    else:
        pytest.skip("trackio is installed here")


def test_who_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "TRACKIO_SPACE_ID", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert "api.wandb.ai" in missing_login("wandb")
    netrc.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert missing_login("wandb") == ""
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert "wandb.example.org" in missing_login("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert missing_login("wandb") == "" and missing_login("trackio") == "" and missing_login("mlflow") == ""
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "HF_TOKEN" in missing_login("trackio")


def test_base_weights_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    what = subject(tmp_path, model_name_or_path="someone/absent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert verdicts(what) == {"base-weights": "failed"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert verdicts(what) == {"base-weights": "warning"}
    cached = tmp_path / "hub" / "models--someone--absent"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    index = cached / "snapshots" / "abc" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (index.parent / "model-1.safetensors").write_text("")
    assert verdicts(what) == {"base-weights": "warning"}
    (index.parent / "model-2.safetensors").write_text("")
    assert verdicts(what) == {}


def test_random_weights_need_none(tmp_path: Path):
    what = subject(tmp_path, model_name_or_path="someone/absent", from_scratch=True, finetuning_type="full")
    assert verdicts(what) == {}


def test_rows_of_plain_text_pass(tmp_path: Path):
    assert verdicts(subject(tmp_path, [{"text": f"Once upon {n} times."} for n in range(9)])) == {}


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0%"), (1.0, "100%"), (0.99999, "99.99%"), (1e-9, "0.01%"), (0.5, "50.0%")]
)
def test_a_share_is_whole_only_when_it_is(share: float, text: str):
    assert percent(share) == text


def test_sizes():
    assert [size(n) for n in (900, 22.4e6, 1.24e9, 3e12)] == ["0.9 kB", "22.4 MB", "1.24 GB", "3 TB"]
    assert [size(n) for n in (999e3, 999.9e3, 999.9e6, 999.9e9)] == ["999 kB", "1 MB", "1 GB", "1 TB"]


@pytest.mark.parametrize(
    ("prompt", "completion", "warned"),
    [("Say {}?", "It is {}.", True), ("Say {}?\n", "It is {}.", False), ("Say {}:", "It is {}.", False),
     ("Say {}?", " It is {}.", False), ("Q: {}\nA:", "{}", False), ("说{}？", "是{}", False)],
)  # fmt: skip
def test_questions_that_run_into_their_answers(tmp_path: Path, prompt: str, completion: str, warned: bool):
    rows = [{"prompt": prompt.format(n), "completion": completion.format(n)} for n in range(20)]
    found = told(subject(tmp_path, rows))
    assert set(found) == ({"touching-texts"} if warned else set())
    if warned:
        assert "...Say 0?It is 0...." in found["touching-texts"].found
        assert "format: alpaca" in found["touching-texts"].fix


def test_few_held_out_rows_are_said_to_be_few(tmp_path: Path):
    few, enough = (subject(tmp_path, alpaca(40), val_set_size=held).data.report.lines() for held in (9, 10))
    assert any("9 held out; a loss over so few is mostly chance" in line for line in few)
    assert any(line.endswith("10 held out") for line in enough)
