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
    TransformedDistribution,
)
from torch.distributions.transforms import ReshapeTransform

from latens.errors import LatensError
from latens.model.distributions import (
    DiagonalMixture,
    FlowDistribution,
    bounded_logvar,
    diagonal_normal,
    load_zuko,
)
from latens.model.networks.labels import LabelEmbedding
from latens.model.networks.mlp import check_sizes, start_as_identity
from latens.model.parts import Prior

# The components of a mixture together begin near N(0, I): means of this variance in a dimension,
# less in more than ten, where one component would take all images and the others none.
FIRST_SPREAD, FIRST_NORM = 0.75, 7.5  # the latter: of a mean, squared, at most
COPY_NOISE = 0.05  # on the logits of a repeated image: equal pseudo-inputs would stay equal
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
        spread = min(FIRST_SPREAD, FIRST_NORM / math.prod(event_shape))  # so z has variance 1
        self.mean = nn.Parameter(torch.empty(components, *event_shape))
        nn.init.normal_(self.mean, std=math.sqrt(spread))
        self.log_scale = nn.Parameter(torch.full_like(self.mean, 0.5 * math.log(1 - spread)))
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
        self.logits = nn.Parameter(torch.empty(components, *image_shape))
        nn.init.normal_(self.logits)

    def start_from(self, images: Float[Tensor, "N C H W"], mean: Float[Tensor, "C H W"]) -> None:
        """Begin at training images drawn at random, repeated where there are fewer than K."""
        rows = torch.arange(self.components) % len(images)
        logits = torch.logit(images[torch.randperm(len(images))][rows], eps=LEAST_PIXEL)
        with torch.no_grad():
            self.logits.copy_(logits)
            copies = self.logits[len(images) :]
            copies += COPY_NOISE * torch.randn_like(copies)

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


class ConditionalNormal(Prior, name="conditional"):
    """p(z|y) = N(z; μ_y, diag σ_y²), learned for each label; N(0, I) where the label is unknown.

    The conditional prior of Sohn et al. 2015, "Learning Structured Output Representation using Deep
    Conditional Generative Models", equation 4, for labels. The KL to it has a closed form.

    Args:
        event_shape: Z, the shape of one latent.
        count: how many classes or attributes there are.
        exclusive: an image has one of `count` classes; otherwise any of `count` attributes.

    Raises:
        LatensError: no classes or attributes at all.
    """

    def __init__(self, event_shape: tuple[int, ...], count: int, exclusive: bool):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.count = count
        self.exclusive = exclusive
        self.labels = LabelEmbedding(count, exclusive)
        # Without a bias an unknown label, whose embedding is zero, stays at N(0, I)
        dims = math.prod(event_shape)
        self.parameters_of_p = nn.Linear(self.labels.width, 2 * dims, bias=False)
        nn.init.zeros_(self.parameters_of_p.weight)

    def forward(
        self,
        posterior_of: Callable[[Tensor], Distribution],
        y: Int[Tensor, "B *A"] | None = None,
    ) -> Independent:
        """p(z|y), batch `[B]`, event `[*Z]`.

        Raises:
            LatensError: no labels.
        """
        with torch.autocast(self.labels.weight.device.type, enabled=False):
            mean, logvar = self.parameters_of_p(self.labels(y)).unflatten(1, (2, -1)).unbind(1)
        scale = torch.exp(0.5 * bounded_logvar(logvar))
        shaped = (v.unflatten(1, self.event_shape) for v in (mean, scale))
        return diagonal_normal(*shaped, event_dims=len(self.event_shape))


class FlowPrior(Prior, name="flow"):
    """p(z): a neural spline flow to N(0, I), which can take almost any shape.

    Durkan et al. 2019, "Neural Spline Flows", with coupling layers, so that density and samples
    cost the same; learned priors by flows as in Chen et al. 2017, "Variational Lossy Autoencoder",
    section 3.2. It starts as N(0, I). The KL to it is estimated from the samples of z.

    Args:
        event_shape: Z, the shape of one latent.
        transforms: how many coupling layers.
        flow_width: width of the two hidden layers of each.

    Raises:
        LatensError: an argument below 1.
    """

    def __init__(self, event_shape: tuple[int, ...], transforms: int = 4, flow_width: int = 128):
        super().__init__()
        check_sizes(transforms=transforms, flow_width=flow_width)
        self.event_shape = tuple(event_shape)
        self.transforms = transforms
        self.flow_width = flow_width
        dims = math.prod(event_shape)
        self.flow = load_zuko().flows.NSF(
            dims,
            transforms=transforms,
            hidden_features=(flow_width, flow_width),
            passes=min(2, dims),
        )
        start_as_identity(self.flow)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows the device

    def forward(
        self,
        posterior_of: Callable[[Tensor], Distribution],
        y: Int[Tensor, "B *A"] | None = None,
    ) -> Distribution:
        """p(z), batch `[]`, event `[*Z]`. Neither the posterior nor a label is needed."""
        zeros = self.zero.expand(math.prod(self.event_shape))
        base = diagonal_normal(zeros, torch.ones_like(zeros), event_dims=1)
        p = FlowDistribution(base, self.flow.transform().inv)  # zuko's leads from z to N(0, I)
        if len(self.event_shape) == 1:
            return p
        reshape = ReshapeTransform(
            torch.Size((math.prod(self.event_shape),)), torch.Size(self.event_shape)
        )
        return TransformedDistribution(p, reshape, validate_args=False)
