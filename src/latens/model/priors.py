"""Priors: p(z)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from latens.errors import LatensError
from latens.model.distributions import DiagonalMixture, diagonal_normal
from latens.model.parts import Prior

FIRST_SCALE = 0.5  # of the components of a mixture, which together begin near N(0, I)
LEAST_SCALE = 1e-3  # a component stays wide enough for a density in float32


class StandardNormal(Prior, name="normal"):
    """p(z) = N(0, I).

    Args:
        event_shape: Z, the shape of one latent: `(D,)`, or `(D, h, w)` for a map of latents.
    """

    def __init__(self, event_shape: tuple[int, ...]):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows the device

    def forward(
        self,
        posterior_of: Callable[[Tensor], Distribution],
        y: Int[Tensor, "B *A"] | None = None,
    ) -> Independent:
        """p(z), batch `[]`, event `[*Z]`. This prior needs neither the posterior nor a label."""
        mean = self.zero.expand(self.event_shape)
        return diagonal_normal(mean, torch.ones_like(mean), event_dims=len(self.event_shape))


class GaussianMixture(Prior, name="mixture"):
    """p(z) = Σ_k w_k N(z; μ_k, diag σ_k²) with learned weights, means and scales.

    Tomczak & Welling 2018, "VAE with a VampPrior" (there "MoG", with equal weights). The KL to a
    mixture has no closed form, so it is estimated from the samples of z.

    Args:
        event_shape: Z, the shape of one latent.
        components: K, how many Gaussians.

    Raises:
        LatensError: no component.
    """

    def __init__(self, event_shape: tuple[int, ...], components: int = 500):
        super().__init__()
        if components < 1:
            raise LatensError(f"a mixture of {components} components: it needs 1 or more")
        self.event_shape = tuple(event_shape)
        self.components = components
        spread = math.sqrt(1 - FIRST_SCALE**2)  # of the means, so that all z have variance 1
        self.mean = nn.Parameter(spread * torch.randn(components, *event_shape))
        self.log_scale = nn.Parameter(torch.full_like(self.mean, math.log(FIRST_SCALE)))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(
        self,
        posterior_of: Callable[[Tensor], Distribution],
        y: Int[Tensor, "B *A"] | None = None,
    ) -> DiagonalMixture:
        """p(z), batch `[]`, event `[*Z]`. This prior needs neither the posterior nor a label."""
        return DiagonalMixture(self.logits, self.mean, LEAST_SCALE + self.log_scale.exp())
