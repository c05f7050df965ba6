import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import latens
from latens import DiagonalGaussian, GaussianMixture, LatensError, StandardNormal, catalogue
from latens.model import priors
from latens.model.distributions import LOGVAR_BOUND, diagonal_normal, kl
from latens.model.parts import from_config, to_config
from latens.model.posteriors import DiagonalGaussianMap
from latens.model.recipes import RECIPES, build


def no_posterior(_images):
    raise AssertionError("this prior asks for no posterior")


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
    with pytest.raises(LatensError, match="it must be above 0"):
        DiagonalGaussian(4, 0)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_the_prior_is_standard_normal(shape):
    p = StandardNormal(shape)(no_posterior)
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
    np.testing.assert_allclose(
        prior(no_posterior).log_prob(z).detach().numpy(), expected, rtol=1e-4
    )
    assert prior(no_posterior).sample((5,)).shape == (5, 3)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_a_mixture_begins_near_the_standard_normal(shape):
    prior = GaussianMixture(shape)
    z = prior(no_posterior).sample((20_000,))
    assert z.shape[1:] == prior(no_posterior).event_shape == shape
    assert z.mean(0).abs().max() < 0.15
    assert (z.var(0) - 1).abs().max() < 0.25


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(LatensError, match="1 or more"):
        GaussianMixture((2,), components=0)


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_takes_a_mixture(name):
    options = {"prior": {"components": 5}}
    vae = build(
        name, (2, 17, 23), 3, prior="mixture", likelihood="gaussian", labels=4, options=options
    )
    again = from_config(to_config(vae))
    assert (type(again.prior), again.prior.components) == (GaussianMixture, 5)
    draw = vae.draw(torch.rand(6, 2, 17, 23), torch.randint(0, 4, (6,)))
    assert draw.kl_per_dim is None
    top = draw.latents[0]
    torch.testing.assert_close(draw.kl_per_level[:, 0], (top.log_q - top.log_p).mean(0))
    draw.kl.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.prior.parameters())


# ---- full covariance, and a flow -------------------------------------------------------------

SHAPE = (1, 8, 8)


def vae_with(posterior):
    return latens.VAE(
        latens.MLPEncoder(SHAPE, (16,)), latens.MLPDecoder(3, SHAPE, (16,)), posterior=posterior
    )


def away_from_the_start(posterior):
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return posterior


OTHERS = {
    "full": lambda: latens.FullCovarianceGaussian(16, 3),
    "iaf": lambda: latens.IAF(16, 3, iaf_steps=2, iaf_width=8),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_posterior_composes_learns_and_is_saved(name, tmp_path):
    vae = vae_with(away_from_the_start(OTHERS[name]()))
    latens.ELBO()(vae.draw(torch.rand(6, *SHAPE))).per_image.sum().backward()
    for parameter_name, parameter in vae.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
    vae.eval().save_pretrained(tmp_path / "vae")
    again, x = latens.load(tmp_path / "vae"), torch.rand(4, *SHAPE)
    assert torch.equal(vae.embed(x), again.embed(x))
    assert torch.equal(vae.embed(x), vae.embed(x))
    assert vae.reconstruct(x).shape == x.shape
    assert vae.log_prob(x, samples=3).isfinite().all()
    assert vae.encode(x).variance.shape == (4, 3)


@pytest.mark.parametrize("name", OTHERS)
def test_a_posterior_starts_close_to_the_unit_gaussian(name):
    q = OTHERS[name]()(torch.randn(5, 16))
    z = torch.randn(200, 5, 3)
    difference = q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(2)
    assert difference.abs().mean() < 0.5


def test_the_full_covariance_is_that_of_its_samples_and_its_kl_torchs():
    q = away_from_the_start(latens.FullCovarianceGaussian(16, 3))(torch.randn(2, 16))
    samples = q.sample((60_000,))
    for i in range(2):
        expected = torch.cov(samples[:, i].T)
        torch.testing.assert_close(q.covariance_matrix[i], expected, atol=0.05, rtol=0.05)
    p = diagonal_normal(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.7, 2.0, 1.0]), 1)
    full = MultivariateNormal(p.mean, covariance_matrix=torch.diag(p.variance))
    per_dim = kl(q, p)
    assert (per_dim >= 0).all()
    torch.testing.assert_close(per_dim.sum(1), kl_divergence(q, full))


def test_the_kl_of_each_dimension_is_that_of_its_conditional():
    """The first dimension's is that of its marginal, whatever follows it."""
    q = away_from_the_start(latens.FullCovarianceGaussian(16, 3))(torch.randn(2, 16))
    p = diagonal_normal(torch.zeros(3), torch.ones(3), 1)
    first = kl_divergence(Normal(q.mean[:, 0], q.variance[:, 0].sqrt()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl(q, p)[:, 0], first)


def test_the_density_of_a_flow_is_that_of_the_change_of_variables():
    """By the determinant of the Jacobian that autograd finds, in float64."""
    posterior = away_from_the_start(latens.IAF(16, 3, iaf_steps=3, iaf_width=8)).double()
    q = posterior(torch.randn(1, 16, dtype=torch.float64))
    noise = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.transform(e[None])[0], noise)
    z = q.transform(noise[None])
    expected = q.base.log_prob(noise[None]) - jacobian.det().abs().log()
    torch.testing.assert_close(q.log_prob(z), expected)
    samples, log_q = q.rsample_and_log_prob((7,))
    torch.testing.assert_close(q.log_prob(samples), log_q)


def test_a_flow_integrates_to_one_and_its_variance_is_estimated():
    q = away_from_the_start(latens.IAF(16, 2, iaf_steps=2, iaf_width=8))(0.3 * torch.randn(1, 16))
    axis = torch.linspace(-20, 20, 1601)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        density = q.log_prob(grid).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(q.variance, q.variance)
    spread = q.sample((20_000,)).var(0)
    torch.testing.assert_close(q.variance, spread, rtol=0.6, atol=0.05)


def test_the_kl_of_a_flow_is_estimated(digits):
    vae = vae_with(away_from_the_start(OTHERS["iaf"]()))
    x = digits.test.unit()[:3]
    draw = vae.draw(x, samples=4000)
    assert draw.kl_per_dim is None
    z = draw.latents[0].z
    expected = (draw.latents[0].q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(2)).mean(0)
    torch.testing.assert_close(draw.kl, expected, rtol=1e-3, atol=1e-3)


def test_a_flow_is_in_float32_under_autocast():
    posterior, features = away_from_the_start(latens.IAF(16, 3, iaf_width=8)), torch.randn(4, 16)
    mean = posterior(features).mean
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(posterior(features).mean, mean)


def test_a_flow_leaves_torchs_checks_of_arguments_on():
    latens.IAF(16, 3)
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        Normal(0.0, -1.0)


@pytest.mark.parametrize("name", ["gaussian", "full", "iaf"])
@pytest.mark.parametrize("dims", [1, 3])
def test_it_starts_narrow_over_the_data(name, dims):
    """So that a decoder's first steps see more of the image in z than noise."""
    posterior = catalogue.build("posterior", name, {}, features=12, latent_dim=dims)
    features = 5 + 3 * torch.rand(200, 12)
    posterior.start_narrow(features)
    q = posterior(features)
    expect_narrow(q.base if name == "iaf" else q, (0,))


def test_a_map_starts_narrow_over_its_positions():
    posterior, features = DiagonalGaussianMap(6, (2, 3, 4)), 5 + 3 * torch.rand(50, 6, 3, 4)
    posterior.start_narrow(features)
    expect_narrow(posterior(features), (0, 2, 3))


def expect_narrow(q, over):
    spread = q.mean.std(over)
    torch.testing.assert_close(spread, torch.full_like(spread, 0.3), atol=1e-3, rtol=0)
    torch.testing.assert_close(q.mean.mean(over), torch.zeros_like(spread), atol=1e-4, rtol=0)
    assert ((q.stddev > 0.04) & (q.stddev < 0.25)).all()


def test_of_features_that_are_all_alike_it_starts_finite():
    posterior = DiagonalGaussian(12, 2)
    posterior.start_narrow(torch.ones(9, 12))
    assert posterior(torch.ones(9, 12)).mean.isfinite().all()


def test_a_full_covariance_is_sampled_in_float32_under_autocast():
    q = away_from_the_start(latens.FullCovarianceGaussian(16, 3))(torch.randn(2, 16))
    torch.manual_seed(0)
    expected = q.rsample()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(q.rsample(), expected)
