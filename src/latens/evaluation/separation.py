"""How well a score tells bad images from good ones, with intervals and a threshold."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 500
COVERAGE = 0.95

Counts = Int[np.ndarray, " V"]


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
    threshold = conformal_threshold(good, false_positive_rate)
    # How many images have each value, the largest first: a draw of images is a draw of such counts
    values = np.unique(np.concatenate([good, bad]))[::-1]
    places = (np.searchsorted(-values, -part) for part in (good, bad))
    counts = [np.bincount(at, minlength=len(values)) for at in places]
    generator = np.random.default_rng(seed)
    draws = [
        _areas(*(generator.multinomial(of.sum(), of / of.sum()) for of in counts))
        for _ in range(RESAMPLES)
    ]
    tail = (1 - COVERAGE) / 2
    lows, highs = np.quantile(draws, [tail, 1 - tail], axis=0)

    def with_interval(value: float, low: float, high: float) -> tuple[float, tuple[float, float]]:
        # Images drawn twice are ties, which average precision rewards: the interval may miss it
        return value, (min(float(low), value), max(float(high), value))

    auroc, precision = zip(_areas(*counts), lows, highs, strict=True)
    return Separation(
        *with_interval(*auroc),
        *with_interval(*precision),
        threshold,
        false_positive_rate,
        float((bad > threshold).mean()),
    )


def _areas(good: Counts, bad: Counts) -> tuple[float, float]:
    """AUROC and average precision, from how many good and bad images have each value.

    Args:
        good, bad: of the values in falling order.
    """
    good_above, bad_above = np.cumsum(good), np.cumsum(bad)  # or at it
    good_count, bad_count = good_above[-1], bad_above[-1]
    below = good_count - good_above + good / 2  # good images below each value, ties half
    precision = bad_above / np.maximum(1, bad_above + good_above)
    auroc = (bad * below).sum() / (bad_count * good_count)
    return float(auroc), min(1.0, float((bad * precision).sum() / bad_count))  # rounding


def conformal_threshold(good: Float[np.ndarray, " G"], false_positive_rate: float) -> float:
    """Above it lies one more good image with a probability of at most the rate."""
    share = (len(good) + 1) * (1 - false_positive_rate)
    rank = math.ceil(round(share, 9))  # 150 * 0.82 is a little more than 123
    return float(np.sort(good)[rank - 1]) if rank <= len(good) else math.inf
