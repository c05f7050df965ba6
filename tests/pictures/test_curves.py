import sys

import numpy as np
import pytest

from latens.pictures import (
    curves_of,
    kl_over_training,
    kl_per_dim,
    learning_curves,
    rate_distortion,
)
from latens.pictures.plots import render
from latens.pictures.style import CLASSES, TRAIN, VALIDATION


def rows(n, start=100.0):
    def part(epoch, shift):
        value = start / epoch + shift
        return {"loss": value, "reconstruction": value - 1, "kl": 1 + epoch / n, "active_units": 3}

    return [
        {
            "epoch": e,
            "images": 100 * e,
            "train": part(e, 0),
            "validation": part(e, 5),
            "beta": 1.0,
            "learning_rate": 1e-3,
        }
        for e in range(1, n + 1)
    ]


def colours(image):
    pixels = np.asarray(image).reshape(-1, 3)
    return {"#%02x%02x%02x" % tuple(c) for c in np.unique(pixels, axis=0)}  # noqa: UP031


@pytest.mark.parametrize("n", [1, 2, 10, 300])
def test_both_curves_are_drawn(n):
    image = learning_curves(rows(n), "a title · a run")
    assert {TRAIN, VALIDATION} <= colours(image)
    assert image.width > 1000


def test_without_beta_the_norm_of_the_gradient_is_drawn():
    given = rows(4)
    without = [
        {k: v for k, v in row.items() if k != "beta"} | {"gradient_norm": 2} for row in given
    ]
    assert learning_curves(without).tobytes() != learning_curves(given).tobytes()
    steeper = [row | {"gradient_norm": row["epoch"]} for row in without]
    assert learning_curves(steeper).tobytes() != learning_curves(without).tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_epochs_are_whole_numbers(monkeypatch, count):
    figures = []

    def render_too(figure, title):
        figures.append(figure)
        return render(figure, title)

    monkeypatch.setattr(sys.modules[learning_curves.__module__], "render", render_too)
    learning_curves(rows(count))
    ticks = figures[0].axes[0].get_xticks()
    assert (ticks == ticks.round()).all()


def test_curves_tell_the_numbers_apart():
    assert learning_curves(rows(10)).tobytes() != learning_curves(rows(10, start=50)).tobytes()


@pytest.mark.parametrize("dims", [1, 20, 300])
def test_bars_for_any_number_of_dimensions(dims):
    assert kl_per_dim([1.0 / (d + 1) for d in range(dims)], "a title").width <= 1600


def test_bars_are_those_of_the_largest_kl():
    few = kl_per_dim([5.0, 4.0, *[3.0] * 98])
    many = kl_per_dim([*[1.0] * 900, 5.0, 4.0, *[3.0] * 98])
    plots = [np.asarray(image)[:-60] for image in (few, many)]  # above the words on the axis
    assert np.array_equal(*plots)


def test_bars_of_a_map_have_its_indices():
    names = [f"z[{c},0,{j}]" for c in range(2) for j in range(3)]
    values = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert kl_per_dim(values, "", names).tobytes() != kl_per_dim(values).tobytes()
    heat = np.array([values, values])
    named = kl_over_training([1, 2], heat, "", names)
    assert named.tobytes() != kl_over_training([1, 2], heat).tobytes()


@pytest.mark.parametrize("dims", [1, 20, 300])
@pytest.mark.parametrize("epochs", [[1, 2], list(range(1, 60))])
def test_a_heat_map_for_any_number_of_dimensions(dims, epochs):
    values = np.random.default_rng(0).random((len(epochs), dims))
    image = kl_over_training(epochs, values, "a title")
    assert image.width <= 1300
    assert image.height <= 1400


@pytest.mark.parametrize("count", [1, 2, 12])
def test_each_run_has_its_curve(count):
    runs = {f"run {i}": rows(5, 50.0 + i) for i in range(count)}
    assert set(CLASSES[:count]) <= colours(curves_of(runs, "a title"))


@pytest.mark.parametrize("count", [1, 4, 10])
def test_each_model_has_its_point_of_rate_and_distortion(count):
    points = {f"β {i}": (10.0 - i, 100.0 + 3 * i) for i in range(count)}
    assert set(CLASSES[:count]) <= colours(rate_distortion(points, "a title"))


def test_rate_and_distortion_lie_where_their_numbers_say():
    """Of three points on one line, the middle one is drawn in the middle."""
    image = np.asarray(rate_distortion({"a": (0.0, 90.0), "b": (5.0, 80.0), "c": (10.0, 70.0)}))
    centres = []
    for colour in CLASSES[:3]:
        of = (image == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
        centres.append([c.mean() for c in np.nonzero(of)])
    assert np.allclose(np.mean([centres[0], centres[2]], 0), centres[1], atol=2)
    assert centres[0][1] < centres[2][1], "rate grows to the right"
    assert centres[0][0] < centres[2][0], "distortion grows upwards"
