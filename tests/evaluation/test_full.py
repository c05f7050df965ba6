"""`evaluate --all`: every figure that applies, in one record, with what it is of."""

import json
import math

import numpy as np
import pytest
import torch

import latens
from latens import Images, LatensError
from latens.data.shapes import draw_shapes, shuffled_factors
from latens.evaluation import full
from latens.evaluation.features import (
    FeatureNetwork,
    classifier_features,
    features_of,
    principal_components,
)
from latens.model import recipes
from latens.run.data import data_of

LESS = {
    "TRAIN": 200, "PROBED": 400, "SAMPLED": 179, "VALUES": 16 * 64, "TEMPERATURES": 8,
    "REFINED": 16, "REFINING_STEPS": 3, "IMPORTANCE_SAMPLES": 20, "SHAPES_ROWS": (100_000, 200),
}  # fmt: skip


@pytest.fixture
def hardly_learned(monkeypatch):
    """Features of a classifier of few steps: for tests that look at no value of theirs."""
    monkeypatch.setattr("latens.evaluation.features.STEPS", 20)


@pytest.fixture(autouse=True)
def _less(monkeypatch):
    for name, value in LESS.items():
        monkeypatch.setattr(full, name, value)


def test_every_figure_is_there_with_its_error(digits_run):
    found = latens.evaluate_all(digits_run)
    figures = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert figures.keys() >= {"test", "train", "validation", "nll", "refined", "kl_parts"}
    assert figures.keys() >= {"bracket", "samples", "latents"}
    assert "factors" not in figures
    for split, count in (("test", 179), ("train", 200), ("validation", 180)):
        assert figures[split]["images"] == count
        assert figures[split]["errors"]["elbo"]["images"] > 0
    assert figures["nll"]["importance_samples"] == 20
    assert found.kl_parts.exact
    kl = found.kl_parts.mutual_information + found.kl_parts.marginal_kl
    assert kl == pytest.approx(found.test.kl, abs=4 * found.kl_parts.errors["marginal_kl"].images)
    assert [part.of.split()[0] for part in found.samples] == ["training", "samples", "samples"]
    assert all("classifier" in part.features for part in found.samples)
    assert found.samples[0].fid < found.samples[1].fid
    assert found.latents.probe > 0.5
    assert found.refined.elbo > found.unrefined.elbo - 0.5
    assert found.refined.posterior == "encoder, refined by 3 steps"
    assert found.unrefined.posterior == "encoder"
    assert found.refined.images == found.unrefined.images == 16


@pytest.mark.usefixtures("hardly_learned")
def test_the_command_prints_all_and_refuses_what_it_chooses_itself(digits_run, run_latens, capsys):
    from latens.cli import main

    main(["evaluate", str(digits_run.path), "--all"])
    said = capsys.readouterr().out
    for word in ("train", "validation", "test", "mutual information", "fid", "linear probe"):
        assert word in said
    done = run_latens("evaluate", digits_run.path, "--all", "--split", "train")
    assert done.returncode == 2
    assert "--all chooses" in done.stderr


def test_few_test_images_are_not_compared_with_samples(tmp_path):
    images = latens.load_data("digits").train.take(slice(0, 60))
    np.savez(tmp_path / "few.npz", images=images.pixels[:, 0], labels=images.labels)
    options = {"recipe": "mlp", "hidden": "16", "film": False, "report": False}
    run = latens.train(tmp_path / "few.npz", out=tmp_path / "run", epochs=1, **options)
    found = latens.evaluate_all(run)
    assert found.test.images < 10
    assert found.samples == ()
    assert "samples" not in found.as_dict()


@pytest.mark.parametrize("binarisation", ["none", "dynamic", "threshold"])
def test_samples_are_of_the_same_kind_as_the_images(binarisation, monkeypatch, tmp_path):
    options = {"recipe": "mlp", "hidden": "16", "film": False, "report": False, "epochs": 1}
    run = latens.train("digits", out=tmp_path / "run", binarisation=binarisation, **options)
    compared = []
    monkeypatch.setattr(full, "features_of", lambda *_: FeatureNetwork("pixels", flat))
    monkeypatch.setattr(full, "near_copies", lambda *_: None)
    monkeypatch.setattr(full, "sample_quality", lambda *given, **_: compared.append(given[2:4]))
    list(full._samples(run, run.vae, data_of(run), 0))
    assert len(compared) == 3
    for real, fake in compared[1:]:
        assert is_binary(real) == is_binary(fake) == (binarisation != "none")


def flat(x):
    return x.flatten(1)


def is_binary(x):
    return bool(((x == 0) | (x == 1)).all())


def test_factors_are_scored_on_shapes(tmp_path):
    data = latens.load_data("shapes")
    splits = (split.take(slice(0, 60)) for split in (data.train, data.validation, data.test))
    few = latens.data.DataSet("shapes", "shapes", *splits, data.classes)
    options = {"recipe": "mlp", "hidden": "8", "epochs": 1, "report": False, "film": False}
    run = latens.train(few, out=tmp_path / "run", latent_dim=3, **options)
    found = full._of_factors(run.vae, "none")
    assert found.factors == ("shape", "scale", "rotation", "x", "y", "colour")
    assert found.rows == 200
    assert all(0 <= value <= 1 for name, value in vars(found).items() if isinstance(value, float))


@pytest.mark.usefixtures("hardly_learned")
def test_an_encoder_that_is_told_the_shape_has_no_factors(digits_run):
    torch.manual_seed(0)
    pixels = torch.from_numpy(draw_shapes(shuffled_factors(0, 12)))
    images = Images(pixels, torch.arange(12) % 3)
    few = latens.data.DataSet("shapes", "shapes", images, images, images, ("a", "b", "c"))
    vae = recipes.build("conditional", few.train.shape, 2, "mlp", labels=3).eval()
    found = dict(full._every(digits_run, vae, few, 0))
    assert "factors" not in found
    assert found["test"].images == 12


@pytest.mark.usefixtures("hardly_learned")
def test_a_ladder_has_what_applies_to_it(tmp_path):
    options = {"levels": "2x1,4x1", "channels": 4, "report": False, "film": False}
    run = latens.train("digits", out=tmp_path / "run", recipe="ladder", epochs=1, **options)
    found = latens.evaluate_all(run)
    assert found.kl_parts is found.bracket is found.refined is found.factors is None
    assert len(found.samples) == 2
    assert found.latents is not None


def test_other_data_must_fit(digits_run):
    with pytest.raises(LatensError, match="the model reads"):
        latens.evaluate_all(digits_run, "shapes")


# ---- features --------------------------------------------------------------------------------


def test_features_tell_classes_apart_or_keep_the_variance(digits):
    learned = classifier_features(digits.train)
    assert "1,438 training images" in learned.name
    x, y = digits.test.unit(), digits.test.labels
    z, of = learned(digits.train.unit()), digits.train.labels
    means = torch.stack([z[of == k].mean(0) for k in range(10)])
    right = (torch.cdist(learned(x), means).argmin(1) == y).double().mean()
    assert right > 0.9
    principal = principal_components(digits.train)
    assert principal.name == "64 principal components of training images"
    assert principal(x).shape == (len(x), 64)
    with pytest.raises(LatensError, match="classes"):
        classifier_features(Images(torch.zeros(9, 1, 8, 8, dtype=torch.uint8)))


@pytest.mark.usefixtures("hardly_learned")
def test_training_images_beside_samples_are_not_those_that_features_are_of(monkeypatch, digits):
    monkeypatch.setattr("latens.evaluation.features.LEARNED_FROM", 1000)
    for learned in (principal_components(digits.train), classifier_features(digits.train)):
        assert len(learned.learned_from) == 1000
        unseen = learned.some_unseen(digits.train, 179).origins
        seen = digits.train.take(learned.learned_from).origins
        assert not set(unseen.tolist()) & set(seen.tolist())
        assert len(learned.some_unseen(digits.train, 600)) == 600, "438 are not enough"


def test_features_are_the_same_of_bits_that_are_drawn_anew():
    train, x = latens.load_data("digits", binarisation="dynamic").train, torch.rand(9, 1, 8, 8)
    assert torch.equal(principal_components(train)(x), principal_components(train)(x))


@pytest.mark.usefixtures("hardly_learned")
def test_which_features(digits_run, digits):
    assert "classifier" in features_of(digits_run, digits).name
    unlabelled = latens.data.DataSet(
        "d", "d", *(Images(s.pixels) for s in (digits.train, digits.validation, digits.test))
    )
    assert "principal" in features_of(digits_run, unlabelled).name
    mnist = features_of(latens.run.directory.Run.open("mnist-2d"), digits)
    assert mnist.name == "mnist-judge, last hidden layer"
    assert math.isfinite(mnist(torch.rand(2, 1, 28, 28)).sum())
