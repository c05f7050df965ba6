"""The density of a class in latent space: a mixture of Gaussians, fitted to its images' latents."""

import math
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
LEAST_COUNT = 1e-10  # of latents in a component
STEPS, TOLERANCE = 100, 1e-3  # at most; until log p(z) rises by less, in nats
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
        z, dims = z[:IMAGES].double(), z.shape[1]
        components = min(COMPONENTS, len(z) // (LATENTS_PER_COMPONENT * (dims + 1)))
        full_size = dims * (dims + 1) // 2
        components = min(components, MOST_NUMBERS // (classes * (full_size + dims + 1)))
        if not components:
            scale = (z.var(0, correction=0) + LEAST_VARIANCE).sqrt()
            return cls.gaussian(rounded(z.mean(0)), rounded(scale))
        weight, mean, scale = _fitted(z, components)
        rows, columns = torch.tril_indices(dims, dims)
        return cls(rounded(weight), rounded(mean), rounded(scale[:, rows, columns]))

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
        return _log_joint(z.double().cpu(), *self._whitening).logsumexp(-1)

    @cached_property
    def _whitening(self) -> tuple[Tensor, Tensor, Tensor]:
        return _whitening(*self._parameters)


def _whitening(
    weight: Float[Tensor, " K"], mean: Float[Tensor, "K D"], scale: Float[Tensor, "K D D"]
) -> tuple[Float[Tensor, "K D D"], Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """L⁻¹ and L⁻¹ μ of every component, and its largest log w_k N(z; μ_k, L_k L_kᵀ)."""
    dims = mean.shape[1]
    white = torch.linalg.solve_triangular(scale, torch.eye(dims).double(), upper=False)
    log_norm = 0.5 * dims * math.log(2 * math.pi) + scale.diagonal(0, 1, 2).log().sum(1)
    return white, (white @ mean[..., None])[..., 0], (weight / weight.sum()).log() - log_norm


def _log_joint(
    z: Float[Tensor, "*N D"],
    white: Float[Tensor, "K D D"],
    centre: Float[Tensor, "K D"],
    most: Float[Tensor, " K"],
) -> Float[Tensor, "*N K"]:
    """Log w_k N(z; μ_k, L_k L_kᵀ) of every component, from its `_whitening`."""
    deviations = (z @ white.flatten(0, 1).T).unflatten(-1, centre.shape) - centre
    return most - 0.5 * deviations.square().sum(-1)


def _fitted(
    z: Float[Tensor, "N D"], components: int
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K D"], Float[Tensor, "K D D"]]:
    """Weights, means and L of the mixture, by expectation maximisation.

    Bishop 2006, "Pattern Recognition and Machine Learning", section 9.2.2. scikit-learn's took 22 s
    for the ten classes of MNIST at 20 dimensions, and this takes about one.
    """
    nearest = torch.cdist(z, _seeds(z, components)).argmin(1)
    fitted = _maximised(z, torch.nn.functional.one_hot(nearest, components).double())
    before = -math.inf
    for _ in range(STEPS):
        log_p = _log_joint(z, *_whitening(*fitted))
        now = log_p.logsumexp(1).mean().item()
        if now - before < TOLERANCE:
            break
        fitted, before = _maximised(z, log_p.softmax(1)), now
    return fitted


def _maximised(
    z: Float[Tensor, "N D"], share: Float[Tensor, "N K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K D"], Float[Tensor, "K D D"]]:
    """The mixture of largest likelihood where z_n belongs to component k with probability r_nk."""
    count = share.sum(0).clamp(min=LEAST_COUNT)
    mean = share.T @ z / count[:, None]
    square = (share.T[:, :, None] * z).mT @ z / count[:, None, None]
    covariance = square - mean[:, :, None] * mean[:, None, :]
    least = LEAST_VARIANCE * torch.eye(z.shape[1])
    return count / count.sum(), mean, torch.linalg.cholesky(covariance + least)


def _seeds(z: Float[Tensor, "N D"], number: int) -> Float[Tensor, "K D"]:
    """Latents far apart (Arthur & Vassilvitskii 2007, "k-means++")."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = z[torch.randint(len(z), (1,), generator=generator)]
    while len(chosen) < number:
        square = torch.cdist(z, chosen).amin(1).square() + LEAST_COUNT
        chosen = torch.cat([chosen, z[torch.multinomial(square, 1, generator=generator)]])
    return chosen


def rounded(values: Tensor) -> list[Any]:
    """Nested lists of numbers with `DIGITS` significant digits."""
    flat = [float(f"{value:.{DIGITS}g}") for value in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(values.shape).tolist()
