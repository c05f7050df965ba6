"""What torch.distributions lacks, and the one place that decides how a KL is computed."""

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence


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
