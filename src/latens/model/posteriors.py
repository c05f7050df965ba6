"""Posteriors: from the encoder's features to q(z|x)."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from latens.errors import LatensError
from latens.model.distributions import diagonal_normal
from latens.model.parts import Encoder, Posterior

# |log σ²| stays below this: σ between 5.5e-4 and 1.8e3. Wide enough never to be felt by a model
# that learns, narrow enough that exp() and its gradient stay finite in float32.
LOGVAR_BOUND = 15.0


class DiagonalGaussian(Posterior, name="gaussian"):
    """q(z|x) = N(μ(x), diag σ²(x)), both linear in the encoder's features.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", equation 9. log σ² is bounded
    smoothly to ±15, so that one wild batch does not end in NaN.

    Args:
        features: F, the width of the encoder's output.
        latent_dim: D, the number of latent dimensions.

    Raises:
        LatensError: `latent_dim` below 1.
    """

    def __init__(self, features: int, latent_dim: int):
        super().__init__()
        if latent_dim < 1:
            raise LatensError(f"latent_dim is {latent_dim}: it must be 1 or more")
        self.features = features
        self.latent_dim = latent_dim
        self.event_shape = (latent_dim,)
        self.parameters_of_q = nn.Linear(features, 2 * latent_dim)
        # q starts near N(0, I): a KL near zero to begin with, whatever the encoder's scale
        nn.init.normal_(self.parameters_of_q.weight, std=0.1 / math.sqrt(features))
        nn.init.zeros_(self.parameters_of_q.bias)

    def forward(self, features: Float[Tensor, "B F"]) -> Independent:
        """q(z|x), batch `[B]`, event `[D]`, in float32."""
        # Outside autocast: the sample and the KL need float32's digits.
        with torch.autocast(features.device.type, enabled=False):
            mean, logvar = self.parameters_of_q(
                features.to(self.parameters_of_q.weight.dtype)
            ).chunk(2, dim=-1)
        return diagonal_normal(mean, torch.exp(0.5 * bounded_logvar(logvar)), event_dims=1)


class DiagonalGaussianMap(Posterior):
    """q(z|x) = N(μ(x), diag σ²(x)) of a map of latents, each position from its own features.

    The latent space of Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
    Models", section 3.1 (there: with hardly any KL).

    Args:
        features: F, the channels of the encoder's map of features.
        event_shape: (D, h, w), of which (h, w) is the map of features.

    Raises:
        LatensError: an event that is no map.
    """

    def __init__(self, features: int, event_shape: tuple[int, ...]):
        super().__init__()
        if len(event_shape) != 3:
            raise LatensError(f"latents of shape {event_shape} are no map (D, h, w)")
        self.features = features
        self.event_shape = tuple(event_shape)
        self.parameters_of_q = nn.Conv2d(features, 2 * event_shape[0], 1)
        nn.init.normal_(self.parameters_of_q.weight, std=0.1 / math.sqrt(features))
        nn.init.zeros_(cast("Tensor", self.parameters_of_q.bias))

    def forward(self, features: Float[Tensor, "B F h w"]) -> Independent:
        """q(z|x), batch `[B]`, event `[D, h, w]`; its parameters are float32."""
        with torch.autocast(features.device.type, enabled=False):
            weight = self.parameters_of_q.weight
            mean, logvar = self.parameters_of_q(features.to(weight.dtype)).chunk(2, dim=1)
        return diagonal_normal(mean, torch.exp(0.5 * bounded_logvar(logvar)), event_dims=3)


def bounded_logvar(logvar: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log σ², smoothly within ±15."""
    return LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)


def default_posterior(encoder: Encoder, latent_shape: tuple[int, ...]) -> Posterior:
    """A diagonal Gaussian over a vector of latents, or over a map of them."""
    if len(latent_shape) == 1:
        return DiagonalGaussian(encoder.features, latent_shape[0])
    return DiagonalGaussianMap(encoder.features, latent_shape)
