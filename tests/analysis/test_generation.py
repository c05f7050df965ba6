import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_celeba import ATTRIBUTES, IMAGES, PARTITION

import latens
from latens import LatensError
from latens.analysis.generation import along_attribute, draw, likeliest_condition, towards_class
from latens.evaluation.labels import LabelStatistics


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A model of each kind that knows the digits' classes."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for recipe, options in {
        "mlp": {"epochs": 60},  # its classes are told apart later
        "conditional": {"network": "mlp"},
        "semi_supervised": {"network": "mlp"},
    }.items():
        run = latens.train(
            "digits",
            recipe=recipe,
            latent_dim=4,
            learning_rate=2e-3,
            hidden="128,128",
            out=folder / recipe,
            report=False,
            film=False,
            **{"epochs": 30} | options,
        )
        found[recipe] = run.vae
    return found


@pytest.fixture(scope="session")
def class_of(digits):
    """The class of images: that of the nearest real digit."""
    real = digits.train.unit().flatten(1)

    def nearest(images):
        return digits.train.labels[torch.cdist(images.flatten(1), real).argmin(1)]

    return nearest


@pytest.mark.parametrize("recipe", ["mlp", "conditional", "semi_supervised"])
def test_samples_of_a_label_look_like_it(models, recipe, class_of):
    right = [
        (class_of(draw(models[recipe], 50, str(n)).images) == n).double().mean() for n in range(10)
    ]
    assert sum(right) / 10 > 0.8


def test_a_mixture_draws_a_class_better_than_a_gaussian(models, class_of):
    vae = models["mlp"]
    right = {
        how: sum((class_of(draw(vae, 50, n, density=how).images) == n).sum() for n in range(10))
        for how in ("mixture", "gaussian")
    }
    assert right["mixture"] > right["gaussian"]


def test_confidence_keeps_the_likely_ones(models):
    for recipe in ("mlp", "semi_supervised"):
        every, sure = (draw(models[recipe], 100, "5", confidence=c) for c in (0.0, 0.9))
        assert (every.probability < 0.9).any()
        assert (sure.probability >= 0.9).all()
        assert sure.unsure == 0
        assert (sure.labels == 5).all()
    drawn = draw(models["semi_supervised"], 100, confidence=0.9)
    assert (drawn.probability >= 0.9).all()
    assert len(drawn.labels.unique()) > 5


def test_a_confidence_that_hardly_any_z_has_takes_the_surest(models):
    samples = draw(models["mlp"], 40, "8", confidence=1.0)
    assert samples.unsure > 0
    assert (samples.probability < 1).sum() == samples.unsure
    assert samples.probability.mean() > draw(models["mlp"], 40, "8").probability.mean()


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_none(models, confidence):
    with pytest.raises(LatensError, match="a probability, from 0 to 1"):
        draw(models["mlp"], 4, "8", confidence=confidence)


def test_a_conditional_model_has_no_confidence(models):
    with pytest.raises(LatensError, match="leave out --confidence"):
        draw(models["conditional"], 4, "8", confidence=0.5)


def test_a_conditional_model_has_no_density_of_a_class(models):
    with pytest.raises(LatensError, match="leave out --density"):
        draw(models["conditional"], 4, "8", density="gaussian")
    with pytest.raises(LatensError, match="is of a class: name one"):
        draw(models["mlp"], 4, density="gaussian")


def test_a_model_of_images_without_classes_has_no_confidence(models):
    vae = copy.deepcopy(models["mlp"])
    del vae.about["labels"]
    samples = draw(vae, 5)
    assert samples.labels is None
    assert samples.probability is None
    with pytest.raises(LatensError, match="cannot tell the class"):
        draw(vae, 5, confidence=0.5)


def test_a_model_of_the_version_before_has_gaussians(models):
    vae = copy.deepcopy(models["mlp"])
    del vae.about["labels"]["mixture"]
    assert draw(vae, 5, "3").probability.shape == (5,)
    assert towards_class(vae, torch.rand(2, 1, 8, 8), "6", 3).images.shape == (2, 3, 1, 8, 8)


def test_a_conditional_model_samples_every_class_in_turn(models, class_of):
    samples = draw(models["conditional"], 60)
    assert samples.labels is not None
    assert samples.labels.tolist() == [i // 6 for i in range(60)]
    assert samples.probability is None
    assert (class_of(samples.images) == samples.labels).double().mean() > 0.8


def test_a_classifier_tells_its_samples_with_confidence(models, class_of):
    samples = draw(models["semi_supervised"], 200)
    assert samples.labels is not None
    assert samples.probability is not None
    assert ((samples.probability > 0.1) & (samples.probability <= 1)).all()
    right = (class_of(samples.images) == samples.labels).double()
    assert right.mean() > 0.6
    sure = samples.probability > samples.probability.median()
    assert right[sure].mean() > right[~sure].mean()  # confidence means something


def test_other_models_tell_by_their_densities(models, class_of):
    samples = draw(models["mlp"], 200)
    right = (class_of(samples.images) == samples.labels).double()
    assert right[samples.probability > 0.8].mean() > 0.7


def test_temperature_brings_samples_to_the_mean_of_the_class(models):
    options = {"temperature": 1e-6, "density": "gaussian"}
    images = draw(models["mlp"], 5, "3", **options).images
    mean = torch.tensor(LabelStatistics.of(models["mlp"]).mean[3])
    torch.testing.assert_close(images, models["mlp"].decode_images(mean).expand(5, 1, 8, 8))


@pytest.mark.parametrize("recipe", ["mlp", "conditional", "semi_supervised"])
def test_an_image_becomes_another_class(models, recipe, digits, class_of):
    threes = digits.test.take(torch.nonzero(digits.test.labels == 3).flatten())
    edit = towards_class(models[recipe], threes.unit(), "6", steps=5)
    path = edit.images
    assert path.shape == (len(threes), 2 if recipe == "conditional" else 5, 1, 8, 8)
    assert (class_of(path[:, 0]) == 3).double().mean() > 0.7
    assert edit.reached.double().mean() > 0.9
    assert (class_of(path[:, -1]) == 6)[edit.reached].double().mean() > 0.9


def test_an_image_of_the_class_stays_and_one_that_cannot_reach_it_says_so(models, digits):
    vae = models["mlp"]
    sixes = digits.test.take(torch.nonzero(digits.test.labels == 6).flatten()).unit()
    edit = towards_class(vae, sixes, "6", steps=4)
    moved = (edit.images - edit.images[:, :1]).abs().amax((1, 2, 3, 4))
    assert (moved == 0).double().mean() > 0.5
    flat = copy.deepcopy(vae)  # one in whose latent space the sixes lie among the eights
    for name in ("mean", "scale", "mixture"):
        flat.about["labels"][name][6] = flat.about["labels"][name][8]
    edit = towards_class(flat, sixes, "6", steps=4)
    assert not edit.reached.any()


def test_a_walk_ends_where_the_class_is_sure_enough_or_surest(models, digits, monkeypatch):
    vae, x = models["mlp"], digits.test.take(slice(0, 3)).unit()
    p = torch.tensor(
        [[0.1, 0.5, 0.97, 0.99, 1.0], [0.1, 0.2, 0.97, 0.5, 0.9], [0.1, 0.6, 0.4, 0, 0]]
    )
    path = torch.randn(5, 3, *vae.latent_shape)
    monkeypatch.setattr("latens.analysis.generation._path_to_class", lambda *_: (path, p.T))
    edit = towards_class(vae, x, "6", steps=2)
    assert torch.allclose(edit.images[:, 1], vae.decode_images(path[[3, 2, 1], [0, 1, 2]]))
    assert edit.reached.tolist() == [True, True, False]


def test_classes_are_no_attributes(models, digits):
    with pytest.raises(LatensError, match="use --label"):
        along_attribute(models["mlp"], digits.test.unit(), "3", torch.zeros(1))


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Squares that are Bright or not, and Tall or not, as files like those of CelebA."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / IMAGES).mkdir()
    rng = np.random.default_rng(0)
    lines, splits = [], []
    for i in range(300):
        bright, tall = rng.integers(0, 2, 2)
        pixels = np.zeros((109, 89), np.uint8)
        pixels[54 - 10 - 15 * tall : 54 + 10 + 15 * tall, 34:54] = 90 + 130 * bright
        name = f"{i:06d}.png"
        Image.fromarray(pixels + rng.integers(0, 9, pixels.shape, dtype=np.uint8)).save(
            folder / IMAGES / name
        )
        lines.append(f"{name} {2 * bright - 1} {2 * tall - 1}")
        splits.append(f"{name} {0 if i < 240 else 1 if i < 270 else 2}")
    (folder / ATTRIBUTES).write_text("\n".join(["300", "Bright Tall", *lines]))
    (folder / PARTITION).write_text("\n".join(splits))
    return latens.load_data(folder, size=(16, 16), grey=True)


@pytest.fixture(scope="session", params=["mlp", "conditional"])
def with_attributes(request, squares, tmp_path_factory):
    """A model of the squares."""
    return latens.train(
        squares,
        recipe=request.param,
        network="mlp",
        hidden="64,64",
        latent_dim=3,
        epochs=20,
        batch_size=16,
        beta=0.1,  # or it may do without one of the two attributes: so did 1 of 8 seeds at 0.3
        out=tmp_path_factory.mktemp("squares") / "run",
        report=False,
        film=False,
    ).vae


def test_samples_and_edits_follow_an_attribute(with_attributes):
    vae = with_attributes
    bright = draw(vae, 100, "Bright").images.amax((1, 2, 3)).mean()
    assert bright > draw(vae, 200).images.amax((1, 2, 3)).mean()
    assert draw(vae, 3, "Tall").labels is None
    x = torch.zeros(1, 1, 16, 16)
    x[..., 6:10, 6:10] = 90 / 255  # dark and small
    if vae.label_embedding is not None:
        return
    edited = along_attribute(vae, x, "bright", torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(edited[:, 0], vae.reconstruct(x))
    assert edited[0, 1].amax() > edited[0, 0].amax() + 0.2
    taller = along_attribute(vae, x, "Tall", torch.tensor([1.0]))[0, 0, 0, :, 8]
    assert (taller > 0.2).sum() > (edited[0, 0, 0, :, 8] > 0.2).sum() + 2
    with pytest.raises(LatensError, match="unknown attribute 'Tal': did you mean 'Tall'"):
        along_attribute(vae, x, "Tal", torch.zeros(1))
    with pytest.raises(LatensError, match="use --attribute"):
        towards_class(vae, x, "Tall", 3)


def test_a_conditional_model_finds_the_class_of_an_image(models, digits):
    """The same one at every call, and without a trace in the user's random numbers."""
    torch.manual_seed(1)
    found = likeliest_condition(models["conditional"], digits.test.unit())
    assert found is not None
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(2)
    assert torch.equal(likeliest_condition(models["conditional"], digits.test.unit()), found)
    assert (found == digits.test.labels).double().mean() > 0.85
    assert likeliest_condition(models["mlp"], digits.test.unit()) is None


@pytest.mark.parametrize("kind", ["mlp", "conditional"])
@pytest.mark.parametrize("label", [-1, 10])
def test_an_index_that_is_no_label_is_refused(models, kind, label):
    with pytest.raises(LatensError, match=f"label {label}: there are 0 to 9"):
        draw(models[kind], 3, label)
