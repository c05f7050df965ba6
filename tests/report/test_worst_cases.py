"""Worst cases are the worst, by figures of the tests' own."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.distributions import Independent, Normal

import latens
from latens import commands
from latens.evaluation import full
from latens.report.context import ReportContext
from latens.report.sections.worst_cases import log_density_ratio, worst_cases


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("worst") / "run"
    options = {"recipe": "semi_supervised", "network": "mlp", "hidden": "32", "latent_dim": 2}
    return latens.train("digits", epochs=4, report=False, film=False, out=out, **options)


def test_the_costliest_images_cost_most(run, digits):
    context = ReportContext(run, digits)
    shown = {picture.name: picture for picture in worst_cases(context)}
    draw = run.vae.draw(digits.test.unit(), digits.test.labels, 300)
    costs = (draw.kl - draw.log_px_z.mean(0)).detach()
    told = [float(word) for word in shown["costliest"].frames[0].info["sheet"].captions]
    assert told == sorted(told, reverse=True)
    assert told == pytest.approx(costs.sort(descending=True).values[:16].tolist(), rel=0.15)
    # and the first image shown is that of the largest cost
    first = shown["costliest"].frames[0].info["sheet"].images[0, 0]
    assert torch.equal(first, digits.test.unit()[context.costs.argmax()])


def test_mistakes_are_mistakes_and_the_surest_come_first(run, digits):
    (picture,) = (p for p in worst_cases(ReportContext(run, digits)) if p.name == "mistakes")
    p = run.vae.classify(run.vae.embed(digits.test.unit())).probs
    labels = digits.test.labels
    wrong = [i for i in range(len(labels)) if p[i].argmax() != labels[i]]
    surest = sorted(wrong, key=lambda i: -p[i].max())[:16]
    assert list(picture.classes) == labels[surest].tolist()
    captions = picture.frames[0].info["sheet"].captions
    assert (
        captions[0]
        == f"{labels[surest[0]]}, predicted {p[surest[0]].argmax()}: {p[surest[0]].max():.0%}"
    )
    assert f"wrong about {len(wrong)} of 179" in picture.caption


def test_the_density_of_the_aggregated_posterior_is_that_of_its_parts(run, digits):
    context = ReportContext(run, digits)
    z = 2 * torch.randn(50, 2)
    q = run.vae.encode(digits.test.unit())
    parts = torch.stack(
        [
            Independent(Normal(m, s), 1).log_prob(z).exp()
            for m, s in zip(q.mean, q.stddev, strict=True)
        ]
    ).double()
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1).log_prob(z).exp()
    expected = (parts.mean(0) / prior).log().float()
    found = log_density_ratio(context, z).detach()
    near = expected > -20
    torch.testing.assert_close(found[near], expected[near], atol=1e-3, rtol=1e-3)


def test_the_density_of_a_prior_of_labels_is_the_mean_of_theirs(tmp_path, digits):
    options = {"recipe": "semi_supervised", "network": "mlp", "hidden": "8", "latent_dim": 2}
    options |= {"prior": "conditional", "epochs": 1, "report": False, "film": False}
    run = latens.train("digits", out=tmp_path / "run", **options)
    context = ReportContext(run, digits)
    with torch.no_grad():
        context.vae.prior.parameters_of_p.weight.normal_(std=0.2)
        z, y = torch.randn(50, 2), torch.arange(10)
        p = context.vae.prior_given(y)
        log_p = stats.norm.logpdf(z[:, None], p.mean, p.stddev).sum(2)
        expected = special.logsumexp(log_p, axis=1) - np.log(10)
        np.testing.assert_allclose(context.log_prior(z), expected, rtol=1e-4, atol=1e-4)
        drawn = context.sample_of_prior(20_000)
    assert ((drawn.mean(0) - p.mean.mean(0)).abs() < 5 * drawn.std(0) / 20_000**0.5).all()
    found = full_figures(run, digits)
    assert "kl_parts" not in found
    assert found["unrefined"].elbo <= found["refined"].elbo
    vae = run.vae
    assert len(list(commands._in_blocks(run, 20, None, [1.0], "mixture", None))) == 10
    assert vae.sample(2).shape == (2, 1, 8, 8)


def full_figures(run, digits):
    return dict(full._of_one_level(run.vae, digits.test.take(slice(0, 60)), 0))
