"""Every figure that applies to a model, with its error where known: `latens evaluate --all`."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latens.console import progress
from latens.data import DataSet, Images
from latens.data.images import own_bits
from latens.data.shapes import FACTORS, draw_shapes, shuffled_factors
from latens.errors import LatensError
from latens.evaluation.annealed import annealed_log_prob, model_samples
from latens.evaluation.decomposition import KLParts, decompose_kl
from latens.evaluation.densities import ClassDensity
from latens.evaluation.disentanglement import Disentanglement, disentanglement
from latens.evaluation.features import features_of, small
from latens.evaluation.labels import embed_all, sample_all
from latens.evaluation.latent_space import LatentQuality, latent_quality
from latens.evaluation.metrics import Evaluation, evaluate
from latens.evaluation.samples import (
    LEAST_COMPARED,
    SampleQuality,
    near_copies,
    sample_quality,
)
from latens.model.distributions import DiagonalMixture
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.model.vae import VAE
from latens.run.directory import Run

# How many images each figure is of, at most: all together take minutes on a laptop
TRAIN, PROBED, SAMPLED = 5_000, 10_000, 5_000
VALUES = 500 * 784  # pixels times channels of the images whose nll is estimated
IMPORTANCE_SAMPLES = 100
REFINED, REFINING_STEPS = 100, 50
ANNEALED, TEMPERATURES, CHAINS = 6, 200, 3
EXACT_TERMS = 2_000_000_000  # N² D, up to which q(z) sums over all images
SHAPES_ROWS = 100_000, 5_000  # where the images of known factors begin, and how many


@dataclass(frozen=True)
class Bracket:
    """Log p(x) of samples of the model itself, from three sides, in nats per image.

    Attributes:
        importance: −nll by importance sampling with `importance_samples` z.
        lower, upper: by annealed importance sampling from below and from above.
        images: how many samples of the model.
    """

    importance: float
    lower: float
    upper: float
    images: int
    importance_samples: int
    temperatures: int


@dataclass(frozen=True)
class FullEvaluation:
    """Every figure that applies; None or empty where one does not.

    Attributes:
        test, validation, train: the parts of the ELBO on each split; train on 5,000 at most.
        nll: on some test images, importance-weighted.
        refined: on as many test images as they were refined for, beside `nll`'s encoder: the
            amortisation gap is the difference of −elbo to `unrefined`.
        unrefined: the same images by the encoder.
        kl_parts: mutual information, total correlation, dimension-wise KL over the test images.
        bracket: log p(x) of samples of the model, from below and above.
        samples: quality of training images as a reference, of samples from the prior, or from the
            second stage of a model that has one, and of samples from a density fitted to the
            latents; none where there are fewer than ten test images.
        latents: what z tells of classes.
        factors: how z corresponds to the factors of `shapes`.
    """

    test: Evaluation
    train: Evaluation
    nll: Evaluation
    samples: tuple[SampleQuality, ...]
    validation: Evaluation | None = None
    refined: Evaluation | None = None
    unrefined: Evaluation | None = None
    kl_parts: KLParts | None = None
    bracket: Bracket | None = None
    latents: LatentQuality | None = None
    factors: Disentanglement | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready, without those that do not apply."""
        figures = {name: _plain(value) for name, value in vars(self).items()}
        return {name: value for name, value in figures.items() if value not in (None, [])}


def _plain(value: Any) -> Any:
    if isinstance(value, Evaluation):
        return value.as_dict()
    if isinstance(value, tuple):
        return [asdict(part) for part in value]
    return None if value is None else asdict(value)


def evaluate_fully(run: Run, vae: LatentModel, data: DataSet, seed: int = 0) -> FullEvaluation:
    """Measure all that applies; how many images each figure is of stands in it.

    Args:
        run: what the model is of.
        data: that the run was trained on.
        seed: of all noise.
    """
    # The seed is that of bits that are drawn anew each time
    with progress("kinds of figures") as bar, forked_rng(vae.device, seed):
        figures: dict[str, Any] = {}
        task = bar.add_task("measuring", total=8)
        for name, value in _every(run, vae, data, seed):
            figures[name] = value
            bar.advance(task, 1)
    return FullEvaluation(**figures)


def _every(run: Run, vae: LatentModel, data: DataSet, seed: int) -> Iterator[tuple[str, Any]]:
    test, train = data.test, data.train
    for name, images in (("test", test), ("train", train.some(TRAIN))):
        yield name, replace(evaluate(vae, images, seed=seed), split=name)
    if len(data.validation):
        yield "validation", replace(evaluate(vae, data.validation, seed=seed), split="validation")
    few = test.some(max(16, VALUES // math.prod(vae.image_shape)))
    yield "nll", replace(evaluate(vae, few, IMPORTANCE_SAMPLES, seed), split="test")
    if isinstance(vae, VAE):
        yield from _of_one_level(vae, test, seed)
    enough = len(test) >= LEAST_COMPARED
    yield "samples", tuple(_samples(run, vae, data, seed)) if enough else ()
    # What an encoder is told of the class its z only tells back
    found = None if train.labels is None else test.labels
    if found is not None and found.dim() == 1 and not vae.encodes_labels:
        yield "latents", _of_classes(vae, train, test)
    if data.source == "shapes" and len(vae.level_shapes) == 1 and not vae.encodes_labels:
        yield "factors", _of_factors(vae, run.config.data.binarisation)


def _of_one_level(vae: VAE, test: Images, seed: int) -> Iterator[tuple[str, Any]]:
    terms = len(test) ** 2 * math.prod(vae.latent_shape)
    few = test.some(REFINED)
    with suppress(LatensError):  # a q that is no diagonal Gaussian, or a prior of labels
        yield "kl_parts", decompose_kl(vae, test, terms <= EXACT_TERMS, seed)
    with suppress(LatensError):  # a q that is no diagonal Gaussian
        yield "unrefined", evaluate(vae, few, seed=seed)
        yield "refined", evaluate(vae, few, seed=seed, refine=REFINING_STEPS)
    if vae.label_embedding is None:
        with suppress(LatensError):  # a likelihood that cannot be sampled
            yield "bracket", _bracket(vae, seed)


def _bracket(vae: VAE, seed: int) -> Bracket:
    x, z = model_samples(vae, ANNEALED, seed=seed)
    found = annealed_log_prob(vae, x, z=z, temperatures=TEMPERATURES, chains=CHAINS, seed=seed)
    assert found.upper is not None
    with forked_rng(vae.device, seed):
        importance = vae.log_prob(x, samples=IMPORTANCE_SAMPLES).mean().item()
    lower, upper = found.lower.mean().item(), found.upper.mean().item()
    return Bracket(importance, lower, upper, len(x), IMPORTANCE_SAMPLES, TEMPERATURES)


# ---- samples ---------------------------------------------------------------------------------


def _samples(run: Run, vae: LatentModel, data: DataSet, seed: int) -> Iterator[SampleQuality]:
    """Of training images, which is the best that can be hoped for, and of two kinds of samples."""
    features = features_of(run, data)
    test, train = data.test.some(SAMPLED), data.train
    count = min(SAMPLED, len(test))
    real, flat = features(test.unit()), small(test.unit()).flatten(1)
    pixels = torch.cat([small(block.unit()).flatten(1) for block in train.blocks()])
    of_train = features(features.some_unseen(train, count).unit())
    yield sample_quality("training images", features.name, real, of_train, seed=seed)
    for of, images in _drawn(vae, train, data.binary, count, seed):
        copies = near_copies(small(images).flatten(1), pixels, flat)
        yield sample_quality(of, features.name, real, features(images), copies, seed)


def _drawn(
    vae: LatentModel, train: Images, binary: bool, count: int, seed: int
) -> Iterator[tuple[str, Float[Tensor, "N C H W"]]]:
    """Images by what they are drawn from."""
    with forked_rng(vae.device, seed):
        labels = vae.label_embedding
        y = None
        if labels is not None and train.labels is not None:
            y = train.labels[torch.randint(len(train), (count,))].to(vae.device)
        of = "the prior" if getattr(vae, "sampler", None) is None else "the second stage"
        yield f"samples from {of}", _as_data(vae.sample(count, y, 1.0), binary)
        if isinstance(vae, VAE) and labels is None:
            z = sample_all(vae, train.some(TRAIN))
            drawn = ClassDensity.fit(z).sample(count).reshape(count, *vae.latent_shape)
            images = vae.decode_images(drawn.to(vae.device))
            yield "samples from a mixture fitted to latents", _as_data(images, binary)


def _as_data(images: Tensor, binary: bool) -> Tensor:
    """Mean images as the data are: bits of binary data, else 8-bit levels."""
    images = images.cpu()
    return torch.bernoulli(images) if binary else (images * 255).round() / 255


# ---- latents ---------------------------------------------------------------------------------


def _of_classes(vae: LatentModel, train: Images, test: Images) -> LatentQuality | None:
    """What z tells of classes; None where too few images have one."""
    pairs = []
    for images in (train, test):
        assert images.labels is not None
        known = (images.labels >= 0).nonzero()[:, 0]
        if not len(known):
            return None
        few = images.take(known).some(PROBED)
        assert few.labels is not None
        pairs.append((embed_all(vae, few)[0].double(), few.labels))
    (z, y), (z_test, y_test) = pairs
    if len(y) < 10 or len(y_test) == 0 or len(y.unique()) < 2:
        return None
    clusters = _mixture_clusters(vae, z_test)
    arrays = ((z.numpy(), y.numpy()), (z_test.numpy(), y_test.numpy()))
    return latent_quality(*arrays, None if clusters is None else clusters.numpy())


@torch.no_grad()
def _mixture_clusters(vae: LatentModel, z: Tensor) -> Tensor | None:
    """The likeliest component of a mixture prior for each z."""
    if not isinstance(vae, VAE) or vae.label_embedding is not None:
        return None
    prior = vae.prior_given()
    if not isinstance(prior, DiagonalMixture):
        return None
    return prior.log_joint(z.unflatten(1, vae.latent_shape).to(vae.device)).argmax(1).cpu()


def _of_factors(vae: LatentModel, binarisation: str) -> Disentanglement:
    """On images of `shapes` that no split holds."""
    factors = shuffled_factors(*SHAPES_ROWS)
    images = own_bits(Images(torch.from_numpy(draw_shapes(factors))), binarisation)
    codes, _ = embed_all(vae, images)
    return disentanglement(codes.double().numpy(), factors, tuple(FACTORS))
