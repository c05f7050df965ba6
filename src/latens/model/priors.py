"""Priors: p(z)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

from latens.errors import LatensError
from latens.model.distributions import DiagonalMixture, diagonal_normal
from latens.model.parts import Prior

FIRST_SCALE = 0.5  # of the components of a mixture, which together begin near N(0, I)
LEAST_PIXEL = 0.01  # of a pseudo-input at first: a logit of a black pixel passes no gradient
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


class VampPrior(Prior, name="vamp"):
    """p(z) = 1/K Σ_k q(z|u_k): a mixture of the posteriors of K learned pseudo-inputs.

    Tomczak & Welling 2018, "VAE with a VampPrior", equation 10: it has the form of the aggregated
    posterior, which is the best prior of all. The KL to it has no closed form, so it is estimated
    from the samples of z.

    Args:
        event_shape: Z, the shape of one latent.
        image_shape: (C, H, W) of the pseudo-inputs.
        components: K, how many pseudo-inputs.

    Raises:
        LatensError: no pseudo-input.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        components: int = 500,
    ):
        super().__init__()
        if components < 1:
            raise LatensError(f"a VampPrior of {components} pseudo-inputs: it needs 1 or more")
        self.event_shape = tuple(event_shape)
        self.image_shape = tuple(image_shape)
        self.components = components
        self.logits = nn.Parameter(torch.randn(components, *image_shape))

    def start_from(self, images: Float[Tensor, "N C H W"], mean: Float[Tensor, "C H W"]) -> None:
        """Begin at training images drawn at random, repeated where there are fewer than K."""
        rows = torch.arange(self.components) % len(images)
        chosen = images[torch.randperm(len(images))][rows]
        with torch.no_grad():
            self.logits.copy_(torch.logit(chosen, eps=LEAST_PIXEL))

    @property
    def pseudo_inputs(self) -> Float[Tensor, "K C H W"]:
        """u_k, images in (0, 1)."""
        return torch.sigmoid(self.logits)

    def forward(
        self,
        posterior_of: Callable[[Tensor], Distribution],
        y: Int[Tensor, "B *A"] | None = None,
    ) -> Distribution:
        """p(z), batch `[]`, event `[*Z]`. A label is not needed."""
        q = posterior_of(self.pseudo_inputs)
        weights = torch.zeros(self.components, device=self.logits.device)
        if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
            return DiagonalMixture(weights, q.base_dist.loc, q.base_dist.scale)
        mixing = Categorical(logits=weights, validate_args=False)
        return MixtureSameFamily(mixing, q, validate_args=False)
