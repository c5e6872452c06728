"""The picture of a sweep can be read: no label of an axis lies over its neighbour."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from luthier.sweep import picture
from luthier.sweep.standing import Row


@pytest.mark.parametrize("decades", [0.02, 0.2, 0.8, 1.0, 1.45, 2.0, 2.5, 3.3, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_logarithmic_axis_lie_apart(decades: float, seed: int) -> None:
    values = 10 ** (-4 + decades * np.random.default_rng(seed).random(12))
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    place = figure.subplots()
    place.plot(values, values)
    picture._ticks(place, sorted(values.tolist()), log=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [label.get_window_extent(canvas.get_renderer()) for label in place.get_xticklabels(which="both")]
    boxes = sorted((box for box in shown if box.width > 1), key=lambda box: box.x0)
    assert len(boxes) > 1
    assert all(left.x1 + 4 < right.x0 for left, right in itertools.pairwise(boxes))


def test_few_values_are_the_ticks_and_one_evaluation_is_number_1() -> None:
    place, fall = Figure().subplots(1, 2)
    picture._ticks(place, [8.0, 16.0, 32.0], log=False)
    assert [label.get_text() for label in place.get_xticklabels()] == ["8", "16", "32"]
    picture._fall(fall, [Row(0, {}, "done", (1.5,), Path("x"))], None)
    assert fall.get_xlim() == (0.5, 1.5)
    assert [tick for tick in fall.get_xticks() if 0.5 <= tick <= 1.5] == [1]
