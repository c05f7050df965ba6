"""A model that has learned goes on from where it is; only a fresh one is set by the images."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import latens
from latens import VAE, Images, LatensError, MLPDecoder, MLPEncoder
from latens.config import TrainConfig
from latens.data import load_data
from latens.training.setup import prepare, restart

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


def test_a_training_begins_at_another_run(digits_run, run_latens, tmp_path):
    """Its parts and the size of its images are kept; β does not rise from 0 again."""
    model, options = latens.load(digits_run.path), ("--epochs", 1, "--no-report", "--no-film")
    images = tmp_path / "images"
    made = run_latens("generate", digits_run.path, "-n", 30, "--out", images)
    assert made.returncode == 0, made.stderr
    words = ("train", "images", "--init-from", digits_run.path, *options)
    done = run_latens(*words, "--learning-rate", 1e-9, "--out", "run")
    assert done.returncode == 0, done.stderr
    run = latens.Run.open(tmp_path / "run")
    before, after = run.record["command"].split(" && ")
    assert before == digits_run.record["command"]
    assert after.startswith(f"latens train images --init-from {digits_run.path} ")
    assert run.config.objective.beta_warmup == 0
    assert run.config.data.size == "8x8"
    chosen = run.config.model, digits_run.config.model
    assert replace(chosen[0], init_from=None) == chosen[1]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.vae.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    again = latens.train(
        images, init_from=str(run.path), epochs=1, out=tmp_path / "2", report=False
    )
    assert again.config.model.init_from == str(run.path)


def test_arrays_and_a_runs_own_options_begin_there_too(digits_run, digits, tmp_path):
    np.save(tmp_path / "mine.npy", digits.train.pixels[:40].numpy())
    options = {"epochs": 1, "report": False, "film": False}
    run = latens.train(
        tmp_path / "mine.npy", init_from=str(digits_run.path), out=tmp_path / "run", **options
    )
    again = TrainConfig.from_record(run.record["options"]).with_options(epochs=2)
    setup = prepare(tmp_path / "mine.npy", again)
    assert setup.config.model == run.config.model
    with pytest.raises(LatensError, match="latent_dim is decided by the model of init_from"):
        prepare(tmp_path / "mine.npy", again.with_options(latent_dim=7))


def test_a_training_from_another_run_that_was_killed_at_once_begins_there_again(
    digits_run, tmp_path
):
    config = TrainConfig.from_options(init_from=str(digits_run.path), epochs=1, device="cpu")
    setup = prepare("digits", config)
    run = latens.Run.create(tmp_path / "run", setup.record())
    begun = restart(run, setup.data)
    assert begun.config == setup.config
    assert begun.command == setup.command
    for name, value in digits_run.vae.state_dict().items():
        assert torch.equal(begun.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"latent_dim": 3}, "latent_dim is decided by the model of init_from"),
        ({"hidden": "16"}, "hidden is decided by the model of init_from"),
        ({"init_from": "nowhere"}, "no such run directory: nowhere"),
        ({"init_from": "mnist-2d"}, r"reads images of \(C, H, W\) \(1, 28, 28\)"),
    ],
)
def test_what_cannot_be_begun_from_another_run(options, reason, digits_run, tmp_path):
    options = {"init_from": str(digits_run.path), "epochs": 1} | options
    with pytest.raises(LatensError, match=reason):
        latens.train("digits", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_conditional_model_begins_with_as_many_labels(digits, tmp_path):
    options = {"epochs": 1, "report": False, "film": False}
    known = latens.train("digits", recipe="conditional", out=tmp_path / "run", **options)
    train = digits.train
    three = train.pixels.numpy()[train.labels < 3], train.labels.numpy()[train.labels < 3]
    with pytest.raises(LatensError, match=r"knows 10 labels, and .* has 3"):
        latens.train(three, init_from=str(known.path), out=tmp_path / "no", **options)


@pytest.mark.parametrize(
    "option",
    [
        {"sigma": 1.0},
        {"hidden": "16"},
        {"input_noise": 0.2},
        {"prior": "vamp"},
        {"init_from": "mnist-2d"},
    ],
)
def test_what_a_given_model_decides_is_no_option(option, digits_run, tmp_path):
    with pytest.raises(LatensError, match="is decided by what is given: leave it out"):
        latens.train("digits", model=digits_run.vae, out=tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("few_frames")
def test_nothing_tells_where_the_first_model_lay(digits_run, tmp_path):
    """Not in what is exported; the rest of the command is as it was."""
    start = tmp_path / "a private place" / "."
    shutil.copytree(digits_run.path, start)
    options = {"epochs": 1, "report": False, "film": False, "beta": 0.5}
    run = latens.train("digits", out=tmp_path / "run", init_from=str(start), **options)
    exported = latens.api.export(run.path, tmp_path / "out")
    for path in exported.path.iterdir():
        assert b"private place/" not in path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert exported.config.model.init_from == "a private place"
    page = latens.api.report(run.path).read_text("utf-8")
    assert str(tmp_path) not in page
    assert "1 epoch from the weights of a private place, " in page
    assert "--beta 0.5" in exported.record["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_map": 2, "latent_dim": 30}, "latent_map decides"),
        ({"recipe": "ladder", "latent_dim": 7}, "use --levels"),
        ({"init_from": "mnist-2d", "latent_dim": 20}, "latent_dim is decided by the model"),
    ],
)
def test_a_number_of_dimensions_is_never_ignored(options, message):
    with pytest.raises(LatensError, match=message):
        prepare("digits", TrainConfig.from_options(**options))
