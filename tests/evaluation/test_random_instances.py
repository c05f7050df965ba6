"""Estimators on random linear-Gaussian models, in blocks and chunks of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.ppca import SIGMA, exact_kl, exact_log_prob, model

from latens.evaluation import metrics
from latens.evaluation.decomposition import decompose_kl
from latens.evaluation.metrics import evaluate
from latens.model import latent_model

SAMPLES = 500  # of z, from which the spread of one is known
SHIFT, STRETCH = st.floats(0, 0.1), st.floats(0.9, 1.5)  # of q's mean and scale


def images(vae, count, seed):
    generator = torch.Generator().manual_seed(2**20 + seed)  # not the noise of the estimators
    z = torch.randn(count, 2, generator=generator)
    with torch.no_grad():
        mean = vae.decoder(z) + vae.offset
    return (mean + SIGMA * torch.randn(mean.shape, generator=generator)).clamp(0, 1)


@settings(max_examples=20, deadline=None)
@given(
    shift=SHIFT,
    stretch=STRETCH,
    columns=st.tuples(st.floats(0.1, 1.5), st.floats(0.1, 1.5)),
    count=st.integers(2, 30),
    block=st.integers(1, 35),
    chunk=st.integers(300, 20_000),  # values of images at once
    seed=st.integers(0, 2**20),
)
def test_elbo_kl_and_nll_agree_with_the_exact_ones(
    shift, stretch, columns, count, block, chunk, seed
):
    vae = model(shift, stretch)
    with torch.no_grad():
        vae.decoder.weight.mul_(torch.tensor(columns) / vae.decoder.weight.norm(dim=0))
    x = images(vae, count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "IMAGES_IN_BLOCK", block)
        patch.setattr(latent_model, "VALUES_AT_ONCE", chunk)
        found = evaluate(vae, x, importance_samples=200, seed=seed)
    exact = -exact_log_prob(vae, x).mean()
    # 5 standard errors: of 20 instances with two figures each one may pass 4
    assert abs(found.nll - exact) < 5 * found.nll_stderr + 0.005  # and the bound's own gap
    assert found.kl == pytest.approx(exact_kl(vae, x), rel=1e-4)
    gap = gap_of(vae, x, shift, stretch)
    # Of one z for each image, by many: the error that is told rests on few, of the first block
    with torch.no_grad():
        one_z = vae.draw(x, None, SAMPLES).log_px_z.double().var(0).sum().sqrt().item() / count
    assert abs(-found.elbo - exact - gap) < 5 * one_z + 1e-3


def gap_of(vae, x, shift, stretch):
    """KL(q ‖ p(z|x)) of Gaussians with shifted means and stretched scales, in closed form."""
    w = vae.decoder.weight.detach().double()
    var = SIGMA**2 / ((w**2).sum(0) + SIGMA**2)
    gap = 0.5 * (shift**2 / var + stretch**2 - 1) - np.log(stretch)
    return gap.sum().item()


@settings(max_examples=10, deadline=None)
@given(shift=SHIFT, stretch=STRETCH, count=st.integers(10, 80), seed=st.integers(0, 2**20))
def test_the_parts_of_the_kl_add_up(shift, stretch, count, seed):
    vae = model(shift, stretch)
    x = images(vae, count, seed)
    parts = decompose_kl(vae, x, seed=seed)
    whole = parts.mutual_information + parts.total_correlation + parts.dimension_kl
    sampled = parts.errors["mutual_information"].total + parts.errors["total_correlation"].total
    sampled += parts.errors["dimension_kl"].total
    assert abs(whole - exact_kl(vae, x)) < 4 * sampled
    assert parts.mutual_information < np.log(count) + 1e-6
