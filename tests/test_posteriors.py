import math

import pytest
import torch

from latens import DiagonalGaussian, LatensError, StandardNormal
from latens.posteriors import LOGVAR_BOUND


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
