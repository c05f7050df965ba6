"""A model that has learned goes on from where it is; only a fresh one is set by the images."""

import pytest
import torch

import latens
from latens import VAE, Images, LatensError, MLPDecoder, MLPEncoder
from latens.config import TrainConfig
from latens.data import load_data
from latens.training.setup import prepare

CONFIG = TrainConfig.from_options(epochs=1, device="cpu")


def fresh():
    return VAE(MLPEncoder((1, 8, 8), (16,)), MLPDecoder(2, (1, 8, 8), (16,)))


@pytest.fixture
def negatives(digits):
    """Images whose mean is far from that of the digits."""
    return load_data((255 - digits.train.pixels).numpy())


def test_a_fresh_model_starts_at_the_mean_image(digits):
    model = fresh()
    assert model.is_fresh
    setup = prepare("digits", CONFIG, model)
    assert setup.model is model
    assert not model.is_fresh
    mean = digits.train.unit().double().mean(0).float()
    expected = torch.logit(mean, eps=1e-3)
    torch.testing.assert_close(model.offset.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("saved", ["run", "folder"])
def test_a_loaded_model_keeps_its_weights(saved, digits_run, negatives, tmp_path):
    model = latens.load(digits_run.path)
    if saved == "folder":
        model.save_pretrained(tmp_path)
        model = VAE.from_pretrained(tmp_path)
    assert not model.is_fresh
    before = {name: value.clone() for name, value in model.state_dict().items()}
    setup = prepare(negatives, CONFIG, model)
    assert setup.model is model
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_is_fine_tuned_from_where_it_is(digits_run, negatives, tmp_path):
    """With a learning rate of next to nothing it stays where it was; a fresh one would not."""
    model = latens.load(digits_run.path)
    before = latens.evaluate(digits_run.path, negatives.test)
    options = {"epochs": 1, "device": "cpu", "precision": "float32", "report": False}
    options |= {"film": False, "learning_rate": 1e-9}
    run = latens.train(negatives.train.pixels.numpy(), model=model, out=tmp_path / "run", **options)
    again = latens.load(run.path)
    torch.testing.assert_close(again.offset, latens.load(digits_run.path).offset)
    after = latens.evaluate(again, negatives.test)
    assert after.elbo == pytest.approx(before.elbo, rel=1e-4)


def test_a_model_that_python_has_trained_goes_on_from_there(tmp_path):
    model = fresh()
    options = {"epochs": 1, "device": "cpu", "report": False, "film": False, "ema": 0}
    latens.train("digits", model=model, out=tmp_path / "first", **options)
    before = model.offset.detach().clone()
    setup = prepare("digits", CONFIG, model)
    assert torch.equal(setup.model.offset, before)


def test_a_model_of_other_images_is_refused():
    images = Images(torch.zeros(40, 1, 9, 9, dtype=torch.uint8))
    with pytest.raises(LatensError, match=r"reads images of \(C, H, W\) \(1, 8, 8\)"):
        prepare(images.pixels.numpy(), CONFIG, fresh())


@pytest.mark.parametrize(
    "option", [{"sigma": 1.0}, {"hidden": "16"}, {"input_noise": 0.2}, {"prior": "vamp"}]
)
def test_what_a_given_model_decides_is_no_option(option, digits_run, tmp_path):
    with pytest.raises(LatensError, match="is decided by what is given: leave it out"):
        latens.train("digits", model=digits_run.vae, out=tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()
