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
    """

    per_image: Float[Tensor, " B"]
    reconstruction: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]


@dataclass(frozen=True)
class ELBO:
    """loss = −E_q log p(x|z) + β KL(q(z|x) ‖ p(z)), in nats per image.

    β = 1 is minus the evidence lower bound (Kingma & Welling 2014, equation 3); other values are
    the β-VAE (Higgins et al. 2017, equation 4). With free bits a latent dimension whose KL,
    averaged over the batch, is below λ nats costs λ and feels no pull to the prior (Kingma et
    al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow", equation 15).

    Args:
        beta: the weight of the KL; no unit, and nothing else scales the KL.
        free_bits: λ in nats per latent dimension.

    Raises:
        LatensError: a negative `beta` or `free_bits`; or free bits with a KL that has no closed
            form, and so is not known for each dimension.
    """

    beta: float = 1.0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta", "free_bits"):
            if not getattr(self, name) >= 0:
                raise LatensError(f"{name} is {getattr(self, name)}: it must be 0 or more")

    def __call__(self, draw: Draw) -> Loss:
        """The loss of each image, averaged over the samples of z."""
        reconstruction = -draw.log_px_z.mean(0)
        return Loss(
            per_image=reconstruction + self.beta * self._charged_kl(draw),
            reconstruction=reconstruction,
            kl=draw.kl_per_image,
        )

    def of_means(self, reconstruction: float, kl: float, kl_per_dim: list[float] | None) -> float:
        """The loss of a set of images from its mean terms, in nats per image."""
        if self.free_bits and kl_per_dim is not None:
            kl = sum(max(self.free_bits, value) for value in kl_per_dim)
        return reconstruction + self.beta * kl

    def _charged_kl(self, draw: Draw) -> Float[Tensor, " B"]:
        if self.free_bits == 0:
            return draw.kl_per_image
        if draw.kl is None:
            raise LatensError("free bits need a KL in closed form: this posterior has none")
        # Σ_d max(λ, mean over the batch of KL_d), shared out over the images
        below = draw.kl.mean(0) < self.free_bits
        return torch.where(below, self.free_bits, draw.kl).flatten(1).sum(1)
