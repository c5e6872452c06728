"""Many matrices in one launch: every number at its place, times its factors, and nothing else touched."""

import pytest
import torch

from tests.model.kernels.support import DEVICE, close, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
copies = pytest.importorskip("luthier.model.kernels.copies")
FORMATS = [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
formats = pytest.mark.parametrize(("source", "target"), FORMATS, ids=str)
SHAPES = [(4, 40), (50, 4), (3, 7), (1, 1), (300, 16), (16, 300), (5, 0)]
FACTORS = [1.0, 2.0, -0.5, 8 / 5**0.5, 1.0, 1e-3, 1.0]


def places(flat, shapes, gap=0):
    """Views of a flat tensor, each with rows so far apart that `gap` numbers lie between them."""
    found, start = [], 0
    for rows, columns in shapes:
        found.append(flat.as_strided((rows, columns), (columns + gap, 1), start))
        start += rows * (columns + gap)
    return found


def room(dtype, gap=0):
    count = sum(rows * (columns + gap) for rows, columns in SHAPES)
    return torch.full((count,), 7.0, dtype=dtype, device=DEVICE)


@formats
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize(("own", "gap"), [(0, 0), (0, 3), (3, 0), (24, 8)], ids=str)
def test_every_number_arrives_and_nothing_between_is_touched(source, target, scaled, own, gap):
    numbers = normal(room(source, own).numel(), dtype=source)
    sources, flat = places(numbers, SHAPES, own), room(target, gap)
    targets = places(flat, SHAPES, gap)
    scale = torch.tensor(0.37, device=DEVICE) if scaled else None
    copies.Copies(sources, targets, FACTORS, flat).run(flat, scale)
    for found, x, factor in zip(targets, sources, FACTORS, strict=True):
        wanted = x.double() * factor * (1.0 if scale is None else scale.double())
        close(found, wanted, 1e-6 if target is torch.float32 else 2**-7 if target is torch.bfloat16 else 1e-12)
        found.fill_(7.0)
    assert (flat == 7.0).all()


def test_sources_that_move_and_another_target():
    sources = places(normal(room(torch.float32).numel(), dtype=torch.float32), SHAPES)
    flat = room(torch.float32)
    ours = copies.Copies(sources, places(flat, SHAPES), [1.0] * len(SHAPES), flat)
    table = ours._table.data_ptr()
    elsewhere = [x.clone().add_(1.0) for x in reversed(sources)][::-1]
    other = room(torch.float32)
    ours.find(elsewhere)
    assert ours._table.data_ptr() == table, "a recorded launch reads it there"
    ours.run(other)
    assert torch.equal(other, torch.cat([x.reshape(-1) for x in elsewhere])) and (flat == 7.0).all()


@pytest.mark.parametrize("shift", [0, 1, 4], ids=str)
def test_places_that_lie_askew(shift):
    numbers, flat = normal(999, dtype=torch.float32), torch.zeros(999, device=DEVICE)
    pair = [x[shift : shift + 960].view(16, 60) for x in (numbers, flat)]
    copies.Copies(pair[:1], pair[1:], [1.0], flat).run(flat)
    assert torch.equal(*pair) and not flat[shift + 960 :].any() and not flat[:shift].any()


def test_nothing():
    empty = normal(0, 4)
    copies.Copies([empty], [empty], [1.0], empty).run(empty)


def test_numbers_of_a_row_that_lie_apart_are_refused():
    with pytest.raises(ValueError, match="must lie together"):
        copies.Copies([normal(4, 8).T], [normal(8, 4)], [1.0], normal(1))
