"""Estimators over a VAE and images. All figures are in nats per image."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from latens.data import Images, unit_pixels
from latens.model.distributions import diagonal_normal
from latens.errors import LatensError
from latens.model.parts import Kind
from latens.model.vae import VAE, Draw

# Images are taken in blocks of this many values (pixels times channels), and at most so many.
# The size of a block depends on the images alone: figures must not depend on a machine or on
# the batch size of a training.
VALUES_IN_BLOCK = 2**21
IMAGES_IN_BLOCK = 500
REFINING_RATE, REFINING_SAMPLES = 0.03, 4  # in units of z; z for each image and step
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5.2


@dataclass(frozen=True)
class Evaluation:
    """What a VAE achieves on a set of images, in nats per image unless said otherwise.

    −elbo = reconstruction + kl.

    Attributes:
        elbo: E_q log p(x|z) − KL(q(z|x) ‖ p(z)), a lower bound on log p(x): larger is better.
        reconstruction: −E_q log p(x|z), from one z for each image.
        kl: KL(q(z|x) ‖ p(z)), closed form where there is one.
        nll: −log p(x), importance-weighted with `importance_samples` z for each image. An upper
            bound in expectation (Burda et al. 2016, theorem 1). None where not asked for.
        nll_stderr: the standard error of `nll` from the sampling of z, for these images. The
            bound's own gap is not in it. None for a single sample, which has no spread.
        kind: what −log p(x|z) is on these pixels. A "grey cross-entropy" is no likelihood, so
            compare it only with others of its kind.
        bits_per_dim: (nll, or −elbo) / (C H W ln 2) for "binary" and "8-bit"; None where it would
            mean nothing: a density over continuous pixels, or a cross-entropy.
        active_units: latent dimensions whose posterior mean has a variance above 0.01 over the
            images (Burda et al. 2016, section 5.2).
        kl_per_dim: the KL of each latent dimension, averaged over the images.
        label: −E_q log p(y|z) of the model's classifier in nats per labelled image; None without a
            classifier or labels.
        accuracy: the share of labels that the classifier tells right from the mean z.
        neighbour_accuracy: the share of classes that the nearest training images tell right; None
            where not asked for.
        images: how many images.
        seconds: how long it took.
    """

    elbo: float
    reconstruction: float
    kl: float
    nll: float | None
    nll_stderr: float | None
    importance_samples: int | None
    kind: Kind
    bits_per_dim: float | None
    active_units: int
    kl_per_dim: list[float] | None
    label: float | None
    accuracy: float | None
    images: int
    seconds: float
    neighbour_accuracy: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        return asdict(self)


@torch.no_grad()
def evaluate(
    vae: VAE,
    images: Images | Float[Tensor, "N C H W"],
    importance_samples: int | None = None,
    seed: int = 0,
    labels: Int64[Tensor, "N *A"] | None = None,
    refine: int = 0,
    gather: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    precision: str = "float32",
) -> Evaluation:
    """Measure a VAE on images, in evaluation mode.

    The same model, images and seed give the same figures; the user's random numbers are left
    alone.

    Args:
        images: uint8 `Images`, or floats in [0, 1].
        importance_samples: K for `nll`; None leaves it out.
        seed: of the samples of z.
        labels: of floats; `Images` bring their own.
        refine: steps by which q(z|x) of each image is improved after the encoder; see `refined`.
            The ELBO stays a lower bound on log p(x), and what it gains is what the encoder lost.
        gather: from the terms of these images, a row for each, to those of all images, where
            several processes have a share each.
        precision: of the networks: float32, or bf16 where speed matters more than the second
            decimal. What follows the networks is in float32 or better.

    Raises:
        LatensError: no images, images of another shape, K below 1, or no labels for a model that
            is conditional.
    """
    _check(vae, images, importance_samples, refine)
    began = time.perf_counter()
    was_training = vae.training
    vae.eval()
    with (
        torch.random.fork_rng(devices=[vae.device] if vae.device.type == "cuda" else []),
        torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        torch.manual_seed(seed)
        blocks, binary = [], True
        for x, y in _blocks(images, labels, vae.device):
            blocks.append(_measure(vae, x, y, importance_samples, refine))
            binary = binary and not (x * (1 - x)).max()  # mostly the first block tells
    vae.train(was_training)
    every = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    every["binary"] = torch.tensor([binary])
    every = every if gather is None else gather(every)
    binary = bool(every["binary"].all())
    return _summary(vae, every, importance_samples, binary, time.perf_counter() - began)


def _check(vae: VAE, images: Images | Tensor, importance_samples: int | None, refine: int) -> None:
    if len(images) == 0:
        raise LatensError("there are no images to evaluate on")
    shape = tuple(images.shape) if isinstance(images, Images) else tuple(images.shape[1:])
    if shape != vae.image_shape:
        raise LatensError(
            f"the model reads images of (C, H, W) {vae.image_shape}, and these are {shape}"
        )
    if refine < 0:
        raise LatensError(f"refine is {refine}: a number of steps, 0 or more")
    if importance_samples is not None and importance_samples < 1:
        raise LatensError(f"{importance_samples} importance samples: 1 or more are needed")


def _blocks(
    images: Images | Tensor, labels: Tensor | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    size = max(1, min(IMAGES_IN_BLOCK, VALUES_IN_BLOCK // math.prod(images.shape[-3:])))
    if isinstance(images, Images):
        for batch in images.batches(size):
            y = None if batch.labels is None else batch.labels.to(device)
            yield unit_pixels(batch.pixels.to(device), batch.draw_bits), y
    else:
        ys = repeat(None) if labels is None else (y.to(device) for y in labels.split(size))
        for x, y in zip(images.split(size), ys, strict=False):
            yield x.to(device), y


def _measure(
    vae: VAE, x: Float[Tensor, "B C H W"], y: Tensor | None, k: int | None, refine: int
) -> dict[str, Tensor]:
    """The terms of each image of a block."""
    told = vae.draw(x, y)  # by the encoder: what its latents tell must not follow the refining
    draw = vae.draw(x, y, posterior=refined(vae, x, y, refine)) if refine else told
    terms = {
        "reconstruction": -draw.log_px_z[0],
        "kl": draw.kl_per_image,
        "mean": told.posterior.mean,
    }
    if draw.kl is not None:
        terms["kl_per_dim"] = draw.kl
    if vae.classifier is not None and y is not None:
        terms |= _label_terms(vae, told, y)
    if k is not None:
        log_w = vae.log_weights(x, y, samples=k).cpu().double()  # [K, B]
        log_mean = log_w.logsumexp(0) - math.log(k)
        terms["nll"] = -log_mean
        # Var(log mean w) ≈ Var(w) / (K mean(w)²) = Σw² / (Σw)² − 1/K, by the delta method
        ess_inverse = ((2 * log_w).logsumexp(0) - 2 * log_w.logsumexp(0)).exp()
        terms["nll_variance"] = (ess_inverse - 1 / k).clamp(min=0)
    return {name: value.cpu() for name, value in terms.items()}


@torch.enable_grad()
def refined(
    vae: VAE,
    x: Float[Tensor, "B C H W"],
    y: Int64[Tensor, "B *A"] | None = None,
    steps: int = 50,
) -> Distribution:
    """q(z|x) with mean and scale of each image moved up its own ELBO, from where the encoder left.

    The rise of the ELBO is the amortisation gap: what one encoder for all images loses against a
    posterior for each (Cremer et al. 2018, "Inference Suboptimality in Variational Autoencoders",
    section 3; Kim et al. 2018, "Semi-Amortized Variational Autoencoders").

    Args:
        steps: of Adam.

    Raises:
        LatensError: a posterior that is no diagonal Gaussian.
    """
    q = vae.encode(x, y)
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise LatensError("only a diagonal Gaussian q(z|x) can be refined")
    mean = q.mean.detach().clone().requires_grad_()
    log_scale = q.stddev.detach().log().clone().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_scale], lr=REFINING_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = REFINING_RATE * (1 - step / steps)
        posterior = diagonal_normal(mean, log_scale.exp(), len(vae.latent_shape))
        draw = vae.draw(x, y, REFINING_SAMPLES, posterior)
        loss = (draw.kl_per_image - draw.log_px_z.mean(0)).sum()
        mean.grad, log_scale.grad = torch.autograd.grad(loss, (mean, log_scale))
        optimizer.step()
    return diagonal_normal(mean.detach(), log_scale.detach().exp(), len(vae.latent_shape))


def _label_terms(vae: VAE, draw: Draw, y: Int64[Tensor, "B *A"]) -> dict[str, Tensor]:
    """−log p(y|z), and whether the likeliest label is right; NaN where no label is known."""
    known = y >= 0
    right = (likeliest(vae, draw.posterior.mean) == y).double().masked_fill(~known, math.nan)
    labelled = known.reshape(len(y), -1).any(1)
    return {
        "label": -draw.extras["log_py_z"][0].double().masked_fill(~labelled, math.nan),
        "right": right.reshape(len(y), -1).nanmean(1),
    }


def likeliest(vae: VAE, z: Float[Tensor, "N *Z"]) -> Int64[Tensor, "N *A"]:
    """The likeliest label by the model's classifier: a class, or 0 and 1 for each attribute."""
    p = vae.classify(z)
    return p.probs.argmax(-1) if isinstance(p, Categorical) else (p.mean > 0.5).long()


def _summary(
    vae: VAE, every: dict[str, Tensor], k: int | None, binary: bool, seconds: float
) -> Evaluation:
    def mean(name: str) -> float:
        return every[name].double().mean().item()

    n = len(every["kl"])
    reconstruction, kl = mean("reconstruction"), mean("kl")
    nll = mean("nll") if k is not None else None
    kind = vae.likelihood.kind(binary)
    cost = reconstruction + kl if nll is None else nll
    discrete = kind in ("binary", "8-bit")
    bits = cost / (math.prod(vae.image_shape) * math.log(2)) if discrete else None
    per_dim = every.get("kl_per_dim")
    means = every["mean"].double()
    variance = (means - means.mean(0)).square().mean(0)  # torch's var takes three times as long
    return Evaluation(
        elbo=-(reconstruction + kl),
        reconstruction=reconstruction,
        kl=kl,
        nll=nll,
        nll_stderr=every["nll_variance"].sum().sqrt().item() / n if k and k > 1 else None,
        importance_samples=k,
        kind=kind,
        bits_per_dim=bits,
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
        kl_per_dim=None if per_dim is None else per_dim.double().mean(0).flatten().tolist(),
        label=_mean_of_known(every.get("label")),
        accuracy=_mean_of_known(every.get("right")),
        images=n,
        seconds=seconds,
    )


def _mean_of_known(values: Tensor | None) -> float | None:
    if values is None or values.isnan().all():
        return None
    return values.nanmean().item()
