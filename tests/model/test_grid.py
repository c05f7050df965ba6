"""q(z|x) on a grid, against the exact log p(x) of a linear-Gaussian model."""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Laplace, Normal

import latens
from latens import VAE, Decoder, Gaussian, LatensError, MLPDecoder, MLPEncoder
from latens.data import Images
from latens.evaluation.decomposition import decompose_kl
from latens.evaluation.metrics import evaluate
from latens.evaluation.scores import image_scores
from latens.model import recipes
from latens.model.distributions import BernoulliImage, diagonal_normal
from latens.model.grid import Grid, GridPosterior, grid_posterior, log_prob_of_each
from latens.training.objectives import ELBO

SHAPE, SIGMA = (1, 2, 3), 0.3


class AffineDecoder(Decoder):
    def __init__(self, latent_dim=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.latent_shape, self.image_shape, self.out_channels = (latent_dim,), SHAPE, 1
        self.layer = nn.Linear(latent_dim, math.prod(SHAPE))

    def forward(self, z, y=None):
        return self.layer(z).unflatten(1, SHAPE)


@pytest.fixture
def linear():
    """z ~ N(0, I), x|z ~ N(W z + b, σ² I), so that p(x) = N(b, W Wᵀ + σ² I)."""
    torch.manual_seed(0)
    vae = VAE(MLPEncoder(SHAPE, (8,)), AffineDecoder(), Gaussian(SIGMA)).eval()
    with torch.no_grad():
        vae.offset.normal_()
    w, b = (p.detach().double() for p in vae.decoder.layer.parameters())
    mean = b + vae.offset.detach().flatten().double()
    covariance = w @ w.T + SIGMA**2 * torch.eye(len(b))
    x = torch.from_numpy(
        stats.multivariate_normal(mean, covariance).rvs(200, random_state=0)
    ).float()
    exact = stats.multivariate_normal(mean, covariance).logpdf(x.numpy())
    return vae, x.unflatten(1, SHAPE), exact.mean()


def test_the_elbo_rises_to_the_exact_log_p_as_cells_get_smaller_and_never_passes_it(linear):
    vae, x, exact = linear
    gaps = []
    for cells in (8, 16, 32, 64, 128):
        found = [evaluate(vae, x, posterior="grid", cells=cells, seed=s).elbo for s in range(8)]
        mean, error = sum(found) / 8, torch.tensor(found).std().item() / math.sqrt(8)
        gaps.append(exact - mean)
        assert gaps[-1] > -4 * error
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1
    assert gaps[-1] < 0.03
    encoder = evaluate(vae, x)
    assert encoder.elbo < exact - 1
    assert encoder.posterior == "encoder"
    assert evaluate(vae, x, posterior="grid", cells=8).posterior == "grid of 8² cells"


def test_its_importance_weighted_bound_is_tighter_still(linear):
    vae, x, exact = linear
    coarse = evaluate(vae, x, importance_samples=200, posterior="grid", cells=12)
    assert coarse.elbo < -coarse.nll
    assert abs(-coarse.nll - exact) < max(0.02, 4 * coarse.nll_stderr)


def test_it_is_the_exact_posterior_s_mean_and_variance(linear):
    vae, x, _ = linear
    q = grid_posterior(vae, x, grid=Grid.over_prior(vae, 200))
    w = vae.decoder.layer.weight.double()
    covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / SIGMA**2)
    mean = (x - vae.offset).flatten(1).double() - vae.decoder.layer.bias
    mean = mean @ w @ covariance / SIGMA**2
    torch.testing.assert_close(q.mean.double(), mean, atol=5e-3, rtol=0)
    expected = covariance.diagonal().expand(200, 2)
    torch.testing.assert_close(q.variance.double(), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(q.sample((1000,)).mean(0), q.mean, atol=0.1, rtol=0)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_its_density_sums_to_one_and_is_that_of_its_samples(dims):
    grid = Grid(torch.full((dims,), -1.0), torch.full((dims,), 0.25), 8)
    index = torch.stack([torch.randperm(8**dims)[:6] for _ in range(5)])
    q = GridPosterior(grid, index, torch.randn(5, 6), (dims,))
    z, log_q = q.rsample_and_log_prob(torch.Size((7,)))
    assert (z.shape, log_q.shape) == ((7, 5, dims), (7, 5))
    torch.testing.assert_close(q.log_prob(z), log_q)
    every = grid.centres(torch.arange(grid.count))[:, None].expand(-1, 5, dims)
    total = q.log_prob(every).exp().sum(0) * grid.size.prod()
    torch.testing.assert_close(total, torch.ones(5))
    assert q.log_prob(torch.full((5, dims), 3.0)).eq(-math.inf).all()
    assert torch.equal(
        grid.cell_of(grid.centres(torch.arange(grid.count))), torch.arange(grid.count)
    )


@pytest.mark.parametrize(
    "p",
    [
        BernoulliImage(3 * torch.randn(9, *SHAPE)),
        diagonal_normal(torch.rand(9, *SHAPE), torch.tensor(0.01).expand(9, *SHAPE), 3),
        Independent(Laplace(torch.rand(9, *SHAPE), torch.tensor(0.1)), 3),
        Independent(Normal(torch.rand(9, *SHAPE), torch.rand(9, *SHAPE) + 0.1), 3),
    ],
    ids=lambda p: f"{type(p).__name__}",
)
def test_every_image_under_every_distribution(p):
    x = torch.rand(4, *SHAPE)
    expected = torch.stack([p.log_prob(image) for image in x], 1)
    torch.testing.assert_close(log_prob_of_each(p, x), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("prior", ["normal", "conditional"])
def test_a_conditional_model_has_a_table_for_each_label(prior):
    vae = recipes.build("conditional", (1, 8, 8), 2, "mlp", labels=3, prior=prior).eval()
    for parameter in vae.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 2, -1, 1])
    grid = Grid.over_prior(vae, 32)
    together = grid_posterior(vae, x, y, grid)
    for i in range(6):
        alone = grid_posterior(vae, x[i : i + 1], y[i : i + 1], grid)
        torch.testing.assert_close(together.mean[i], alone.mean[0], atol=1e-4, rtol=1e-4)
    assert evaluate(vae, x, labels=y, posterior="grid", cells=64).elbo > -1000


def test_a_prior_of_labels_is_spanned_whole_and_not_taken_apart():
    vae = recipes.build("conditional", (1, 8, 8), 2, "mlp", labels=2, prior="conditional").eval()
    with torch.no_grad():
        vae.prior.labels.weight[0], vae.prior.labels.weight[1] = 0.25, -0.25
        vae.prior.parameters_of_p.weight[:2] = 1  # μ of ±8
        assert vae.prior_given(torch.tensor([0])).mean.min() == 8
    grid = Grid.over_prior(vae, 32)
    assert (grid.low < -10).all()
    assert (grid.low + 32 * grid.size > 10).all()
    images = Images(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.arange(9) % 2)
    with pytest.raises(LatensError, match="this one is of a label"):
        decompose_kl(vae, images)


def test_tables_are_in_float32_under_autocast():
    torch.manual_seed(0)
    p, x = BernoulliImage(3 * torch.randn(5, 1, 8, 8)), torch.rand(4, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            log_prob_of_each(p, x), torch.stack([p.log_prob(v) for v in x], 1)
        )


def test_a_model_learns_under_it():
    """The decoder by samples of the table; the encoder, and nothing else, by its own ELBO."""
    vae = recipes.build("mlp", (1, 8, 8), 2, posterior="grid", options={"posterior": {"cells": 24}})
    x = torch.rand(16, 1, 8, 8).round()
    draw = vae(x, samples=3)
    assert isinstance(draw.latents[0].q, GridPosterior)
    loss = ELBO()(draw)
    torch.testing.assert_close(loss.per_image, loss.terms["reconstruction"] + loss.terms["kl"])
    loss.per_image.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())
    vae.zero_grad()
    assert draw.extras["encoder_elbo"].shape == (16,)
    vae(x).extras["encoder_elbo"].sum().backward()
    assert all(p.grad is None for p in vae.decoder.parameters())
    assert all(p.grad is not None for p in vae.encoder.parameters())
    figures = latens.evaluate(vae, x)
    assert figures.posterior == "encoder"
    torch.manual_seed(0)
    encoder = vae.eval().draw(x)
    assert not isinstance(encoder.latents[0].q, GridPosterior), "what is used is the encoder's q"
    assert figures.elbo == pytest.approx((encoder.log_px_z - encoder.kl).mean().item(), rel=1e-5)


def test_what_learned_under_it_is_scored_by_its_encoder():
    vae = recipes.build("mlp", (1, 8, 8), 2, posterior="grid", options={"posterior": {"cells": 24}})
    x = torch.rand(8, 1, 8, 8).round()
    found = image_scores(vae.eval(), x, ["-elbo", "nll"], importance_samples=5_000)
    truth = latens.evaluate(vae, x, posterior="grid", cells=128).elbo  # all but exact
    assert found["nll"].mean().item() == pytest.approx(-truth, abs=0.1)
    assert found["-elbo"].isfinite().all()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda vae, x: evaluate(vae, x, posterior="grid", refine=3), "refine is for the encoder"),
        (lambda vae, x: evaluate(vae, x, cells=3), "add --posterior grid"),
        (lambda vae, x: evaluate(vae, x, posterior="grid", cells=0), "1 or more"),
        (
            lambda _vae, x: evaluate(
                VAE(MLPEncoder(SHAPE, (4,)), MLPDecoder(4, SHAPE, (4,))), x, posterior="grid"
            ),
            "for up to 3 latents",
        ),
        (lambda _vae, _x: recipes.build("mlp", SHAPE, 4, posterior="grid"), "up to 3 latents"),
        (
            lambda _vae, _x: evaluate(
                recipes.build("ladder", (1, 8, 8), 20), torch.rand(2, 1, 8, 8), posterior="grid"
            ),
            "of one level",
        ),
    ],
)
def test_what_has_no_table_is_refused_in_one_line(linear, make, reason):
    vae, x, _ = linear
    with pytest.raises(LatensError, match=reason):
        make(vae, x)
