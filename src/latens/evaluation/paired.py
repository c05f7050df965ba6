"""Differences between models that were measured on the same images, with intervals."""

import math
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """How much more a model costs than another, in nats per image, with a 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Float64[Tensor, "S N"], b: Float64[Tensor, "R N"]) -> Difference:
    """The mean of a − b, of S and R trainings that differ in their seed, on the same N images.

    What makes an image hard for both cancels within each pair. Two variances add up: over images,
    and, where there are several seeds, over trainings; the quantile is Student's, with degrees of
    freedom by Welch 1947 ("The generalization of Student's problem when several different
    population variances are involved"). With one seed the interval is of these two trained models,
    and says nothing of others that are trained alike.

    Args:
        a, b: a cost of each image, such as −elbo in nats; two images or more.
    """
    from scipy.special import stdtrit  # here, since only comparisons need it

    images = a.mean(0) - b.mean(0)
    parts = [(images.var().item() / len(images), len(images) - 1)]
    parts += [
        (costs.mean(1).var().item() / len(costs), len(costs) - 1)
        for costs in (a, b)
        if len(costs) > 1
    ]
    variance = sum(part for part, _ in parts)
    mean = images.mean().item()
    if variance == 0:
        return Difference(mean, mean, mean)
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return Difference(mean, mean - half, mean + half)
