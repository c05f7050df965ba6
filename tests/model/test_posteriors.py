import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from latens import DiagonalGaussian, Gaussian, GaussianMixture, LatensError, StandardNormal
from latens.model import priors
from latens.model.parts import from_config, to_config
from latens.model.posteriors import LOGVAR_BOUND
from latens.model.recipes import RECIPES, build


def test_it_is_the_gaussian_of_its_linear_layer():
    posterior = DiagonalGaussian(7, 3)
    features = torch.randn(5, 7)
    mean, logvar = posterior.parameters_of_q(features).chunk(2, 1)
    logvar = LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)
    z = torch.randn(5, 3)
    expected = -0.5 * (
        math.log(2 * math.pi) + logvar + (z - mean) ** 2 / logvar.exp()
    )  # log N(z; μ, σ²) for each dimension
    q = posterior(features)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    torch.testing.assert_close(q.log_prob(z), expected.sum(1))


def test_its_variance_stays_finite_whatever_the_features():
    posterior = DiagonalGaussian(2, 2)
    for size in (1e4, -1e4, 1e30):
        q = posterior(torch.full((1, 2), size))
        scale = q.base_dist.scale
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()


def test_without_a_latent_dimension_there_is_none():
    with pytest.raises(LatensError, match="1 or more"):
        DiagonalGaussian(4, 0)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_the_prior_is_standard_normal(shape):
    p = StandardNormal(shape)()
    z = torch.randn(6, *shape)
    expected = torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(p.log_prob(z), expected)
    assert p.event_shape == shape


def test_a_mixture_is_the_weighted_sum_of_its_gaussians():
    prior = GaussianMixture((3,), components=4)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_()
    z = torch.randn(6, 3)
    scale = (priors.LEAST_SCALE + prior.log_scale.exp()).detach().double().numpy()
    weights = prior.logits.detach().double().softmax(0).numpy()
    expected = logsumexp(
        [
            multivariate_normal(m, np.diag(s**2)).logpdf(z.numpy()) + np.log(w)
            for m, s, w in zip(prior.mean.detach().numpy(), scale, weights, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), expected, rtol=1e-4)
    assert prior().sample((5,)).shape == (5, 3)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_a_mixture_begins_near_the_standard_normal(shape):
    prior = GaussianMixture(shape)
    z = prior().sample((20_000,))
    assert z.shape[1:] == prior().event_shape == shape
    assert z.mean(0).abs().max() < 0.15
    assert (z.var(0) - 1).abs().max() < 0.25


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(LatensError, match="1 or more"):
        GaussianMixture((2,), components=0)


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_takes_a_mixture(name):
    prior = GaussianMixture((3,), components=5)
    vae = build(name, (2, 17, 23), 3, Gaussian(), prior=prior, labels=4)
    again = from_config(to_config(vae))
    assert (type(again.prior), again.prior.components) == (GaussianMixture, 5)
    draw = vae.draw(torch.rand(6, 2, 17, 23), torch.randint(0, 4, (6,)))
    assert draw.kl is None
    torch.testing.assert_close(draw.kl_per_image, (draw.log_qz_x - draw.log_pz).mean(0))
    draw.kl_per_image.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
