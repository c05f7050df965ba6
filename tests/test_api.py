"""`latens.train` and `latens.evaluate` on data from Python."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import latens
from latens import LatensError
from latens.data import Images
from latens.data.images import joined

SMALL = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 1, "film": False}


class Digits:
    """A data set as torchvision's: pairs of an image and a label, by index."""

    classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(self, digits):
        self.pixels, self.labels = digits.test.pixels[:, 0].numpy(), digits.test.labels.tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return self.pixels[i], self.labels[i]


@pytest.mark.usefixtures("few_frames")
def test_a_data_set_from_python_is_trained_on_and_measured(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = latens.train(Digits(digits), report=False, **SMALL)
    assert run.path.name == "digits-mlp-1"
    assert run.record["command"] == "latens.train(…)"
    assert run.record["data"]["classes"] == list(Digits.classes)
    with pytest.raises(LatensError, match="give"):
        latens.evaluate(run)
    found = latens.evaluate(run, Digits(digits))
    assert (found.images, found.split) == (17, "test")
    assert found.elbo == pytest.approx(run.figures["elbo"], abs=1e-5)
    assert latens.evaluate(run, Digits(digits), neighbours=3).neighbour_accuracy is not None
    others = latens.evaluate(run, digits.train.pixels[:50])
    assert (others.images, others.split) == (50, None)
    resumed = latens.resume(run.path, Digits(digits))
    assert len(resumed.metrics) == 1
    page = latens.api.report(run.path, tmp_path / "page", data=Digits(digits))
    assert page.is_file()


def test_arrays_tensors_and_pairs_are_the_same_images(digits, tmp_path):
    pixels, labels = digits.train.pixels[:, 0].numpy(), digits.train.labels
    given = [
        (pixels, labels.numpy()),
        (torch.from_numpy(pixels)[:, None], labels),
        (pixels.astype(np.float32) / 255, labels.tolist()),
    ]
    prints = set()
    for i, data in enumerate(given):
        run = latens.train(data, out=tmp_path / str(i), report=False, **SMALL)
        prints.add(run.record["data"]["fingerprint"])
        figures = run.figures
    assert len(prints) == 1
    assert figures["images"] == 143


def test_a_data_set_of_latens_is_found_again_by_its_name_where_it_can_be(digits, tmp_path):
    static = latens.load_data("digits", binarisation="static")
    by_name = latens.train(digits, out=tmp_path / "a", report=False, **SMALL)
    assert by_name.record["data"]["source"] == "digits"
    assert latens.evaluate(by_name).images == 179
    changed = latens.train(static, out=tmp_path / "b", report=False, **SMALL)
    with pytest.raises(LatensError, match="give"):
        latens.evaluate(changed)
    assert latens.evaluate(changed, static).kind == "binary"


def test_a_tensor_of_floats_is_measured_as_it_is(digits, tmp_path):
    run = latens.train("digits", out=tmp_path / "run", report=False, **SMALL)
    x = digits.test.unit()
    by_name = latens.evaluate(run)
    assert by_name.split == "test"
    assert latens.evaluate(run, x).elbo == pytest.approx(by_name.elbo, abs=1e-5)
    assert latens.evaluate(run.vae, x).split is None


def test_a_data_set_with_other_images_is_measured_itself(digits_run, digits):
    """Whatever it was loaded from; the same images in other splits are the run's own."""
    black = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    other = replace(digits, test=Images(black, digits.test.labels[:20]))
    found = latens.evaluate(digits_run, other)
    assert found.images == 20
    assert found.elbo == pytest.approx(latens.evaluate(digits_run.vae, black).elbo)
    assert latens.evaluate(digits_run, digits).elbo == pytest.approx(digits_run.figures["elbo"])
    halves = replace(digits, train=digits.train.take(slice(0, 700)))
    rest = joined([digits.validation, digits.train.take(slice(700, 1438))])
    resplit = replace(halves, validation=rest)
    assert len(resplit.split("all")) == 1797
    assert latens.evaluate(digits_run, resplit).elbo == pytest.approx(digits_run.figures["elbo"])
