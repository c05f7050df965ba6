import json

import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from latens.evaluation.densities import COMPONENTS, MOST_NUMBERS, ClassDensity


def two_arcs(n):
    """Latents that no Gaussian fits: two half circles."""
    angle, side = 3.14159 * torch.rand(n), torch.randint(0, 2, (n,)) * 2.0 - 1
    ring = torch.stack((angle.cos(), angle.sin() * side), 1) + torch.stack(
        (0.5 * side, 0 * side), 1
    )
    return ring + 0.1 * torch.randn(n, 2)


def test_the_density_is_that_of_scipy_and_integrates_to_one():
    density = ClassDensity.fit(two_arcs(1000))
    side = torch.linspace(-4, 4, 401)
    z = torch.cartesian_prod(side, side)
    log_p = density.log_prob(z)
    assert (log_p.exp().sum() * 0.02**2).item() == pytest.approx(1, abs=1e-3)
    total = 0
    for weight, mean, rows in zip(density.weight, density.mean, density.cholesky, strict=True):
        scale = torch.zeros(2, 2, dtype=torch.float64)
        scale[[0, 1, 1], [0, 0, 1]] = torch.tensor(rows, dtype=torch.float64)
        total += weight * multivariate_normal(mean, (scale @ scale.T).numpy()).pdf(z.numpy())
    torch.testing.assert_close(
        log_p.exp(), torch.from_numpy(total), rtol=1e-4, atol=1e-12
    )  # weights are rounded


def test_the_fit_is_as_good_as_scikit_learns():
    z, unseen = two_arcs(3000), two_arcs(3000)
    other = GaussianMixture(COMPONENTS, reg_covar=1e-4, random_state=0).fit(z.numpy())
    assert ClassDensity.fit(z).log_prob(unseen).mean() > other.score(unseen.numpy()) - 0.02


def test_a_mixture_fits_unseen_latents_better_than_a_gaussian():
    z, unseen = two_arcs(3000), two_arcs(3000)
    gaussian = ClassDensity.gaussian(z.mean(0).tolist(), z.std(0).tolist())
    gain = ClassDensity.fit(z).log_prob(unseen).mean() - gaussian.log_prob(unseen).mean()
    assert gain > 0.5


def test_samples_have_the_moments_and_follow_the_temperature():
    z = two_arcs(3000)
    density = ClassDensity.fit(z)
    drawn = density.sample(20_000)
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), atol=0.05, rtol=0)
    cold = density.sample(500, temperature=1e-6)
    centres = torch.tensor(density.mean)
    assert torch.cdist(cold, centres).amin(1).max() < 2e-3


@pytest.mark.parametrize(("images", "dims"), [(2, 1), (2, 40), (9, 2), (60, 30), (300, 400)])
def test_few_images_or_many_dimensions_give_a_simpler_density(images, dims):
    z = torch.randn(images, dims)
    density = ClassDensity.fit(z, classes=10)
    again = ClassDensity(**json.loads(json.dumps(vars(density))))
    numbers = sum(len(row) for row in density.mean + density.cholesky) + len(density.weight)
    assert 10 * numbers <= max(MOST_NUMBERS, 10 * (2 * dims + 1))
    assert again.sample(5).shape == (5, dims)
    assert again.log_prob(z).isfinite().all()
