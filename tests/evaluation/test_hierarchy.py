"""A model of two levels, written with what latens exports, against its exact log p(x).

z₂ ~ N(0, I), z₁|z₂ ~ N(W₂ z₂ + b₂, s² I), x|z₁ ~ N(W₁ z₁ + b₁, σ² I): all is Gaussian, so that
p(x) = N(W₁ b₂ + b₁, W₁ (W₂ W₂ᵀ + s² I) W₁ᵀ + σ² I), and both posteriors have a closed form. At the
exact q(z₂|x) q(z₁|x, z₂) the ELBO is log p(x) itself; elsewhere it lies below by KL(q ‖ p(z|x)).
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import latens
from latens import Draw, Gaussian, Latent, LatentModel
from latens.config import TrainConfig
from latens.evaluation.findings import findings_of_training
from latens.evaluation.metrics import evaluate

SHAPE, UPPER, LOWER = (1, 3, 4), 2, 3
S, SIGMA = 0.6, 0.3
WRONG = {"shift": 0.1, "stretch": 1.3}


class Chain(LatentModel):
    """Two levels of latents; the lower one follows from the upper one, which stands for the image.

    Args:
        shift, stretch: what is wrong with q: every mean is moved so far, every scale multiplied.
    """

    def __init__(self, shift: float = 0.0, stretch: float = 1.0):
        super().__init__()
        self.shift, self.stretch = shift, stretch
        self.image_shape, self.latent_shape = SHAPE, (UPPER,)
        self.likelihood = Gaussian(SIGMA)
        pixels = math.prod(SHAPE)
        self.upper = nn.Linear(UPPER, LOWER)  # W₂ and b₂
        self.lower = nn.Linear(LOWER, pixels)  # W₁ and b₁

    def draw(self, x, y=None, samples=1, posterior=None):
        q2 = self.encode(x) if posterior is None else posterior
        upper = Latent.sample(q2, normal(torch.zeros(UPPER), torch.ones(UPPER)), samples)
        p1 = normal(self.upper(upper.z), torch.tensor(S))
        lower = Latent.sample(self.encode_lower(x, upper.z), p1)
        return Draw((upper, lower), self._likelihood_at(lower.z).log_prob(x))

    def encode(self, x, y=None):
        """q(z₂|x): exactly p(z₂|x), where nothing is wrong, but for the covariances.

        The columns of W₁ W₂ are not orthogonal, so the exact posterior has a full covariance.
        """
        w, noise = self.lower.weight @ self.upper.weight, self._noise_above()
        gain = w.T @ torch.linalg.inv(noise)
        covariance = torch.linalg.inv(torch.eye(UPPER) + gain @ w)
        centre = self.lower(self.upper.bias)
        mean = (x.flatten(1) - centre) @ (covariance @ gain).T
        tril = torch.linalg.cholesky(covariance) * self.stretch
        return MultivariateNormal(mean + self.shift, scale_tril=tril.expand(len(x), -1, -1))

    def encode_lower(self, x, z2):
        """q(z₁|x, z₂), batch [K, B]: diagonal where W₁ has orthogonal columns."""
        w = self.lower.weight
        precision = (w**2).sum(0) / SIGMA**2 + 1 / S**2
        data = (x.flatten(1) - self.lower.bias) @ w / SIGMA**2
        mean = (data + self.upper(z2) / S**2) / precision
        return normal(mean + self.shift, self.stretch * precision.rsqrt())

    def _noise_above(self):
        """Cov(x|z₂)."""
        w = self.lower.weight
        return S**2 * w @ w.T + SIGMA**2 * torch.eye(len(w))

    def _likelihood_at(self, z1):
        return self.likelihood(self.lower(z1).unflatten(-1, SHAPE))

    def decode(self, z, y=None):
        """At the mean z₁ of p(z₁|z₂)."""
        return self._likelihood_at(self.upper(z))

    def sample_prior(self, n, y=None):
        return torch.randn(n, UPPER)


def normal(mean, scale):
    return Independent(Normal(mean, scale.expand_as(mean)), 1)


def chain(**wrong):
    torch.manual_seed(1)
    model = Chain(**wrong)
    with torch.no_grad():
        for layer in (model.upper, model.lower):
            columns = torch.linalg.qr(
                torch.randn_like(layer.weight.T if layer is model.upper else layer.weight)
            )
            layer.bias.copy_(0.5 + 0.3 * torch.randn_like(layer.bias))
        columns = torch.linalg.qr(torch.randn(math.prod(SHAPE), LOWER)).Q
        model.lower.weight.copy_(columns * torch.tensor([0.9, 0.7, 0.5]))
    return model.eval()


def exact(model):
    """p(x) by SciPy."""
    w2, b2 = (p.detach().double().numpy() for p in model.upper.parameters())
    w1, b1 = (p.detach().double().numpy() for p in model.lower.parameters())
    covariance = w1 @ (w2 @ w2.T + S**2 * np.eye(LOWER)) @ w1.T + SIGMA**2 * np.eye(len(b1))
    return stats.multivariate_normal(w1 @ b2 + b1, covariance)


def exact_kl(model, x):
    """KL(q ‖ p) summed over both levels, the lower one's expectation in closed form too."""
    q2, p2 = model.encode(x), MultivariateNormal(torch.zeros(UPPER), torch.eye(UPPER))
    # The mean of q1 less that of p1 is linear in z2, and its expected square that of a Gaussian
    at = lambda z: model.encode_lower(x, z).mean - model.upper(z)
    slope = torch.stack([at(z) - at(0 * z) for z in torch.eye(UPPER)], -1)[0]  # [LOWER, UPPER]
    spread = (slope @ q2.covariance_matrix @ slope.T).diagonal(dim1=-2, dim2=-1)
    scale = model.encode_lower(x, q2.mean).stddev
    squares = scale**2 + at(q2.mean) ** 2 + spread
    lower = (0.5 * (squares / S**2 - 1) - (scale / S).log()).sum(1)
    return kl_divergence(q2, p2) + lower


@pytest.fixture
def x():
    return torch.rand(287, *SHAPE)


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


def test_at_the_exact_posteriors_elbo_and_nll_are_log_p(x):
    model = chain()
    truth = exact(model).logpdf(x.flatten(1).numpy())
    np.testing.assert_allclose(model.log_prob(x, samples=1), truth, atol=2e-4)  # no noise at all
    figures = evaluate(model, x, importance_samples=3)
    assert figures.nll == pytest.approx(-truth.mean(), abs=1e-4)
    assert figures.nll_stderr == pytest.approx(0, abs=1e-4)
    found, error = mean_and_error([evaluate(model, x, seed=seed).elbo for seed in range(40)])
    assert abs(found - truth.mean()) < 4 * error
    assert error < 0.02


def test_with_wrong_posteriors_the_estimates_hold_within_their_errors(x):
    model = chain(**WRONG)
    truth = exact(model).logpdf(x.flatten(1).numpy()).mean()
    figures = latens.evaluate(model, x, importance_samples=4000)
    assert 0 < figures.nll_stderr < 0.01
    assert abs(figures.nll + truth) < 4 * figures.nll_stderr
    repeats = [evaluate(model, x, seed=seed) for seed in range(40)]
    found, error = mean_and_error([figures.kl for figures in repeats])
    assert abs(found - exact_kl(model, x).mean().item()) < 4 * error
    assert error < 0.01
    # log p(x) − ELBO = KL(q ‖ p(z|x)): of the upper level, and what the lower one is off itself
    q, p = model.encode(x), chain().encode(x)
    upper = kl_divergence(q, p).mean().item()
    scale = chain().encode_lower(x, q.mean).stddev[0]
    lower = (0.5 * (1.3**2 + 0.1**2 / scale**2 - 1) - math.log(1.3)).sum().item()
    found, error = mean_and_error([figures.elbo for figures in repeats])
    assert abs(found - (truth - upper - lower)) < 4 * error
    assert upper + lower > 20 * error


def test_the_kl_is_that_of_both_levels(x):
    model = chain(**WRONG)
    draw = model.draw(x, samples=2000)
    upper, lower = draw.latents
    assert (upper.q.batch_shape, upper.p.batch_shape) == ((287,), ())
    assert (lower.q.batch_shape, lower.p.batch_shape) == ((2000, 287), (2000, 287))
    assert (upper.z.shape, lower.z.shape) == ((2000, 287, UPPER), (2000, 287, LOWER))
    assert (upper.kl.shape, lower.kl.shape) == ((287, UPPER), (287, LOWER))
    assert draw.kl_per_dim.shape == (287, UPPER + LOWER)
    torch.testing.assert_close(draw.kl_per_dim, torch.cat([upper.kl, lower.kl], 1))
    torch.testing.assert_close(draw.kl, draw.kl_per_dim.sum(1))
    torch.testing.assert_close(draw.kl, exact_kl(model, x), rtol=0.05, atol=0.1)
    for name in ("log_px_z", "log_pz", "log_qz_x", "log_weights"):
        assert getattr(draw, name).shape == (2000, 287), name
    torch.testing.assert_close(draw.log_pz, upper.log_p + lower.log_p)
    torch.testing.assert_close(draw.log_qz_x, upper.log_q + lower.log_q)
    # the Monte Carlo estimate of the same
    difference = (draw.log_qz_x - draw.log_pz).detach()
    error = difference.std(0) / math.sqrt(2000)
    assert ((difference.mean(0) - exact_kl(model, x)).abs() < 5 * error).all()
    figures = evaluate(model, x)
    assert len(figures.kl_per_dim) == UPPER
    assert sum(figures.kl_per_level) == pytest.approx(figures.kl, rel=1e-5)
    assert sum(figures.kl_per_dim) == pytest.approx(figures.kl_per_level[0], rel=1e-5)
    repeats = np.array([evaluate(model, x, seed=seed).kl_per_level for seed in range(40)])
    q2, p2 = model.encode(x), MultivariateNormal(torch.zeros(UPPER), torch.eye(UPPER))
    exact_upper = kl_divergence(q2, p2).mean().item()
    assert repeats[:, 0] == pytest.approx(exact_upper, rel=1e-4)  # in closed form
    found, error = mean_and_error(repeats[:, 1])
    assert abs(found - (exact_kl(model, x).mean().item() - exact_upper)) < 4 * error
    assert figures.active_units <= UPPER  # of what `embed` gives


def test_log_prob_rises_with_its_samples_to_the_exact_one(x):
    model = chain(shift=0.3, stretch=1.6)
    truth = exact(model).logpdf(x.flatten(1).numpy())
    bounds = [
        np.mean([model.log_prob(x, samples=k).mean().item() for _ in range(20)])
        for k in (1, 4, 20, 100)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1] < truth.mean() + 0.01
    np.testing.assert_allclose(
        chain(**WRONG).log_prob(x[:50], samples=20_000), truth[:50], atol=0.1
    )


def test_every_parameter_learns(x):
    """Of an importance-weighted bound too, whose gradient passes through both levels."""
    for objective in (latens.ELBO(), latens.IWAE(samples=3)):
        model = chain(**WRONG).train()
        objective(model.draw(x, samples=objective.samples)).per_image.mean().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == [], objective


def test_it_is_used_as_any_model_is(x):
    model = chain()
    assert not model.has_unit_prior
    assert model.label_embedding is None
    assert torch.equal(model.embed(x), model.encode(x).mean)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.embed(x)).mean.clamp(0, 1))
    samples = model.sample(2000)
    assert samples.shape == (2000, *SHAPE)
    assert samples.min() >= 0
    assert samples.max() <= 1
    path = model.interpolate(x[:4], x[4:8], steps=5)
    assert path.shape == (4, 5, *SHAPE)
    torch.testing.assert_close(path[:, 0], model.reconstruct(x[:4]))
    torch.testing.assert_close(path[:, -1], model.reconstruct(x[4:8]))
    assert model.decode_images(torch.randn(5, 3, UPPER)).shape == (5, 3, *SHAPE)


def test_saved_and_loaded_it_is_equal_to_the_bit(x, tmp_path):
    model = chain(**WRONG)
    model.save_pretrained(tmp_path)
    again = latens.load(tmp_path)
    assert isinstance(again, Chain)
    assert (again.shift, again.stretch) == (0.1, 1.3)
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    assert (
        evaluate(again, x, importance_samples=5).nll == evaluate(model, x, importance_samples=5).nll
    )


def test_it_is_trained_as_any_model_is(tmp_path):
    images = (torch.rand(200, *SHAPE) * 255).byte().numpy()
    model = Chain()
    options = {"epochs": 3, "device": "cpu", "report": False, "film": True, "ema": 0}
    run = latens.train(images, model=model, out=tmp_path / "run", **options)
    first, *_, last = run.metrics
    assert last["train"]["loss"] < first["train"]["loss"]
    assert len(last["validation"]["kl_per_dim"]) == UPPER
    assert len(last["validation"]["kl_per_level"]) == 2
    assert len(run.figures["kl_per_dim"]) == UPPER
    assert sum(run.figures["kl_per_level"]) == pytest.approx(run.figures["kl"], rel=1e-5)
    assert torch.equal(latens.load(run.path).upper.weight, run.vae.upper.weight)
    assert latens.evaluate(run, images).kl == pytest.approx(run.figures["kl"], abs=1e-4)


@pytest.mark.parametrize(("lower", "collapsed"), [(5.0, False), (0.01, True)])
def test_a_hierarchy_collapses_with_its_last_level_and_not_with_its_topmost(lower, collapsed):
    """A topmost level without use is no collapse where another one tells of the image."""
    measured = evaluate(Chain(), torch.rand(8, *SHAPE))
    measured = replace(measured, active_units=0, kl_per_level=[0.0, lower])
    validation = {"loss": 1.0, "final_loss": 1.0}
    row = {"epoch": 1, "clipped": 0.0, "train": {"loss": 1.0}, "validation": validation}
    rows = [row | {"learning_rate": 1e-3}]
    found = findings_of_training(rows, measured, TrainConfig(), UPPER)
    assert measured.has_collapsed(UPPER) == collapsed
    assert [finding.name for finding in found] == ["posterior collapse"] * collapsed
    assert all("none of 2 levels of latents is in use" in finding.figure for finding in found)
