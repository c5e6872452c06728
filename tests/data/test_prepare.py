"""The whole way from a config to rows: length, split, weights, report, cache and fingerprint."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.schema import DatasetSource
from luthier.data.prepare import Prepared, prepare
from luthier.data.rows import Selection
from luthier.errors import DataError
from tests.data.support import CHATML, alpaca, make_config, make_tokenizer, problems, run, write_jsonl


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(bos=False, chat_template=CHATML)


def texts(tokenizer: Any, rows: Selection | None) -> list[str]:
    assert rows is not None
    return [tokenizer.decode(rows.members(index)[0].input_ids) for index in range(len(rows))]


def long_and_short() -> list[dict[str, str]]:
    return [
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "output": "A" * 500},
        {"instruction": "Q" * 500, "output": "A"},
        {"instruction": "R", "output": "B"},
    ]


def test_rows_come_as_numpy(tmp_path: Path, tokenizer: Any) -> None:
    prepared = run(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(3000)))
    assert len(prepared.train) == 3000
    row = prepared.train.members(2500)[0]
    assert row.input_ids.dtype == np.int32
    assert row.trained.dtype == np.bool_
    assert row.place == f"{tmp_path}/a.jsonl:2501"
    assert "Say 2500" in tokenizer.decode(row.input_ids)
    assert prepared.train.lengths.dtype == prepared.train.trained.dtype == np.int32
    for index in (0, 999, 1000, 2999):
        row = prepared.train.members(index)[0]
        assert prepared.train.lengths[index] == len(row.input_ids) == len(row.trained)
        assert prepared.train.trained[index] == row.trained.sum()
    for index in (-1, 3000):
        with pytest.raises(IndexError):
            prepared.train.members(index)[0]


def test_facts(tmp_path: Path, tokenizer: Any) -> None:
    prepared = run(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(100)), val_set_size=0.1)
    assert prepared.eval is not None
    facts = prepared.facts
    assert (facts.train_rows, facts.eval_rows, facts.template) == (90, 10, "chat")
    assert facts.train_tokens == sum(len(prepared.train.members(index)[0].input_ids) for index in range(90))
    assert facts.trained_tokens == sum(prepared.train.members(index)[0].trained.sum() for index in range(90))
    assert facts.longest_row_tokens == max(prepared.train.lengths.max(), prepared.eval.lengths.max())
    assert facts.fingerprint == prepared.fingerprint


def test_overlong_rows_are_dropped_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", long_and_short())
    prepared = run(tokenizer, path, max_seq_length=300)
    assert len(prepared.train) == 2
    (dropped,) = prepared.report.dropped
    assert (dropped.rows, dropped.places) == (2, (f"{path}:2", f"{path}:3"))
    assert dropped.kind == "overlong"
    assert prepared.report.length_max > 500
    assert prepared.report.kept_rows == 2


def test_overlong_rows_are_cut(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", long_and_short())
    prepared = run(tokenizer, path, max_seq_length=300, overlong_rows="truncate")
    assert [prepared.train.members(index)[0].place for index in range(3)] == [f"{path}:{line}" for line in (1, 2, 4)]
    assert prepared.train.lengths[1] == len(prepared.train.members(1)[0].input_ids) == 300
    report = prepared.report
    (dropped,) = report.dropped
    assert dropped.reason.startswith("nothing left to train")
    assert dropped.places == (f"{path}:3",)
    assert report.truncated_rows == 1
    whole = run(tokenizer, path, max_seq_length=9000).train
    assert report.completion_tokens_cut == whole.trained[1] - prepared.train.trained[1]
    assert report.eos_share == pytest.approx(2 / 3)
    assert (dropped.kind, report.kept_rows) == ("unlabelled", 3)


def test_long_texts_are_split_into_parts_that_are_the_whole(tmp_path: Path, tokenizer: Any) -> None:
    texts = [{"text": " ".join(f"word {number}" for number in range(count))} for count in (400, 5, 90, 1000)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    whole = run(tokenizer, path, max_seq_length=100_000).train
    prepared = run(tokenizer, path, max_seq_length=300, overlong_rows="split")
    parts, report = prepared.train, prepared.report
    lines = [parts.members(number)[0].place.partition(" (")[0] for number in range(len(parts))]
    needed = [-(-int(length) // 300) for length in whole.lengths]
    assert max(needed) > 3 and lines == [f"{path}:{n + 1}" for n, count in enumerate(needed) for _ in range(count)]
    for number, count in enumerate(needed):
        rows = [parts.members(index)[0] for index in range(len(parts)) if lines[index] == f"{path}:{number + 1}"]
        joined = np.concatenate([row.input_ids for row in rows])
        assert joined.tolist() == whole.members(number)[0].input_ids.tolist()
        assert {len(row.input_ids) for row in rows} <= {len(joined) // count, -(-len(joined) // count)}
        assert all(row.trained[1:].all() and not row.trained[0] for row in rows)
    assert parts.trained.tolist() == [int(parts.members(index)[0].trained.sum()) for index in range(len(parts))]
    assert parts.members(0)[0].place == f"{path}:1 (part 1 of {needed[0]})"
    cut = [count for count in needed if count > 1]
    assert (report.split_rows, report.split_parts) == (len(cut), sum(cut))
    assert (report.duplicate_rows, report.contradicting_prompts, report.dropped) == (0, 0, ())
    assert report.eos_share == 1.0
    assert any(
        line.startswith(f"plain text: {len(cut)} long rows are cut into {sum(cut)} parts") for line in report.lines()
    )


def test_parts_of_a_text_are_all_trained_or_all_held_out(tmp_path: Path, tokenizer: Any) -> None:
    texts = [{"text": " ".join(f"{start} word {number}" for number in range(300))} for start in range(12)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    prepared = run(tokenizer, path, max_seq_length=300, overlong_rows="split", val_set_size=30)
    assert prepared.eval is not None
    sides = [
        {rows.members(number)[0].place.partition(" (")[0] for number in range(len(rows))}
        for rows in (prepared.train, prepared.eval)
    ]
    assert all(sides) and not sides[0] & sides[1]


def test_questions_with_answers_are_never_split(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", long_and_short())
    prepared = run(tokenizer, path, max_seq_length=300, overlong_rows="split")
    (dropped,) = prepared.report.dropped
    assert (len(prepared.train), dropped.rows, dropped.kind, prepared.report.split_rows) == (2, 2, "overlong", 0)


def test_overlong_rows_are_an_error(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", long_and_short() * 4)
    found = problems(tokenizer, path, max_seq_length=300, overlong_rows="error")
    assert [(code, where) for code, where, _ in found[:2]] == [("E-DATA-040", f"{path}:2"), ("E-DATA-040", f"{path}:3")]
    assert len(found) == 5
    assert "and 3 more" in found[-1][2]


def test_no_usable_rows(tmp_path: Path, tokenizer: Any) -> None:
    ((code, _, found),) = problems(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(5)), max_seq_length=8)
    assert code == "E-DATA-041"
    assert "0 usable rows (of 5: 5 longer than max_seq_length (8 tokens))" in found


def test_duplicates_are_never_on_both_sides(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"instruction": f"{'SAY' if number % 3 else ' say'}  {number % 20}", "output": f"It is {number % 40}."}
        for number in range(200)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    prepared = run(tokenizer, path, val_set_size=0.2)
    sides = []
    for side in (prepared.train, prepared.eval):
        assert side is not None
        lines = [int(side.members(index)[0].place.rpartition(":")[2]) - 1 for index in range(len(side))]
        sides.append({line % 20 for line in lines})
    assert not sides[0] & sides[1]
    assert prepared.report.eval_rows == 40
    assert prepared.report.duplicate_rows == 160
    assert prepared.report.contradicting_prompts == 20


def test_split_depends_on_seed_and_content_alone(tmp_path: Path, tokenizer: Any) -> None:
    rows = alpaca(100)
    first, turned = write_jsonl(tmp_path / "a.jsonl", rows), write_jsonl(tmp_path / "b.jsonl", rows[::-1])
    held = [
        sorted(texts(tokenizer, run(tokenizer, path, val_set_size=10, seed=seed).eval))
        for path, seed in ((first, 1), (turned, 1), (first, 2))
    ]
    assert held[0] == held[1]
    assert held[0] != held[2]


def test_eval_split_loses_what_is_trained_on(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(10) + alpaca(6, start=7))
    source = DatasetSource(path=str(path), split="train[:10]")
    prepared = run(tokenizer, source, eval_split="train[10:]", val_set_size=0.5)
    assert (len(prepared.train), prepared.report.eval_rows) == (10, 3)
    (dropped,) = prepared.report.dropped
    assert dropped.places == tuple(f"{path}:{line}" for line in (11, 12, 13))
    assert "removed from evaluation" in dropped.reason
    assert [source.use for source in prepared.report.sources] == ["train", "eval"]
    found = problems(tokenizer, source, eval_split="train[:5]")
    assert found[0][0] == "E-DATA-042"


def test_weights(tmp_path: Path, tokenizer: Any) -> None:
    sources = [
        DatasetSource(path=str(write_jsonl(tmp_path / f"{weight}.jsonl", alpaca(40, start))), weight=weight)
        for weight, start in ((2.0, 0), (0.5, 100), (1.0, 200))
    ]
    prepared = run(tokenizer, *sources)
    names = [
        Path(prepared.train.members(index)[0].place).name.rpartition(":")[0] for index in range(len(prepared.train))
    ]
    assert {name: names.count(name) for name in names} == {"2.0.jsonl": 80, "0.5.jsonl": 20, "1.0.jsonl": 40}
    with_eval = run(tokenizer, *sources, val_set_size=30)
    assert with_eval.report.eval_rows == 30


def test_formats_and_files_mix(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "b.csv").write_text("prompt,completion\nQ,A\n")
    pq.write_table(pa.table({"text": ["once upon a time"]}), tmp_path / "c.parquet")
    files = [write_jsonl(tmp_path / "a.jsonl", alpaca(1)), tmp_path / "b.csv", tmp_path / "c.parquet"]
    prepared = run(tokenizer, *files)
    assert [source.format for source in prepared.report.sources] == ["alpaca", "prompt-completion", "text"]
    assert prepared.report.rows_read == len(prepared.train) == 3


def test_report_reads_well(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca(50), *alpaca(1)])
    report = run(tokenizer, path, val_set_size=0.1).report
    text = "\n".join(report.lines())
    assert f"{path} [train]: 51 rows, format alpaca, for train" in text
    assert "an epoch" in text and "length in tokens: half of the rows up to" in text
    assert (report.eos_share, report.bos_share, report.duplicate_rows) == (1.0, None, 1)
    assert report.tokens > report.trained_tokens > 0
    assert report.length_p50 <= report.length_p90 <= report.length_p99 <= report.length_max


def test_progress(tmp_path: Path, tokenizer: Any) -> None:
    seen: list[tuple[str, int]] = []
    config = make_config(write_jsonl(tmp_path / "a.jsonl", alpaca(2500)))
    prepare(config, tokenizer, progress=lambda stage, rows: seen.append((stage, rows)))
    assert [rows for _, rows in seen] == [0, 1000, 2000, 2500]
    assert "a.jsonl" in seen[0][0]


def test_base_dir(tmp_path: Path, tokenizer: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", alpaca(2))
    config = make_config(DatasetSource(path="a.jsonl"), cache_dir="rows")
    assert prepare(config, tokenizer, base_dir=tmp_path).train.members(0)[0].place == "a.jsonl:1"
    assert list((tmp_path / "rows").glob("*.arrow"))


def test_default_cache_folder(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    run(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(2)), cache_dir=None)
    assert list((tmp_path / "xdg" / "luthier" / "rows").glob("*.arrow"))


def same(tokenizer: Any, one: Prepared, other: Prepared) -> bool:
    return texts(tokenizer, one.train) == texts(tokenizer, other.train)


def cached(prepared: Prepared) -> bool:
    return all(source.cached for source in prepared.report.sources)


def test_cache_hit(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca(20), {"instruction": "<|im_end|>", "output": "A"}])
    first, second = run(tokenizer, path), run(tokenizer, path)
    assert (cached(first), cached(second)) == (False, True)
    assert first.fingerprint == second.fingerprint
    assert same(tokenizer, first, second)
    assert first.report.special_tokens == second.report.special_tokens == {"<|im_end|>": 1}
    assert first.report.lines()[1:] == second.report.lines()[1:]
    assert not [file for file in (tmp_path / "cache").iterdir() if file.name.startswith(".")]


def test_cache_serves_other_lengths_and_splits(tmp_path: Path, tokenizer: Any) -> None:
    """Length, split and weights choose among tokenized rows: they change the fingerprint, not the cache."""
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(20))
    prints = {run(tokenizer, path).fingerprint}
    for change in ({"max_seq_length": 500}, {"val_set_size": 3}, {"seed": 1}, {"overlong_rows": "truncate"}):
        prepared = run(tokenizer, path, **change)
        assert cached(prepared)
        assert prepared.fingerprint not in prints
        prints.add(prepared.fingerprint)


def test_cache_miss(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(20))
    first = run(tokenizer, path)
    template = tmp_path / "mine.jinja"
    template.write_text(CHATML.replace("\n", "\n\n"))
    others = [
        run(tokenizer, path, prompt_template="alpaca"),
        run(tokenizer, path, prompt_template=str(template)),
        run(tokenizer, path, completion_only_loss=False),
        run(make_tokenizer(bos=True, chat_template=CHATML), path),
    ]
    template.write_text(CHATML.replace("\n", "\n\n\n"))
    others.append(run(tokenizer, path, prompt_template=str(template)))
    stat = path.stat()
    path.write_text(path.read_text().replace("It is 7", "It is 8"))
    assert path.stat().st_size == stat.st_size
    others.append(run(tokenizer, path))
    assert not any(cached(other) for other in others)
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 7
    assert "It is 8" in texts(tokenizer, others[-1].train)[7]


def test_using_a_tokenizer_does_not_change_its_rows(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(chat_template=CHATML)
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(5))
    first = run(tokenizer, path)
    tokenizer.pad_token = "</s>"
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    tokenizer.pad_token = None
    assert cached(run(tokenizer, path))
    assert run(tokenizer, path).fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no note", "bad note", "other note"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, tokenizer: Any, damage: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(20))
    first = run(tokenizer, path)
    wanted = texts(tokenizer, first.train)
    del first
    (arrow,) = (tmp_path / "cache").glob("*.arrow")
    note, content = arrow.with_suffix(".json"), bytearray(arrow.read_bytes())
    arrow.unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 1
    arrow.write_bytes({"cut": content[:-500], "empty": b""}.get(damage, content))
    if damage == "no note":
        note.unlink()
    if damage == "bad note":
        note.write_text("{")
    if damage == "other note":
        note.write_text(json.dumps({"sha256": json.loads(note.read_text())["sha256"], "found": {"unknown": 1}}))
    again = run(tokenizer, path)
    assert not cached(again)
    assert texts(tokenizer, again.train) == wanted
    assert cached(run(tokenizer, path))


def test_what_a_killed_process_had_begun_to_write_goes_when_nobody_goes_on_with_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "cache").mkdir()
    left, going = (tmp_path / "cache" / f".luthier-{name}.part" for name in ("left", "going"))
    for draft, age in ((left, 2 * 86_400), (going, 60)):
        draft.write_bytes(b"rows")
        os.utime(draft, (time.time() - age, time.time() - age))
    run(tokenizer, write_jsonl(tmp_path / "a.jsonl", alpaca(2)))
    assert (left.exists(), going.exists()) == (False, True)


def test_nothing_is_cached_of_broken_rows(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca(1500), []])
    assert problems(tokenizer, path)[0][0] == "E-DATA-011"
    assert not list((tmp_path / "cache").iterdir())


def test_cache_folder_that_cannot_be_written(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca(2))
    ((code, where, _),) = problems(tokenizer, path, cache_dir=str(path / "inside-a-file"))
    assert (code, where) == ("E-DATA-043", str(path / "inside-a-file"))


def test_errors_are_of_the_family(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError) as error:
        run(tokenizer, tmp_path / "missing.jsonl")
    assert error.value.exit_code == 2


BAD = [
    {"instruction": "Q1", "output": "A"},
    {"instruction": "Q2", "output": "  "},
    {"instruction": "Q3", "output": None},
    {"instruction": "Q4", "output": "B"},
    {"instruction": "Q5", "output": ""},
]


def test_what_is_wrong_with_a_row_is_told_with_the_names_of_its_own_columns(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "Q1", "a": ""}, {"q": "", "a": "A"}])
    source = DatasetSource(path=str(path), format="alpaca", columns={"instruction": "q", "output": "a"})
    found = [found for _, _, found in problems(tokenizer, source)]
    assert found == ['a prompt without an answer: "a" is empty', '"q" is empty']


def test_bad_rows_are_errors_or_left_out_counted_and_named(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", BAD)
    with pytest.raises(DataError) as error:
        run(tokenizer, path)
    assert {f"{path}:2", f"{path}:3", f"{path}:5"} == {problem.where for problem in error.value.problems}
    assert all("leave such rows out: bad_rows: drop" in problem.fix for problem in error.value.problems)
    assert str(error.value).count("  fix   ") == len({problem.fix for problem in error.value.problems}) == 2
    for attempt in ("fresh", "from the cache"):
        prepared = run(tokenizer, path, bad_rows="drop")
        assert len(prepared.train) == 2, attempt
        assert sum(drop.rows for drop in prepared.report.dropped) == 3
        assert all("E-DATA-" in drop.reason for drop in prepared.report.dropped)
        assert {drop.kind for drop in prepared.report.dropped} == {"bad"}
        named = {place for drop in prepared.report.dropped for place in drop.places}
        assert named == {f"{path}:{line}" for line in (2, 3, 5)}


def test_a_source_of_bad_rows_only_is_an_error_even_when_they_are_dropped(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", BAD[1:3])
    with pytest.raises(DataError) as error:
        run(tokenizer, path, bad_rows="drop")
    assert {problem.code for problem in error.value.problems} == {"E-DATA-041"}


def test_rows_in_the_cache_that_say_nothing_of_system_messages_are_read_again(tmp_path: Path, tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "One?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": str(number)}]} for number in range(3)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    first = run(tokenizer, path)
    assert first.system == "Be short." and run(tokenizer, path).report.sources[0].cached
    (note,) = (tmp_path / "cache").glob("*.json")
    content = json.loads(note.read_text())
    del content["found"]["systems"]
    note.write_text(json.dumps(content))
    again = run(tokenizer, path)
    assert again.system == "Be short." and not again.report.sources[0].cached
    assert again.fingerprint == first.fingerprint, "the tokens are the same, so a run may go on"
    assert texts(tokenizer, again.train)[0].startswith(tokenizer.decode(again.prompt_ids(tokenizer, "One?")))
