"""Posteriors: from the encoder's features to q(z|x)."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal

from latens.errors import LatensError
from latens.model.distributions import (
    FlowDistribution,
    bounded_logvar,
    diagonal_normal,
    load_zuko,
)
from latens.model.networks.mlp import check_sizes, start_as_identity
from latens.model.parts import Encoder, Posterior

MOST_TABULATED = 3  # latents
FIRST_SPREAD, FIRST_SIGMA = 0.3, 0.1  # of a narrow start, in units of z
LEAST_SPREAD = 1e-6  # of features that are all alike


class DiagonalGaussian(Posterior, name="gaussian"):
    """q(z|x) = N(μ(x), diag σ²(x)), both linear in the encoder's features.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", equation 9. log σ² is bounded
    smoothly to ±15, so that one wild batch does not end in NaN.

    Args:
        features: F, the width of the encoder's output.
        latent_dim: D, the number of latent dimensions.

    Raises:
        LatensError: an argument below 1.
    """

    def __init__(self, features: int, latent_dim: int):
        super().__init__()
        check_sizes(features=features, latent_dim=latent_dim)
        self.features = features
        self.latent_dim = latent_dim
        self.event_shape = (latent_dim,)
        self.parameters_of_q = nn.Linear(features, 2 * latent_dim)
        # q starts near N(0, I): a KL near zero to begin with, whatever the encoder's scale
        nn.init.normal_(self.parameters_of_q.weight, std=0.1 / math.sqrt(features))
        nn.init.zeros_(self.parameters_of_q.bias)

    def start_narrow(self, features: Float[Tensor, "N F"]) -> None:
        """Start with narrow Gaussians whose means are apart."""
        _start_narrow(self.parameters_of_q, features, self.latent_dim)

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

    def start_narrow(self, features: Float[Tensor, "N F h w"]) -> None:
        """Start with narrow Gaussians whose means are apart, at all positions together."""
        rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
        _start_narrow(self.parameters_of_q, rows, self.event_shape[0])

    def forward(self, features: Float[Tensor, "B F h w"]) -> Independent:
        """q(z|x), batch `[B]`, event `[D, h, w]`; its parameters are float32."""
        with torch.autocast(features.device.type, enabled=False):
            weight = self.parameters_of_q.weight
            mean, logvar = self.parameters_of_q(features.to(weight.dtype)).chunk(2, dim=1)
        return diagonal_normal(mean, torch.exp(0.5 * bounded_logvar(logvar)), event_dims=3)


def _start_narrow(
    parameters_of_q: nn.Linear | nn.Conv2d, features: Float[Tensor, "N F"], latent_dim: int
) -> None:
    """Scale the means, its first D rows, to `FIRST_SPREAD` over these features, and narrow σ.

    The next D rows are log σ² before its bound, which hardly moves it there.
    """
    if len(features) < 2 or parameters_of_q.bias is None:
        return
    with torch.no_grad():
        weight = parameters_of_q.weight[:latent_dim].flatten(1)
        spread = (features @ weight.T).std(0).clamp(min=LEAST_SPREAD)
        weight *= (FIRST_SPREAD / spread)[:, None]
        parameters_of_q.bias[:latent_dim] = -(features.mean(0) @ weight.T)
        parameters_of_q.bias[latent_dim : 2 * latent_dim] = 2 * math.log(FIRST_SIGMA)


def default_posterior(encoder: Encoder, latent_shape: tuple[int, ...]) -> Posterior:
    """A diagonal Gaussian over a vector of latents, or over a map of them."""
    if len(latent_shape) == 1:
        return DiagonalGaussian(encoder.features, latent_shape[0])
    return DiagonalGaussianMap(encoder.features, latent_shape)


class Tabulated(DiagonalGaussian, name="grid"):
    """For up to three latents: the model learns under q(z|x) tabulated on a grid, nearly p(z|x).

    The exact expectation step of Bishop et al. 1998, "GTM: The Generative Topographic Mapping",
    section 2, with a network in the place of the basis functions; see `latens.model.grid`. What is
    used afterwards is the encoder's diagonal Gaussian, which learns beside it by its own ELBO, in
    which the decoder is a constant.

    Args:
        features: F, the width of the encoder's output.
        latent_dim: D, up to 3.
        cells: of the grid along each axis, while the model learns.

    Raises:
        LatensError: `latent_dim` below 1 or above 3, or `cells` below 1.
    """

    def __init__(self, features: int, latent_dim: int, cells: int = 128):
        super().__init__(features, latent_dim)
        check_sizes(cells=cells)
        if latent_dim > MOST_TABULATED:
            raise LatensError(
                f"the posterior grid is for up to {MOST_TABULATED} latents, and these are "
                f"{latent_dim}: add --latent-dim 2, or use another posterior"
            )
        self.cells = cells

    def proposal(self, vae: Any, x: Tensor, y: Tensor | None) -> Distribution:
        """The table."""
        from latens.model.grid import Grid, grid_posterior  # knows models, as no part does

        return grid_posterior(vae, x, y, Grid.over_prior(vae, self.cells))


class FullCovarianceGaussian(Posterior, name="full"):
    """q(z|x) = N(μ(x), L(x) L(x)ᵀ): latents that depend on each other.

    Kingma & Welling 2019, "An Introduction to Variational Autoencoders", section 2.5.1. The KL to a
    diagonal Gaussian prior has a closed form, dimension by dimension (see `distributions.kl`).

    Args:
        features: F, the width of the encoder's output.
        latent_dim: D, the number of latent dimensions.

    Raises:
        LatensError: an argument below 1.
    """

    def __init__(self, features: int, latent_dim: int):
        super().__init__()
        check_sizes(features=features, latent_dim=latent_dim)
        self.features = features
        self.latent_dim = latent_dim
        self.event_shape = (latent_dim,)
        below = latent_dim * (latent_dim - 1) // 2
        self.parameters_of_q = nn.Linear(features, 2 * latent_dim + below)
        nn.init.normal_(self.parameters_of_q.weight, std=0.1 / math.sqrt(features))
        nn.init.zeros_(self.parameters_of_q.bias)

    def start_narrow(self, features: Float[Tensor, "N F"]) -> None:
        """Start with narrow Gaussians whose means are apart."""
        _start_narrow(self.parameters_of_q, features, self.latent_dim)

    def forward(self, features: Float[Tensor, "B F"]) -> MultivariateNormal:
        """q(z|x), batch `[B]`, event `[D]`; its parameters are float32."""
        dims = self.latent_dim
        with torch.autocast(features.device.type, enabled=False):
            output = self.parameters_of_q(features.to(self.parameters_of_q.weight.dtype))
        mean, logvar, below = output.split((dims, dims, output.shape[1] - 2 * dims), dim=1)
        scale = torch.exp(0.5 * bounded_logvar(logvar))
        row, column = torch.tril_indices(dims, dims, -1, device=output.device)
        tril = torch.diag_embed(scale)
        # In units of its row's scale: a narrow latent keeps a narrow conditional
        tril[:, row, column] = below * scale[:, row]
        return Float32MultivariateNormal(mean, scale_tril=tril, validate_args=False)


class Float32MultivariateNormal(MultivariateNormal):
    """One whose samples are in float32 under autocast too, which would round L ε to bfloat16."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - as torch's
        """μ + L ε."""
        with torch.autocast(self.loc.device.type, enabled=False):
            return super().rsample(sample_shape)


class IAF(Posterior, name="iaf"):
    """q(z|x): a diagonal Gaussian sent through inverse autoregressive flows that see the features.

    Kingma et al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow",
    section 3. A sample and its density cost one pass of each flow; the density of a given z costs
    D passes. It starts as the diagonal Gaussian. The KL is estimated from the samples of z.

    Args:
        features: F, the width of the encoder's output.
        latent_dim: D, the number of latent dimensions.
        iaf_steps: how many flows, each in the opposite order of the one before.
        iaf_width: width of the two hidden layers of each.

    Raises:
        LatensError: an argument below 1.
    """

    def __init__(self, features: int, latent_dim: int, iaf_steps: int = 2, iaf_width: int = 128):
        super().__init__()
        check_sizes(features=features, latent_dim=latent_dim)
        check_sizes(iaf_steps=iaf_steps, iaf_width=iaf_width)
        transform = load_zuko().flows.MaskedAutoregressiveTransform

        self.features = features
        self.latent_dim = latent_dim
        self.iaf_steps = iaf_steps
        self.iaf_width = iaf_width
        self.event_shape = (latent_dim,)
        self.base = DiagonalGaussian(features, latent_dim)
        self.context = nn.Linear(features, iaf_width)
        order = torch.arange(latent_dim)
        self.flows = nn.ModuleList(
            transform(
                latent_dim,
                context=iaf_width,
                order=cast("Any", order.flip(0) if step % 2 else order),
                hidden_features=(iaf_width, iaf_width),
            )
            for step in range(iaf_steps)
        )
        start_as_identity(self.flows)

    def start_narrow(self, features: Float[Tensor, "N F"]) -> None:
        """Start with narrow Gaussians whose means are apart."""
        self.base.start_narrow(features)

    def forward(self, features: Float[Tensor, "B F"]) -> FlowDistribution:
        """q(z|x), batch `[B]`, event `[D]`; its parameters are float32."""
        base = self.base(features)
        with torch.autocast(features.device.type, enabled=False):
            context = torch.relu(self.context(features.to(self.context.weight.dtype)))
        flows = (flow(context) for flow in self.flows)
        return FlowDistribution(base, load_zuko().transforms.ComposedTransform(*flows))
