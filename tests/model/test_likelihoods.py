import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from latens import Bernoulli, ContinuousBernoulli, DiscretisedLogistic, Gaussian, LatensError


def test_bernoulli_sums_to_one_over_all_binary_images():
    p = Bernoulli()(torch.randn(1, 1, 2, 3))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 1, 2, 3)
    torch.testing.assert_close(p.log_prob(every).logsumexp(0).item(), 0.0, atol=1e-5, rtol=0)


def test_bernoulli_on_grey_pixels_is_minus_the_cross_entropy():
    logits, x = torch.randn(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    prob = torch.sigmoid(logits)
    expected = (x * prob.log() + (1 - x) * (1 - prob).log()).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli()(logits).log_prob(x), expected)


def test_bernoulli_stays_finite_where_sigmoid_saturates():
    p = Bernoulli()(torch.full((1, 1, 1, 2), 110.0))
    x = torch.tensor([[[[1.0, 0.0]]]])
    torch.testing.assert_close(p.log_prob(x), torch.tensor([-110.0]))


@pytest.mark.parametrize("logit", [-30.0, -2.0, -0.011, -0.009, 0.0, 0.004, 0.5, 12.0])
def test_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit):
    p = ContinuousBernoulli()(torch.tensor([[[[logit]]]]))
    x = torch.linspace(0, 1, 20_001)
    density = p.log_prob(x.reshape(-1, 1, 1, 1)).exp().numpy()
    assert integrate.simpson(density, x=x.numpy()) == pytest.approx(1, abs=1e-4)
    mean = integrate.simpson(density * x.numpy(), x=x.numpy())
    assert p.mean.item() == pytest.approx(mean, abs=1e-4)


def test_continuous_bernoulli_is_torchs_where_torch_does_not_clamp():
    logits, x = 4 * torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    torchs = torch.distributions.ContinuousBernoulli(logits=logits)
    p = ContinuousBernoulli()(logits)
    torch.testing.assert_close(
        p.log_prob(x), torchs.log_prob(x).sum((1, 2, 3)), rtol=1e-4, atol=1e-3
    )
    samples = p.sample((4000,))
    torch.testing.assert_close(samples.mean(0), p.mean, atol=0.03, rtol=0)


def test_continuous_bernoulli_is_finite_at_extreme_logits():
    logits = torch.tensor([[[[200.0, -200.0, 0.0]]]], requires_grad=True)
    log_p = ContinuousBernoulli()(logits).log_prob(torch.tensor([[[[1.0, 0.0, 0.3]]]]))
    assert log_p.item() == pytest.approx(2 * np.log(200), rel=1e-4)  # and 0 of the uniform
    log_p.sum().backward()
    assert logits.grad.isfinite().all()


def test_continuous_bernoulli_starts_at_the_mean():
    mean = torch.tensor([[[0.02, 0.3, 0.5, 0.8, 0.97]]])
    likelihood = ContinuousBernoulli()
    torch.testing.assert_close(likelihood(likelihood.parameters_at(mean)).mean, mean)


def test_gaussian_integrates_to_one():
    p = Gaussian(0.3)(torch.tensor([[[[0.4]]]]))
    density = lambda x: p.log_prob(torch.tensor([[[[x]]]], dtype=torch.float32)).exp().item()
    assert integrate.quad(density, -3, 4)[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, None])
def test_gaussian_agrees_with_scipy(scale):
    likelihood = Gaussian(scale)
    mean, x = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)
    sigma = scale or likelihood(mean).base_dist.scale.flatten()[0].item()
    expected = stats.norm(mean.numpy(), sigma).logpdf(x.numpy()).sum((1, 2, 3))
    np.testing.assert_allclose(likelihood(mean).log_prob(x).detach(), expected, rtol=1e-4)


def test_learned_sigma_finds_the_spread_of_the_data():
    likelihood = Gaussian()
    optimiser = torch.optim.Adam(likelihood.parameters(), lr=0.02)
    x = 0.5 + 0.07 * torch.randn(1000, 1, 2, 2)
    for _ in range(400):
        optimiser.zero_grad()
        (-likelihood(torch.full_like(x, 0.5)).log_prob(x).mean()).backward()
        optimiser.step()
    sigma = likelihood(x).base_dist.scale.flatten()[0].item()
    assert sigma == pytest.approx(x.std().item(), rel=0.02)


def test_learned_sigma_cannot_fall_below_one_grey_level():
    likelihood = Gaussian()
    with torch.no_grad():
        likelihood.log_scale.fill_(-50)
    assert likelihood(torch.zeros(1, 1, 1, 1)).base_dist.scale.item() >= 1 / 256


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_must_be_above_zero(scale):
    with pytest.raises(LatensError, match="above 0"):
        Gaussian(scale)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian()])
def test_parameters_at_gives_the_mean_back(likelihood):
    mean = torch.rand(3, 4, 4) * 0.9 + 0.05
    parameters = likelihood.parameters_at(mean)
    assert parameters.shape == (likelihood.decoder_channels(3), 4, 4)
    torch.testing.assert_close(likelihood(parameters).mean, mean)


def test_kind_names_what_the_number_is():
    assert Bernoulli().kind(binary_pixels=True) == "binary"
    assert Bernoulli().kind(binary_pixels=False) == "grey cross-entropy"
    assert Gaussian().kind(binary_pixels=False) == "density"


def test_the_discretised_logistic_starts_at_the_mean():
    likelihood, mean = DiscretisedLogistic(), torch.rand(3, 4, 5)
    parameters = likelihood.parameters_at(mean)
    assert parameters.shape == (likelihood.decoder_channels(3), 4, 5) == (3, 4, 5)
    p = likelihood(parameters)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.log_scale.exp(), torch.full((3, 4, 5), 0.1), rtol=0.02, atol=0)
    assert likelihood.kind(binary_pixels=False) == "8-bit"


def test_the_learned_scale_finds_that_of_the_data_and_has_a_floor():
    likelihood = DiscretisedLogistic()
    optimiser = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    x = likelihood(torch.full((2000, 1, 2, 2), 0.5)).sample()
    with torch.no_grad():
        likelihood.log_scale.fill_(-6)
    for _ in range(400):
        optimiser.zero_grad()
        (-likelihood(torch.full_like(x, 0.5)).log_prob(x).mean()).backward()
        optimiser.step()
    assert likelihood.log_scale.exp().item() == pytest.approx(0.1, rel=0.05)
    with torch.no_grad():
        likelihood.log_scale.fill_(-50)
    assert likelihood(x).log_scale.flatten()[0].item() == pytest.approx(-7)
