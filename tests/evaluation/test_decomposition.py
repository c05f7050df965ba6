"""The parts of the KL against SciPy by hand and closed forms of a linear-Gaussian model."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from tests.evaluation.ppca import SIGMA, D, model

from latens import Images, LatensError
from latens.evaluation import decomposition
from latens.evaluation.annealed import model_samples
from latens.evaluation.decomposition import decompose_kl
from latens.model.recipes import build

PARTS = ("mutual_information", "total_correlation", "dimension_kl")


def test_the_exact_parts_agree_with_scipy(monkeypatch):
    vae, x = model(shift=0.3, stretch=1.3), torch.rand(40, 1, 3, 4)
    q = vae.encode(x)
    mean, scale = q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()
    found = decompose_kl(vae, x, seed=5)
    torch.manual_seed(5)
    z = q.sample().double().numpy()
    log_q = stats.norm.logpdf(z[:, None], mean, scale)  # [i, j, d]
    log_qz = special.logsumexp(log_q.sum(2), axis=1) - math.log(40)
    log_qz_d = (special.logsumexp(log_q, axis=1) - math.log(40)).sum(1)
    own, log_p = log_q.sum(2).diagonal(), stats.norm.logpdf(z).sum(1)
    assert found.mutual_information == pytest.approx((own - log_qz).mean(), abs=1e-5)
    assert found.total_correlation == pytest.approx((log_qz - log_qz_d).mean(), abs=1e-5)
    assert found.dimension_kl == pytest.approx((log_qz_d - log_p).mean(), abs=1e-5)
    assert found.marginal_kl == pytest.approx((log_qz - log_p).mean(), abs=1e-5)
    assert found.errors["mutual_information"].images == pytest.approx(
        (own - log_qz).std(ddof=1) / math.sqrt(40), abs=1e-5
    )
    for values in (1, 700):  # whatever is computed at a time
        monkeypatch.setattr(decomposition, "VALUES_AT_ONCE", values)
        again = decompose_kl(vae, x, seed=5)
        assert again.mutual_information == pytest.approx(found.mutual_information, abs=1e-9)


def test_the_parts_of_many_images_are_those_of_gaussians():
    vae = model(shift=0.5, stretch=1.5)
    x, _ = model_samples(vae, 3000)
    found = decompose_kl(vae, x)
    # z = A (x − b) + 0.5 + stretch · s · ε with x ~ N(b, W Wᵀ + σ² I): every part is Gaussian
    w = vae.decoder.weight.detach().double().numpy()
    m = (w**2).sum(0) + SIGMA**2
    a = w.T / m[:, None]
    noise = np.diag((1.5 * SIGMA) ** 2 / m)
    signal = a @ (w @ w.T + SIGMA**2 * np.eye(len(w))) @ a.T
    total = signal + noise
    information = 0.5 * np.log(np.linalg.det(total) / np.linalg.det(noise))
    correlation = 0.5 * np.log(np.diag(total).prod() / np.linalg.det(total))
    variance = np.diag(total)
    dimension = 0.5 * (variance + 0.25 - 1 - np.log(variance)).sum()
    for name, exact in zip(PARTS, (information, correlation, dimension), strict=True):
        assert abs(getattr(found, name) - exact) < 4 * found.errors[name].images + 0.02, name
    assert found.mutual_information < math.log(len(x))


def test_the_stratified_estimate_is_near_the_exact_sum(monkeypatch):
    vae = model(stretch=1.5)
    x, _ = model_samples(vae, 1200)
    x = x[vae.encode(x).mean[:, 0].argsort()]  # as a folder's images lie, class after class
    exact = decompose_kl(vae, x)
    monkeypatch.setattr(decomposition, "IMAGES_AT_ONCE", 400)
    estimate = decompose_kl(vae, x, exact=False)
    assert (exact.exact, estimate.exact) == (True, False)
    for name in PARTS:
        assert getattr(estimate, name) == pytest.approx(getattr(exact, name), abs=0.1), name
    kl = sum(getattr(estimate, name) for name in PARTS)
    assert kl == pytest.approx(sum(getattr(exact, name) for name in PARTS), abs=0.1)


def test_what_cannot_be_taken_apart():
    ladder = build("ladder", (1, 8, 8), 1, options={"network": {"channels": 4}})
    images = Images(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(LatensError, match="hierarchy"):
        decompose_kl(ladder, images)
    flow = build("mlp", (1, 8, 8), D, posterior="full")
    with pytest.raises(LatensError, match="diagonal Gaussian"):
        decompose_kl(flow, images)
