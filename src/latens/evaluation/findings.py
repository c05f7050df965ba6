"""What went wrong in a training, read off its figures and its curve: each with its remedy."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from latens.config import TrainConfig
from latens.evaluation.metrics import Evaluation
from latens.model import recipes
from latens.run.directory import best_row

PAGE = "docs/doctor.md"
OVERFITTING = 1.0  # nats by which validation was better before
CLIPPED = 0.5  # of the steps
STILL_FALLING = 0.5  # of what the loss fell in as many epochs before
LEAST_FALL = 0.3  # nats
FLAT, LOW_RATE = 0.01, 3e-4  # of the first loss, that it fell; a rate a tenth of the usual
RISE, RISING = 0.02, 0.1  # of the loss, in an epoch; and the share of epochs in which it rose so
LEAST_EPOCHS = 4  # of a curve that tells anything


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a trained model.

    Attributes:
        name: such as "posterior collapse".
        figure: what was measured, in words.
        why: it matters, in one sentence.
        remedy: the option that fixes it.
        serious: images or figures are of little use; otherwise something could be won.
    """

    name: str
    figure: str
    why: str
    remedy: str
    serious: bool = False

    @property
    def page(self) -> str:
        """Where the documentation tells more."""
        return f"{PAGE}#{re.sub('[^a-z]+', '-', self.name.lower()).strip('-')}"

    def __str__(self) -> str:
        return f"{self.name}: {self.figure}. {self.remedy}"


def findings_of_training(
    rows: Sequence[dict[str, Any]], evaluation: Evaluation, config: TrainConfig, dims: int
) -> list[Finding]:
    """What a training's curve and its figures tell, without measuring anything more.

    Args:
        rows: of metrics.jsonl.
        evaluation: of the weights that were kept.
        dims: how many latent dimensions there are.
    """
    return [
        *_dimensions(evaluation, config, dims),
        *_overfitting(rows, config),
        *_clipping(rows),
        *_learning_rate(rows, config),
    ]


def _dimensions(evaluation: Evaluation, config: TrainConfig, dims: int) -> Iterator[Finding]:
    active, levels = evaluation.active_units, evaluation.kl_per_level
    in_use = f"{active} of {dims} latent dimensions are"
    if levels is not None:
        in_use = f"none of {len(levels)} levels of latents is"
    if evaluation.has_collapsed(dims):
        remedy = "a longer training"
        if config.objective.has_beta:
            remedy += ", or --beta-warmup 0.5"
        if config.model.has_fixed_scale:
            remedy = f"--likelihood gaussian, which learns its σ, or {remedy}"
        if config.objective.options.get("beta", 1.0) > 1:
            remedy = "a smaller --beta"
        yield Finding(
            "posterior collapse",
            f"{in_use} in use, and images hardly differ",
            "The decoder does without z, so that samples and reconstructions are all alike.",
            f"Try {remedy}",
            serious=True,
        )
    elif levels is None and active < dims:  # what one level lacks, the next may hold
        has_bits = config.objective.name == "elbo" and evaluation.kl_per_dim is not None
        smaller = _smaller(config, active, dims)
        remedies = [f"{smaller} for the same with less"] if smaller else []
        remedies += ["--free-bits 0.1 to use more"] if has_bits else []
        yield Finding(
            "unused dimensions",
            f"{dims - active} of {dims} latent dimensions tell nothing of an image",
            "They cost nothing, but what they could hold is lost: the prior's pull won.",
            f"Try {', or '.join(remedies or ['a smaller --beta'])}",
        )


def _smaller(config: TrainConfig, active: int, dims: int) -> str | None:
    """The option of a latent space that has room for so many dimensions, and for less than now."""
    channels = config.model.latent_map
    if config.model.recipe == recipes.LADDER:
        return None
    if channels is None:
        return f"--latent-dim {max(1, active)}"
    fewer = max(1, math.ceil(active * channels / dims))
    return f"--latent-map {fewer}" if fewer < channels else None


def noise_on_images(config: TrainConfig) -> str:
    """The options that make training images differ at each visit, and that this model can have."""
    moved = "--jitter 0.5"
    if config.model.recipe == recipes.LADDER or config.model.init_from is not None:
        return moved
    return f"--input-noise 0.2 or {moved}"


def _overfitting(rows: Sequence[dict[str, Any]], config: TrainConfig) -> Iterator[Finding]:
    best = best_row(list(rows))
    lost = rows[-1]["validation"]["final_loss"] - best["validation"]["final_loss"]
    if lost > OVERFITTING and not config.run.early_stopping:
        yield Finding(
            "overfitting",
            f"validation was {lost:.1f} nats better after epoch {best['epoch']}, whose weights "
            "were kept",
            "The epochs after that one were for nothing.",
            f"More epochs would not help; more images would, or {noise_on_images(config)}",
            serious=True,
        )


def _clipping(rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    clipped = sum(row["clipped"] for row in rows) / len(rows)
    if clipped > CLIPPED:
        yield Finding(
            "clipping",
            f"{clipped:.0%} of the steps were clipped",
            "Every step has nearly the same length, whatever the gradient says.",
            "A larger --clip may train better",
        )


def _learning_rate(rows: Sequence[dict[str, Any]], config: TrainConfig) -> Iterator[Finding]:
    moving = config.objective.beta_warmup or config.objective.beta_step
    if len(rows) < LEAST_EPOCHS or moving:
        return
    losses = [row["train"]["loss"] for row in rows]
    rate = max(row["learning_rate"] for row in rows)
    rises = sum(after > before + RISE * abs(before) for before, after in pairwise(losses))
    if rises >= RISING * (len(losses) - 1):
        yield Finding(
            "learning rate too high",
            f"the training loss rose in {rises} of {len(losses) - 1} epochs",
            "Steps overshoot, and what one epoch learns the next one loses.",
            f"Try --learning-rate {rate / 4:.2g}",
            serious=True,
        )
    elif slow := _slow(rows, losses, rate):
        yield Finding(
            "learning rate too low",
            slow,
            "At a rate that fits most is learned at first; here the training ended before.",
            f"Try --learning-rate {rate * 4:.2g}, or more --epochs",
        )


def _slow(rows: Sequence[dict[str, Any]], losses: list[float], rate: float) -> str:
    """In words how little a loss has fallen; empty where it fell as it should."""
    fell = losses[0] - losses[-1]
    if rate < LOW_RATE and fell < FLAT * abs(losses[0]):
        return f"the training loss fell {fell:.2f} nats in {len(losses) - 1} epochs"
    # While the rate is near its peak: what is learned at a good rate comes mostly at first
    high = [loss for loss, row in zip(losses, rows, strict=True) if row["learning_rate"] > rate / 2]
    middle = len(high) // 2
    early, late = high[0] - high[middle], high[middle] - high[-1]
    if len(high) < LEAST_EPOCHS or late < max(LEAST_FALL, STILL_FALLING * early):
        return ""
    return (
        f"the training loss fell {early:.1f} nats in {middle} epochs, and {late:.1f} in the "
        f"{len(high) - 1 - middle} that followed"
    )
