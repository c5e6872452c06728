"""Pairs on their way from rows to passes: tokens, masks, what is left out, split, weights, cache, and never torn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.schema import DatasetSource
from luthier.data.largest import find_largest
from luthier.data.loader import collate, evaluation_batches, evaluation_passes, split, step_passes, training_steps
from luthier.data.messages import Message
from luthier.data.order import step_rows
from luthier.data.pairs import ROWS_OF_A_PAIR, both_ways_round, pair_keys
from luthier.data.prepare import Prepared
from luthier.data.rows import Selection, TokenRow
from luthier.errors import DataError
from tests.data.support import CHATML, alpaca, make_tokenizer, pieces, preferences, problems, run, turn, write_jsonl
from tests.rows import MemoryRows, pair_rows, pairs_of_sizes, plan_for

WAYS = {"packed": {"packing": "true", "lean_path": "false"}, "shared": {}, "padded": {"packing": "false"}}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(chat_template=CHATML)


def prepared(tokenizer: Any, folder: Path, rows: list[Any], **data: Any) -> Prepared:
    return run(tokenizer, write_jsonl(folder / "rows.jsonl", rows), objective="dpo", **data)


def pairs_of(data: Prepared) -> list[tuple[TokenRow, ...]]:
    """The chosen and the rejected row of each."""
    assert data.train.each == ROWS_OF_A_PAIR
    return [data.train.members(index) for index in range(len(data.train))]


def numbers(data: Prepared) -> list[int]:
    """Lines of the file that are trained on."""
    return [int(chosen.place.rpartition(":")[2]) for chosen, _ in pairs_of(data)]


# From rows to tokens -------------------------------------------------------------------------------------------------


def test_a_pair_is_its_two_conversations_each_as_the_template_has_it(tmp_path: Path, tokenizer: Any) -> None:
    talk = [turn("system", "Be short."), turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?")]
    rows = [{"prompt": talk, "chosen": [turn("assistant", "2")], "rejected": [turn("assistant", "three")]}]
    data = prepared(tokenizer, tmp_path, rows)
    ((chosen, rejected),) = pairs_of(data)
    asked: list[Any] = [Message(message["role"], message["content"]) for message in talk]  # type: ignore[arg-type]
    prompt = data.template.prompt_ids(tokenizer, asked)
    for row, answer in ((chosen, "2"), (rejected, "three")):
        ids = tokenizer.apply_chat_template([*talk, turn("assistant", answer)], return_dict=False)
        end = len(ids) - ids[::-1].index(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        assert row.input_ids.tolist() == [0, *ids[:end]], "BOS, and nothing behind the end of the turn"
        assert row.input_ids[: len(prompt)].tolist() == prompt
        assert pieces(tokenizer, row)[-1] == (f"{answer}<|im_end|>", True)
        assert not row.trained[: len(prompt)].any() and row.trained[len(prompt) :].all()
    assert chosen.place == rejected.place == f"{tmp_path}/rows.jsonl:1"


def test_texts_are_a_question_and_its_answers(tmp_path: Path, tokenizer: Any) -> None:
    ((chosen, rejected),) = pairs_of(prepared(tokenizer, tmp_path, preferences(1)))
    asked = "<s><|im_start|>user\nSay 0<|im_end|>\n<|im_start|>assistant\n"
    assert pieces(tokenizer, chosen) == [(asked, False), ("It is 0.<|im_end|>", True)]
    assert pieces(tokenizer, rejected) == [(asked, False), ("No 0!<|im_end|>", True)]


def test_lengths_and_trained_tokens_are_those_of_both(tmp_path: Path, tokenizer: Any) -> None:
    data = prepared(tokenizer, tmp_path, preferences(1500), val_set_size=0.1)
    assert data.eval is not None and data.train.each == data.eval.each == 2
    assert (len(data.train), len(data.eval)) == (1350, 150)
    for index in (0, 700, 1349):
        chosen, rejected = data.train.members(index)
        both = [len(chosen.input_ids), len(rejected.input_ids)]
        assert data.train.row_lengths[index].tolist() == both and data.train.lengths[index] == sum(both)
        assert data.train.trained[index] == chosen.trained.sum() + rejected.trained.sum()
    for index in (-1, 1350):
        with pytest.raises(IndexError):
            data.train.members(index)
    facts = data.facts
    assert (facts.train_rows, facts.eval_rows, facts.pairs, facts.unit) == (1350, 150, True, "pairs")
    assert facts.train_tokens == data.train.lengths.sum() and facts.trained_tokens == data.train.trained.sum()
    assert facts.longest_row_tokens == max(data.train.row_lengths.max(), data.eval.row_lengths.max())
    assert facts.largest_example_tokens == 2 * facts.longest_row_tokens


def long(what: str, number: int) -> dict[str, str]:
    row = preferences(1, number)[0]
    return row | {what: row[what] + "x" * 300}


def test_a_pair_goes_with_either_of_its_rows(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*preferences(5), long("chosen", 5), long("rejected", 6), long("prompt", 7)]
    data = prepared(tokenizer, tmp_path, rows, max_seq_length=200)
    assert len(data.train) == 5 and data.report.kept_rows == 5 and data.report.rows_read == 8
    (dropped,) = data.report.dropped
    assert (dropped.kind, dropped.rows) == ("overlong", 3)
    assert [place.rpartition(":")[2] for place in dropped.places] == ["6", "7", "8"]


def test_cut_pairs_are_counted_and_those_without_answers_left_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*preferences(5), long("chosen", 5), long("rejected", 6), long("prompt", 7)]
    data = prepared(tokenizer, tmp_path, rows, max_seq_length=200, overlong_rows="truncate")
    assert numbers(data) == [1, 2, 3, 4, 5, 6, 7]
    assert (data.report.truncated_rows, data.report.kept_rows) == (2, 7)
    assert [(drop.kind, drop.rows) for drop in data.report.dropped] == [("unlabelled", 1)]
    assert data.report.eos_share == pytest.approx(5 / 7), "of the pairs, those that end in both of their rows"


def test_pairs_that_are_the_same_once_they_are_cut_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    same = {"prompt": "Q", "chosen": "y" * 300 + "!", "rejected": "y" * 300 + "?"}
    rows = [same, *preferences(3)]
    assert len(prepared(tokenizer, tmp_path, rows).train) == 4
    data = prepared(tokenizer, tmp_path, rows, max_seq_length=200, overlong_rows="truncate")
    assert [(drop.kind, drop.rows, drop.places[0][-1]) for drop in data.report.dropped] == [("alike", 1, "1")]
    assert numbers(data) == [2, 3, 4]


def test_e_data_040_and_e_data_041_speak_of_pairs(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*preferences(2), long("rejected", 2)])
    (problem,) = problems(tokenizer, path, objective="dpo", max_seq_length=200, overlong_rows="error")
    assert problem[:2] == ("E-DATA-040", f"{path}:3") and problem[2].endswith("tokens, over 200")
    (problem,) = problems(tokenizer, path, objective="dpo", max_seq_length=10)
    assert problem[0] == "E-DATA-041" and problem[2].startswith("0 usable pairs (of 3: 3 longer than")


def test_rows_that_cannot_be_used_are_left_out_as_pairs(tmp_path: Path, tokenizer: Any) -> None:
    bad = [{"prompt": "Q", "chosen": "A", "rejected": "A"}, {"prompt": "Q", "chosen": "A", "rejected": ""}]
    path = write_jsonl(tmp_path / "rows.jsonl", [*bad, *preferences(3)])
    found = problems(tokenizer, path, objective="dpo")
    assert [(code, where) for code, where, _ in found] == [("E-DATA-037", f"{path}:1"), ("E-DATA-024", f"{path}:2")]
    data = run(tokenizer, path, objective="dpo", bad_rows="drop")
    assert numbers(data) == [3, 4, 5]
    assert sum(drop.rows for drop in data.report.dropped) == 2


def test_a_template_that_refuses_one_answer_leaves_the_whole_pair_out(tmp_path: Path) -> None:
    refuses = "{% if 'No 1' in message.content %}{{ raise_exception('no!') }}{% endif %}"
    start = "{% for message in messages %}"
    tokenizer = make_tokenizer(chat_template=CHATML.replace(start, start + refuses))
    data = prepared(tokenizer, tmp_path, preferences(3), bad_rows="drop")
    assert numbers(data) == [1, 3]
    for (chosen, rejected), number in zip(pairs_of(data), (0, 2), strict=True):
        assert pieces(tokenizer, chosen)[-1][0] == f"It is {number}.<|im_end|>"
        assert pieces(tokenizer, rejected)[-1][0] == f"No {number}!<|im_end|>"


def test_a_prompt_is_never_on_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row | {"chosen": f"{row['chosen']} {n}"} for n in range(4) for row in preferences(25)]
    data = prepared(tokenizer, tmp_path, rows, val_set_size=20)
    assert data.eval is not None and (len(data.train), len(data.eval)) == (80, 20)
    keys = data.train.store.prompt_keys
    assert not set(keys[data.train.chosen].tolist()) & set(keys[data.eval.chosen].tolist())
    assert (data.train.chosen % 2 == 0).all() and (data.eval.chosen % 2 == 0).all()
    assert (keys[data.train.chosen] == keys[data.train.chosen + 1]).all()


def test_weights_draw_pairs(tmp_path: Path, tokenizer: Any) -> None:
    twice = DatasetSource(path=str(write_jsonl(tmp_path / "a.jsonl", preferences(10))), weight=2.0)
    half = DatasetSource(path=str(write_jsonl(tmp_path / "b.jsonl", preferences(10, 10))), weight=0.5)
    data = run(tokenizer, twice, half, objective="dpo")
    places = [chosen.place for chosen, _ in pairs_of(data)]
    assert len(places) == 25 and len(set(places)) == 15


def test_eval_split_counts_and_removes_pairs(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", preferences(30))
    source = DatasetSource(path=str(path), split="train[:20]")
    data = run(tokenizer, source, objective="dpo", eval_split="train[18:30]")
    assert data.eval is not None and (len(data.train), len(data.eval)) == (20, 10)
    assert [(drop.kind, drop.rows) for drop in data.report.dropped] == [("overlap", 2)]


def test_what_is_read_again_from_the_cache_is_the_same(tmp_path: Path, tokenizer: Any) -> None:
    first = prepared(tokenizer, tmp_path, preferences(50), val_set_size=0.1)
    again = prepared(tokenizer, tmp_path, preferences(50), val_set_size=0.1)
    assert (first.report.sources[0].cached, again.report.sources[0].cached) == (False, True)
    assert first.fingerprint == again.fingerprint
    for one, other in zip(pairs_of(first), pairs_of(again), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.place == b.place and (a.input_ids == b.input_ids).all() and (a.trained == b.trained).all()


def test_a_cache_of_pairs_is_none_of_answers(tmp_path: Path, tokenizer: Any) -> None:
    """The same file with format auto: what was read for one objective is not found by the other."""
    prepared(tokenizer, tmp_path, preferences(5))
    (problem,) = problems(tokenizer, tmp_path / "rows.jsonl")
    assert problem[0] == "E-DATA-028"
    run(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(5)))
    (problem,) = problems(tokenizer, tmp_path / "a.jsonl", objective="dpo")
    assert problem[0] == "E-DATA-029"


def test_every_source_has_to_be_of_pairs(tmp_path: Path, tokenizer: Any) -> None:
    pairs, answers = write_jsonl(tmp_path / "p.jsonl", preferences(5)), write_jsonl(tmp_path / "a.jsonl", alpaca(5))
    found = problems(tokenizer, pairs, answers, objective="dpo")
    assert [problem[:2] for problem in found] == [("E-DATA-029", f"{answers}:1")]


def test_the_report_counts_pairs(tmp_path: Path, tokenizer: Any) -> None:
    turned = {"prompt": "say 3", "chosen": "No 3!", "rejected": "It is 3."}
    data = prepared(tokenizer, tmp_path, [*preferences(10), turned, preferences(1)[0], *preferences(2, 10)])
    report = data.report
    assert (report.train_rows, report.rows_read, report.duplicate_rows, report.contradicting_prompts) == (14, 14, 1, 1)
    assert report.bos_share == report.eos_share == 1.0
    lines = report.lines()
    assert f"{tmp_path}/rows.jsonl [train]: 14 pairs, format preference, for train" in lines
    assert "pairs: 14 to train on, 0 held out" in lines
    chosen, rejected = (sum(int(row.trained.sum()) for row in side) / 14 for side in zip(*pairs_of(data), strict=True))
    assert lines[-1] == f"answers in tokens, on average: chosen {chosen:.1f}, rejected {rejected:.1f}"


def test_keys_of_pairs_tell_which_way_round_they_are() -> None:
    keys = np.array([1, 2, 2, 1, 3, 4, 1, 2, 2**64 - 1, 5], dtype=np.uint64)
    assert len(np.unique(pair_keys(keys[::2], keys[1::2]))) == 4
    assert both_ways_round(np.array([7, 7, 7, 7, 8, 8, 7, 7, 9, 9], dtype=np.uint64), keys).tolist() == [[0, 1]]


def test_e_data_042_asks_for_fewer_pairs(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="5 pairs to hold out of 5 usable ones"):
        prepared(tokenizer, tmp_path, preferences(5), val_set_size=5)


# From tokens to passes -----------------------------------------------------------------------------------------------


def plain_row_numbers(rows: Selection, indices: list[int]) -> list[int]:
    """The row of each trained token, counted one by one."""
    found = []
    for at, index in enumerate(indices):
        for side, row in enumerate(rows.members(index)):
            for position in range(1, len(row.input_ids)):
                if row.trained[position]:
                    found.append(2 * at + side)
    return found


def plain_targets(rows: Selection, indices: list[int]) -> list[list[int]]:
    """The trained tokens of each row."""
    both = [row for index in indices for row in rows.members(index)]
    return [row.input_ids[1:][row.trained[1:]].tolist() for row in both]


@pytest.mark.parametrize("way", WAYS)
def test_each_trained_token_knows_its_row(way: str) -> None:
    rows = pair_rows(12)
    plan = plan_for("model", rows, **WAYS[way])
    indices = [7, 2, 11, 4]
    batch = collate(rows, indices, plan)
    assert batch.pairs == (7, 2, 11, 4) and batch.rows == 8 and batch.num_losses == 4
    assert batch.row_of_N is not None and batch.row_of_N.dtype == torch.int64
    assert batch.row_of_N.tolist() == plain_row_numbers(rows, indices)
    targets = [batch.targets_N[batch.row_of_N == number].tolist() for number in range(8)]
    assert targets == plain_targets(rows, indices)
    assert batch.to(torch.device("cpu")).row_of_N is not None


def test_a_pair_alone_shares_its_prompt() -> None:
    """All of it but the last token, whose hidden state predicts the answers: each row has that one itself."""
    rows = pair_rows(40, longest=60)
    plan = plan_for("model", rows)
    assert plan.share_beginnings
    prompts = [int(rows.members(index)[0].trained.argmax()) for index in range(40)]
    index = max(range(40), key=prompts.__getitem__)
    batch = collate(rows, [index], plan)
    assert prompts[index] > 10 and batch.shared_tokens == prompts[index] - 1
    assert batch.row_of_N is not None and batch.row_of_N.tolist() == plain_row_numbers(rows, [index])
    assert [batch.targets_N[batch.row_of_N == side].tolist() for side in range(2)] == plain_targets(rows, [index])
    assert batch.num_tokens == rows.lengths[index]


def test_rows_alone_have_nothing_of_pairs() -> None:
    rows = MemoryRows(5)
    batch = collate(rows, [0, 1], plan_for("model", rows))
    assert batch.pairs == () and batch.row_of_N is None and batch.num_losses == batch.num_trained


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 24),
    way=st.sampled_from(list(WAYS)),
    budget=st.integers(60, 400),
    world_size=st.integers(1, 3),
    batch=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_no_pair_is_torn(count: int, way: str, budget: int, world_size: int, batch: int, seed: int) -> None:
    rows = pair_rows(count, seed=seed)
    auto = way != "padded" or seed % 2 == 0
    keys = WAYS[way] | {"per_device_train_batch_size": batch, "seed": seed, "auto": str(auto).lower()}
    plan = plan_for("model", rows, max(budget, 2 * int(rows.row_lengths.max())), **keys)
    for step in range(3):
        passes = [group for rank in range(world_size) for group in step_passes(rows, plan, step, rank, world_size)]
        drawn = sorted(step_rows(count, plan.examples_per_step, seed, step))
        assert sorted(index for group in passes for index in group) == drawn
        for group in passes:
            made = collate(rows, group, plan)
            assert made.pairs == tuple(group) and made.rows == 2 * len(group)
            assert made.row_of_N is not None and made.row_of_N.unique().tolist() == list(range(2 * len(group)))
            assert made.input_ids_BT.numel() <= plan.max_tokens_per_micro_batch
    held = [group for rank in range(world_size) for group in evaluation_passes(rows, plan, rank, world_size)]
    assert sorted(index for group in held for index in group) == list(range(count))


def test_a_padded_pair_takes_twice_its_longer_row() -> None:
    rows = pairs_of_sizes([(5, 5, 45), (5, 45, 5), (5, 5, 45), (5, 45, 5)])
    plan = plan_for("model", rows, 299, packing="false")
    groups = split(rows, range(4), plan, 4)
    assert [len(group) for group in groups] == [2, 2], "200 tokens each; of three there would be 300"
    assert all(collate(rows, group, plan).input_ids_BT.numel() == 200 for group in groups)


def test_the_batch_size_counts_pairs() -> None:
    rows = pair_rows(10)
    plan = plan_for("model", rows, 10_000, auto="false", per_device_train_batch_size=3)
    assert plan.examples_per_step == 10, "3 x 4 accumulation, of the 10 that there are"
    groups = split(rows, range(10), plan, 3)
    assert [len(group) for group in groups] == [3, 3, 3, 1]
    assert [collate(rows, group, plan).input_ids_BT.shape[0] for group in groups] == [6, 6, 6, 2]
    assert plan.max_tokens_per_micro_batch == 3 * 2 * rows.row_lengths.max()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_pass_is_found_among_all(way: str, seed: int) -> None:
    rows, held_out = pair_rows(40, longest=50, seed=seed), pair_rows(20, seed=seed + 10)
    plan = replace(plan_for("model", rows, 200, seed=seed, num_train_epochs=2, **WAYS[way]), eval_every=3)
    largest = find_largest(rows, held_out, plan)
    batches = [batch for step in training_steps(rows, plan, 0, 0, 1) for batch in step]
    assert largest.tokens == max(batch.input_ids_BT.numel() for batch in batches)
    assert largest.trained_tokens == max(batch.num_trained for batch in batches)
    assert largest.longest_row_tokens == rows.row_lengths.max()
    evaluated = max(batch.input_ids_BT.numel() for batch in evaluation_batches(held_out, plan, 0, 1))
    assert collate(held_out, largest.evaluation, plan).input_ids_BT.numel() == evaluated
    assert largest.usual_row_tokens <= largest.longest_row_tokens
