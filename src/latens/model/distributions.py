"""What torch.distributions lacks, and the one place that decides how a KL is computed."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from latens.model.noise import forked_rng

# |log σ²| stays below this: σ between 5.5e-4 and 1.8e3. Wide enough never to be felt by a model
# that learns, narrow enough that exp() and its gradient stay finite in float32.
LOGVAR_BOUND = 15.0
VARIANCE_SAMPLES = 64  # for the variance of a flow
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


def bounded_logvar(logvar: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log σ², smoothly within ±15."""
    return LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)


def load_zuko() -> ModuleType:
    """`zuko`, which only a model with a flow waits for.

    Its import switches off torch's checks of arguments for every distribution there is, one's own
    too: they are left as they were.
    """
    before = Distribution._validate_args, Distribution.arg_constraints
    import zuko

    Distribution._validate_args, Distribution.arg_constraints = before  # pyright: ignore[reportAttributeAccessIssue]
    return zuko


def kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) for each latent dimension in nats, `[B, *Z]`; None where no closed form exists.

    Two diagonal Gaussians have one, and so has a full-covariance Gaussian against a diagonal one,
    dimension by dimension by the chain rule: KL_d = E KL(q(z_d|z_<d) ‖ p(z_d)). For anything else
    the caller falls back on the Monte Carlo estimate log q(z|x) − log p(z), which is a number per
    image and not per dimension.
    """
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        return None
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        return kl_divergence(q.base_dist, p.base_dist)
    if isinstance(q, MultivariateNormal):
        # z_d given z_<d has the variance L_dd², and z_d altogether the variance Σ_dd
        p_mean, p_scale = p.base_dist.loc, p.base_dist.scale
        conditional = q.scale_tril.diagonal(dim1=-2, dim2=-1)
        squares = (q.variance + (q.mean - p_mean) ** 2) / p_scale**2
        return 0.5 * (squares - 1) + (p_scale / conditional).log()
    return None


def stop_gradient(q: Distribution) -> Distribution | None:
    """The same distribution with parameters that pass no gradient on; None where it is a flow."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        normal = q.base_dist
        dims = q.reinterpreted_batch_ndims
        return diagonal_normal(normal.loc.detach(), normal.scale.detach(), dims)
    if isinstance(q, MultivariateNormal):
        return MultivariateNormal(
            q.loc.detach(), scale_tril=q.scale_tril.detach(), validate_args=False
        )
    return None


class BernoulliImage(Independent):
    """∏ Bernoulli(x_i; sigmoid(l_i)): log p = Σ x_i l_i − log(1 + exp l_i), in as few passes.

    Args:
        logits: `[*N, C, H, W]`.
    """

    def __init__(self, logits: Float[Tensor, "*N C H W"]):
        super().__init__(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log p(x) of images `[*N, C, H, W]` in nats, `[*N]`: summed over pixels and channels."""
        logits = self.base_dist.logits
        at_one = (value * logits).sum((-3, -2, -1))
        return at_one - F.softplus(logits).sum((-3, -2, -1))


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
        return _log_mass(value, self.loc, self.log_scale).sum((-3, -2, -1))

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


def _log_mass(
    value: Float[Tensor, "..."], loc: Float[Tensor, "..."], log_scale: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Log of a logistic's mass within half a step of a value; the outermost two have the tails."""
    centred, inverse = value - loc, torch.exp(-log_scale)
    upper, lower = (centred + HALF_STEP) * inverse, (centred - HALF_STEP) * inverse
    # log(σ(u) − σ(l)) = log σ(u) + log σ(−l) + log(1 − exp(l − u)), in any tail
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    between = torch.log(-torch.expm1(-2 * HALF_STEP * inverse))
    outermost = torch.where(value < HALF_STEP, below, above)
    inside = (value >= HALF_STEP) & (value <= 1 - HALF_STEP)
    return torch.where(inside, below + above + between, outermost)


class DiscretisedLogisticMixture(Distribution):
    """Mixtures of discretised logistics, the channels of a pixel one after the other.

    Salimans et al. 2017, "PixelCNN++", section 2.2: the location of channel c in component k is
    μ_ck + Σ_{d<c} a_dck x_d. One component is chosen for all channels of a pixel.

    Args:
        logits: log weights of the components up to a constant, `[*N, K, H, W]`.
        loc: μ, `[*N, C, K, H, W]`, in units of the pixel range.
        log_scale: `[*N, C, K, H, W]`.
        coefficients: a, `[*N, C (C − 1) / 2, K, H, W]`: green on red, blue on red, blue on green.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self,
        logits: Float[Tensor, "..."],
        loc: Float[Tensor, "..."],
        log_scale: Float[Tensor, "..."],
        coefficients: Float[Tensor, "..."],
    ):
        self.logits, self.loc, self.log_scale = logits, loc, log_scale
        self.coefficients = coefficients
        channels = loc.shape[-4]
        event = torch.Size((channels, *loc.shape[-2:]))
        super().__init__(loc.shape[:-4], event, validate_args=False)

    def _location(self, channel: int, earlier: list[Tensor]) -> Float[Tensor, "..."]:
        """`[*N, K, H, W]` of a channel, given the values of the earlier ones `[*N, 1, H, W]`."""
        location = self.loc[..., channel, :, :, :]
        first = channel * (channel - 1) // 2
        for d, value in enumerate(earlier):
            location = location + self.coefficients[..., first + d, :, :, :] * value
        return location

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log P(x) of images `[*N, C, H, W]` in nats, `[*N]`: summed over the pixels."""
        channels = [value[..., c : c + 1, :, :] for c in range(self.event_shape[0])]
        log_p = self.logits.log_softmax(-3)
        for c, x in enumerate(channels):
            location = self._location(c, channels[:c])
            log_p = log_p + _log_mass(x, location, self.log_scale[..., c, :, :, :])
        return log_p.logsumexp(-3).sum((-2, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values in 0, 1/255, … 1."""
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            mixing = Categorical(logits=self.logits.movedim(-3, -1), validate_args=False)
            chosen = mixing.sample(shape)[..., None, :, :]  # [*S, *N, 1, H, W]

            def draw(c: int, earlier: list[Tensor]) -> Tensor:
                location = self._location(c, earlier)
                log_scale = self.log_scale[..., c, :, :, :]
                every = torch.broadcast_shapes(location.shape, (*shape, *self.logits.shape))
                loc = location.expand(every).gather(-3, chosen)
                scale = log_scale.expand(every).gather(-3, chosen).exp()
                logistic = loc + scale * torch.logit(torch.rand_like(loc), eps=1e-7)
                return (logistic.clamp(0, 1) * 255).round() / 255

            return self._one_after_the_other(draw)

    @property
    def mean(self) -> Tensor:
        """Mean locations `[*N, C, H, W]`, each channel's given the earlier ones': what is shown."""
        weights = self.logits.softmax(-3)

        def expected(c: int, earlier: list[Tensor]) -> Tensor:
            return (weights * self._location(c, earlier)).sum(-3, keepdim=True)

        return self._one_after_the_other(expected)

    def _one_after_the_other(self, value_of: Callable[[int, list[Tensor]], Tensor]) -> Tensor:
        channels: list[Tensor] = []
        for c in range(self.event_shape[0]):
            channels.append(value_of(c, channels))
        return torch.cat(channels, -3)


class DiagonalMixture(Distribution):
    """Σ_k w_k N(μ_k, diag σ_k²), whose density needs no value for each sample, component and axis.

    ‖(z − μ_k) / σ_k‖² = z² · σ_k⁻² − 2 z · μ_k σ_k⁻² + μ_k² · σ_k⁻² is three matrix products, where
    `MixtureSameFamily` makes arrays D times as large. The terms cancel, so they are in float64.

    Args:
        logits: log w_k up to a constant, `[K]`.
        mean: `[K, *Z]`.
        scale: `[K, *Z]`, above zero.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self, logits: Float[Tensor, " K"], mean: Float[Tensor, "K *Z"], scale: Float[Tensor, "K *Z"]
    ):
        self.logits, self.loc, self.scale = logits, mean, scale
        super().__init__(torch.Size(), mean.shape[1:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log p(z) of samples `[*N, *Z]` in nats, `[*N]`."""
        return self.log_joint(value).logsumexp(-1).to(value.dtype)

    def log_joint(self, value: Float[Tensor, "..."]) -> Float[Tensor, "... K"]:
        """Log w_k N(z; μ_k, σ_k²) of each component, `[*N, K]`."""
        exact = torch.float32 if value.device.type == "mps" else torch.float64  # all that it has
        z = value.to(exact).flatten(value.dim() - len(self.event_shape))
        mean, scale = (v.to(exact).flatten(1) for v in (self.loc, self.scale))
        precision = scale**-2
        squares = z**2 @ precision.T - 2 * z @ (mean * precision).T + (mean**2 * precision).sum(1)
        log_norm = scale.log().sum(1) + 0.5 * mean.shape[1] * math.log(2 * math.pi)
        log_weights = self.logits.to(exact).log_softmax(0)
        return log_weights - log_norm - 0.5 * squares

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Z ~ p(z), `[*sample_shape, *Z]`."""
        with torch.no_grad():
            # By the inverse of the cumulative distribution, which programs for ONNX can do too
            u = torch.rand(sample_shape, device=self.logits.device)
            k = (self.logits.softmax(0).cumsum(0)[:-1] < u[..., None]).sum(-1)
            return torch.normal(self.loc[k], self.scale[k])

    @property
    def mean(self) -> Tensor:
        """E z, `[*Z]`."""
        return torch.tensordot(self.logits.softmax(0), self.loc, 1)


class FlowDistribution(Distribution):
    """z = f(ε) for ε of a simple distribution, in float32 also under autocast.

    f is computed where it is asked for, so that its networks must be kept out of autocast there.

    Args:
        base: of ε, batch `[*B]`, event `[D]`.
        transform: f, one of zuko's.
    """

    has_rsample = True
    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, base: Independent, transform: Any):
        self.base, self.transform = base, transform
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Samples `[*sample_shape, *B, D]` through which gradients flow."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Samples, and their log-density in nats `[*sample_shape, *B]`, in one pass."""
        noise = self.base.rsample(torch.Size(sample_shape))
        with torch.autocast(noise.device.type, enabled=False):
            z, log_jacobian = self.transform.call_and_ladj(noise)
        return z, self.base.log_prob(noise) - log_jacobian

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density of any z `[*N, *B, D]` in nats, by the inverse of f."""
        with torch.autocast(value.device.type, enabled=False):
            noise, log_jacobian = self.transform.inv.call_and_ladj(value)
        return self.base.log_prob(noise) + log_jacobian

    @property
    def mean(self) -> Tensor:
        """Value of f at the mean of ε, `[*B, D]`, embedded and shown; not E z itself."""
        with torch.autocast(self.base.mean.device.type, enabled=False):
            return self.transform(self.base.mean)

    @property
    def variance(self) -> Tensor:
        """Of z, `[*B, D]`: a Monte Carlo estimate by samples that are the same at each call."""
        device = self.base.mean.device
        with forked_rng(device, 0):
            return self.sample(torch.Size((VARIANCE_SAMPLES,))).var(0)
