"""How well a score tells bad images from good ones, with intervals and a threshold."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 500
COVERAGE = 0.95


@dataclass(frozen=True)
class Separation:
    """One score, larger for the more unusual, of good and of bad images.

    Attributes:
        auroc: the probability that a bad image has a larger score than a good one (ties half).
        auroc_interval: of 95 %, over images.
        average_precision: the area under precision over recall, bad images being the positives;
            it depends on how many of the images are bad.
        average_precision_interval: of 95 %, over images.
        threshold: a good image that was not looked at lies above it with a probability of at most
            `false_positive_rate`; infinite where there are too few good ones to say.
        false_positive_rate: the rate asked for.
        found: the share of bad images above the threshold.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    average_precision: float
    average_precision_interval: tuple[float, float]
    threshold: float
    false_positive_rate: float
    found: float

    @property
    def has_threshold(self) -> bool:
        """Whether there are good images enough for one."""
        return math.isfinite(self.threshold)


def separation(
    good: Float[np.ndarray, " G"],
    bad: Float[np.ndarray, " B"],
    false_positive_rate: float = 0.05,
    seed: int = 0,
) -> Separation:
    """AUROC, average precision and a threshold.

    Intervals are of the percentile bootstrap, good and bad images drawn anew each for themselves
    (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3). The threshold is
    the conformal one (Vovk et al. 2005; Laxhammar & Falkman 2010): the ⌈(n + 1)(1 − rate)⌉-th
    smallest of the n good scores.

    Args:
        seed: of the bootstrap.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    threshold = conformal_threshold(good, false_positive_rate)
    generator = np.random.default_rng(seed)
    draws = [
        (generator.choice(good, len(good)), generator.choice(bad, len(bad)))
        for _ in range(RESAMPLES)
    ]

    def with_interval(metric: Callable[..., float]) -> tuple[float, tuple[float, float]]:
        def of(good: np.ndarray, bad: np.ndarray) -> float:
            is_bad = np.repeat([0, 1], [len(good), len(bad)])
            return min(1.0, float(metric(is_bad, np.concatenate([good, bad]))))  # rounding

        tail = (1 - COVERAGE) / 2
        low, high = np.quantile([of(*drawn) for drawn in draws], [tail, 1 - tail])
        value = of(good, bad)
        # Images drawn twice are ties, which average precision rewards: the interval may miss it
        return value, (min(float(low), value), max(float(high), value))

    return Separation(
        *with_interval(roc_auc_score),
        *with_interval(average_precision_score),
        threshold,
        false_positive_rate,
        float((bad > threshold).mean()),
    )


def conformal_threshold(good: Float[np.ndarray, " G"], false_positive_rate: float) -> float:
    """Above it lies one more good image with a probability of at most the rate."""
    rank = math.ceil((len(good) + 1) * (1 - false_positive_rate))
    return float(np.sort(good)[rank - 1]) if rank <= len(good) else math.inf
