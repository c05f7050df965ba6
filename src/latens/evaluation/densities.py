"""The density of a class in latent space: a mixture of Gaussians, fitted to its images' latents."""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# On latents of MNIST at 2 and 10 dims ten components with full covariances fit as well as forty,
# and better than diagonal ones.
COMPONENTS = 10
IMAGES = 5_000  # of a class, at most, that a mixture is fitted to
LATENTS_PER_COMPONENT = 5  # times D + 1, at least
MOST_NUMBERS = 50_000  # of all classes together: they travel in a JSON file
LEAST_VARIANCE = 1e-4
SEED = 0
DIGITS = 5  # significant ones that are kept of a number in that file


@dataclass(frozen=True)
class ClassDensity:
    """p(z|y) of one class: Σ_k w_k N(z; μ_k, L_k L_kᵀ).

    Attributes:
        weight: w, `K` numbers.
        mean: μ, `K` rows of D.
        cholesky: L, `K` rows of D (D + 1) / 2: the lower triangles, row by row; or rows of D, the
            standard deviations of a diagonal covariance.
    """

    weight: list[float]
    mean: list[list[float]]
    cholesky: list[list[float]]

    @classmethod
    def gaussian(cls, mean: list[float], scale: list[float]) -> "ClassDensity":
        """N(μ, diag σ²)."""
        return cls([1.0], [mean], [scale])

    @classmethod
    def fit(cls, z: Float[Tensor, "N D"], classes: int = 1) -> "ClassDensity":
        """The mixture of largest likelihood, by expectation maximisation from a fixed seed.

        Args:
            z: two latents or more.
            classes: how many densities share `MOST_NUMBERS`.
        """
        from sklearn.mixture import GaussianMixture

        z, dims = z[:IMAGES], z.shape[1]
        components = min(COMPONENTS, len(z) // (LATENTS_PER_COMPONENT * (dims + 1)))
        full_size = dims * (dims + 1) // 2
        components = min(components, MOST_NUMBERS // (classes * (full_size + dims + 1)))
        mixture = GaussianMixture(
            max(1, components),
            covariance_type="full" if components else "diag",
            reg_covar=LEAST_VARIANCE,
            init_params="k-means++",
            random_state=SEED,
        )
        with warnings.catch_warnings():  # nearly converged is as good
            warnings.simplefilter("ignore")
            mixture.fit(z.double().numpy())
        covariance = torch.from_numpy(mixture.covariances_)
        rows, columns = torch.tril_indices(dims, dims)
        cholesky = (
            torch.linalg.cholesky(covariance)[:, rows, columns] if components else covariance.sqrt()
        )
        weight, mean = torch.from_numpy(mixture.weights_), torch.from_numpy(mixture.means_)
        return cls(rounded(weight), rounded(mean), rounded(cholesky))

    @cached_property
    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights `[K]`, means `[K, D]` and L `[K, D, D]`, in float64 on the CPU."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        cholesky = torch.tensor(self.cholesky, dtype=torch.float64)
        dims = mean.shape[1]
        if cholesky.shape[1] == dims and dims > 1:
            scale = torch.diag_embed(cholesky)
        else:
            scale = mean.new_zeros(len(mean), dims, dims)
            rows, columns = torch.tril_indices(dims, dims)
            scale[:, rows, columns] = cholesky
        return torch.tensor(self.weight, dtype=torch.float64), mean, scale

    def sample(self, number: int, temperature: float = 1.0) -> Float[Tensor, "number D"]:
        """`number` latents; their deviation from the component's mean is times `temperature`."""
        weight, mean, scale = self._parameters
        component = torch.multinomial(weight / weight.sum(), number, replacement=True)
        noise = torch.randn(number, mean.shape[1], dtype=torch.float64)
        deviation = torch.einsum("nij,nj->ni", scale[component], noise)
        return (mean[component] + temperature * deviation).float()

    def log_prob(self, z: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
        """Log p(z|y) in nats: log Σ_k w_k N(z; μ_k, L_k L_kᵀ)."""
        weight, mean, scale = self._parameters
        dims = mean.shape[1]
        white = torch.linalg.solve_triangular(scale, torch.eye(dims).double(), upper=False)
        distances = torch.einsum("kij,...kj->...ki", white, z.double().cpu()[..., None, :] - mean)
        log_norm = 0.5 * dims * math.log(2 * math.pi) + scale.diagonal(0, 1, 2).log().sum(1)
        log_p = (weight / weight.sum()).log() - log_norm - 0.5 * distances.square().sum(-1)
        return log_p.logsumexp(-1)


def rounded(values: Tensor) -> list[Any]:
    """Nested lists of numbers with `DIGITS` significant digits."""
    flat = [float(f"{value:.{DIGITS}g}") for value in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(values.shape).tolist()
