"""Priors: p(z)."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.distributions import Distribution, Independent

from latens.distributions import diagonal_normal
from latens.parts import Prior


class StandardNormal(Prior):
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
        posterior_of: Callable[[Tensor], Distribution] | None = None,
        y: Int[Tensor, "B *A"] | None = None,
    ) -> Independent:
        """p(z), batch `[]`, event `[*Z]`. This prior needs neither the posterior nor a label."""
        mean = self.zero.expand(self.event_shape)
        return diagonal_normal(mean, torch.ones_like(mean), event_dims=len(self.event_shape))
