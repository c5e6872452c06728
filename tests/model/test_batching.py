"""Rows that are written together and take each other's places: each gets what it would get alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.generate.weights import Base, load_base
from luthier.model import batching
from luthier.model.batching import Manner, write_rows
from luthier.model.lean.writer import LeanWriter
from luthier.model.sampling import continue_many
from luthier.model.writers import write_lean
from tests.model.test_sampling import PROMPTS
from tests.model.test_writers import adapted

STOP = 399


@dataclass(eq=False)
class Said:
    """A row that remembers."""

    prompt_ids: list[int]
    room: int
    stops: tuple[int, ...] = (STOP,)
    ids: list[int] = field(default_factory=list)
    ended: str = ""

    def take(self, token):
        assert not self.ended, "who has ended hears no more"
        if token in self.stops:
            self.ended = "stop"
            return
        self.ids.append(token)
        self.ended = "length" if len(self.ids) == self.room else ""


@pytest.fixture(scope="module")
def models(tiny_model_dir):
    """The same model twice: written by the lean path, and by its own layers."""
    both = {"lean": adapted(load_base(Base(str(tiny_model_dir), dtype="float32")))}
    both["own"] = adapted(load_base(Base(str(tiny_model_dir), dtype="float32")))
    write_lean(both["lean"])
    return both


@pytest.fixture(scope="module")
def alone(models):
    """What each prompt gets by itself, 24 tokens of it, by the model's own layers."""
    found = {tuple(prompt): continue_many(models["own"], [prompt], [STOP], 24)[0] for prompt in PROMPTS}
    assert len(set(map(tuple, found.values()))) > 5
    return found


def expected(alone, row):
    free = alone[tuple(row.prompt_ids)][: row.room]
    ends = [place for place, token in enumerate(free) if token in row.stops]
    return free[: ends[0]] if ends else free


@pytest.fixture
def steps(monkeypatch):
    """How many rows each step of the lean path had, and whether they were prompts."""
    seen = []
    forward = LeanWriter.forward

    def counted(self, input_ids, *args, **options):
        seen.append(tuple(input_ids.shape))
        return forward(self, input_ids, *args, **options)

    monkeypatch.setattr(LeanWriter, "forward", counted)
    return seen


def rows_of(alone, rooms=(24, 3, 10, 1, 17, 6, 24)):
    """Of each prompt two rows; of them one ends at a token of its own."""
    rows = [Said(prompt, room) for prompt, room in zip(PROMPTS, rooms, strict=True)]
    for prompt in PROMPTS:
        rows.append(Said(prompt, 24, (STOP, alone[tuple(prompt)][7])))
    return rows


LIMITS = [(1, 16_384), (3, 16_384), (5, 16_384), (64, 60), (64, 400), (64, 700), (64, 16_384)]


@pytest.mark.parametrize("kind", ["lean", "own"])
@pytest.mark.parametrize(("most", "tokens"), LIMITS)
@pytest.mark.parametrize("ahead", [1, 128])
def test_how_many_are_written_together_changes_nothing(monkeypatch, models, alone, kind, most, tokens, ahead):
    monkeypatch.setattr(batching, "MAX_BATCH", most)
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", tokens)
    monkeypatch.setattr(batching, "_AHEAD", ahead)
    rows = rows_of(alone)
    write_rows(models[kind], rows, Manner((STOP,)))
    assert [row.ids for row in rows] == [expected(alone, row) for row in rows]
    assert {row.ended for row in rows} == {"stop", "length"}


@pytest.mark.parametrize("kind", ["lean", "own"])
def test_whoever_comes_meanwhile_is_written_too(models, alone, kind):
    rows, asked = rows_of(alone), itertools.count()
    late = {1: rows[4:6], 2: rows[6:9], 3: rows[9:]}
    write_rows(models[kind], rows[:4], Manner((STOP,), joining=lambda: late.pop(next(asked), [])))
    assert [row.ids for row in rows] == [expected(alone, row) for row in rows]


def test_on_the_lean_path_they_begin_at_the_next_token(models, steps):
    first, second = Said(PROMPTS[1], 12), Said(PROMPTS[3], 4)
    came = []

    def joining():
        if len(first.ids) == 5 and not came:
            came.append(second)
            return [second]
        return []

    write_rows(models["lean"], [first], Manner((STOP,), joining=joining))
    assert (len(first.ids), len(second.ids)) == (12, 4)
    prompts = [place for place, (_, tokens) in enumerate(steps) if tokens > 1]
    assert steps[prompts[-1]] == (1, len(PROMPTS[3]))
    after = steps[prompts[-1] + 1 :]
    assert after == [(2, 1)] * 3 + [(1, 1)] * 4, "both until the second has ended, then the first alone"


def test_places_that_become_free_are_taken(monkeypatch, models, alone, steps):
    """Of four places three would wait for the longest otherwise: 24 tokens for each four rows."""
    monkeypatch.setattr(batching, "MAX_BATCH", 4)
    rows = [Said(PROMPTS[n % 7], 24 if n % 4 == 0 else 4) for n in range(16)]
    write_rows(models["lean"], rows, Manner((STOP,)))
    assert [row.ids for row in rows] == [expected(alone, row) for row in rows]
    launched = [shape for shape in steps if shape[1] == 1]
    assert len(launched) < 50 < 4 * 23
    assert sum(shape[0] for shape in launched) < 1.3 * sum(len(row.ids) for row in rows)


def test_rows_that_outgrow_memory_are_put_back_and_go_on_later(monkeypatch, models, alone, steps):
    """Six begin, as they are short; 24 tokens of each have no room, so the last ones wait and are read again."""
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 60)
    monkeypatch.setattr(batching, "_AHEAD", 1)
    rows = [Said(PROMPTS[n], 24) for n in (0, 1, 3, 5, 6)]
    write_rows(models["lean"], rows, Manner((STOP,)))
    assert [row.ids for row in rows] == [expected(alone, row) for row in rows]
    assert max(count for count, _ in steps) == 5
    again = [shape for shape in steps if shape[1] > max(len(row.prompt_ids) for row in rows)]
    assert again, "a prompt and what was written of it"


def test_nobody_begins_where_so_much_memory_is_not_there(monkeypatch, models, steps):
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 1000)
    write_rows(models["lean"], [Said(PROMPTS[2], 9) for _ in range(9)], Manner((STOP,)))
    assert {count for count, _ in steps} == {6, 3}, "159 tokens each"


@pytest.mark.parametrize("kind", ["lean", "own"])
def test_a_stop_ends_all_where_they_are(models, alone, kind):
    rows, asked = rows_of(alone), itertools.count()
    write_rows(models[kind], rows, Manner((STOP,), stop=lambda: next(asked) == 5))
    assert next(asked) == 6, "nobody is asked again"
    assert [row.ids for row in rows] == [expected(alone, row)[: len(row.ids)] for row in rows]
    assert 4 < max(len(row.ids) for row in rows) < 8


def test_ranks_in_step_make_as_many_passes_and_ask_as_often(monkeypatch, models, alone):
    """The other one's row ends at its ninth token: who had left, or asked no more, would leave it waiting for ever."""
    others, stops, passes = iter([True] * 8 + [False] * 9), [], []
    monkeypatch.setattr(batching, "on_any_rank", lambda truth: next(others) or truth)
    causal_lm = models["own"].get_base_model()
    hook = causal_lm.register_forward_hook(lambda *said: passes.append(1))
    row = Said(PROMPTS[0], 20, (STOP, alone[tuple(PROMPTS[0])][4]))
    manner = Manner((STOP,), stop=lambda: bool(stops.append(1)), in_step=True)
    write_rows(models["own"], [row], manner)
    hook.remove()
    assert row.ended == "stop" and row.ids == expected(alone, row) and len(passes) == len(stops) == 9


@pytest.mark.parametrize("kind", ["lean", "own"])
def test_nobody_begins_after_a_stop(monkeypatch, models, kind):
    """It comes with the token that makes a place free."""
    monkeypatch.setattr(batching, "MAX_BATCH", 2)
    rows, asked = [Said(PROMPTS[n], 12 if n % 2 else 4, ()) for n in range(6)], itertools.count()
    write_rows(models[kind], rows, Manner((STOP,), stop=lambda: next(asked) == 3))
    assert sorted(len(row.ids) for row in rows) == [0, 0, 0, 0, 4, 4] and next(asked) == 4


@pytest.mark.parametrize("kind", ["lean", "own"])
def test_who_ends_while_it_waits_does_not_begin(monkeypatch, models, kind):
    monkeypatch.setattr(batching, "MAX_BATCH", 2)
    rows, asked = [Said(PROMPTS[0], 6, ()) for _ in range(5)], itertools.count()

    def joining():
        if next(asked) == 1:  # on the lean path at its first token; else before the second batch
            rows[3].ended = "cut"
        return []

    write_rows(models[kind], rows, Manner((STOP,), joining=joining))
    assert [len(row.ids) for row in rows] == [6, 6, 6, 0, 6]


def test_who_has_ended_is_not_carried_for_one_that_has_to_wait(monkeypatch, models, steps):
    monkeypatch.setattr(batching, "MAX_BATCH_TOKENS", 300)
    monkeypatch.setattr(batching, "_AHEAD", 4)
    rows, asked, long = (
        [Said(PROMPTS[0], 40 if n == 0 else 3, ()) for n in range(12)],
        itertools.count(),
        Said([7] * 280, 2),
    )
    write_rows(models["lean"], rows, Manner((STOP,), joining=lambda: [long] if next(asked) == 1 else []))
    assert [len(row.ids) for row in (*rows, long)] == [40, *[3] * 11, 2]
    assert steps == [(12, len(PROMPTS[0])), *[(12, 1)] * 2, *[(1, 1)] * 37, (1, 280), (1, 1)]


@pytest.mark.parametrize("kind", ["lean", "own"])
def test_who_chooses_is_shown_the_rows_of_each_logit(models, kind):
    """The second likeliest token for odd rows, as if each were alone."""
    odd = {}

    def choose(rows, logits_BV):
        assert logits_BV.dtype is torch.float32 and len(rows) == len(logits_BV)
        best_B2 = logits_BV.topk(2).indices
        return torch.stack([best_B2[place, odd[row]] for place, row in enumerate(rows)])

    def written(rows):
        odd.update({row: row.prompt_ids[-1] % 2 for row in rows})
        write_rows(models[kind], rows, Manner((STOP,), choose))
        return [row.ids for row in rows]

    singles = [written([Said(prompt, 6 + n)])[0] for n, prompt in enumerate(PROMPTS)]
    assert written([Said(prompt, 6 + n) for n, prompt in enumerate(PROMPTS)]) == singles
    assert set(odd.values()) == {0, 1}


def test_angles_that_depend_on_the_longest_row_are_left_to_the_models_own_layers(steps):
    torch.manual_seed(0)
    shape = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    for kind, lean in (({"rope_type": "default"}, True), ({"rope_type": "dynamic", "factor": 2.0}, False)):
        rope = {**kind, "rope_theta": 10_000.0}
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads, rope_parameters=rope)).eval()
        write_lean(model)
        steps.clear()
        continue_many(model, [PROMPTS[1]], [STOP], 4)
        assert bool(steps) == lean


def test_own_layers_begin_only_what_the_context_holds(models):
    """The tiny model reads 512 tokens: 500 and 20 more are too many together, 500 and 12 are not."""
    lengths, room = [9, 500, 30, 30, 30, 2, 2], [20, 12, 20, 20, 7, 20, 20]
    rows = [Said([0] * length, most) for length, most in zip(lengths, room, strict=True)]
    begun, generate = [], models["own"].get_base_model().generate
    with pytest.MonkeyPatch.context() as patch:
        causal_lm = models["own"].get_base_model()
        patch.setattr(causal_lm, "generate", lambda **o: (begun.append(tuple(o["input_ids"].shape)), generate(**o))[1])
        write_rows(models["own"], rows, Manner((STOP,)))
    assert begun == [(1, 500), (6, 30)]
