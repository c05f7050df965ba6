import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
)

from latens.model.distributions import (
    BernoulliImage,
    DiagonalMixture,
    DiscretisedLogistic,
    diagonal_normal,
    kl,
)
from latens.model.noise import forked_rng


@given(
    mean=st.floats(-3, 3), scale=st.floats(0.05, 3), other=st.floats(-3, 3), width=st.floats(0.1, 3)
)
def test_kl_is_the_integral(mean, scale, other, width):
    q = diagonal_normal(torch.tensor([[mean]]), torch.tensor([[scale]]), 1)
    p = diagonal_normal(torch.tensor([other]), torch.tensor([width]), 1)
    one, two = stats.norm(mean, scale), stats.norm(other, width)
    expected, _ = integrate.quad(
        lambda z: one.pdf(z) * (one.logpdf(z) - two.logpdf(z)),
        mean - 9 * scale,
        mean + 9 * scale,
        limit=200,
    )
    found = kl(q, p)
    assert found is not None
    assert found.shape == (1, 1)
    torch.testing.assert_close(found.item(), expected, rtol=1e-3, atol=1e-4)


def test_kl_agrees_with_sampling():
    q = diagonal_normal(torch.randn(6, 4), torch.rand(6, 4) + 0.2, 1)
    p = diagonal_normal(torch.zeros(4), torch.ones(4), 1)
    z = q.sample((40_000,))
    difference = q.log_prob(z) - p.log_prob(z)  # [K, B]
    error = difference.std(0) / 200
    found = kl(q, p)
    assert found is not None
    assert ((found.sum(1) - difference.mean(0)).abs() < 4 * error).all()


def test_kl_keeps_the_latent_dimensions_of_a_map():
    q = diagonal_normal(torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.1, 3)
    p = diagonal_normal(torch.zeros(3, 4, 5), torch.ones(3, 4, 5), 3)
    found = kl(q, p)
    assert found is not None
    assert found.shape == (2, 3, 4, 5)
    torch.testing.assert_close(
        found.flatten(1).sum(1), torch.distributions.kl_divergence(q, p.expand(q.batch_shape))
    )


def test_kl_without_a_closed_form_is_none():
    q = Independent(Laplace(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    p = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    assert kl(q, p) is None
    assert kl(p, q) is None


# ---- the discretised logistic ----------------------------------------------------------------

VALUES = torch.arange(256, dtype=torch.float64) / 255


def pixel(loc, log_scale):
    """A discretised logistic of one pixel with `len(loc)` channels."""
    return DiscretisedLogistic(
        *(torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (loc, log_scale))
    )


@given(loc=st.floats(-2, 3), log_scale=st.floats(-7, 3))
def test_the_256_values_of_a_pixel_sum_to_one(loc, log_scale):
    log_p = pixel([loc], [log_scale]).log_prob(VALUES[:, None, None, None])
    torch.testing.assert_close(log_p.logsumexp(0).item(), 0.0, rtol=0, atol=1e-9)


def test_the_values_of_two_channels_sum_to_one_together():
    p = pixel([0.3, 0.6], [-2.5, -3.0])
    both = torch.cartesian_prod(VALUES, VALUES)[:, :, None, None]
    torch.testing.assert_close(p.log_prob(both).logsumexp(0).item(), 0.0, rtol=0, atol=1e-9)


def test_a_value_has_the_mass_of_scipys_logistic_around_it():
    p, logistic = pixel([0.4], [-2.0]), stats.logistic(0.4, np.exp(-2.0))
    edges = (np.arange(257) - 0.5) / 255
    edges[0], edges[-1] = -np.inf, np.inf
    expected = np.log(np.diff(logistic.cdf(edges)))
    found = p.log_prob(VALUES[:, None, None, None])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_samples_are_as_common_as_their_probability():
    p = pixel([0.1, 0.5], [-3.0, -3.0])
    drawn = p.sample((40_000,))
    assert drawn.shape == (40_000, 2, 1, 1)
    assert torch.equal((drawn * 255).round() / 255, drawn)
    both = torch.cartesian_prod(VALUES, VALUES)[:, :, None, None]
    weight = p.log_prob(both).exp()[:, None]
    expected = (weight * both.flatten(1)).sum(0)
    second = (weight * both.flatten(1) ** 2).sum(0)
    error = (second - expected**2).sqrt() / 200
    assert ((drawn.flatten(1).mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("log_scale", [-7.0, 3.0])
def test_gradients_stay_finite_far_from_the_value(log_scale):
    loc = torch.tensor([[[5.0]]], requires_grad=True)
    scale = torch.tensor([[[log_scale]]], requires_grad=True)
    for value in (0.0, 0.5, 1.0):
        p = DiscretisedLogistic(loc, scale)
        p.log_prob(torch.tensor([[[value]]])).backward()
    assert loc.grad is not None
    assert torch.isfinite(loc.grad).all()
    assert scale.grad is not None
    assert torch.isfinite(scale.grad).all()


def test_a_bernoulli_image_is_torchs_with_its_gradient():
    logits = (5 * torch.randn(3, 2, 4, 5)).requires_grad_()
    with torch.no_grad():
        logits[0, 0, 0] = torch.tensor([-200.0, 200.0, 0.0, 30.0, -30.0])
    grey = torch.rand(2, 4, 5)
    torchs = Independent(Bernoulli(logits=logits, validate_args=False), 3)
    found, expected = BernoulliImage(logits).log_prob(grey), torchs.log_prob(grey)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), logits),
        torch.autograd.grad(expected.sum(), logits),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    assert BernoulliImage(logits).event_shape == (2, 4, 5)


@pytest.mark.parametrize("width", [1.0, 1e-3])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_a_diagonal_mixture_is_torchs(width, shape):
    logits, mean = torch.randn(7), 3 * torch.randn(7, *shape)
    scale = width * (torch.rand(7, *shape) + 0.2)
    components = Independent(Normal(mean, scale), len(shape))
    torchs = MixtureSameFamily(Categorical(logits=logits), components)
    mine = DiagonalMixture(logits, mean, scale)
    z = torchs.sample((4, 5))  # near narrow components, where the terms cancel
    torch.testing.assert_close(mine.log_prob(z), torchs.log_prob(z), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mine.mean, torchs.mean)
    drawn = mine.sample((20_000,))
    assert drawn.shape == (20_000, *shape)
    error = torchs.variance.sqrt() / math.sqrt(20_000)
    assert ((drawn.mean(0) - torchs.mean).abs() < 5 * error).all()


def test_a_seed_for_a_while_leaves_all_other_generators_alone(monkeypatch):
    """`torch.manual_seed` would seed every accelerator."""
    torch.manual_seed(3)
    first, following = torch.rand(2), torch.rand(2)
    torch.manual_seed(7)
    seeded = torch.rand(2)
    torch.manual_seed(3)
    monkeypatch.setattr(torch, "manual_seed", None)
    assert torch.equal(torch.rand(2), first)
    with forked_rng("cpu", 7):
        assert torch.equal(torch.rand(2), seeded)
    with forked_rng():
        assert torch.equal(torch.rand(2), following)
    assert torch.equal(torch.rand(2), following)
