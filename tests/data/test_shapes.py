"""`shapes`: the same bits everywhere, and factors that mean what they say."""

import hashlib
import math

import numpy as np

from latens import load_data
from latens.data.shapes import FACTORS, draw_shapes, shuffled_factors


def one(**changes):
    values = dict.fromkeys(FACTORS, 0) | changes
    return draw_shapes(np.array([list(values.values())]))[0]


def centre(image):
    weight = image.sum(0).astype(float)
    return [(weight.sum(axis) * np.arange(64)).sum() / weight.sum() for axis in (0, 1)]


def test_the_bits_are_the_same_on_every_machine():
    images = draw_shapes(shuffled_factors(0, 500))
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "09731e7b4ebd5f3a7275eb4b6b5fd5881c4a0ef65216188934a6b01ee542c222"


def test_the_factors_do_what_they_say():
    (x, y), (x_right, y_down) = centre(one()), centre(one(x=5, y=3))
    np.testing.assert_allclose((x_right - x, y_down - y), (10, 6))
    assert one(scale=3).sum() > 3 * one().sum()
    assert abs(int(one(rotation=5).sum()) - int(one().sum())) < 0.02 * one().sum()
    assert one(colour=4)[2].sum() > one(colour=4)[0].sum()
    shapes = {one(shape=k).tobytes() for k in range(3)}
    assert len(shapes) == 3


def test_every_combination_is_there_once_and_the_splits_do_not_overlap():
    total = math.prod(FACTORS.values())
    every = shuffled_factors(0, total)
    assert len(np.unique(every, axis=0)) == total == len(every)
    assert (every.max(0) + 1 == list(FACTORS.values())).all()


def test_it_is_a_data_set():
    data = load_data("shapes")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18000, 2000, 4000]
    assert data.classes == ("square", "ellipse", "triangle")
    assert data.train.shape == (3, 64, 64)
    drawn = draw_shapes(shuffled_factors(20_000, 4_000))
    assert (data.test.pixels.numpy() == drawn).all()
