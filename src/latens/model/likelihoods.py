"""Likelihoods: from the decoder's output to p(x|z) over pixels in [0, 1]."""

import itertools
import math
from abc import ABC
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import Laplace as TorchLaplace

from latens.errors import LatensError
from latens.model.distributions import (
    BernoulliImage,
    DiscretisedLogisticMixture,
    diagonal_normal,
)
from latens.model.distributions import DiscretisedLogistic as LogisticOf8Bits
from latens.model.parts import Kind, Likelihood

# A learned σ stays above one grey level: below it a density on 8-bit pixels can grow without
# end by resting on the lattice of values, and says nothing about the model.
LEAST_SCALE = 1 / 255
FIRST_SPREAD = 0.1  # of the locations of a mixture
FIRST_SCALE = 0.2  # a fifth of the pixel range
SMALL_LOGIT = 1e-2  # below it the continuous Bernoulli is computed by its Taylor series
LEAST_LOGISTIC = math.exp(-7)  # PixelCNN++'s bound: all the mass is on one value
MOST_LOG_SCALE = 7.0  # every value is black or white; its inverse is a float32 with a gradient


class Bernoulli(Likelihood, name="bernoulli"):
    """p(x|z) = ∏ Bernoulli(x_i; sigmoid(logit_i)).

    On binary pixels log p(x|z) is a log-likelihood. On grey pixels it is minus a cross-entropy
    and no likelihood at all; `kind` tells which of the two a number is.
    """

    def decoder_channels(self, channels: int) -> int:
        """P = C."""
        return channels

    def parameters_at(self, mean: Float[Tensor, "C H W"]) -> Float[Tensor, "P H W"]:
        """The logits of the mean, cut off at 0.001 and 0.999."""
        return torch.logit(mean, eps=1e-3)

    def kind(self, binary_pixels: bool) -> Kind:
        """Binary, or grey cross-entropy."""
        return "binary" if binary_pixels else "grey cross-entropy"

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> Independent:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        return BernoulliImage(parameters.float())


class ContinuousBernoulli(Likelihood, name="continuous-bernoulli"):
    """p(x|z) = ∏ C(l_i) exp(x_i l_i) / (1 + exp l_i) over [0, 1]: the Bernoulli, normalised.

    Loaiza-Ganem & Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders", equation 4. With logits l the constant is C(l) = l / tanh(l / 2), and
    the mean is sigmoid(l) / tanh(l / 2) − 1 / l, which is what is shown. `log_prob` is a density in
    nats per image for pixels in [0, 1].
    """

    def decoder_channels(self, channels: int) -> int:
        """P = C."""
        return channels

    def parameters_at(self, mean: Float[Tensor, "C H W"]) -> Float[Tensor, "P H W"]:
        """The logits of the mean, which is cut off at 0.01 and 0.99, by bisection."""
        mean = mean.double().clamp(0.01, 0.99)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = _continuous_bernoulli_mean(middle) < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low.float()

    def kind(self, binary_pixels: bool) -> Kind:
        """Density."""
        return "density"

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> Distribution:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        return _ContinuousBernoulliImage(parameters.float())


class _ContinuousBernoulliImage(Distribution):
    """By logits; torch's own clamps probabilities, and is a nat per pixel off at logits of 50.

    Args:
        logits: `[*N, C, H, W]`.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, logits: Float[Tensor, "*N C H W"]):
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log p(x) of images `[*N, C, H, W]` in nats, `[*N]`: summed over pixels and channels."""
        small = self.logits.abs() < SMALL_LOGIT
        safe = torch.where(small, SMALL_LOGIT, self.logits.abs())  # no gradient of 0 / 0
        exact = safe.log() - torch.tanh(safe / 2).log()
        log_norm = torch.where(small, math.log(2) + self.logits**2 / 12, exact)  # Taylor about 0
        return BernoulliImage(self.logits).log_prob(value) + log_norm.sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """E x, `[*N, C, H, W]`."""
        return _continuous_bernoulli_mean(self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Pixels in [0, 1], by the inverse of the distribution function."""
        with torch.no_grad():
            u = torch.rand(*sample_shape, *self.logits.shape, device=self.logits.device)
            size = self.logits.abs().clamp(min=1e-4)  # hardly another density than the uniform
            x = (1 + torch.log1p((1 - u) * torch.expm1(-size)) / size).clamp(0, 1)
            return torch.where(self.logits < 0, 1 - x, x)


def _continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    small = logits.abs() < SMALL_LOGIT
    safe = torch.where(small, SMALL_LOGIT, logits)
    exact = torch.sigmoid(safe) / torch.tanh(safe / 2) - 1 / safe
    return torch.where(small, 0.5 + logits / 12, exact)


class _LocationScale(Likelihood, ABC):
    """A density around the decoder's output, with a fixed scale or one learned for all pixels.

    Args:
        scale: for pixels in [0, 1]; None learns it, starting at 0.2.

    Raises:
        LatensError: `scale` not above zero.
    """

    def __init__(self, scale: float | None = None):
        super().__init__()
        if scale is not None and not scale > 0:
            raise LatensError(f"the scale of {type(self).__name__} is {scale}: it must be above 0")
        self.scale = scale
        if scale is None:
            self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def decoder_channels(self, channels: int) -> int:
        """P = C."""
        return channels

    def parameters_at(self, mean: Float[Tensor, "C H W"]) -> Float[Tensor, "P H W"]:
        """The mean itself."""
        return mean

    def kind(self, binary_pixels: bool) -> Kind:
        """Density."""
        return "density"

    def _scale_for(self, mean: Tensor) -> Tensor:
        """The scale of each pixel."""
        fixed = mean.new_tensor(self.scale) if self.scale else None
        scale = LEAST_SCALE + self.log_scale.exp() if fixed is None else fixed
        return scale.expand(mean.shape)


class Gaussian(_LocationScale, name="gaussian"):
    """p(x|z) = N(x; μ, σ² I), with a fixed σ or one σ learned for all pixels.

    With σ fixed, −log p is the squared error over 2σ² plus a constant. The learned σ is the σ-VAE
    of Rybkin et al. 2021, equation 4: it balances reconstruction and KL without a weight chosen by
    hand. `log_prob` is a density in nats per image for pixels scaled to [0, 1].

    Args:
        scale: σ for pixels in [0, 1]; None learns it, starting at 0.2.

    Raises:
        LatensError: `scale` not above zero.
    """

    def squared_error(self, nats: float, values: int) -> float:
        """Σ (x − μ)² of an image of so many values whose −log p(x|z) is `nats`."""
        sigma = self._scale_for(torch.zeros(())).item()
        return 2 * sigma**2 * (nats - values * math.log(sigma * math.sqrt(2 * math.pi)))

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> Independent:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        mean = parameters.float()
        return diagonal_normal(mean, self._scale_for(mean), event_dims=3)


class SquaredError(Gaussian, name="mse"):
    """−log p(x|z) = Σ (x − μ)² + a constant: the Gaussian with σ = 1/√2.

    The error that many public VAEs minimise, summed over an image. To balance it against the KL
    by a learned σ is better (Rybkin et al. 2021, equation 4), and what `Gaussian` does.
    """

    def __init__(self) -> None:
        super().__init__(math.sqrt(0.5))


class Laplace(_LocationScale, name="laplace"):
    """p(x|z) = ∏ Laplace(x_i; μ_i, b), the likelihood of the absolute error; b fixed or learned.

    `log_prob` is a density in nats per image for pixels scaled to [0, 1]. An outlier costs less
    than under the Gaussian (for a learned b: Rybkin et al. 2021, equation 4, with this density).

    Args:
        scale: b for pixels in [0, 1]; None learns it, starting at 0.2.

    Raises:
        LatensError: `scale` not above zero.
    """

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> Independent:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        mean = parameters.float()
        laplace = TorchLaplace(mean, self._scale_for(mean), validate_args=False)
        return Independent(laplace, 3, validate_args=False)


class DiscretisedLogistic(Likelihood, name="discretised-logistic"):
    """p(x|z) over the 256 values of each 8-bit pixel: a real likelihood, so bits per dimension.

    Logistics around the decoder's output, with one scale learned for all pixels (Kingma et al.
    2016, "Improved Variational Inference with Inverse Autoregressive Flow", section 6.2; there:
    one for each channel).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE / 2)))

    def decoder_channels(self, channels: int) -> int:
        """P = C."""
        return channels

    def parameters_at(self, mean: Float[Tensor, "C H W"]) -> Float[Tensor, "P H W"]:
        """The mean itself."""
        return mean

    def kind(self, binary_pixels: bool) -> Kind:
        """8-bit."""
        return "8-bit"

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> LogisticOf8Bits:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        loc = parameters.float()
        scale = LEAST_LOGISTIC + self.log_scale.exp()
        return LogisticOf8Bits(loc, scale.log().expand(loc.shape))


class LogisticMixture(Likelihood, name="logistic-mixture"):
    """p(x|z) over the 256 values of each 8-bit pixel: a mixture of discretised logistics.

    Salimans et al. 2017, "PixelCNN++", equation 2 and section 2.2: in colour, green depends on red,
    and blue on both, by coefficients that the decoder gives. It has bits per
    dimension.

    Args:
        mixture_components: K, logistics for each pixel.

    Raises:
        LatensError: no component.
    """

    def __init__(self, mixture_components: int = 10):
        super().__init__()
        if mixture_components < 1:
            raise LatensError(f"mixture_components is {mixture_components}: it must be 1 or more")
        self.mixture_components = mixture_components

    def decoder_channels(self, channels: int) -> int:
        """P = K (1 + 2C + C (C − 1) / 2): weights, locations, scales, coefficients: 10 K in RGB."""
        return self.mixture_components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def parameters_at(self, mean: Float[Tensor, "C H W"]) -> Float[Tensor, "P H W"]:
        """All components about the mean, spread a little, with a scale of a tenth of the range."""
        channels, k = mean.shape[0], self.mixture_components
        # Symmetric about 0, which a single component is at
        spread = FIRST_SPREAD * (2 * (torch.arange(k, device=mean.device) + 0.5) / k - 1)
        loc = mean[:, None] + spread[:, None, None]  # [C, K, H, W]
        parameters = mean.new_zeros(self.decoder_channels(channels), *mean.shape[1:])
        parameters[k : k * (1 + channels)] = loc.flatten(0, 1)
        parameters[k * (1 + channels) : k * (1 + 2 * channels)] = math.log(FIRST_SCALE / 2)
        return parameters

    def kind(self, binary_pixels: bool) -> Kind:
        """8-bit."""
        return "8-bit"

    def forward(self, parameters: Float[Tensor, "*N P H W"]) -> DiscretisedLogisticMixture:
        """p(x|z), batch `[*N]`, event `[C, H, W]`. `log_prob` is in nats per image."""
        k, planes = self.mixture_components, parameters.float()
        channels = _channels_of(planes.shape[-3] // k)
        counts = (k, k * channels, k * channels, k * channels * (channels - 1) // 2)
        logits, loc, log_scale, coefficients = planes.split(counts, dim=-3)
        return DiscretisedLogisticMixture(
            logits,
            loc.unflatten(-3, (channels, k)),
            log_scale.unflatten(-3, (channels, k)).clamp(math.log(LEAST_LOGISTIC), MOST_LOG_SCALE),
            torch.tanh(coefficients).unflatten(-3, (channels * (channels - 1) // 2, k)),
        )


def _channels_of(parameters: int) -> int:
    """C, from the 1 + 2C + C (C − 1) / 2 parameters of a component."""
    return next(c for c in itertools.count(1) if 1 + 2 * c + c * (c - 1) // 2 >= parameters)
