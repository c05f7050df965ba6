"""For each finding a run that has it, and one that has not; the remedy of a collapse works."""

import re
from pathlib import Path

import pytest
import torch

import latens
from latens import TrainConfig
from latens.evaluation import doctor
from latens.evaluation.doctor import examine, prior_gain
from latens.evaluation.findings import (
    Finding,
    _smaller,
    findings_of_training,
    noise_on_images,
)
from latens.model.recipes import build

SMALL = {"recipe": "mlp", "latent_dim": 2, "hidden": "64", "report": False, "film": False}
EVERY = {
    "posterior collapse", "unused dimensions", "KL blow-up", "no better than the mean image",
    "overfitting", "generalisation gap", "likelihood", "saturated σ", "prior", "amortisation gap",
    "clipping", "learning rate too high", "learning rate too low",
}  # fmt: skip


@pytest.fixture(scope="session")
def examined(tmp_path_factory):
    """From data and options to the findings of a run that was trained with them, by name."""

    def train(data="digits", steps=3, **options):
        out = tmp_path_factory.mktemp("doctor") / "run"
        run = latens.train(data, out=out, **SMALL | options)
        given = None if isinstance(data, str) else data
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(doctor, "STEPS", steps)  # by which q(z|x) is refined
            return {finding.name: finding for finding in latens.doctor(run, given)}

    return train


@pytest.fixture(scope="session")
def healthy(examined):
    return examined(binarisation="threshold", epochs=30, learning_rate=2e-3)


@pytest.fixture(scope="session")
def few():
    digits = latens.load_data("digits")
    train = digits.train.take(slice(0, 40))
    return latens.data.DataSet("few", "few", train, digits.validation, digits.test)


def test_a_good_run_has_nothing_serious(healthy):
    assert not [finding for finding in healthy.values() if finding.serious]
    assert healthy.keys() <= {"amortisation gap", "generalisation gap"}


def test_a_collapse_is_found_and_its_remedy_works(examined):
    options = {"likelihood": "mse", "epochs": 2, "batch_size": 16, "learning_rate": 0.005}
    found = examined(**options, beta=100.0)["posterior collapse"]
    assert found.serious
    assert found.remedy == "Try a smaller --beta"
    assert "posterior collapse" not in examined(**options, beta=1.0)


def test_dimensions_that_tell_nothing(examined, healthy):
    found = examined(latent_dim=40, epochs=30, hidden="400", learning_rate=3e-3)
    unused = int(re.match(r"(\d+) of 40", found["unused dimensions"].figure)[1])
    assert 1 <= unused < 36
    assert found["unused dimensions"].remedy.startswith(f"Try --latent-dim {40 - unused} ")
    assert "unused dimensions" not in healthy


def test_a_code_that_costs_more_than_it_tells(examined, healthy):
    found = examined(beta=0.0, epochs=15)
    assert found["KL blow-up"].serious
    assert "likelihood" in found  # grey levels by a Bernoulli
    assert "KL blow-up" not in healthy


def test_nothing_learned_yet_at_too_low_a_rate(examined, healthy):
    found = examined(epochs=6, learning_rate=1e-5, beta=1e-3)
    assert "fell 0." in found["learning rate too low"].figure
    assert "learning rate too low" not in healthy


def test_nothing_learned_at_all(examined, healthy):
    found = examined(epochs=1, likelihood="mse", binarisation="threshold", batch_size=1000)
    assert "likelihood" in found  # levels where there are bits
    assert found.keys() & {"no better than the mean image", "KL blow-up"}
    assert not healthy.keys() & {"no better than the mean image", "likelihood"}


def test_too_high_a_rate(examined, healthy):
    # Each epoch of the warm-up is worse than the one before, whatever the processor rounds
    found = examined(epochs=8, learning_rate=1.0, warmup=0.5, batch_size=16, clip=1e9)
    assert found["learning rate too high"].serious
    assert "learning rate too high" not in healthy


def test_overfitting_and_images_never_seen(examined, healthy, few):
    options = {"epochs": 120, "batch_size": 40, "learning_rate": 0.003}
    found = examined(few, steps=50, likelihood="gaussian", **options)
    assert "whose weights were kept" in found["overfitting"].figure
    assert "more than training images" in found["generalisation gap"].figure
    assert found["amortisation gap"].figure.count("nats") == 1
    assert "by the grid's q" in found["amortisation gap"].figure
    assert "overfitting" not in healthy


def test_steps_that_are_all_clipped(examined, healthy):
    found = examined(epochs=1, clip=1e-3)
    assert found["clipping"].figure == "100% of the steps were clipped"
    assert "clipping" not in healthy


def test_latents_far_from_the_prior(examined, healthy, digits):
    found = examined(likelihood="mse", epochs=2, batch_size=1000, hidden="400")
    assert "prior" in found
    assert "prior" not in healthy


def test_what_a_fitted_prior_gains_is_the_divergence_of_two_gaussians(digits):
    from latens.model.recipes import build

    vae = build("mlp", (1, 8, 8), 2)
    with torch.no_grad():  # q(z|x) = N(1, e) for every image
        for parameter in vae.posterior.parameters():
            parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
    q = vae.encode(digits.test.unit()[:1])
    kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0))
    gain = prior_gain(vae, digits.train, digits.train)
    assert gain == pytest.approx(kl.sum().item(), abs=0.2)


def test_a_sigma_at_its_least_value(healthy, digits, tmp_path):
    run = latens.train("digits", out=tmp_path / "run", likelihood="gaussian", epochs=1, **SMALL)
    vae = latens.load(run.path)
    assert "saturated σ" not in {finding.name for finding in examine(run, vae, digits)}
    with torch.no_grad():
        vae.likelihood.log_scale.fill_(-20)
    found = {finding.name: finding for finding in examine(run, vae, digits)}
    assert found["saturated σ"].figure == "σ of p(x|z) is 0.0039, its least value"
    assert "saturated σ" not in healthy


# ---- words -----------------------------------------------------------------------------------


def test_every_finding_has_its_place_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    headings = {
        re.sub("[^a-z]+", "-", h.lower()).strip("-") for h in re.findall("^## (.+)", text, re.M)
    }
    for name in EVERY:
        page = Finding(name, "", "", "").page
        assert page.split("#")[1] in headings, name


def test_a_short_curve_tells_nothing(digits):
    from latens.evaluation.metrics import evaluate
    from latens.model.recipes import build

    evaluation = evaluate(build("mlp", (1, 8, 8), 2), digits.test)
    rows = [
        {"epoch": i, "clipped": 0.0, "learning_rate": 1e-5, "train": {"loss": 9.0 + i}}
        | {"validation": {"final_loss": 1.0}}
        for i in range(3)
    ]
    names = {f.name for f in findings_of_training(rows, evaluation, TrainConfig(), 2)}
    assert not names & {"learning rate too high", "learning rate too low"}


def test_the_command_prints_findings_and_json(digits_run, run_latens):
    import json

    said = run_latens("doctor", digits_run.path)
    assert said.returncode == 0
    assert re.search(r"(\d+|no) findings?; ! is serious", said.stdout)
    found = json.loads(run_latens("doctor", digits_run.path, "--json").stdout)
    assert {finding["name"] for finding in found} <= EVERY
    assert all(finding["page"].startswith("docs/doctor.md#") for finding in found)


def test_noise_on_images_is_advised_where_it_is_an_option():
    for options, expected in (
        ({"recipe": "mlp"}, "--input-noise 0.2 or --jitter 0.5"),
        ({"recipe": "ladder"}, "--jitter 0.5"),
        ({"init_from": "mnist-2d"}, "--jitter 0.5"),
    ):
        assert noise_on_images(TrainConfig.from_options(**options)) == expected


def test_remedies_are_options_that_the_model_has():
    parts = {"mlp": {}, "conv": {}, "map": {"latent_map": 2}}
    told = {
        name: list(
            doctor._better_encoders(build(name.replace("map", "conv"), (1, 8, 8), 4, **more))
        )
        for name, more in parts.items()
    }
    assert told["mlp"] == ["a deeper encoder (--hidden 1024,1024,1024)", "--posterior iaf"]
    assert told["conv"] == ["a deeper encoder (--blocks 2)", "--posterior iaf"]
    assert told["map"] == ["a deeper encoder (--blocks 2)"]


@pytest.mark.parametrize(
    ("channels", "active", "expected"),
    [
        (None, 16, "--latent-dim 16"),
        (4, 16, "--latent-map 2"),
        (2, 17, None),
        (2, 0, "--latent-map 1"),
    ],
)
def test_fewer_dimensions_of_a_map_are_fewer_channels(channels, active, expected):
    assert _smaller(TrainConfig.from_options(latent_map=channels), active, 32) == expected
