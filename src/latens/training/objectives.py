"""Objectives: from everything drawn to a loss. They see a `Draw` and never touch a network."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from latens.errors import LatensError
from latens.model.aggregated import log_aggregated, stratified_log_weights
from latens.model.distributions import stop_gradient
from latens.model.latents import Draw, Latent
from latens.model.parts import Configurable


@dataclass(frozen=True)
class Loss:
    """What is minimised, and its terms, for each image in nats.

    Attributes:
        per_image: the loss, `[B]`.
        terms: what it consists of, by name, `[B]` each, before any weight. Each objective gives
            "reconstruction", −E_q log p(x|z), and "kl", KL(q(z|x) ‖ p(z)); of a model with a
            classifier "label", −E_q log p(y|z), is added, and of one that learns under another q
            than its encoder's "encoder", −ELBO under that.
    """

    per_image: Float[Tensor, " B"]
    terms: dict[str, Float[Tensor, " B"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Objective(Configurable, ABC):
    """What a training minimises: `Draw -> Loss`. A frozen dataclass; a schedule replaces arguments.

    Args:
        samples: K, how many z are drawn for each image.
        label_weight: α, the weight of the classifier's loss −E_q log p(y|z), which is a mean over
            the images with a label (Kingma et al. 2014, "Semi-supervised Learning with Deep
            Generative Models", equation 9).

    Raises:
        LatensError: no samples, or a negative argument.
    """

    samples: int = 1
    label_weight: float | Float[Tensor, ""] = 0.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise LatensError(f"samples is {self.samples}: it must be 1 or more")
        self._check_not_negative("label_weight")

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not value >= 0:
                raise LatensError(f"{name} is {value}: it must be 0 or more")

    def __call__(self, draw: Draw) -> Loss:
        """The loss of each image."""
        own = self.loss(draw)
        terms = {"reconstruction": -draw.log_px_z.mean(0), "kl": draw.kl} | own.terms
        per_image = own.per_image
        if "encoder_elbo" in draw.extras:
            encoder = -draw.extras["encoder_elbo"]
            terms["encoder"] = encoder
            per_image = per_image + (encoder - encoder.detach())  # learns, and costs nothing
        if "log_py_z" in draw.extras:
            label = -draw.extras["log_py_z"].mean(0)
            terms["label"] = label
            per_image = per_image + self.label_weight * label
        return Loss(per_image, terms)

    @abstractmethod
    def loss(self, draw: Draw) -> Loss:
        """The loss of each image without the label's term, and terms of its own besides the two."""

    def for_data(self, images: int, labelled: float) -> "Objective":
        """The same for a training set: what depends on its size is known from here on.

        Args:
            images: N.
            labelled: the share of them that has a label, in [0, 1].
        """
        return replace(self, label_weight=self.label_weight / (labelled or 1.0))

    @property
    def compiles(self) -> bool:
        """Whether a compiled step can hold it."""
        return True


@dataclass(frozen=True)
class ELBO(Objective, name="elbo"):
    """loss = −E_q log p(x|z) + β KL(q(z|x) ‖ p(z)), in nats per image.

    β = 1 is minus the evidence lower bound (Kingma & Welling 2014, "Auto-Encoding Variational
    Bayes", equation 3); other values are the β-VAE (Higgins et al. 2017, "beta-VAE", equation 4).
    With free bits a latent dimension whose KL, averaged over the batch, is below λ nats costs λ
    and feels no pull to the prior (Kingma et al. 2016, "Improved Variational Inference with
    Inverse Autoregressive Flow", equation 15).

    Of a hierarchy whole levels can have free bits (there: groups of latent variables).

    Args:
        beta: β, the weight of the KL in the loss; no unit, and nothing else scales the KL.
        free_bits: λ, KL that costs nothing extra, in nats per latent dimension.
        level_free_bits: the same in nats per level of a hierarchy.

    Raises:
        LatensError: a negative argument; or free bits with a KL that has no closed form, and so
            is not known for each dimension.
    """

    beta: float | Float[Tensor, ""] = 1.0
    free_bits: float = 0.0
    level_free_bits: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_not_negative("beta", "free_bits", "level_free_bits")
        if self.free_bits and self.level_free_bits:
            raise LatensError("free_bits and level_free_bits: choose one of them")

    def loss(self, draw: Draw) -> Loss:
        """−E_q log p(x|z) + β KL, averaged over the samples of z."""
        return Loss(-draw.log_px_z.mean(0) + self.beta * self._charged_kl(draw))

    def _charged_kl(self, draw: Draw) -> Float[Tensor, " B"]:
        """The KL that is paid for."""
        free = self.free_bits or self.level_free_bits
        if free == 0:
            return draw.kl
        parts = draw.kl_per_dim if self.free_bits else draw.kl_per_level
        if parts is None:
            raise LatensError(
                "free bits need a KL in closed form: this posterior and prior have none"
            )
        # Σ_d max(λ, mean over the batch of KL_d), shared out over the images
        below = draw.joint(parts).mean(0) < free
        return torch.where(below, free, parts).sum(1)


@dataclass(frozen=True)
class IWAE(Objective, name="iwae"):
    """loss = −log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x), K samples of z, in nats per image.

    Burda et al. 2016, "Importance Weighted Autoencoders", equation 8: a bound on log p(x) that
    rises with K. Its gradient for the encoder is the doubly reparameterised one (Tucker et al.
    2019, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives", equation 8):
    the usual one has a signal-to-noise ratio that falls with K (Rainforth et al. 2018). A q whose
    density is a flow's keeps the usual gradient, and so does a hierarchy, in which z of a level
    reaches the loss through the q of others.

    Args:
        samples: K, how many z are drawn for each image.
    """

    samples: int = 8

    @property
    def compiles(self) -> bool:
        """The gradient is changed by a hook, which no compiled graph holds."""
        return False

    def loss(self, draw: Draw) -> Loss:
        """Minus the importance-weighted bound; only its gradient differs from the plain one."""
        log_w = draw.log_weights  # [K, B]
        bound = log_w.logsumexp(0) - math.log(len(log_w))
        frozen = [q for q in map(stop_gradient, (latent.q for latent in draw.latents)) if q]
        if not torch.is_grad_enabled() or not len(frozen) == len(draw.latents) == 1:
            return Loss(-bound)
        weights = log_w.detach().softmax(0)  # w̃_k
        log_q = sum(q.log_prob(latent.z) for q, latent in zip(frozen, draw.latents, strict=True))
        # ∂/∂θ: Σ_k w̃_k ∂ log w_k; ∂/∂φ: Σ_k w̃_k² (∂ log w_k / ∂z_k) (∂z_k / ∂φ)
        surrogate = (weights * (draw.log_px_z + draw.log_pz - log_q)).sum(0)
        for latent in draw.latents:
            _weigh_gradient(latent, weights)
        return Loss(-(bound.detach() + surrogate - surrogate.detach()))


def _weigh_gradient(latent: Latent, weights: Float[Tensor, "K B"]) -> None:
    """Multiply the gradient that flows through z into the encoder."""
    if latent.z.requires_grad:
        shaped = weights.reshape(*weights.shape, *[1] * (latent.z.dim() - 2))
        latent.z.register_hook(lambda gradient: gradient * shaped)


@dataclass(frozen=True)
class BetaTC(Objective, name="beta-tc"):
    """loss = −E_q log p(x|z) + α I(x; z) + β TC(z) + γ Σ_d KL(q(z_d) ‖ p(z_d)), in nats per image.

    The KL taken apart into mutual information, total correlation and dimension-wise KL (Chen et
    al. 2018, "Isolating Sources of Disentanglement in Variational Autoencoders", equation 2);
    α = β = γ = 1 is the ELBO. The aggregated posterior q(z) is estimated over the batch, by
    stratified sampling (appendix C.2).

    Args:
        beta: β, the weight of the total correlation.
        mi_weight: α, the weight of the mutual information.
        dimension_weight: γ, the weight of the KL of each dimension by itself.
        dataset_size: N, set by the training data.

    Raises:
        LatensError: a negative argument; or a posterior that is no diagonal Gaussian.
    """

    beta: float | Float[Tensor, ""] = 6.0
    mi_weight: float = 1.0
    dimension_weight: float = 1.0
    dataset_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_not_negative("beta", "mi_weight", "dimension_weight")

    def for_data(self, images: int, labelled: float) -> "Objective":
        """With N, the number of training images."""
        return replace(super().for_data(images, labelled), dataset_size=images)  # pyright: ignore[reportCallIssue]

    def loss(self, draw: Draw) -> Loss:
        """The three parts of the KL, each with its weight, from the first sample of z."""
        parts = [self._decompose(draw, latent) for latent in draw.latents]
        mi, tc, dimension_kl = (torch.stack(values).sum(0) for values in zip(*parts, strict=True))
        cost = self.mi_weight * mi + self.beta * tc + self.dimension_weight * dimension_kl
        terms = {"mutual_information": mi, "total_correlation": tc, "dimension_kl": dimension_kl}
        return Loss(-draw.log_px_z.mean(0) + cost, terms)

    def _decompose(self, draw: Draw, latent: Latent) -> tuple[Tensor, Tensor, Tensor]:
        """I(x; z), TC(z), Σ_d KL(q(z_d) ‖ p(z_d)), estimated for each image, `[B]` each."""
        q = latent.q
        if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)) or (
            len(q.batch_shape) != 1
        ):
            raise LatensError("the objective beta-tc needs a diagonal Gaussian posterior")
        z = draw.joint(latent.z[0].flatten(1))  # [M, D]
        mean, scale = (draw.joint(v.flatten(1)) for v in (q.base_dist.loc, q.base_dist.scale))
        log_w = stratified_log_weights(len(z), max(self.dataset_size, len(z)), z)
        log_qz, log_qz_d = log_aggregated(z, mean, scale, log_w)
        log_qz_x = Normal(mean, scale, validate_args=False).log_prob(z).sum(1)
        log_pz = draw.joint(latent.log_p[0])
        every = (log_qz_x - log_qz, log_qz - log_qz_d, log_qz_d - log_pz)
        mi, tc, dimension_kl = (draw.own(values) for values in every)
        return mi, tc, dimension_kl


@dataclass(frozen=True)
class InfoVAE(Objective, name="info-vae"):
    """loss = −E_q log p(x|z) + β KL(q(z|x) ‖ p(z)) + λ MMD(q(z), p(z)), in nats per image.

    Zhao et al. 2019, "InfoVAE: Balancing Learning and Inference in Variational Autoencoders",
    equation 7, where β = 1 − α and the weight of the divergence is α + λ − 1; β = 0 is the
    MMD-VAE, or WAE-MMD (Tolstikhin et al. 2018). MMD is the squared maximum mean discrepancy with
    a Gaussian kernel whose squared width is the number of latent dimensions, estimated without
    bias (Gretton et al. 2012, equation 3) over the batch and as many samples of the prior.

    Args:
        beta: β, the weight of the KL of each image.
        mmd_weight: λ, nats for each unit of MMD.

    Raises:
        LatensError: a negative argument.
    """

    beta: float | Float[Tensor, ""] = 0.0
    mmd_weight: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_not_negative("beta", "mmd_weight")

    def loss(self, draw: Draw) -> Loss:
        """−E_q log p(x|z) + β KL + λ MMD; the MMD of the batch counts for each of its images."""
        discrepancy = sum(self._mmd(draw, latent) for latent in draw.latents)
        reconstruction = -draw.log_px_z.mean(0)
        mmd = discrepancy + torch.zeros_like(reconstruction)
        cost = self.beta * draw.kl + self.mmd_weight * mmd
        return Loss(reconstruction + cost, {"mmd": mmd})

    @staticmethod
    def _mmd(draw: Draw, latent: Latent) -> Float[Tensor, ""]:
        z = latent.z[0]
        with torch.no_grad():
            shape = torch.Size() if latent.p.batch_shape else torch.Size((len(z),))
            prior = latent.p.sample(shape)
            prior = prior[0] if prior.dim() > z.dim() else prior
        return mmd(draw.joint(z.flatten(1)), draw.joint(prior.flatten(1)))


def mmd(a: Float[Tensor, "M D"], b: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
    """The squared maximum mean discrepancy of two samples, Gaussian kernel of squared width D."""
    count = len(a)
    if count < 2:
        return (a - b).sum() * 0

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        squares = (u * u).sum(1)[:, None] + (v * v).sum(1) - 2 * u @ v.T
        return torch.exp(-squares / (2 * u.shape[1]))

    pairs = count * (count - 1)
    within = (kernel(a, a).sum() + kernel(b, b).sum() - 2 * count) / pairs  # without i = j
    between = kernel(a, b)
    return within - 2 * between.mean()
