"""What is said of a model holds for every kind of model."""

import dataclasses
import re

import pytest
import torch

import latens
from latens import LatensError
from latens.config import TrainConfig
from latens.data import load_data
from latens.evaluation.findings import findings_of_training
from latens.model.grid import Grid
from latens.report.context import ReportContext
from latens.report.primer import primer_of
from latens.report.sections.curves import training_curves
from latens.report.sections.findings import latent_space_finding
from latens.report.sections.worst_cases import worst_cases
from latens.run.data import data_of
from latens.training import second_stage
from latens.training.setup import begin_again, prepare, restart

SMALL = {"recipe": "mlp", "hidden": "32", "latent_dim": 2, "epochs": 4, "device": "cpu"}
SMALL |= {"report": False, "film": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return latens.train("digits", out=tmp_path_factory.mktemp("base") / "run", **SMALL)


def context_of(run):
    return ReportContext(run, data_of(run))


@pytest.mark.whole
@pytest.mark.usefixtures("few_frames")
def test_the_page_of_a_fitted_mixture_shows_no_kl_to_the_prior_before(base, tmp_path):
    fitted = latens.api.fit_prior(base.path, tmp_path / "fitted", 0.01, 3, prior="mixture")
    assert fitted.record["command"].endswith(
        "&& latens fit-prior RUN --prior mixture --components 500 --seed 3 --minutes 0.01"
    )
    shown = [[each.name for each in training_curves(context_of(run))] for run in (base, fitted)]
    assert shown == [["curves", "kl-per-dim", "kl-over-training"], ["curves"]]
    assert "has replaced" in next(training_curves(context_of(fitted))).caption
    assert context_of(fitted).ranked_by == "variance of the mean z"
    page = latens.api.report(fitted.path).read_text("utf-8")
    assert "&amp;&amp; latens fit-prior RUN" in page
    assert "&#39;&amp;&amp;" not in page


def test_a_second_stage_changes_no_figure(base, tmp_path, monkeypatch):
    monkeypatch.setattr(second_stage, "LATENTS", 2_000)
    fitted = latens.api.fit_prior(base.path, tmp_path / "fitted", flow_width=16, layers=1)
    torch.testing.assert_close(Grid.over_prior(base.vae, 8).low, Grid.over_prior(fitted.vae, 8).low)
    torch.manual_seed(0)
    z = fitted.vae.draw_prior(20_000)
    assert z.std().item() == pytest.approx(1, abs=0.02)
    again = latens.api.fit_prior(
        fitted.path, tmp_path / "again", prior="mixture", components=5
    ).vae.about["second_stage"]
    first = latens.api.fit_prior(
        base.path, tmp_path / "first", prior="mixture", components=5
    ).vae.about["second_stage"]
    assert again["mmd_before"] == pytest.approx(first["mmd_before"], rel=1e-4)
    assert again["gain"] == pytest.approx(first["gain"], abs=1e-4)


def test_a_prior_is_fitted_to_any_posterior(monkeypatch):
    """Z is drawn from q(z|x) itself: of full covariance here, along one line."""
    images = load_data("digits").train.take(slice(0, 200))
    vae = latens.VAE(
        latens.MLPEncoder((1, 8, 8), (16,)),
        latens.MLPDecoder(2, (1, 8, 8), (16,)),
    )

    def encode(x, y=None):
        scale = torch.tensor([[1.0, 0.0], [0.99, 0.1]]).expand(len(x), 2, 2)
        return torch.distributions.MultivariateNormal(torch.zeros(len(x), 2), scale_tril=scale)

    monkeypatch.setattr(vae, "encode", encode)
    z = second_stage._draw(second_stage._pool(vae, images))
    assert torch.corrcoef(z.T)[0, 1] > 0.95


def test_neighbours_tell_as_much_of_sorted_images(base):
    """Of a folder the first half has other classes than the second."""
    data = load_data("digits")
    order = data.train.labels.argsort()
    ordered = dataclasses.replace(data.train.take(order), shuffled=False)
    found = []
    for images in (data.train, ordered):
        told = latent_space_finding(ReportContext(base, dataclasses.replace(data, test=images)))
        found.append(int(re.search(r"predict the class of (\d+)%", told)[1]))
    assert found[0] > 30
    assert abs(found[0] - found[1]) < 20


@pytest.mark.parametrize("prior", ["normal", "conditional"])
def test_the_loss_of_a_classifier_is_named(prior, tmp_path):
    options = SMALL | {"recipe": "semi_supervised", "network": "mlp", "prior": prior}
    run = latens.train("digits", out=tmp_path / "run", **options)
    caption = next(training_curves(context_of(run))).caption
    assert "+ 20 · −log p(y|z) of images with a label" in caption
    assert [picture.name for picture in worst_cases(context_of(run))][-1] == "emptiest"


def test_an_encoder_that_is_told_the_class_is_not_asked_for_it(tmp_path):
    options = SMALL | {"recipe": "conditional", "network": "mlp"}
    run = latens.train("digits", out=tmp_path / "run", **options)
    with pytest.raises(LatensError, match="encoder is told the class"):
        latens.evaluate(run, neighbours=5)
    assert latens.evaluate_all(run).latents is None
    assert "nearest" not in latent_space_finding(context_of(run))


def test_the_costs_of_an_image_are_means(tmp_path):
    """Of a learned prior the KL has no closed form, and one sample of it may be negative."""
    run = latens.train("digits", out=tmp_path / "run", **SMALL | {"prior": "flow", "epochs": 2})
    context = context_of(run)
    told = primer_of(context)
    kl = float(told.after[0].split("for the first image ")[1].split(" nats")[0])
    x = context.data.validation.take(slice(0, 1)).unit()
    with torch.no_grad():
        expected = run.vae.draw(x, samples=5_000).kl.item()
    assert kl == pytest.approx(expected, abs=0.2)


def test_remedies_are_options_of_the_objective(base):
    evaluation = latens.evaluate(base)
    unused = dataclasses.replace(evaluation, active_units=1)
    for options, has_bits in (({}, True), ({"objective": "iwae"}, False)):
        config = TrainConfig.from_options(**SMALL, **options)
        found = findings_of_training(base.metrics, unused, config, 2)
        text = next(f for f in found if f.name == "unused dimensions").remedy
        assert ("--free-bits" in text) == has_bits
        none = dataclasses.replace(evaluation, active_units=0)
        found = findings_of_training(base.metrics, none, config, 2)
        for finding in found:
            if finding.name == "posterior collapse":
                assert ("--beta-warmup" in finding.remedy) == has_bits


@pytest.mark.parametrize("again", ["restart", "begin_again"])
def test_images_held_out_once_are_not_held_out_twice(again, tmp_path):
    config = TrainConfig.from_options(
        recipe="mlp", hidden="16", minutes=0.1, validation=100, device="cpu"
    )
    setup = prepare("digits", config)
    sizes = setup.data.sizes()
    if again == "restart":
        run = latens.Run.create(tmp_path / "run", setup.record())
        found = restart(run, data_of(run))
    else:
        found = begin_again(setup, 1.0)
    assert found.data.sizes() == sizes
    assert found.data.source == "digits"
