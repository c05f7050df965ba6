"""Estimators over a VAE and images. All figures are in nats per image."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.distributions import Categorical, Distribution

from latens.console import progress
from latens.data import Images
from latens.errors import LatensError
from latens.evaluation.importance import importance_weights
from latens.evaluation.proposals import (
    PosteriorName,
    Propose,
    name_of_q,
    proposal_of,
    rows_of,
)
from latens.model.latent_model import LatentModel
from latens.model.latents import Draw
from latens.model.likelihoods import Gaussian
from latens.model.noise import forked_rng
from latens.model.parts import Kind

# Images are taken in blocks of this many values (pixels times channels), and at most so many.
# The size of a block depends on the images alone: figures must not depend on a machine or on
# the batch size of a training.
VALUES_IN_BLOCK = 2**21
IMAGES_IN_BLOCK = 500
OBJECTIVE = "objective."  # before the name of a term of a training's objective
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5.2
ACTIVE_LEVEL = 0.1  # nats per image: a level of a hierarchy with less tells nothing of an image
# What sampling z adds to a variance is known from so many z of each of about so many images
SPREAD_SAMPLES, SPREAD_IMAGES = 4, 100
SPREAD = "spread."  # before the name of that variance


@dataclass(frozen=True)
class StandardError:
    """How far a mean over images is off, one standard deviation, by its two causes.

    Attributes:
        sampling: that z is sampled: with more samples of z it vanishes. None where it is unknown.
        images: that the images are a sample too: what would differ on others of their kind.
    """

    sampling: float | None
    images: float

    @property
    def total(self) -> float:
        """Both together: their causes are independent."""
        return math.hypot(self.sampling or 0.0, self.images)


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
        effective_samples: of the K importance samples of an image those that count, (Σw)² / Σw²,
            averaged over the images: few mean that q(z|x) misses the true posterior, and that
            `nll` is still far above −log p(x).
        kind: what −log p(x|z) is on these pixels. A "grey cross-entropy" is no likelihood, so
            compare it only with others of its kind.
        bits_per_dim: (nll, or −elbo) / (C H W ln 2) for "binary" and "8-bit"; None where it would
            mean nothing: a density over continuous pixels, or a cross-entropy.
        mse: the mean over pixels and channels of (x − μ)², E over z; None unless p(x|z) is a
            Gaussian around μ.
        active_units: latent dimensions whose posterior mean has a variance above 0.01 over the
            images (Burda et al. 2016, section 5.2).
        kl_per_dim: the KL of each latent dimension, averaged over the images; of a hierarchy those
            of its topmost level.
        label: −E_q log p(y|z) of the model's classifier in nats per labelled image; None without a
            classifier or labels.
        accuracy: the share of labels that the classifier tells right from the mean z.
        neighbour_accuracy: the share of classes that the nearest training images tell right; None
            where not asked for.
        images: how many images.
        seconds: how long it took.
        posterior: which q(z|x) the figures are of: "encoder", "encoder, refined by 50 steps" or
            "grid of 512² cells".
        kl_per_level: the KL of each level of a hierarchy, the topmost first, which add up to `kl`;
            None of a flat model.
        errors: standard errors of elbo, reconstruction, kl, nll and accuracy, by name; not measured
            during a training.
        split: which images of a data set: train, validation, test or all; None of others.
        objective: the terms of a training's objective, by name; empty outside of a training.
    """

    elbo: float
    reconstruction: float
    kl: float
    nll: float | None
    nll_stderr: float | None
    importance_samples: int | None
    kind: Kind
    bits_per_dim: float | None
    mse: float | None
    active_units: int
    kl_per_dim: list[float] | None
    label: float | None
    accuracy: float | None
    images: int
    seconds: float
    neighbour_accuracy: float | None = None
    kl_per_level: list[float] | None = None
    posterior: str = "encoder"
    split: str | None = None
    effective_samples: float | None = None
    errors: dict[str, StandardError] = field(default_factory=dict)
    objective: dict[str, float] = field(default_factory=dict)

    def has_collapsed(self, dims: int) -> bool:
        """Whether hardly any of so many latent dimensions is in use; of a hierarchy, any level.

        `active_units` are those of the topmost level, which a hierarchy may do without.
        """
        if self.kl_per_level is not None:
            return max(self.kl_per_level) < ACTIVE_LEVEL
        return self.active_units <= dims // 10

    def as_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        figures = asdict(self)
        figures.pop("objective")
        return figures


@dataclass(frozen=True)
class ObjectiveTerms:
    """What a training measures besides: its objective, on images that several processes share.

    Attributes:
        terms: from a draw to a value for each image by name, `[B]`.
        samples: K, z for each image.
        rank, count: this process, and how many there are; each measures every `count`-th image.
        joint, own: see `Draw`; `joint` is made for a number of images in all processes.
        gather: from the terms of these images to those of all processes' images.
    """

    terms: Callable[[Draw], dict[str, Tensor]]
    samples: int = 1
    rank: int = 0
    count: int = 1
    joint: Callable[[int], Callable[[Tensor], Tensor]] = lambda _images: lambda values: values
    own: Callable[[Tensor], Tensor] = lambda values: values
    gather: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda terms: terms


@torch.no_grad()
def evaluate(
    vae: LatentModel,
    images: Images | Float[Tensor, "N C H W"],
    importance_samples: int | None = None,
    seed: int = 0,
    labels: Int64[Tensor, "N *A"] | None = None,
    refine: int = 0,
    precision: str = "float32",
    objective: ObjectiveTerms | None = None,
    posterior: PosteriorName = "encoder",
    cells: int | None = None,
) -> Evaluation:
    """Measure a model on images, in evaluation mode.

    The same model, images and seed give the same figures; the user's random numbers are left
    alone.

    Args:
        images: uint8 `Images`, or floats in [0, 1].
        importance_samples: K for `nll`; None leaves it out.
        seed: of the samples of z.
        labels: of floats; `Images` bring their own.
        refine: steps by which q(z|x) of each image is improved after the encoder; see `refined`.
            The ELBO stays a lower bound on log p(x), and what it gains is what the encoder lost;
            `nll` is drawn from the same q.
        precision: of the networks: float32, or bf16 where speed matters more than the second
            decimal. What follows the networks is in float32 or better.
        objective: of a training, to be measured on the same draws.
        posterior: q(z|x): the encoder's, or "grid", that of `latens.model.grid.grid_posterior`,
            for up to three latents.
        cells: of the grid along each axis; None: 4,096 for one latent, 512 for two, 128 for three.

    Raises:
        LatensError: no images, images of another shape, K below 1, no labels for a model that
            is conditional, or a grid for more than three latents.
    """
    _check(vae, images, importance_samples, refine)
    began = time.perf_counter()
    propose = proposal_of(vae, images, labels, refine, posterior, cells)
    every, binary = _measured(
        vae, images, labels, importance_samples, propose, seed, precision, objective
    )
    figures = _summary(vae, every, importance_samples, binary, time.perf_counter() - began)
    q = name_of_q(vae, refine, posterior, cells, objective is not None)
    return replace(figures, posterior=q)


@torch.no_grad()
def evaluate_each(
    vae: LatentModel,
    images: Images | Float[Tensor, "N C H W"],
    importance_samples: int | None = None,
    seed: int = 0,
    posterior: PosteriorName = "encoder",
) -> dict[str, Float64[Tensor, " N"]]:
    """−elbo of each image in nats, and "nll" where K is given: `evaluate` has their means.

    Raises:
        LatensError: as `evaluate`.
    """
    _check(vae, images, importance_samples, 0)
    propose = proposal_of(vae, images, None, 0, posterior, None)
    every, _ = _measured(vae, images, None, importance_samples, propose, seed, spread=False)
    cost = {"-elbo": every["reconstruction"].double() + every["kl"].double()}
    return cost | ({"nll": every["nll"].double()} if "nll" in every else {})


def _measured(
    vae: LatentModel,
    images: Images | Tensor,
    labels: Tensor | None,
    k: int | None,
    propose: Propose | None,
    seed: int,
    precision: str = "float32",
    objective: ObjectiveTerms | None = None,
    spread: bool = True,
) -> tuple[dict[str, Tensor], bool]:
    """The terms of each image by name, of all processes; whether all pixels are 0 or 1.

    Args:
        spread: with what sampling z adds to the variance, which takes `SPREAD_SAMPLES` more passes.
    """
    was_training = vae.training
    vae.eval()
    with (
        forked_rng(vae.device, seed),
        torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        blocks, binary = [], True
        with _bar(len(images) * (k or 0)) as advance:
            apart = max(1, len(images) // SPREAD_IMAGES)
            for rows, x, y, together in _blocks(images, labels, vae.device, objective):
                block = _Block(vae, x, y, k, objective, together, advance)
                blocks.append(block.measure(propose, rows, apart if spread else None))
                binary = binary and not (x * (1 - x)).max()  # mostly the first block tells
    vae.train(was_training)
    every = {name: torch.cat([b[name] for b in blocks if name in b]) for name in blocks[0]}
    every["binary"] = torch.tensor([binary])
    every = every if objective is None else objective.gather(every)
    return every, bool(every["binary"].all())


def _check(
    vae: LatentModel, images: Images | Tensor, importance_samples: int | None, refine: int
) -> None:
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
    images: Images | Tensor,
    labels: Tensor | None,
    device: torch.device,
    objective: ObjectiveTerms | None,
) -> Iterator[tuple[slice, Tensor, Tensor | None, int]]:
    """Rows, images and labels of this process's share of each block, and the block's size."""
    samples, rank, count = 1, 0, 1
    if objective is not None:
        samples, rank, count = objective.samples, objective.rank, objective.count
    size = min(IMAGES_IN_BLOCK, VALUES_IN_BLOCK // math.prod(images.shape[-3:]))
    for start, end in _bounds(len(images), max(1, size // samples), count):
        share = slice(start + rank, end, count)
        yield share, *rows_of(images, labels, share, device), end - start


def _bounds(images: int, size: int, processes: int) -> list[tuple[int, int]]:
    """Blocks of `size` images, the last one with an image for each process at least."""
    starts = [*range(0, images, size)]
    if len(starts) > 1 and images - starts[-1] < processes:
        starts.pop()
    return [*zip(starts, [*starts[1:], images], strict=True)]


@contextmanager
def _bar(samples: int) -> Iterator[Callable[[int], None]]:
    """A bar over the importance samples of all images; none where there are none."""
    if not samples:
        yield lambda _samples: None
        return
    with progress("samples") as bar:
        task = bar.add_task("importance sampling", total=samples)
        yield lambda count: bar.advance(task, count)


@dataclass(frozen=True)
class _Block:
    """Images `[B, C, H, W]` with their labels, of which all processes have `together`."""

    vae: LatentModel
    x: Tensor
    y: Tensor | None
    k: int | None
    objective: ObjectiveTerms | None
    together: int
    advance: Callable[[int], None]

    def measure(self, propose: Propose | None, rows: slice, apart: int | None) -> dict[str, Tensor]:
        """The terms of each image."""
        vae, x, y, objective = self.vae, self.x, self.y, self.objective
        if propose is None:
            posterior = None
            draw = vae.draw(x, y) if objective is None else vae(x, y, objective.samples)
            encoded = draw
        else:  # what the encoder's latents tell must not follow another q
            encoded = vae.draw(x, y)
            posterior = propose(rows, x, y)
            draw = vae.draw(x, y, posterior=posterior)
        terms = {**_parts(draw), "mean": _mean_of_z(vae, encoded, x, y)}
        per_dim = draw.latents[0].kl
        if per_dim is not None:
            terms["kl_per_dim"] = per_dim.flatten(1)
        if len(draw.latents) > 1:
            terms["kl_per_level"] = draw.kl_per_level
        if vae.classifier is not None and y is not None:
            terms |= _label_terms(vae, encoded, terms["mean"], y)
        if self.k is not None:
            terms |= self._importance(posterior)
        if objective is not None:
            shared = replace(draw, joint=objective.joint(self.together), own=objective.own)
            terms |= {f"{OBJECTIVE}{name}": v for name, v in objective.terms(shared).items()}
        elif apart is not None:
            terms |= self._spread(propose, rows, apart)
        return {name: value.cpu() for name, value in terms.items()}

    def _importance(self, posterior: Distribution | None) -> dict[str, Tensor]:
        """−log p(x), the variance of that estimate, and how many samples count."""
        assert self.k is not None

        def advance(samples: int) -> None:
            self.advance(samples * len(self.x))

        weights = importance_weights(self.vae, self.x, self.y, self.k, posterior, advance)
        return {
            "nll": -weights.log_mean,
            "nll_variance": weights.variance,
            "effective_samples": weights.effective_samples,
        }

    def _spread(self, propose: Propose | None, rows: slice, apart: int) -> dict[str, Tensor]:
        """The variance over z of what one sample of z gives for some of the images, float64."""
        first = -rows.start % apart
        x, some = self.x[first::apart], slice(rows.start + first, rows.stop, apart)
        if not len(x):
            return {}
        y = None if self.y is None else self.y[first::apart]
        with forked_rng(self.vae.device):  # the figures do not depend on whether it is measured
            posterior = None if propose is None else propose(some, x, y)
            draws = [self.vae.draw(x, y, 1, posterior) for _ in range(SPREAD_SAMPLES)]
        parts = [_parts(draw) for draw in draws]
        parts = [part | {"elbo": part["reconstruction"] + part["kl"]} for part in parts]
        return {
            f"{SPREAD}{name}": torch.stack([part[name] for part in parts]).double().var(0)
            for name in parts[0]
        }


def _parts(draw: Draw) -> dict[str, Tensor]:
    """The two parts of −ELBO."""
    return {"reconstruction": -draw.log_px_z.mean(0), "kl": draw.kl}


def _mean_of_z(
    vae: LatentModel, draw: Draw, x: Float[Tensor, "B C H W"], y: Tensor | None
) -> Float[Tensor, "B *Z"]:
    """What `embed` gives; of a flat model it is known already."""
    first, *others = draw.latents
    other_q = others or "encoder_elbo" in draw.extras
    return vae.encode(x, y).mean if other_q else first.q.mean


def _label_terms(
    vae: LatentModel, draw: Draw, mean: Float[Tensor, "B *Z"], y: Int64[Tensor, "B *A"]
) -> dict[str, Tensor]:
    """−log p(y|z), and whether the likeliest label is right; NaN where no label is known."""
    known = y >= 0
    right = (likeliest(vae, mean) == y).double().masked_fill(~known, math.nan)
    labelled = known.reshape(len(y), -1).any(1)
    return {
        "label": -draw.extras["log_py_z"].mean(0).double().masked_fill(~labelled, math.nan),
        "right": right.reshape(len(y), -1).nanmean(1),
    }


def likeliest(vae: LatentModel, z: Float[Tensor, "N *Z"]) -> Int64[Tensor, "N *A"]:
    """The likeliest label by the model's classifier: a class, or 0 and 1 for each attribute."""
    p = vae.classify(z)
    return p.probs.argmax(-1) if isinstance(p, Categorical) else (p.mean > 0.5).long()


def _summary(
    vae: LatentModel, every: dict[str, Tensor], k: int | None, binary: bool, seconds: float
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
    per_dim, per_level = (
        every[name].double().mean(0).tolist() if name in every else None
        for name in ("kl_per_dim", "kl_per_level")
    )
    means = every["mean"].double()
    terms = [name for name in every if name.startswith(OBJECTIVE)]
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
        mse=_mse(vae, reconstruction),
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
        kl_per_dim=per_dim,
        kl_per_level=per_level,
        label=_mean_of_known(every.get("label")),
        accuracy=_mean_of_known(every.get("right")),
        images=n,
        seconds=seconds,
        effective_samples=mean("effective_samples") if k is not None else None,
        errors=_errors(every, k),
        objective={name.removeprefix(OBJECTIVE): mean(name) for name in terms},
    )


def _errors(every: dict[str, Tensor], k: int | None) -> dict[str, StandardError]:
    """The standard errors of what was measured, where there are two images or more."""
    if len(every["kl"]) < 2 or f"{SPREAD}elbo" not in every:
        return {}
    parts = {name: every[name].double() for name in ("reconstruction", "kl")}
    parts["elbo"] = parts["reconstruction"] + parts["kl"]
    errors = {
        name: standard_error(values, every[f"{SPREAD}{name}"]) for name, values in parts.items()
    }
    if k is not None:
        errors["nll"] = standard_error(every["nll"], every["nll_variance"] if k > 1 else None)
    right = every.get("right")
    if right is not None and (~right.isnan()).sum() > 1:
        errors["accuracy"] = standard_error(right[~right.isnan()], torch.zeros(1))
    return errors


def standard_error(values: Float[Tensor, " N"], spread: Tensor | None) -> StandardError:
    """Of the mean of values whose variance by the sampling of z is known of some images."""
    total = values.double().var().item()
    within = None if spread is None else spread.double().mean().item()
    return StandardError(
        sampling=None if within is None else math.sqrt(within / len(values)),
        images=math.sqrt(max(0.0, total - (within or 0.0)) / len(values)),
    )


def _mse(vae: LatentModel, reconstruction: float) -> float | None:
    if not isinstance(vae.likelihood, Gaussian):
        return None
    values = math.prod(vae.image_shape)
    return vae.likelihood.squared_error(reconstruction, values) / values


def _mean_of_known(values: Tensor | None) -> float | None:
    if values is None or values.isnan().all():
        return None
    return values.nanmean().item()
