"""Schedules: what moves over a training, as functions of how much of it is done."""

import math
from dataclasses import dataclass

NEXT = 1e-9  # of a cycle: so much of the next one is no part of it


@dataclass(frozen=True)
class BetaSchedule:
    """β over a training: constant, rising linearly, cyclical, or one step up after each epoch.

    In each of `cycles` equal parts of the training β rises linearly from 0 over the first share
    `warmup` of the part, and stays. One cycle is the warm-up of Bowman et al. 2016, "Generating
    Sentences from a Continuous Space", section 3.1; several are Fu et al. 2019, "Cyclical
    Annealing Schedule", equation 6 (there: 4 cycles, half of each a rise).

    Args:
        beta: what β rises to, or begins at where it goes up by steps.
        warmup: share of each cycle, in [0, 1]; 0 is no rise.
        cycles: how many.
        step: added to β after each epoch.
    """

    beta: float = 1.0
    warmup: float = 0.0
    cycles: int = 1
    step: float = 0.0

    def __call__(self, share: float, epoch: int, ended: bool = False) -> float:
        """β when `share` of the training is done, in [0, 1], and `epoch` epochs are.

        Args:
            ended: where a cycle ends and the next one begins, β of the former.
        """
        within = 1.0 if share >= 1 else share * self.cycles % 1
        if ended and share > 0 and within < NEXT:
            within = 1.0
        rise = min(1.0, within / self.warmup) if self.warmup else 1.0
        return (self.beta + self.step * epoch) * rise

    def last(self, epochs: int) -> float:
        """β at the end of so many epochs: the loss that decides which weights are kept has it."""
        return self.beta + self.step * (epochs - 1)


@dataclass(frozen=True)
class LearningRateSchedule:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017, "SGDR").

    Args:
        peak: the largest learning rate.
        warmup: share of the training over which it rises, in [0, 1).
    """

    peak: float
    warmup: float

    def __call__(self, share: float) -> float:
        """The learning rate when `share` of the training is done, in [0, 1]."""
        if share < self.warmup:
            return self.peak * max(share / self.warmup, 1e-3)
        falling = (share - self.warmup) / (1 - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * falling))


def ema_decay(most: float, steps: int) -> float:
    """The decay of an exponential moving average of weights after so many steps.

    min(decay, (1 + n) / (10 + n)), which forgets the first steps: TensorFlow's
    `ExponentialMovingAverage(num_updates=n)`.
    """
    return min(most, (1 + steps) / (10 + steps))
