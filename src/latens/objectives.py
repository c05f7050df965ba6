"""Objectives: from everything drawn to a loss. They see a `Draw` and never touch a network."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latens.errors import LatensError
from latens.vae import Draw


@dataclass(frozen=True)
class Loss:
    """What is minimised, and its terms, for each image in nats.

    Attributes:
        per_image: the loss, `[B]`.
        reconstruction: −E_q log p(x|z), `[B]`.
        kl: KL(q(z|x) ‖ p(z)) as it is, before β and free bits, `[B]`.
        label: −E_q log p(y|z) as it is, before its weight, `[B]`; 0 for an image without a label,
            and everywhere without a classifier.
    """

    per_image: Float[Tensor, " B"]
    reconstruction: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]
    label: Float[Tensor, " B"]


@dataclass(frozen=True)
class ELBO:
    """loss = −E_q log p(x|z) + β KL(q(z|x) ‖ p(z)) − α E_q log p(y|z), in nats per image.

    β = 1 is minus the evidence lower bound (Kingma & Welling 2014, equation 3); other values are
    the β-VAE (Higgins et al. 2017, equation 4). With free bits a latent dimension whose KL,
    averaged over the batch, is below λ nats costs λ and feels no pull to the prior (Kingma et
    al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow", equation 15).
    The last term is there for models with a classifier, and for images with a label (Kingma et
    al. 2014, "Semi-supervised Learning with Deep Generative Models", equation 9).

    Args:
        beta: the weight of the KL; no unit, and nothing else scales the KL. A number, or a tensor
            `[]` where it moves in a compiled loss.
        free_bits: λ in nats per latent dimension.
        label_weight: α; no unit; a number or a tensor.

    Raises:
        LatensError: a negative argument; or free bits with a KL that has no closed form, and so
            is not known for each dimension.
    """

    beta: float | Float[Tensor, ""] = 1.0
    free_bits: float = 0.0
    label_weight: float | Float[Tensor, ""] = 0.0

    def __post_init__(self) -> None:
        for name in ("beta", "free_bits", "label_weight"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not value >= 0:
                raise LatensError(f"{name} is {value}: it must be 0 or more")

    def __call__(self, draw: Draw) -> Loss:
        """The loss of each image, averaged over the samples of z."""
        reconstruction = -draw.log_px_z.mean(0)
        kl = draw.kl_per_image
        per_image = reconstruction + self.beta * self._charged(kl, draw.kl)
        label = torch.zeros_like(reconstruction)
        if "log_py_z" in draw.extras:
            label = -draw.extras["log_py_z"].mean(0)
            per_image = per_image + self.label_weight * label
        return Loss(per_image, reconstruction, kl, label)

    def of_means(
        self,
        reconstruction: float,
        kl: float,
        kl_per_dim: list[float] | None,
        label: float | None = None,
    ) -> float:
        """The loss of a set of images from its mean terms, in nats per image."""
        if self.free_bits and kl_per_dim is not None:
            kl = sum(max(self.free_bits, value) for value in kl_per_dim)
        return float(reconstruction + self.beta * kl + self.label_weight * (label or 0.0))

    def _charged(
        self, kl: Float[Tensor, " B"], per_dim: Float[Tensor, "B *Z"] | None
    ) -> Float[Tensor, " B"]:
        """The KL that is paid for."""
        if self.free_bits == 0:
            return kl
        if per_dim is None:
            raise LatensError(
                "free bits need a KL in closed form: this posterior and prior have none"
            )
        # Σ_d max(λ, mean over the batch of KL_d), shared out over the images
        below = per_dim.mean(0) < self.free_bits
        return torch.where(below, self.free_bits, per_dim).flatten(1).sum(1)


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

    def __call__(self, share: float, epoch: int) -> float:
        """β when `share` of the training is done, in [0, 1], and `epoch` epochs are."""
        within = 1.0 if share >= 1 else share * self.cycles % 1
        rise = min(1.0, within / self.warmup) if self.warmup else 1.0
        return (self.beta + self.step * epoch) * rise

    def last(self, epochs: int) -> float:
        """β at the end of so many epochs: the loss that decides which weights are kept has it."""
        return self.beta + self.step * (epochs - 1)
