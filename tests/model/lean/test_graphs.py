"""Recorded passes: on a CPU a recording is the function itself, which reads the same tensors each time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.data.collate import collate_packed
from luthier.model.forward import LEAN
from luthier.model.head import NO_TARGET
from luthier.model.lean import graphs
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.filling import PassInputs
from luthier.model.lean.graphs import Graphs, can_record, padded
from luthier.model.lean.pieces import PLAIN
from luthier.model.lean.proof import prove_lean
from luthier.model.recording import recording_failed
from luthier.training.out_of_memory import give_up
from tests.model.lean.test_decoder import EXACT, build, gradients, lean_loss, rows, worst


def cross_entropy(logits_CV, targets_C, *, gradient):
    """What `luthier.model.kernels.loss` does, in plain torch: the interpreter would take minutes."""
    counts = targets_C != NO_TARGET
    log_p = logits_CV.log_softmax(-1)
    loss = torch.where(counts, -log_p.gather(1, targets_C.clamp_min(0)[:, None])[:, 0], 0.0)
    wanted = torch.nn.functional.one_hot(targets_C.clamp_min(0), logits_CV.shape[1])
    logits_CV.copy_((log_p.exp() - wanted) * counts[:, None])
    return loss


class ByStarts:
    """Attention that asks the tensor where documents start, as the device's kernels do; a CPU's asks Python."""

    reads_device = True

    def __init__(self, other):
        self._other = other

    def forward(self, heads, inputs):
        return self._other.forward(heads, self._inputs(inputs))

    def backward(self, grad_THS, heads, kept, inputs, out):
        self._other.backward(grad_THS, heads, kept, self._inputs(inputs), out)

    def _inputs(self, inputs):
        offsets = tuple(dict.fromkeys(inputs["cu_seq_lens"].tolist()))
        return {"document_offsets": offsets, "longest": inputs["longest"]}


PIECES = replace(PLAIN, cross_entropy=cross_entropy)


def recorder(made):
    def record(work):
        made.append(work)
        return work

    return record


def decoders(kind="llama, biased and tied", checkpointed=0, **options):
    model = build(kind)
    made, common = [], {"pieces": PIECES, **options}
    plain = LeanDecoder(model.get_base_model(), torch.float64, **common)
    recorded = LeanDecoder(model.get_base_model(), torch.float64, **common)
    plain.checkpointed_layers = recorded.checkpointed_layers = checkpointed
    for layer in recorded.layers:
        layer.attention = ByStarts(layer.attention)
    recorded.graphs = Graphs(recorded, recorder(made))
    return model, plain, recorded, made


def what_failed_to_record(model, decoder):
    setattr(model, LEAN, decoder)
    return list(recording_failed(model))


def inputs_of(batch):
    return PassInputs(batch.model_inputs(), batch.positions_N, batch.targets_N)


@pytest.mark.parametrize("count", [1, 2, 15, 16])
def test_padding_adds_what_nobody_trains_on(count):
    batch = collate_packed(rows(count))
    inputs, positions, targets = padded(inputs_of(batch))
    tokens, trained = batch.input_ids_BT.shape[1], len(batch.targets_N)
    assert inputs["input_ids"].shape[1] > tokens and inputs["input_ids"].shape[1] % 64 == 0
    assert torch.equal(inputs["input_ids"][:, :tokens], batch.input_ids_BT)
    assert torch.equal(inputs["position_ids"][:, :tokens], batch.position_ids_BT)
    assert torch.equal(positions[:trained], batch.positions_N) and set(positions[trained:].tolist()) <= {tokens}
    assert torch.equal(targets[:trained], batch.targets_N) and set(targets[trained:].tolist()) <= {NO_TARGET}
    starts = inputs["cu_seq_lens"].tolist()
    assert len(starts) % 16 == 1 and starts[: count + 1] == list(batch.document_offsets)
    assert set(starts[count + 1 :]) == {inputs["input_ids"].shape[1]}
    assert inputs["longest"] >= max(b - a for a, b in pairwise(starts))


def test_few_sizes_come_out_and_little_is_added():
    sizes, worst_share = set(), 0.0
    for tokens in range(2800, 4200):
        ids = torch.zeros(1, tokens, dtype=torch.int64)
        batch = {"input_ids": ids, "position_ids": ids, "document_offsets": (0, tokens)}
        batch["cu_seq_lens"] = torch.tensor([0, tokens], dtype=torch.int32)
        found = padded(PassInputs(batch, ids[0], ids[0])).inputs["input_ids"].shape[1]
        sizes.add(found)
        worst_share = max(worst_share, found / tokens - 1)
    assert len(sizes) <= 12 and worst_share <= 1 / 16


@pytest.mark.parametrize(("kind", "checkpointed"), [("llama, biased and tied", 0), ("qwen3", 1)])
def test_a_replayed_pass_gives_the_loss_and_the_gradients_of_its_own_batch(kind, checkpointed):
    model, plain, recorded, made = decoders(kind, checkpointed)
    batches = [collate_packed(rows(2, seed=seed)) for seed in range(4)]
    for batch in batches:
        loss = lean_loss(plain, batch)
        wanted = gradients(model, loss)
        found = lean_loss(recorded, batch)
        assert found.item() == pytest.approx(loss.item(), rel=1e-12)
        assert worst(gradients(model, found), wanted) < EXACT
    assert len(made) == 1


def counting(made, runs):
    """A recorder whose replays are counted."""

    def record(work):
        made.append(work)
        return lambda: runs.append(len(made)) or work()

    return record


def test_a_pass_that_was_begun_before_its_turn_gives_its_loss_and_gradients_once():
    model, plain, recorded, made = decoders()
    runs = []
    recorded.graphs = Graphs(recorded, counting(made, runs))
    batches = [collate_packed(rows(2, seed=seed)) for seed in range(5)]
    for batch in batches[:2]:  # launched, recorded
        gradients(model, lean_loss(recorded, batch))
    runs.clear()
    for batch in batches[2:]:
        recorded.graphs.place(inputs_of(batch))
        with torch.no_grad():  # the update, which comes between
            for p in recorded.parameters():
                p.add_(0.01)
        assert recorded.graphs.begin()
        loss = lean_loss(plain, batch)
        wanted = gradients(model, loss)
        found = lean_loss(recorded, batch)
        assert found.item() == pytest.approx(loss.item(), rel=1e-12)
        assert worst(gradients(model, found), wanted) < EXACT
    assert len(runs) == 3, "once each"


def test_a_pass_that_was_begun_is_not_taken_for_another():
    model, plain, recorded, _ = decoders()
    batches = [collate_packed(rows(2, seed=seed)) for seed in range(4)]
    for batch in batches[:2]:
        gradients(model, lean_loss(recorded, batch))
    recorded.graphs.place(inputs_of(batches[2]))
    assert recorded.graphs.begin()
    found, wanted = (gradients(model, lean_loss(decoder, batches[3])) for decoder in (recorded, plain))
    assert worst(found, wanted) < EXACT
    assert not recorded.graphs.begin(), "nothing is placed any more"


def test_nothing_begins_without_a_recording_or_after_weights_have_moved():
    model, _, recorded, _ = decoders()
    batch = collate_packed(rows(2))
    recorded.graphs.place(inputs_of(batch))
    assert not recorded.graphs.begin()
    for _ in range(2):
        gradients(model, lean_loss(recorded, batch))
    recorded.graphs.place(inputs_of(batch))
    moved = recorded.parameters()[0]
    moved.data = moved.data.clone()
    assert not recorded.graphs.begin()


def test_what_the_adapter_has_learned_is_seen_in_a_replay():
    _, plain, recorded, made = decoders()
    batch = collate_packed(rows(2))
    for _ in range(3):
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
        with torch.no_grad():
            for p in recorded.parameters():
                p.add_(0.01)
    assert len(made) == 1


def test_weights_that_moved_elsewhere_and_other_choices_are_recorded_anew():
    _, _, recorded, made = decoders()
    batch = collate_packed(rows(2))
    for _ in range(2):
        lean_loss(recorded, batch)
    assert len(made) == 1
    for p in recorded.parameters():
        p.data = p.data.clone()
    for _ in range(2):
        lean_loss(recorded, batch)
    assert len(made) == 2
    recorded.graphs.forget()
    for _ in range(2):
        lean_loss(recorded, batch)
    assert len(made) == 3


class Moment:
    """In place of a CUDA event: what was asked of it."""

    def __init__(self, error=None):
        self.asked, self.error = [], error

    def record(self):
        self.asked.append("record")

    def synchronize(self):
        self.asked.append("wait")
        if self.error:
            raise self.error


def test_recordings_are_freed_when_the_device_is_done_with_them(monkeypatch):
    """Also those whose loss was asked for: the pass may still be at work. What else the device does may never end."""
    _, _, recorded, _ = decoders()
    batch, moment = collate_packed(rows(2)), Moment()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pytest.fail("it waits for more than its passes"))
    recorded.graphs._used = moment
    for _ in range(3):
        lean_loss(recorded, batch)
    recorded.graphs.place(inputs_of(batch))
    assert recorded.graphs.begin()
    assert moment.asked == ["record"] * 3, "recorded and replayed, replayed, begun"
    recorded.graphs.forget()
    recorded.graphs.forget()
    assert moment.asked[3:] == ["wait"]


def test_a_device_that_is_broken_is_not_waited_for():
    """Its error would take the place of the one that ended the run."""
    _, _, recorded, _ = decoders()
    recorded.graphs._used = Moment(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    for _ in range(2):
        lean_loss(recorded, collate_packed(rows(2)))
    recorded.graphs.forget()
    assert not recorded.graphs._recorded


def test_gradients_of_a_pass_are_not_those_of_one_that_began_since():
    _, _, recorded, _ = decoders()
    batches = [collate_packed(rows(2, seed=seed)) for seed in range(3)]
    for batch in batches[:2]:
        lean_loss(recorded, batch)
    loss = lean_loss(recorded, batches[1])
    recorded.graphs.place(inputs_of(batches[2]))
    assert recorded.graphs.begin()
    with pytest.raises(RuntimeError, match="before the next begins"):
        loss.backward()


def test_memory_that_runs_out_when_a_pass_begins_leaves_it_to_be_done_later():
    model, plain, recorded, _ = decoders()
    batches = [collate_packed(rows(2, seed=seed)) for seed in range(3)]
    for batch in batches[:2]:
        gradients(model, lean_loss(recorded, batch))
    recorded.graphs.place(inputs_of(batches[2]))
    (found,) = recorded.graphs._recorded.values()

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    key = next(iter(recorded.graphs._recorded))
    recorded.graphs._next.recorded = recorded.graphs._recorded[key] = replace(found, replay=full)
    assert not recorded.graphs.begin()
    recorded.graphs._recorded[key] = found
    exact = gradients(model, lean_loss(plain, batches[2]))
    assert worst(gradients(model, lean_loss(recorded, batches[2])), exact) < EXACT


def test_a_batch_is_not_written_over():
    _, _, recorded, _ = decoders()
    first, second = (collate_packed(rows(2, seed=seed)) for seed in range(2))
    before = first.input_ids_BT.clone()
    for batch in (first, first, second):
        lean_loss(recorded, batch)
    assert torch.equal(first.input_ids_BT, before)


def of_two_sizes():
    """Batches that are padded to one size each, both different."""
    return collate_packed(rows(2)), collate_packed(rows(24))


def refuses_after(good, made, error):
    """A recorder that does so many recordings and then fails as CUDA does: at the end, after the real reason."""

    def record(work):
        if len(made) >= good:
            try:
                raise error
            except RuntimeError:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        made.append(work)
        return work

    return record


def test_where_recording_fails_each_pass_is_launched_and_the_first_reason_is_said():
    model, plain, recorded, made = decoders()
    recorded.graphs = Graphs(recorded, refuses_after(0, made, RuntimeError("operation not permitted\nand more")))
    batch = collate_packed(rows(2))
    for _ in range(3):
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
    (said,) = what_failed_to_record(model, recorded)
    assert "launched anew: operation not permitted and more" in said[0] and said[1] == "training.cuda_graphs: false"
    assert what_failed_to_record(model, recorded) == []
    assert recorded.graphs.refused == "operation not permitted and more"


def test_a_size_is_recorded_when_it_is_first_seen_but_for_the_very_first_pass():
    """Also after a change that makes recordings anew: what the passes need may have to be loaded again."""
    _, plain, recorded, made = decoders()
    small, large = of_two_sizes()
    for batches, count in (((small,), 0), ((large,), 1), ((small,), 2), ((small, large), 2)):
        for batch in batches:
            assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
        assert len(made) == count
    recorded.graphs.forget()
    lean_loss(recorded, small)
    assert len(made) == 2
    lean_loss(recorded, large)
    assert len(made) == 3


class Order(TorchDispatchMode):
    """The clones of numbers, and the marks of an event, in their order."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def record(self):
        self.seen.append("mark")

    def synchronize(self):
        self.seen.append("waited")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.clone.default and args[0].ndim == 0:
            self.seen.append("clone")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("begun", [False, True])
def test_recordings_go_when_nobody_reads_their_loss_any_more(begun):
    _, _, recorded, _ = decoders()
    small, large = of_two_sizes()
    for batch in (small, large):
        lean_loss(recorded, batch)
    order = recorded.graphs._used = Order()
    batch = inputs_of(large)
    if begun:
        recorded.graphs.place(batch)
        assert recorded.graphs.begin()
    with order:
        recorded.graphs.run(batch)
    recorded.graphs.forget()
    assert order.seen[-3:] == ["clone", "mark", "waited"]


def test_where_recording_at_first_sight_fails_sizes_are_launched_once_before():
    """A kernel that has to be loaded first, say."""
    model, plain, recorded, made = decoders()
    small, large = of_two_sizes()
    tried = []

    def record(work):
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        made.append(work)
        return work

    recorded.graphs = Graphs(recorded, record)
    for batch in (small, large, large, small, small, large):
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
    assert len(made) == 2 and len(tried) == 3
    recorded.graphs.forget()
    for batch in (small, large):
        lean_loss(recorded, batch)
    assert len(tried) == 3, "it has learned"
    assert what_failed_to_record(model, recorded) == [] and not recorded.graphs.refused


def test_a_recording_that_fails_leaves_those_before_it(monkeypatch):
    model, plain, recorded, made = decoders()
    recorded.graphs = Graphs(recorded, refuses_after(1, made, torch.OutOfMemoryError("CUDA out of memory")))
    small, large = of_two_sizes()
    launched = []
    whole_pass = recorded.whole_pass
    monkeypatch.setattr(recorded, "whole_pass", lambda batch: launched.append(1) or whole_pass(batch))
    for batch in (small, small, large, large, large, small):
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
    assert len(made) == 1 and len(launched) == 1 + 2 + 3  # the first, replays, those of another size
    assert [text for text, _ in what_failed_to_record(model, recorded)] == [
        "passes that are not recorded yet are launched anew: CUDA out of memory"
    ]


def test_a_recording_that_is_broken_off_takes_those_before_it_along():
    _, plain, recorded, made = decoders()

    def record(work):
        if made:
            try:
                raise ValueError("operation not permitted")
            except ValueError:
                raise RuntimeError("the end of it")  # noqa: B904
        made.append(work)
        return lambda: work() * torch.nan  # a replay that cannot be relied on any more

    recorded.graphs = Graphs(recorded, record)
    small, large = of_two_sizes()
    lean_loss(recorded, small), lean_loss(recorded, small)
    for batch in (large, large, small, small):
        assert lean_loss(recorded, batch).item() == pytest.approx(lean_loss(plain, batch).item(), rel=1e-12)
    assert recorded.graphs.refused == "operation not permitted" and len(made) == 1


@pytest.mark.parametrize(
    ("limit", "why"),
    [({"MOST_SHAPES": 1}, "there are 1 recordings"), ({"_room_for_another": lambda *_, first: first}, "little memory")],
    ids=["sizes", "memory"],
)
def test_what_is_not_recorded_for_want_of_room_is_said_once(monkeypatch, limit, why):
    for name, value in limit.items():
        monkeypatch.setattr(graphs, name, value)
    model, _, recorded, made = decoders()
    small, large = of_two_sizes()
    for batch in (small, small, large, large):
        lean_loss(recorded, batch)
    assert len(made) == 1
    ((said, _),) = what_failed_to_record(model, recorded)
    assert why in said
    lean_loss(recorded, large)
    lean_loss(recorded, small)
    assert what_failed_to_record(model, recorded) == [] and not recorded.graphs.refused


def test_recorded_passes_are_the_first_to_go_when_memory_runs_out():
    model, _, recorded, made = decoders()
    setattr(model, LEAN, recorded)
    batch = collate_packed(rows(2))
    plan = SimpleNamespace(sharded=False, config=SimpleNamespace(training=SimpleNamespace(auto=False)))
    assert give_up(model, plan, [], 3) is None  # nothing was recorded yet
    for _ in range(2):
        lean_loss(recorded, batch)
    passes, said = give_up(model, plan, [], 3)
    assert passes is None and "without recorded passes" in said.text and said.change == "training.cuda_graphs: false"
    assert give_up(model, plan, [], 3) is None
    for _ in range(3):
        lean_loss(recorded, batch)
    assert len(made) == 1


@pytest.mark.parametrize(("rope_type", "records"), [("default", True), ("llama3", True), ("dynamic", False)])
def test_rotations_that_ask_the_device_are_not_recorded(rope_type, records):
    assert can_record(SimpleNamespace(rope_type=rope_type)) is records


def test_a_pass_has_one_backward_pass_before_the_next_begins():
    _, _, recorded, _ = decoders()
    batch = collate_packed(rows(2))
    first = lean_loss(recorded, batch)
    lean_loss(recorded, batch)
    with pytest.raises(RuntimeError, match="before the next begins"):
        first.backward()


def test_the_proof_launches_records_and_replays():
    model, _, recorded, made = decoders()
    prove_lean(model, recorded, torch.float64)
    assert len(made) == 1


def test_attention_that_asks_python_where_documents_start_is_never_recorded():
    model = build()
    decoder = LeanDecoder(model.get_base_model(), torch.float64, pieces=PIECES, recorder=recorder([]))
    assert decoder.graphs is None
