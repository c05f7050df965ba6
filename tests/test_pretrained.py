"""The models that come with latens keep what their cards promise."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import special, stats

import latens
from latens import LatensError
from latens.analysis.generation import draw, towards_class
from latens.evaluation.judges import shipped
from latens.model.latents import Latent
from latens.run.data import data_of
from latens.run.directory import PRETRAINED, Run, pretrained

NAMES = pretrained()
EXPECTED = {
    "celeba-200d",
    "celeba-ladder-64",
    "celeba-unet-64",
    "mnist-10d",
    "mnist-2d",
    "mnist-conditional-2d",
    "mnist-ladder",
    "mnist-semi-supervised-2d",
    "mnist-unet-2d",
}


LADDERS = ["celeba-ladder-64", "mnist-ladder"]


def test_the_promised_ones_are_there():
    assert set(NAMES) >= EXPECTED


def test_they_are_small():
    sizes = {name: (PRETRAINED / name / "model.safetensors").stat().st_size for name in NAMES}
    assert sizes.pop("celeba-ladder-64") <= 12e6
    assert max(sizes.values()) <= 6e6, sizes
    assert sizes["mnist-ladder"] <= 3e6
    allowed = 25e6 + 6.2e6 + 0.8e6 + 12e6  # and the faces of 200 dimensions, and two ladders
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*")) <= allowed


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_what_it_takes_to_make_the_model_again(name):
    run, card = Run.open(name), (PRETRAINED / name / "README.md").read_text("utf-8")
    figures = run.figures
    assert figures is not None
    assert f"`{run.record['command']}`" in card
    assert run.record["data"]["fingerprint"] in card
    assert f"{latens.load(name).about['training']['minutes']} minutes on" in card
    assert run.record["machine"] in card
    assert f"{-figures['elbo']:.2f}" in card
    for said in (card, (PRETRAINED / name / "config.yaml").read_text("utf-8")):
        assert not re.search(r"(?<![\w.:/>-])[~/][\w/]", said), "a path on the machine it is from"


def _need_data(run):
    source = run.record["data"]["source"]
    if not (Path(os.environ["LATENS_DATA"]) / source.replace("-", "_")).is_dir():
        pytest.skip(f"needs {source} in LATENS_DATA")


@pytest.mark.mnist
@pytest.mark.parametrize("name", NAMES)
def test_the_figures_on_the_card_are_met_on_the_real_test_set(name, monkeypatch):
    _need_data(Run.open(name))
    # Of errors, which no card has, few images are enough
    monkeypatch.setattr("latens.evaluation.metrics.SPREAD_IMAGES", 10)
    told = Run.open(name).figures
    assert told is not None
    found = latens.evaluate(name).as_dict()
    assert found["images"] == told["images"]
    assert found["kind"] == told["kind"]
    for figure in ("elbo", "reconstruction", "kl"):
        assert found[figure] == pytest.approx(told[figure], rel=2e-4), figure
    for figure in ("accuracy", "bits_per_dim"):
        assert found[figure] == pytest.approx(told[figure], abs=1e-3), figure


@pytest.mark.mnist
@pytest.mark.parametrize("name", [name for name in NAMES if name not in LADDERS])
def test_the_figures_by_numpy_and_scipy_alone(name):
    """A second computation, from what the networks put out, on the first test images."""
    run = Run.open(name)
    _need_data(run)
    vae, few = run.vae, data_of(run).test.take(slice(0, 200))
    found = latens.evaluate(vae, few)
    x, y = few.unit(), few.labels
    with torch.no_grad():
        q = vae.encode(x, y)
        z = q.sample()
        output = vae.decoder(z, y if vae.decodes_labels else None) + vae.offset
        log_scale = getattr(vae.likelihood, "log_scale", torch.zeros(())).double().numpy()
    mean, scale, z, output, x = (v.double().numpy() for v in (q.mean, q.stddev, z, output, x))
    if run.config.model.likelihood == "bernoulli":
        cost = np.logaddexp(0, output) - x * output
    else:  # P(level) = F(level + half a step) − F(level − half a step), open at both ends
        s, half = np.exp(-7) + np.exp(log_scale), 0.5 / 255
        upper = np.where(x > 1 - half, 1, special.expit((x + half - output) / s))
        lower = np.where(x < half, 0, special.expit((x - half - output) / s))
        cost = -np.log(np.maximum(upper - lower, 1e-12))
    error = found.errors["reconstruction"].sampling * 2**0.5
    assert abs(cost.sum((1, 2, 3)).mean() - found.reconstruction) < 5 * error
    if run.config.model.prior == "normal":
        kl = (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1).mean()
        assert kl == pytest.approx(found.kl, rel=1e-5)
    else:
        p = vae.prior
        of = [v.detach().double().numpy() for v in (p.mean, np.e**p.log_scale + 1e-3, p.logits)]
        log_p = stats.norm.logpdf(z[:, None], of[0], of[1]).sum(2) + special.log_softmax(of[2])
        kl = (stats.norm.logpdf(z, mean, scale).sum(1) - special.logsumexp(log_p, 1)).mean()
        assert abs(kl - found.kl) < 5 * found.errors["kl"].sampling * 2**0.5


def bernoulli_cost(output, x):
    """−log p(x|z) `[N]`."""
    return (np.logaddexp(0, output) - x * output).sum((1, 2, 3))


def logistic_mixture_cost(output, x):
    """−log p(x|z) `[N]` of RGB: green's location depends on red, blue's on both."""
    k = output.shape[1] // 10
    weights, location, log_scale, slopes = np.split(output, (k, 4 * k, 7 * k), axis=1)
    location, log_scale, slopes = (
        v.reshape(len(x), 3, k, *x.shape[2:]) for v in (location, log_scale, np.tanh(slopes))
    )
    red, green, blue = np.moveaxis(x[:, :, None], 1, 0)
    shift = [0 * red, slopes[:, 0] * red, slopes[:, 1] * red + slopes[:, 2] * green]
    log_p = special.log_softmax(weights, axis=1)
    for c, value in enumerate((red, green, blue)):
        s, at = np.exp(np.maximum(log_scale[:, c], -7)), location[:, c] + shift[c]
        above = np.where(value > 254.5 / 255, 1, special.expit((value + 0.5 / 255 - at) / s))
        below = np.where(value < 0.5 / 255, 0, special.expit((value - 0.5 / 255 - at) / s))
        log_p = log_p + np.log(np.maximum(above - below, 1e-300))
    return -special.logsumexp(log_p, axis=1).sum((1, 2))


@pytest.mark.mnist
@pytest.mark.parametrize("name", LADDERS)
def test_the_figures_of_a_ladder_by_numpy_and_scipy_alone(name):
    run = Run.open(name)
    _need_data(run)
    ladder, x = run.vae, data_of(run).test.take(slice(0, 200)).unit()
    cost_of = {"bernoulli": bernoulli_cost, "logistic-mixture": logistic_mixture_cost}
    found = latens.evaluate(ladder, x)
    with torch.no_grad():
        drawn, output = ladder.descend(
            ladder.encoder(x), lambda i, p, q: Latent.sample(q, p, None if i else 1)
        )
    output, x = output.double().numpy(), x.double().numpy()
    cost = cost_of[run.config.model.likelihood](output, x).mean()
    error = found.errors["reconstruction"].sampling * 2**0.5
    assert abs(cost - found.reconstruction) < 5 * error
    for i, latent in enumerate(drawn):
        mean, scale, z = (
            v.double().numpy().reshape(len(x), -1)
            for v in (latent.q.mean, latent.q.stddev, latent.z)
        )
        if i:
            p_mean, p_scale = (
                v.double().numpy().reshape(len(x), -1) for v in (latent.p.mean, latent.p.stddev)
            )
        else:
            p_mean, p_scale = np.zeros(1), np.ones(1)
        log_q = stats.norm.logpdf(z, mean, scale).sum(1)
        kl = log_q - stats.norm.logpdf(z, p_mean, p_scale).sum(1)  # of this z: no closed form
        error = kl.std() / len(x) ** 0.5
        assert abs(kl.mean() - found.kl_per_level[i]) < 5 * error + 1e-3, i


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_the_name(name, run_latens, tmp_path):
    run = Run.open(name)
    channels, height, width = run.vae.image_shape
    mode = "L" if channels == 1 else "RGB"
    picture = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8).numpy()
    Image.fromarray(picture.squeeze()).convert(mode).save(tmp_path / "x.png")
    done = run_latens("reconstruct", name, tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    labels = run.record["data"]["classes"] or run.record["data"]["attributes"]
    commands = [["sample", name, "-n", "4"], ["generate", name, "-n", "12", "--out", "made"]]
    if labels and name not in LADDERS:  # which have no statistics of labels
        change = "--label" if run.record["data"]["classes"] else "--attribute"
        commands += [
            ["sample", name, "-n", "4", "--label", labels[3]],
            ["edit", name, "x.png", change, labels[3]],
        ]
    for command in commands:
        done = run_latens(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert len(list((tmp_path / "made").rglob("*.png"))) == 12
    kept = {"README.md", "config.json", "config.yaml", "figures.json", "metrics.jsonl"}
    assert {path.name for path in run.path.iterdir()} == kept | {"model.safetensors"}


def test_a_pretrained_model_cannot_be_gone_on_with(run_latens):
    done = run_latens("train", "--resume", NAMES[0])
    assert done.returncode == 2
    assert "no whole checkpoint" in done.stderr


def test_an_unknown_name_is_told_with_those_that_are():
    with pytest.raises(LatensError, match=r"Models that come with latens: .*mnist-2d"):
        latens.load("mnist-3d")


def test_a_report_under_its_own_name_does_not_hide_a_model(run_latens, tmp_path):
    (tmp_path / "mnist-2d" / "pictures").mkdir(parents=True)
    done = run_latens("sample", "mnist-2d", "-n", "4")
    assert done.returncode == 0, done.stderr


AGREEMENT = {  # of an independent classifier with 200 samples of each class
    "mnist-2d": 0.97,
    "mnist-unet-2d": 0.97,
    "mnist-10d": 0.97,
    "mnist-conditional-2d": 0.99,
    "mnist-semi-supervised-2d": 0.98,
}


@pytest.mark.parametrize("name", AGREEMENT)
def test_samples_of_a_digit_show_that_digit(name):
    vae, judge = latens.load(name), shipped("mnist")
    right = [(judge(draw(vae, 200, label).images) == label).double().mean() for label in range(10)]
    assert sum(right) / 10 >= AGREEMENT[name]
    assert min(right) >= 0.9


@pytest.mark.mnist
@pytest.mark.parametrize("name", AGREEMENT)
def test_digits_become_another_or_say_that_they_did_not(name):
    """In two dimensions some classes are nowhere the likeliest by far."""
    vae, judge = latens.load(name), shipped("mnist")
    test = latens.load_data("mnist").test
    some = test.take(torch.randperm(len(test))[:300])
    x, y = some.unit(), some.labels
    reached, right = [], []
    for label in range(10):
        edit = towards_class(vae, x, str(label), 2, y)
        reached.append(edit.reached)
        right.append(judge(edit.images[:, -1]) == label)
    reached, right = torch.cat(reached), torch.cat(right)
    assert reached.double().mean() >= (0.65 if name in ("mnist-2d", "mnist-unet-2d") else 0.98)
    assert right[reached].double().mean() >= 0.97
