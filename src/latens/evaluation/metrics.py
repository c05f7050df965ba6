"""Estimators over a VAE and images. All figures are in nats per image."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from latens.console import progress
from latens.data import Images, unit_pixels
from latens.errors import LatensError
from latens.model.distributions import diagonal_normal
from latens.model.grid import CELLS, Grid, GridPosterior, grid_posterior
from latens.model.latent_model import LatentModel
from latens.model.latents import Draw
from latens.model.likelihoods import Gaussian
from latens.model.parts import Kind
from latens.model.posteriors import Tabulated
from latens.model.vae import VAE

PosteriorName = Literal["encoder", "grid"]

# Images are taken in blocks of this many values (pixels times channels), and at most so many.
# The size of a block depends on the images alone: figures must not depend on a machine or on
# the batch size of a training.
VALUES_IN_BLOCK = 2**21
IMAGES_IN_BLOCK = 500
GRID_IMAGES = 10_000  # for which a grid is decoded once
REFINING_RATE, REFINING_SAMPLES = 0.03, 4  # in units of z; z for each image and step
OBJECTIVE = "objective."  # before the name of a term of a training's objective
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
    objective: dict[str, float] = field(default_factory=dict)

    def has_collapsed(self, dims: int) -> bool:
        """Whether hardly any of so many latent dimensions is in use."""
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
    propose = _proposal(vae, images, labels, refine, posterior, cells, objective is not None)
    began = time.perf_counter()
    was_training = vae.training
    vae.eval()
    with (
        torch.random.fork_rng(devices=[vae.device] if vae.device.type == "cuda" else []),
        torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        torch.manual_seed(seed)
        blocks, binary = [], True
        for rows, x, y, together in _blocks(images, labels, vae.device, objective):
            block = _measure(vae, x, y, rows, importance_samples, propose, objective, together)
            blocks.append(block)
            binary = binary and not (x * (1 - x)).max()  # mostly the first block tells
    vae.train(was_training)
    every = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    every["binary"] = torch.tensor([binary])
    every = every if objective is None else objective.gather(every)
    binary = bool(every["binary"].all())
    figures = _summary(vae, every, importance_samples, binary, time.perf_counter() - began)
    q = _name_of_q(vae, refine, posterior, cells, objective is not None)
    return replace(figures, posterior=q)


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
        yield share, *_rows_of(images, labels, share, device), end - start


def _rows_of(
    images: Images | Tensor, labels: Tensor | None, rows: slice, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    if isinstance(images, Images):
        batch = images.take(rows)
        x, y = unit_pixels(batch.pixels.to(device), batch.stochastic_binarize), batch.labels
    else:
        x, y = images[rows].to(device), None if labels is None else labels[rows]
    return x, None if y is None else y.to(device)


def _bounds(images: int, size: int, processes: int) -> list[tuple[int, int]]:
    """Blocks of `size` images, the last one with an image for each process at least."""
    starts = [*range(0, images, size)]
    if len(starts) > 1 and images - starts[-1] < processes:
        starts.pop()
    return [*zip(starts, [*starts[1:], images], strict=True)]


def _measure(
    vae: LatentModel,
    x: Float[Tensor, "B C H W"],
    y: Tensor | None,
    rows: slice,
    k: int | None,
    propose: "Propose | None",
    objective: ObjectiveTerms | None,
    together: int,
) -> dict[str, Tensor]:
    """The terms of each image of a block, of which all processes have `together` images."""
    if propose is None:
        posterior = None
        encoded = draw = vae.draw(x, y, 1 if objective is None else objective.samples)
    else:  # what the encoder's latents tell must not follow another q
        encoded = vae.draw(x, y, posterior=vae.encode(x, y))
        posterior = propose(rows, x, y)
        draw = vae.draw(x, y, posterior=posterior)
    terms = {
        "reconstruction": -draw.log_px_z.mean(0),
        "kl": draw.kl,
        "mean": _mean_of_z(vae, encoded, x, y),
    }
    per_dim = draw.latents[0].kl
    if per_dim is not None:
        terms["kl_per_dim"] = per_dim.flatten(1)
    if len(draw.latents) > 1:
        terms["kl_per_level"] = draw.kl_per_level
    if vae.classifier is not None and y is not None:
        terms |= _label_terms(vae, encoded, terms["mean"], y)
    if k is not None:
        terms |= _nll(vae.log_weights(x, y, k, posterior))
    if objective is not None:
        shared = replace(draw, joint=objective.joint(together), own=objective.own)
        terms |= {f"{OBJECTIVE}{name}": v for name, v in objective.terms(shared).items()}
    return {name: value.cpu() for name, value in terms.items()}


# From rows of the images, the images and their labels to a q(z|x) in place of the encoder's
Propose = Callable[[slice, Tensor, Tensor | None], Distribution]


def _proposal(
    vae: LatentModel,
    images: Images | Tensor,
    labels: Tensor | None,
    refine: int,
    posterior: PosteriorName,
    cells: int | None,
    training: bool,
) -> Propose | None:
    """The q(z|x) that is asked for; None is that of the model's own draws.

    Args:
        training: it is the model's own that it learns under.

    Raises:
        LatensError: choices that do not fit together, or the model.
    """
    if posterior == "grid":
        if refine:
            raise LatensError("refine is for the encoder's q(z|x), and posterior is grid")
        if not isinstance(vae, VAE):
            raise LatensError("a grid over z is for models of one level of latents")
        return _GridProposal(vae, images, labels, Grid.over_prior(vae, cells))
    if cells is not None:
        raise LatensError("cells are for the posterior grid: add --posterior grid")
    if refine:
        return lambda _rows, x, y: refined(vae, x, y, refine)
    if isinstance(vae, VAE) and isinstance(vae.posterior, Tabulated) and not training:
        return lambda _rows, x, y: vae.encode(x, y)
    return None


def _name_of_q(
    vae: LatentModel, refine: int, posterior: PosteriorName, cells: int | None, training: bool
) -> str:
    dims = math.prod(vae.latent_shape)
    if training and isinstance(vae, VAE) and isinstance(vae.posterior, Tabulated):
        posterior, cells = "grid", vae.posterior.cells
    if posterior == "grid":
        return f"grid of {cells or CELLS[dims]}{('', '²', '³')[dims - 1]} cells"
    return f"encoder, refined by {refine} steps" if refine else posterior


class _GridProposal:
    """Tabulates q(z|x) of many images at a time: the grid is decoded once for all of them."""

    def __init__(self, vae: VAE, images: Images | Tensor, labels: Tensor | None, grid: Grid):
        self.vae, self.images, self.labels, self.grid = vae, images, labels, grid
        self.first, self.table = 0, None

    def __call__(self, rows: slice, x: Tensor, y: Tensor | None) -> GridPosterior:
        if isinstance(self.images, Images) and self.images.stochastic_binarize:
            return self._tabulate(x, y)  # its bits are drawn anew each time
        if self.table is None or rows.stop > self.first + len(self.table.index):
            self.first = rows.start
            many = slice(rows.start, min(rows.start + GRID_IMAGES, len(self.images)))
            self.table = self._tabulate(*_rows_of(self.images, self.labels, many, self.vae.device))
        return self.table.rows(slice(rows.start - self.first, rows.stop - self.first))

    def _tabulate(self, x: Tensor, y: Tensor | None) -> GridPosterior:
        count = self.grid.count
        with progress("cells") as bar:
            task = bar.add_task("tabulating q(z|x)", total=count)
            return grid_posterior(
                self.vae,
                x,
                y,
                self.grid,
                lambda share: bar.update(task, completed=round(share * count)),
            )


def _mean_of_z(
    vae: LatentModel, draw: Draw, x: Float[Tensor, "B C H W"], y: Tensor | None
) -> Float[Tensor, "B *Z"]:
    """What `embed` gives; of a flat model it is known already."""
    first, *others = draw.latents
    other_q = others or "encoder_elbo" in draw.extras
    return vae.encode(x, y).mean if other_q else first.q.mean


def _nll(log_weights: Float[Tensor, "K B"]) -> dict[str, Tensor]:
    """−log p(x) of each image by importance sampling, and the variance of that estimate."""
    log_w, k = log_weights.cpu().double(), len(log_weights)
    log_mean = log_w.logsumexp(0) - math.log(k)
    # Var(log mean w) ≈ Var(w) / (K mean(w)²) = Σw² / (Σw)² − 1/K, by the delta method
    ess_inverse = ((2 * log_w).logsumexp(0) - 2 * log_w.logsumexp(0)).exp()
    return {"nll": -log_mean, "nll_variance": (ess_inverse - 1 / k).clamp(min=0)}


@torch.enable_grad()
def refined(
    vae: LatentModel,
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
        loss = (draw.kl - draw.log_px_z.mean(0)).sum()
        mean.grad, log_scale.grad = torch.autograd.grad(loss, (mean, log_scale))
        optimizer.step()
    return diagonal_normal(mean.detach(), log_scale.detach().exp(), len(vae.latent_shape))


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
        objective={name.removeprefix(OBJECTIVE): mean(name) for name in terms},
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
