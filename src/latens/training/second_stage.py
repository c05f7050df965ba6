"""The second stage: a prior fitted to the latents of a trained model, whose networks stay."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from latens.config import FittedPrior
from latens.console import progress
from latens.data import Images
from latens.errors import LatensError, unknown
from latens.evaluation.labels import IMAGES_AT_ONCE, posteriors_of
from latens.model.composed import ComposedModel
from latens.model.flow_matching import FlowMatching
from latens.model.ladder import Ladder
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng, seed_noise
from latens.model.priors import GaussianMixture
from latens.training.objectives import mmd
from latens.training.schedules import LearningRateSchedule, ema_decay

Module = TypeVar("Module", bound=nn.Module)

BATCH, WARMUP, AVERAGE = 256, 0.05, 0.999
# Learning rate and weight decay; the latter would draw the means of a mixture towards 0
RATES: dict[FittedPrior, tuple[float, float]] = {
    "flow-matching": (1e-3, 0.01),
    "mixture": (2e-2, 0.0),
}
# Options of each, with their defaults
OPTIONS: dict[FittedPrior, dict[str, int]] = {
    "flow-matching": {"flow_width": 192, "layers": 6},
    "mixture": {"components": 500},
}
POOLED, MOST_VALUES = 16, 2**26  # z of each image, and numbers of all of them
COMPARED = 2_000  # latents, of validation images and of samples
LATENTS = 1_000_000  # seen where no length is given


@dataclass(frozen=True)
class Fit:
    """What a second stage came to.

    Attributes:
        prior: what was fitted.
        latents: how many it has seen.
        seconds: how long it took.
        mmd_before, mmd_after: squared maximum mean discrepancy of samples of p(z), and of samples
            of what was fitted, from z ~ q(z|x) of validation images: an unbiased estimate, so that
            of equal distributions it is below 0 as often as above.
        compared: how many z ~ q(z|x), and as many samples, these are of.
        gain: E log p̂(z) − log p(z) over z ~ q(z|x) of validation images, in nats per image: by so
            much the KL is less with p̂ as the prior. None of a flow, whose density is not computed.
    """

    prior: FlowMatching | GaussianMixture
    latents: int
    seconds: float
    mmd_before: float
    mmd_after: float
    compared: int
    gain: float | None = None

    @property
    def is_worse(self) -> bool:
        """Whether p(z) was the better prior of the two.

        Without a density the discrepancies tell, whose difference has a standard deviation of at
        most about 1 / `compared` where all are of one distribution.
        """
        if self.gain is not None:
            return round(self.gain, 2) < 0
        return self.mmd_after > self.mmd_before + 3 / self.compared


def fit_prior(
    vae: ComposedModel,
    train: Images,
    validation: Images,
    prior: FittedPrior = "flow-matching",
    minutes: float | None = None,
    seed: int = 0,
    levels: int = 1,
    **options: int,
) -> Fit:
    """Fit a prior to z ~ q(z|x) of the training images.

    Dai & Wipf 2019, "Diagnosing and Enhancing VAE Models", section 4: a second stage for the
    latents of a first; here by flow matching. Ghosh et al. 2020, "From Variational to Deterministic
    Autoencoders", section 4: a density of the latents fitted afterwards; here the mixture that
    maximises the ELBO, networks unchanged, which is a bound with it as the prior as well.

    Of a ladder it is the topmost level whose latents these are, or the first ones together.

    Args:
        levels: of a ladder, how many from the topmost on; below them each has its own p.
        prior: flow matching, whose samples alone are of use, or a mixture of Gaussians.
        minutes: how long; None: a million latents.
        **options: `flow_width` and `layers` of a flow, `components` of a mixture.

    Raises:
        LatensError: no such prior or option, no time, or levels that the model has not.
    """
    if minutes is not None and not minutes > 0:
        raise LatensError(f"minutes is {minutes}: it must be above 0")
    options = options_of(prior, options)
    _check_levels(vae, prior, levels)
    # What a prior was fitted to is no z that it is measured by, here or where a seed is the same
    of_fit, of_comparison = np.random.SeedSequence(seed).generate_state(2).tolist()
    with forked_rng(vae.device, of_fit):
        pool = _pool(vae, train, levels)
        z = _draw(pool)
        if prior == "mixture":
            start: FlowMatching | GaussianMixture = _mixture_at(z, options["components"])
        else:
            start = FlowMatching(tuple(pool.shape[2:]), **options).to(vae.device)
            start.standardise(z)
        began = time.perf_counter()
        fitted, seen = _fitted(start, RATES[prior], vae, pool, minutes)
        seconds = time.perf_counter() - began
        seed_noise(of_comparison, vae.device)  # the same whatever was fitted, and for how long
        return Fit(fitted.eval(), seen, seconds, *_compared(fitted, vae, validation, levels))


def _check_levels(vae: ComposedModel, prior: FittedPrior, levels: int) -> None:
    most = len(vae.level_shapes)
    if levels < 1 or levels > most:
        raise LatensError(f"{levels} levels: this model has {most}")
    if levels > 1 and prior != "flow-matching":
        raise LatensError(f"a {prior} is of the topmost level: leave out --levels")


def fittable(model: LatentModel) -> ComposedModel:
    """The model, where a prior can be fitted to its latents.

    Raises:
        LatensError: a model without a prior of its own, or one whose latents depend on labels.
    """
    if not isinstance(model, ComposedModel):
        raise LatensError("fit-prior is for a VAE or a ladder: this model has no prior of its own")
    if model.label_embedding is not None:
        raise LatensError("a second stage is for models whose p(z) depends on no label")
    return model


def options_of(prior: FittedPrior, given: Mapping[str, int | None]) -> dict[str, int]:
    """The options of a prior, those not given at their default.

    Raises:
        LatensError: no such prior, or an option of another one.
    """
    if prior not in OPTIONS:
        raise unknown("prior", prior, OPTIONS)
    found = {name: value for name, value in given.items() if value is not None}
    for name in found.keys() - OPTIONS[prior].keys():
        other = next((kind for kind, own in OPTIONS.items() if name in own), None)
        if other is None:
            raise unknown("option", name, OPTIONS[prior])
        raise LatensError(f"{name} is an option of --prior {other}, and this one is {prior}")
    return OPTIONS[prior] | found


def _mixture_at(z: Float[Tensor, "N *Z"], components: int) -> GaussianMixture:
    """Components at latents drawn at random, as wide as tells so many apart (Scott's rule)."""
    mixture = GaussianMixture(tuple(z.shape[1:]), components).to(z.device)
    rows = torch.randint(len(z), (components,), device=z.device)
    dims = math.prod(z.shape[1:])
    with torch.no_grad():
        mixture.mean.copy_(z[rows])
        width = z.std(0).clamp(min=1e-3) * components ** (-1 / (dims + 4))
        mixture.log_scale.copy_(width.log().expand_as(mixture.log_scale))
    return mixture


@torch.no_grad()
def _compared(
    prior: FlowMatching | GaussianMixture, vae: ComposedModel, validation: Images, levels: int
) -> tuple[float, float, int, float | None]:
    """`mmd_before`, `mmd_after`, `compared` and `gain` of `Fit`."""
    z = _draw(_pool(vae, validation.some(COMPARED), levels)).cpu()
    if levels > 1:
        before = cast("Ladder", vae).first_levels(levels, len(z)).cpu().flatten(1)
    else:
        before = vae.draw_prior(len(z)).cpu().flatten(1)
    gain = None
    if isinstance(prior, GaussianMixture):
        p, at = prior(vae.encode), z.to(vae.device)
        log_ratio = p.log_prob(at) - vae.prior_given().log_prob(at)
        gain = log_ratio.mean().item()
        after = p.sample(torch.Size((len(z),)))
    else:
        after = prior.sample(len(z))
    if len(z) < 2:  # one latent has no spread
        return math.nan, math.nan, len(z), gain
    z, scale = z.flatten(1), z.flatten(1).std(0)
    after = after.cpu().flatten(1)
    mmd_before, mmd_after = (mmd(z / scale, other / scale).item() for other in (before, after))
    return mmd_before, mmd_after, len(z), gain


def _fitted(
    start: Module,
    rates: tuple[float, float],
    vae: ComposedModel,
    pool: Float[Tensor, "N S *Z"],
    minutes: float | None,
) -> tuple[Module, int]:
    """The prior with averaged weights, and how many latents it has seen."""
    averaged = AveragedModel(start, multi_avg_fn=_average)
    rate, decay = rates
    schedule = LearningRateSchedule(rate, WARMUP)
    optimizer = torch.optim.AdamW(start.parameters(), rate, weight_decay=decay)
    began, seen, share = time.perf_counter(), 0, 0.0
    dims = math.prod(pool.shape[2:])
    with progress("latents") as bar:
        task = bar.add_task("second stage", total=LATENTS if minutes is None else None)
        for rows in _batches(len(pool)):
            spent = (time.perf_counter() - began) / 60
            share = seen / LATENTS if minutes is None else spent / minutes
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = schedule(share)
            loss = _loss(start, _draw(pool[rows]), vae)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(start.parameters(), 10.0 * math.sqrt(dims))
            optimizer.step()
            averaged.update_parameters(start)
            seen += len(rows)
            bar.update(task, completed=seen)
    return cast("Module", averaged.module), seen


@torch.no_grad()
def _average(averages: PARAM_LIST, weights: PARAM_LIST, steps: Tensor | int) -> None:
    """Move the averaged weights towards the weights."""
    torch._foreach_lerp_(averages, weights, 1 - ema_decay(AVERAGE, int(steps)))  # pyright: ignore[reportPrivateImportUsage]


def _loss(prior: nn.Module, z: Float[Tensor, "B *Z"], vae: ComposedModel) -> Float[Tensor, ""]:
    """Of flow matching; or −log p̂(z), which is all of −ELBO that a prior changes."""
    if isinstance(prior, GaussianMixture):
        return -prior(vae.encode).log_prob(z).mean()
    return prior(z).mean()


def _batches(count: int) -> Iterator[Tensor]:
    """Rows in a new order each time round, without end."""
    while True:
        yield from torch.randperm(count).split(min(BATCH, count))


@torch.no_grad()
def _pool(vae: ComposedModel, images: Images, levels: int = 1) -> Float[Tensor, "N S *Z"]:
    """Several z ~ q(z|x) of each image, of any q."""
    shape = cast("Ladder", vae).packed_shape(levels) if levels > 1 else vae.latent_shape
    samples = max(1, min(POOLED, MOST_VALUES // (len(images) * math.prod(shape))))
    if levels > 1:
        batches = (batch.unit().to(vae.device) for batch in images.batches(IMAGES_AT_ONCE))
        each = (cast("Ladder", vae).first_levels(levels, samples, x) for x in batches)
        return torch.cat([z.transpose(0, 1) for z in each])
    drawn = (q.sample(torch.Size((samples,))) for q in posteriors_of(vae, images))
    return torch.cat([z.transpose(0, 1) for z in drawn])


def _draw(pool: Float[Tensor, "N S *Z"]) -> Float[Tensor, "N *Z"]:
    """One z ~ q(z|x) of each image."""
    rows = torch.arange(len(pool), device=pool.device)
    return pool[rows, torch.randint(pool.shape[1], (len(pool),), device=pool.device)]
