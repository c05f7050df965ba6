import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latens import Images, LatensError, load_data
from latens.data.images import DataSet, binarise, hold_out, jittered, keep_labels, mirrored
from latens.evaluation import baselines
from latens.evaluation.metrics import evaluate_each
from latens.evaluation.scores import typical_elbo
from latens.model.likelihoods import DiscretisedLogistic, LogisticMixture


def grey(n=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(0, 256, (n, 1, 4, 5), dtype=torch.uint8, generator=generator))


def dataset():
    return DataSet("some", "some", grey(30, 0), grey(20, 1), grey(20, 2))


@given(n=st.integers(2, 40), count=st.integers(1, 39), seed=st.integers(0, 5))
def test_hold_out_parts_the_images(n, count, seed):
    images = Images(torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1), labels=torch.arange(n))
    if count >= n:
        with pytest.raises(LatensError, match="cannot hold out"):
            hold_out(images, count, seed, "testing")
        return
    rest, held_out = hold_out(images, count, seed, "testing")
    assert len(held_out) == count
    assert sorted([*rest.labels.tolist(), *held_out.labels.tolist()]) == list(range(n))
    assert torch.equal(held_out.pixels.flatten().long(), held_out.labels)
    again = hold_out(images, count, seed, "testing")[1]
    assert torch.equal(again.labels, held_out.labels)


def test_splits_share_one_array_and_copy_nothing():
    images = grey(30)
    rest, held_out = hold_out(images, 10, 0, "testing")
    again, _ = hold_out(rest, 5, 1, "validation")
    assert again.array.data_ptr() == held_out.array.data_ptr() == images.array.data_ptr()
    index = torch.tensor([3, 0, 3])
    assert torch.equal(again.take(index).pixels, again.pixels[index])
    assert torch.equal(again.take(slice(2, 6)).pixels, again.pixels[2:6])


def test_unit_is_the_pixel_over_255():
    images = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3))
    torch.testing.assert_close(images.unit().flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_batches_are_in_order_and_the_last_may_be_smaller():
    sizes = [len(batch) for batch in grey(25).batches(10)]
    assert sizes == [10, 10, 5]
    whole = torch.cat([batch.pixels for batch in grey(25).batches(10)])
    assert torch.equal(whole, grey(25).pixels)


def test_dynamic_bits_are_fresh_in_training_and_fixed_elsewhere():
    data = binarise(dataset(), "dynamic")
    assert data.binary
    one, two = data.train.unit(), data.train.unit()
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(one, two)
    assert torch.equal(data.validation.unit(), data.validation.unit())
    assert torch.equal(data.test.pixels, binarise(dataset(), "dynamic").test.pixels)


def test_dynamic_bits_are_one_with_the_probability_of_the_grey_level():
    images = binarise(dataset(), "dynamic").train
    mean = torch.stack([images.unit() for _ in range(2000)]).mean(0)
    expected = images.pixels / 255
    error = (expected * (1 - expected) / 2000).sqrt() + 1e-6
    assert ((mean - expected).abs() < 5 * error).all()


def test_static_bits_are_drawn_once():
    data = binarise(dataset(), "static")
    assert torch.equal(data.train.unit(), data.train.unit())
    assert set(data.train.pixels.unique().tolist()) == {0, 255}
    assert abs(data.train.unit().mean() - dataset().train.unit().mean()) < 0.05
    assert torch.equal(data.train.pixels, binarise(dataset(), "static").train.pixels)


def test_threshold_is_at_the_middle():
    pixels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).reshape(1, 1, 2, 2)
    images = Images(pixels.expand(12, 1, 2, 2))
    data = binarise(DataSet("some", "some", images, images, images), "threshold")
    assert data.train.unit()[0].flatten().tolist() == [0, 0, 1, 1]


def test_grey_data_are_not_binary_and_black_and_white_are():
    assert not binarise(dataset(), "none").binary
    bits = Images((grey().pixels > 99) * torch.tensor(255, dtype=torch.uint8))
    assert binarise(DataSet("some", "some", bits, bits, bits), "none").binary


def test_all_splits_together_are_binary_where_each_is():
    data = binarise(dataset(), "dynamic")
    every = data.split("all")
    assert not every.stochastic_binarize
    assert set(every.pixels.unique().tolist()) == {0, 255}
    assert torch.equal(every.pixels, data.split("all").pixels)


def test_labels_that_a_split_lacks_are_unknown():
    some = dataset()
    train = Images(some.train.array, torch.arange(30) % 3)
    data = DataSet("some", "some", train, some.validation, some.test)
    assert data.split("all").labels.tolist() == [i % 3 for i in range(30)] + [-1] * 40


def test_an_unknown_binarisation_is_named_with_the_nearest():
    with pytest.raises(LatensError, match="did you mean 'dynamic'"):
        binarise(dataset(), "dinamic")


def test_the_fingerprint_is_that_of_the_very_data():
    one = dataset().fingerprint()
    assert one == dataset().fingerprint()
    other = dataset()
    other.test.array[3, 0, 1, 1] ^= 1
    assert other.fingerprint() != one
    swapped = DataSet("some", "some", grey(30, 0), grey(20, 2), grey(20, 1))
    assert swapped.fingerprint() != one
    assert binarise(dataset(), "dynamic").fingerprint() != one


def test_splits_go_by_their_names(digits):
    assert digits.sizes() == {"train": 1438, "validation": 180, "test": 179}
    assert len(digits.split("all")) == 1797
    assert len(digits.split("all").labels) == 1797
    with pytest.raises(LatensError, match="did you mean 'test'"):
        digits.split("tset")


def test_digits_are_real_handwriting_with_labels(digits):
    assert digits.shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    every = digits.split("all")
    assert every.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert every.pixels.max() == 255
    zero, one = (every.unit()[every.labels == k].mean(0)[0] for k in (0, 1))
    assert zero[3:5, 3:5].mean() < 0.2 < 0.6 < one[3:5, 3:5].mean()  # a zero is empty inside


def test_the_split_seed_decides_who_is_held_out():
    one, two = load_data("digits"), load_data("digits", split_seed=1)
    assert not torch.equal(one.test.pixels, two.test.pixels)
    assert torch.equal(one.test.pixels, load_data("digits").test.pixels)


def test_validation_can_be_chosen():
    assert load_data("digits", validation=400).sizes()["validation"] == 400
    for count in (0, 5000):
        with pytest.raises(LatensError, match=f"cannot hold out {count} of"):
            load_data("digits", validation=count)


# ---- jitter and labels kept ------------------------------------------------------------------


def test_jitter_moves_by_the_deviation_it_is_told():
    """The centre of mass of a blob in the middle: its shift has the deviation in pixels."""
    x = torch.zeros(4000, 1, 33, 33)
    x[:, :, 15:18, 15:18] = 1
    moved = jittered(x, 0.5)
    rows = torch.arange(33.0)
    mass = moved.sum((1, 2, 3))
    centre = (moved.sum((1, 2)) * rows).sum(1) / mass - 16
    assert centre.std().item() == pytest.approx(0.5, rel=0.05)
    assert centre.mean().item() == pytest.approx(0, abs=0.03)


def test_jitter_moves_the_border_linearly_too_and_none_moves_nothing():
    x = torch.rand(8, 3, 9, 12)
    torch.testing.assert_close(jittered(x, 0.0), x, atol=1e-5, rtol=0)
    x = torch.zeros(4000, 1, 33, 33)
    x[:, :, 15:18, 28:31] = 1  # 13.5 of 16.5 pixels from the middle
    moved = jittered(x, 0.5)
    centre = (moved.sum((1, 3)) * torch.arange(33.0)).sum(1) / moved.sum((1, 2, 3)) - 16
    expected = 0.5 * (1 + (13.5 / 16.5) ** 2) ** 0.5  # shift, and what is linear
    assert centre.std().item() == pytest.approx(expected, rel=0.07)


def test_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    x = torch.rand(400, 3, 4, 5)
    found = mirrored(x)
    same = (found == x).flatten(1).all(1)
    turned = (found == x.flip(-1)).flatten(1).all(1)
    assert (same ^ turned).all()
    assert 0.4 < turned.double().mean() < 0.6


def test_jitter_of_no_images_is_none():
    x = torch.zeros(0, 3, 9, 12)
    assert jittered(x, 0.5).shape == x.shape


@pytest.mark.parametrize("count", [1, 7, 30, 100])
def test_labels_are_kept_evenly_over_the_classes(count):
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate((100, 50, 20))])
    labels[::10] = -1
    images = Images(torch.zeros(170, 1, 2, 2, dtype=torch.uint8), labels)
    kept = keep_labels(images, count, seed=0).labels
    assert kept is not None
    assert (kept >= 0).sum() == count
    assert ((kept == labels) | (kept == -1)).all()
    counts = [(kept == i).sum().item() for i in range(3)]
    there = [(labels == i).sum().item() for i in range(3)]
    for i in range(3):  # as many as of any other class, unless there are no more
        assert counts[i] >= min(there[i], max(counts) - 1)
    assert not torch.equal(
        keep_labels(images, 30, seed=1).labels, keep_labels(images, 30, 0).labels
    )


def test_labels_of_attributes_are_kept_whole():
    labels = torch.randint(0, 2, (50, 3))
    images = Images(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), labels)
    kept = keep_labels(images, 20, seed=0).labels
    assert kept is not None
    assert ((kept >= 0).all(1).sum().item(), (kept < 0).all(1).sum().item()) == (20, 30)


@pytest.mark.parametrize("labels", [None, torch.full((9,), -1)])
def test_labels_that_are_not_there_cannot_be_kept(labels):
    images = Images(torch.zeros(9, 1, 2, 2, dtype=torch.uint8), labels)
    with pytest.raises(LatensError, match="cannot keep 3 labels: 0 images have one"):
        keep_labels(images, 3, seed=0)


def test_some_images_stand_for_all_of_a_sorted_set():
    labels = torch.arange(10).repeat_interleave(100)
    pixels = torch.zeros(1000, 1, 8, 8, dtype=torch.uint8)
    images = Images(pixels, labels)
    some = images.some(200)
    assert some.labels.bincount(minlength=10).min() > 5
    assert (some.labels.diff() >= 0).all(), "in their order"
    assert torch.equal(images.some_rows(200), images.some_rows(200)), "the same each time"
    assert len(images.some(5_000)) == 1000
    shuffled = replace(images, shuffled=True)
    assert torch.equal(shuffled.some_rows(200), torch.arange(200))
    assert load_data("digits").test.shuffled
    assert not load_data(pixels).test.shuffled


def test_figures_of_a_sorted_set_are_those_of_all_its_images(digits_run, monkeypatch):
    """Sorted by what they cost, so that the first rows say least of the others."""
    data = load_data("digits")
    order = evaluate_each(digits_run.vae, data.train)["-elbo"].argsort()
    train = replace(data.train.take(order), shuffled=False)
    every = evaluate_each(digits_run.vae, train)["-elbo"]
    error = every.std().item() / math.sqrt(300)
    of_some = typical_elbo(digits_run.vae, train, images=300)
    assert abs(of_some - every.mean().item()) < 3 * error
    assert abs(every[:300].mean() - every.mean()) > 3 * error, "what the first rows say"
    exact = baselines.mean_image_cost(digits_run.vae.likelihood, train, data.test)
    monkeypatch.setattr(baselines, "TRAINING_IMAGES", 300)
    by_some = baselines.mean_image_cost(digits_run.vae.likelihood, train, data.test)
    assert by_some == pytest.approx(exact, rel=0.01)


def test_the_mean_image_of_a_mixture_costs_what_a_fitted_one_does():
    """Not more than a logistic for all pixels, whose scale is fitted, and which it can be."""
    torch.manual_seed(0)
    pixels = 255 * (0.5 + 0.02 * torch.randn(200, 1, 8, 8))
    images = Images(pixels.round().clamp(0, 255).byte())
    costs = [
        baselines.mean_image_cost(likelihood, images, images)
        for likelihood in (LogisticMixture(4), DiscretisedLogistic())
    ]
    exact = math.log(255 * 0.02 * math.sqrt(2 * math.pi * math.e))
    assert costs[1] / 64 == pytest.approx(exact, abs=0.05)
    assert costs[0] < costs[1] + 0.5
