import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from latens import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    Laplace,
    LatensError,
    LogisticMixture,
    SquaredError,
)


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


@pytest.mark.parametrize("logit", [-60.0, -3.0, 0.0, 0.02, 8.0, 60.0])
def test_samples_of_the_continuous_bernoulli_follow_its_density(logit):
    """At logits of 60 torch's samples have a mean of 0.94, not 0.98."""
    p = ContinuousBernoulli()(torch.full((1, 1, 1), logit))
    samples = np.sort(p.sample((20_000,)).double().numpy().ravel())
    cdf = samples if logit == 0 else np.expm1(logit * samples) / np.expm1(logit)
    statistic = np.abs(cdf - (np.arange(20_000) + 0.5) / 20_000).max()
    assert statistic < 1.95 / np.sqrt(20_000)  # Kolmogorov and Smirnov at 0.1 %


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


@pytest.mark.parametrize("likelihood", [SquaredError(), Gaussian(0.3), Gaussian()])
def test_the_squared_error_is_read_off_the_nats(likelihood):
    x, mean = torch.rand(5, 2, 3, 3), torch.rand(5, 2, 3, 3)
    nats = -likelihood(mean).log_prob(x).mean().item()
    expected = (x - mean).square().sum((1, 2, 3)).mean().item()
    assert likelihood.squared_error(nats, 18) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_of_mse_is_that_of_the_squared_error():
    x, mean = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(-SquaredError()(mean).log_prob(x).sum(), mean)
    torch.testing.assert_close(gradient, 2 * (mean - x))


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


# ---- Laplace ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0, None])
def test_laplace_agrees_with_scipy(scale):
    likelihood = Laplace(scale)
    mean, x = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)
    b = scale or likelihood(mean).base_dist.scale.flatten()[0].item()
    expected = stats.laplace(mean.numpy(), b).logpdf(x.numpy()).sum((1, 2, 3))
    np.testing.assert_allclose(likelihood(mean).log_prob(x).detach(), expected, rtol=1e-4)
    assert likelihood.kind(binary_pixels=True) == "density"
    with pytest.raises(LatensError, match="above 0"):
        Laplace(0.0)


# ---- a mixture of discretised logistics ------------------------------------------------------

VALUES = torch.arange(256) / 255


def some_mixture(channels, components=3):
    likelihood = LogisticMixture(components)
    parameters = torch.randn(likelihood.decoder_channels(channels), 1, 1)
    parameters[components : components * (1 + channels)] = torch.rand(components * channels, 1, 1)
    return likelihood, parameters


@pytest.mark.parametrize(("channels", "expected"), [(1, 30), (2, 60), (3, 100)])
def test_as_many_parameters_as_in_pixelcnn(channels, expected):
    assert LogisticMixture().decoder_channels(channels) == expected


def test_a_grey_mixture_sums_to_one():
    likelihood, parameters = some_mixture(1)
    p = likelihood(parameters)
    total = p.log_prob(VALUES.reshape(-1, 1, 1, 1)).double().logsumexp(0)
    assert total.item() == pytest.approx(0, abs=1e-4)


def test_each_channel_sums_to_one_given_the_earlier_ones():
    """P(r, g, b) summed over b and g is P(r), which has no parameter of theirs."""
    likelihood, parameters = some_mixture(3, components=2)
    p, red = likelihood(parameters), 0.4
    green, blue = torch.meshgrid(VALUES, VALUES, indexing="ij")
    images = torch.stack((torch.full_like(green, red), green, blue), -1).reshape(-1, 3, 1, 1)
    summed = p.log_prob(images).double().logsumexp(0)
    grey = LogisticMixture(2)(torch.cat((parameters[:4], parameters[8:10])))
    expected = grey.log_prob(torch.full((1, 1, 1, 1), red))
    assert summed.item() == pytest.approx(expected.item(), abs=1e-3)
    whole = p.log_prob(images).double().reshape(256, 256)
    given_green = (whole.logsumexp(1) - summed).exp()
    assert given_green.sum().item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_of_one_is_the_discretised_logistic():
    likelihood, single = LogisticMixture(1), DiscretisedLogistic()
    loc, x = torch.rand(4, 1, 5, 5), (torch.rand(4, 1, 5, 5) * 255).round() / 255
    log_scale = torch.full_like(loc, single(loc).log_scale.flatten()[0].item())
    parameters = torch.cat((torch.randn(4, 1, 5, 5), loc, log_scale), 1)
    torch.testing.assert_close(likelihood(parameters).log_prob(x), single(loc).log_prob(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_a_mixture_are_as_common_as_their_probability(channels):
    likelihood, parameters = some_mixture(channels)
    parameters[3 * (1 + channels) : 3 * (1 + 2 * channels)] = -1.0  # wide, so no value dominates
    p = likelihood(parameters)
    samples = p.sample((20_000,))
    assert samples.shape == (20_000, channels, 1, 1)
    assert torch.equal((samples * 255).round() / 255, samples)
    # E[−log P] of samples is the entropy only if they are P's; by halves of red against its mass
    red = samples[:, 0].flatten()
    grey = LogisticMixture(3)(
        torch.cat((parameters[:6], parameters[3 * (1 + channels) : 3 * (1 + channels) + 3]))
    )
    mass = grey.log_prob(VALUES.reshape(-1, 1, 1, 1)).exp()
    for low, high in ((0, 64), (64, 128), (128, 192), (192, 256)):
        share = ((red >= low / 255) & (red < high / 255 - 1e-6)).float().mean().item()
        assert share == pytest.approx(mass[low:high].sum().item(), abs=0.015)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_mixture_starts_at_the_mean_and_passes_gradients(channels):
    likelihood, mean = LogisticMixture(5), torch.rand(channels, 4, 5)
    parameters = likelihood.parameters_at(mean)
    assert parameters.shape == (likelihood.decoder_channels(channels), 4, 5)
    torch.testing.assert_close(likelihood(parameters).mean, mean)
    parameters = (parameters + 0.1 * torch.randn_like(parameters)).requires_grad_()
    likelihood(parameters).log_prob(torch.rand(2, channels, 4, 5)).sum().backward()
    assert (parameters.grad != 0).float().mean() > 0.95
    assert likelihood.kind(binary_pixels=False) == "8-bit"
    with pytest.raises(LatensError, match="1 or more"):
        LogisticMixture(0)


@pytest.mark.parametrize("wild", [-200.0, 95.0, 200.0])
def test_a_wild_scale_of_a_mixture_ends_in_no_nan(wild):
    likelihood, parameters = some_mixture(3)
    parameters[12:21] = wild  # the logarithms of all scales
    log_p = likelihood(parameters.requires_grad_()).log_prob(torch.rand(3, 1, 1))
    log_p.backward()
    assert log_p.isfinite()
    assert parameters.grad.isfinite().all()
