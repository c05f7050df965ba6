"""How wide a network is, by a clock that the tests turn."""

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens.config import TrainConfig, replaced
from latens.training import setup, sizing


@pytest.fixture
def photographs(rng_images):
    return latens.load_data(rng_images)


@pytest.fixture
def rng_images():
    return np.random.default_rng(0).integers(0, 256, (200, 16, 16), dtype=np.uint8)


def chosen(data, monkeypatch, speeds, **options):
    """The channels of a training, where networks run at so many images a second."""
    timed = []

    def speed(config, *_):
        channels = config.model.options["channels"]
        timed.append(channels)
        return speeds[channels]

    monkeypatch.setattr(sizing, "_images_per_second", speed)
    config = TrainConfig.from_options(**{"minutes": 1, "device": "cpu"} | options)
    prepared = setup.prepare(data, config)
    return prepared.config.model.options.get("channels"), timed


def test_the_widest_that_sees_all_images_often_enough(photographs, monkeypatch, capsys):
    """160 training images, twenty times: 3,200 in 48 of the 60 seconds."""
    assert chosen(photographs, monkeypatch, {32: 70}) == (None, [32])
    assert capsys.readouterr().err == ""
    assert chosen(photographs, monkeypatch, {32: 50, 16: 70}) == (16, [32, 16])
    told = " ".join(capsys.readouterr().err.split())
    assert "--channels 16: --minutes 1 holds about 21 epochs with it, and 15 epochs with 32" in told
    assert chosen(photographs, monkeypatch, {32: 1, 16: 2, 8: 3}) == (8, [32, 16, 8])


@pytest.mark.parametrize(
    "options",
    [{"epochs": 1, "minutes": None}, {"recipe": "mlp"}, {"latent_map": 2}],
)
def test_what_is_chosen_is_left_alone(photographs, monkeypatch, options):
    assert chosen(photographs, monkeypatch, {}, **options) == (options.get("channels"), [])


def test_q_starts_narrow_where_it_collapsed_and_of_ones_own_images(photographs):
    def scale(data, dims, **options):
        options |= {"latent_dim": dims, "epochs": 1, "channels": 4, "features": 8}
        config = TrainConfig.from_options(**options)
        prepared = setup.prepare(data, config)
        return prepared.model.encode(prepared.data.train.unit()).stddev.mean()

    assert scale("digits", 2) > 0.9
    assert scale("digits", 2, recipe="unet") < 0.2
    assert scale("digits", 2, likelihood="mse") < 0.2
    assert scale("digits", 2, likelihood="gaussian", scale=0.5) < 0.2
    assert scale("digits", 4, likelihood="mse") > 0.9
    assert scale(photographs, 4) < 0.2


def test_named_data_sets_keep_the_network_of_their_figures(monkeypatch):
    assert chosen("digits", monkeypatch, {}) == (None, [])


def test_steps_are_timed_and_leave_no_trace(photographs):
    import torch

    config = TrainConfig.from_options(minutes=1, device="cpu", recipe="conv")
    config = setup.resolve(config, photographs)
    config = replaced(config, model={"options": {"channels": 4, "features": 8}})
    before = torch.get_rng_state()
    found = sizing._images_per_second(config, photographs, latens.ELBO(), setup.build_model)
    assert found > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_too_little_time_is_told_before_the_first_step(
    photographs, rng_images, monkeypatch, capsys, tmp_path
):
    (tmp_path / "photos").mkdir()
    for k, image in enumerate(rng_images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{k}.png")
    for data in (photographs, latens.load_data(tmp_path / "photos")):
        assert chosen(data, monkeypatch, {24: 2}, channels=24) == (24, [24])
        told = " ".join(capsys.readouterr().err.split())
        assert "--minutes 1 holds about 96 of the 162 images: --minutes 2 would show each" in told
        assert ("--size 8x8 about four times as many" in told) == (data is not photographs)


def test_a_network_beyond_the_memory_is_refused_before_it_is_made(photographs, monkeypatch):
    monkeypatch.setattr(sizing, "_memory", lambda: 10**9)
    config = TrainConfig.from_options(recipe="mlp", hidden="20000,20000", epochs=1, device="cpu")
    with pytest.raises(
        latens.LatensError, match=r"than 4\d\d,\d+,\d+ weights takes more than 10 GB"
    ):
        setup.prepare(photographs, config)


def test_channels_that_no_level_has_are_refused(photographs):
    with pytest.raises(latens.LatensError, match=r"channels is 100,000: no level .* than 256"):
        setup.prepare(photographs, TrainConfig.from_options(channels=100_000, epochs=1))


def test_a_collapsed_training_is_begun_again_in_the_time_left(photographs, monkeypatch, tmp_path):
    """Once, with the remedy, and nothing of the first is left but the seconds it took."""
    told = []

    def has_collapsed(evaluation, dims):
        told.append(evaluation.kl)
        return True

    monkeypatch.setattr("latens.evaluation.metrics.Evaluation.has_collapsed", has_collapsed)
    small = {"channels": 4, "features": 8, "latent_dim": 2, "report": False, "film": False}
    run = latens.train(photographs, minutes=0.05, out=tmp_path / "run", **small)
    config = run.config
    assert (config.objective.beta_warmup, config.run.seed) == (0.5, 1)
    assert 0.01 < config.run.minutes < 0.04
    assert run.metrics[0]["epoch"] == 1
    assert run.metrics[-1]["seconds"] < 3.5
    assert run.figures["images"] == 20
    assert len(told) == 2, "when it was begun again, and in what is said at the end"


@pytest.mark.parametrize("options", [{"beta_warmup": 0.1}, {"epochs": 2, "minutes": None}])
def test_a_training_that_was_told_how_is_not_begun_again(photographs, options):
    options = {"minutes": 1, "channels": 4, "features": 8} | options
    assert not setup.prepare(photographs, TrainConfig.from_options(**options)).begins_again


@pytest.mark.parametrize(
    ("options", "threatened"),
    [
        ({"recipe": "unet", "channels": 4}, True),
        ({"recipe": "conv", "channels": 4, "likelihood": "mse"}, True),
        ({"recipe": "conditional", "channels": 4, "likelihood": "mse"}, True),
        ({"recipe": "beta", "channels": 4}, True),
        ({"recipe": "conv", "channels": 4}, False),
        ({"recipe": "unet", "channels": 4, "latent_dim": 20}, False),
    ],
)
def test_a_decoder_starts_quiet_where_collapse_threatens(digits, options, threatened):
    options = {"latent_dim": 2, "features": 8, "epochs": 1} | options
    prepared = setup.prepare(digits, TrainConfig.from_options(**options))
    z = torch.randn(200, prepared.model.latent_shape[0])
    y = digits.train.labels[:200]
    varies = prepared.model.decoder(z, y).std(0).mean()
    assert (varies < 0.02) == threatened
    spread = prepared.model.encode(digits.train.unit()[:200], y).stddev.mean()
    assert (spread < 0.2) == threatened
    fixed = options.get("likelihood") == "mse"
    expected = 0.3 if fixed else 0.1 if options["recipe"] == "unet" else 0.0
    assert prepared.config.objective.beta_warmup == expected
