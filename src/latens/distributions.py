"""What torch.distributions lacks, and the one place that decides how a KL is computed."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

HALF_STEP = 0.5 / 255  # half the distance between two values of an 8-bit pixel
# Torch looks a KL up in a registry through which no compiler sees; the second time it remembers.
kl_divergence(Normal(0.0, 1.0), Normal(0.0, 1.0))


def diagonal_normal(
    mean: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"], event_dims: int
) -> Independent:
    """N(mean, scale² I) whose last `event_dims` dimensions are one event.

    Values are not validated: the check costs a synchronisation with the device at every step.
    """
    return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)


def kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) for each latent dimension in nats, `[B, *Z]`; None where no closed form exists.

    Two diagonal Gaussians have one. For anything else the caller falls back on the Monte Carlo
    estimate log q(z|x) − log p(z), which is a number per image and not per dimension.
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if not (isinstance(q.base_dist, Normal) and isinstance(p.base_dist, Normal)):
        return None
    return kl_divergence(q.base_dist, p.base_dist)


class DiscretisedLogistic(Distribution):
    """Logistics rounded to the 256 values 0, 1/255, … 1 of 8-bit pixels: these sum to one.

    Each value has the logistic's mass within half a step of it; the outermost two have the tails
    (Salimans et al. 2017, "PixelCNN++", equation 2, with one component). Pixels and channels are
    independent.

    Args:
        loc: `[*N, C, H, W]`, in units of the pixel range.
        log_scale: `[*N, C, H, W]`, the logarithm of the logistic's scale.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, loc: Float[Tensor, "*N C H W"], log_scale: Float[Tensor, "*N C H W"]):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log P(x) of images `[*N, C, H, W]` in nats, `[*N]`: summed over pixels and channels."""
        centred, inverse = value - self.loc, torch.exp(-self.log_scale)
        upper, lower = (centred + HALF_STEP) * inverse, (centred - HALF_STEP) * inverse
        # log(σ(b) − σ(a)) = log σ(b) + log σ(−a) + log(1 − exp(a − b)), in any tail
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower)
        inside = inside + torch.log(-torch.expm1(-2 * HALF_STEP * inverse))
        log_p = torch.where(value < HALF_STEP, F.logsigmoid(upper), inside)
        log_p = torch.where(value > 1 - HALF_STEP, F.logsigmoid(-lower), log_p)
        return log_p.sum((-3, -2, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values in 0, 1/255, … 1."""
        with torch.no_grad():
            u = torch.rand(*sample_shape, *self.loc.shape, device=self.loc.device)
            logistic = self.loc + torch.exp(self.log_scale) * torch.logit(u, eps=1e-7)
            return (logistic.clamp(0, 1) * 255).round() / 255

    @property
    def mean(self) -> Tensor:
        """The locations: the mean but for rounding, and for what is clipped at black and white."""
        return self.loc
