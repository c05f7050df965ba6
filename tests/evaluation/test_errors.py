"""Standard errors: what they claim is what repeats show, and intervals hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from tests.evaluation.ppca import SIGMA, exact_log_prob, model

from latens.evaluation.annealed import model_samples
from latens.evaluation.importance import ImportanceWeights, importance_weights
from latens.evaluation.metrics import StandardError, evaluate, evaluate_each


def test_of_200_intervals_at_95_percent_180_to_199_hold_the_truth():
    vae = model(shift=0.1, stretch=1.3)
    w = vae.decoder.weight.detach().double()
    scale = SIGMA / ((w**2).sum(0) + SIGMA**2).sqrt()
    gap = (0.5 * (1.3**2 + 0.1**2 / scale**2 - 1) - math.log(1.3)).sum().item()
    # E log p(x) over x ~ p(x) is minus the entropy of N(b, W Wᵀ + σ² I)
    covariance = w @ w.T + SIGMA**2 * torch.eye(len(w)).double()
    truth = -0.5 * torch.linalg.slogdet(2 * math.pi * math.e * covariance)[1].item() - gap
    x, _ = model_samples(vae, 200 * 50)
    held = 0
    for part in x.split(50):
        figures = evaluate(vae, part)
        held += abs(figures.elbo - truth) < 1.96 * figures.errors["elbo"].total
    assert 180 <= held <= 199


def test_the_two_causes_are_kept_apart():
    vae = model(shift=0.1, stretch=2.5)
    x, _ = model_samples(vae, 4000)
    few = x[:100]
    repeats = [evaluate(vae, few, seed=seed) for seed in range(60)]
    spread = np.std([figures.elbo for figures in repeats], ddof=1)
    sampling = np.mean([figures.errors["elbo"].sampling for figures in repeats])
    assert sampling == pytest.approx(spread, rel=0.3)  # the same images, other z
    exact = exact_log_prob(vae, x)
    images = np.mean([figures.errors["elbo"].images for figures in repeats])
    assert images == pytest.approx(
        exact.std() / 10, rel=0.3
    )  # the ELBO is log p(x) less a constant
    assert repeats[0].errors["kl"].sampling == 0
    assert StandardError(3.0, 4.0).total == 5
    assert StandardError(None, 4.0).total == 4


def test_what_z_adds_is_that_of_all_images_in_any_order():
    vae = model(shift=0.1, stretch=2.5)
    images, _ = model_samples(vae, 1200)
    order = evaluate_each(vae, images)["-elbo"].argsort()
    each = evaluate(vae, images).errors["elbo"], evaluate(vae, images[order]).errors["elbo"]
    assert each[1].sampling == pytest.approx(each[0].sampling, rel=0.15)


def test_the_figures_do_not_depend_on_whether_errors_are_measured(monkeypatch):
    vae, x = model(shift=0.1), torch.rand(50, 1, 3, 4)
    monkeypatch.setattr("latens.evaluation.metrics.IMAGES_IN_BLOCK", 20)
    one = evaluate(vae, x, importance_samples=5)
    monkeypatch.setattr("latens.evaluation.metrics.SPREAD_SAMPLES", 9)
    two = evaluate(vae, x, importance_samples=5)
    assert (one.elbo, one.nll) == (two.elbo, two.nll)
    assert one.errors["elbo"].sampling != two.errors["elbo"].sampling
    assert evaluate(vae, x[:1]).errors == {}


# ---- importance weights ----------------------------------------------------------------------


def test_running_sums_are_those_of_all_samples():
    torch.manual_seed(0)
    log_w = 30 * torch.randn(1000, 4) - 2000  # far below the least float
    weights = ImportanceWeights.none(4)
    for part in log_w.split(7):
        weights.add(part)
    log_w = log_w.double().numpy()
    log_sum = special.logsumexp(log_w, axis=0)
    np.testing.assert_allclose(weights.log_mean, log_sum - math.log(1000))
    effective = np.exp(2 * log_sum - special.logsumexp(2 * log_w, axis=0))
    np.testing.assert_allclose(weights.effective_samples, effective)
    assert (weights.variance >= 0).all()


def test_all_samples_count_at_the_exact_posterior_and_few_at_a_wrong_one():
    x = torch.rand(20, 1, 3, 4)
    exact = importance_weights(model(), x, None, 50)
    np.testing.assert_allclose(exact.effective_samples, 50, rtol=1e-3)
    wrong = importance_weights(model(shift=0.5), x, None, 50)
    assert wrong.effective_samples.mean() < 20
    assert evaluate(model(), x, importance_samples=50).effective_samples == pytest.approx(50, 1e-3)


def test_memory_does_not_grow_with_the_samples(monkeypatch):
    sizes = []
    vae, x = model(), torch.rand(6, 1, 3, 4)
    monkeypatch.setattr("latens.model.latent_model.VALUES_AT_ONCE", 12 * 60)
    importance_weights(vae, x, None, 5003, advance=sizes.append)
    assert sum(sizes) == 5003
    assert max(sizes) == 10
