"""−log p(x) by importance sampling, in memory that does not grow with the number of samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.distributions import Distribution

from latens.model.latent_model import LatentModel


@dataclass
class ImportanceWeights:
    """Σ w and Σ w² over the samples of each image seen so far, as logarithms in float64.

    Attributes:
        count: K, samples so far.
        log_sum: log Σ_k w_k, `[B]`.
        log_sum_squares: log Σ_k w_k², `[B]`.
    """

    count: int
    log_sum: Float64[Tensor, " B"]
    log_sum_squares: Float64[Tensor, " B"]

    @classmethod
    def none(cls, images: int) -> "ImportanceWeights":
        """Before the first sample of so many images."""
        nothing = torch.full((images,), -math.inf, dtype=torch.float64)
        return cls(0, nothing, nothing)

    def add(self, log_w: Tensor) -> None:
        """More samples, `[k, B]`."""
        log_w = log_w.cpu().double()
        self.count += len(log_w)
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, (2 * log_w).logsumexp(0))

    @property
    def log_mean(self) -> Float64[Tensor, " B"]:
        """Log 1/K Σ_k w_k: log p(x), from below in expectation (Burda et al. 2016, theorem 1)."""
        return self.log_sum - math.log(self.count)

    @property
    def variance(self) -> Float64[Tensor, " B"]:
        """Of `log_mean`: Var(log mean w) ≈ Σ w² / (Σ w)² − 1/K, by the delta method."""
        return (1 / self.effective_samples - 1 / self.count).clamp(min=0)

    @property
    def effective_samples(self) -> Float64[Tensor, " B"]:
        """(Σ w)² / Σ w², between 1 and K (Kong 1992): few mean that q misses p(z|x)."""
        return (2 * self.log_sum - self.log_sum_squares).exp()


def importance_weights(
    vae: LatentModel,
    x: Tensor,
    y: Int64[Tensor, "B *A"] | None,
    samples: int,
    posterior: Distribution | None = None,
    advance: Callable[[int], None] = lambda _samples: None,
) -> ImportanceWeights:
    """The weights p(x|z) p(z) / q(z|x) of K samples z ~ q(z|x) of each image.

    Args:
        x: `[B, C, H, W]`.
        posterior: a q(z|x) to draw z from in place of the encoder's.
        advance: told after each part how many samples it had.
    """
    weights = ImportanceWeights.none(len(x))
    for part in vae.log_weights_in_parts(x, y, samples, posterior):
        weights.add(part)
        advance(len(part))
    return weights
