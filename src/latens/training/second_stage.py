"""The second stage: a prior fitted to the latents of a trained model, which stays as it is."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from latens.console import progress
from latens.data import Images
from latens.errors import LatensError
from latens.evaluation.labels import embed_all
from latens.model.flow_matching import FlowMatching
from latens.model.vae import VAE
from latens.training.objectives import mmd
from latens.training.schedules import LearningRateSchedule

BATCH, RATE, WARMUP, AVERAGE = 256, 1e-3, 0.05, 0.999
COMPARED = 2_000  # latents, of validation images and of samples
LATENTS = 1_000_000  # seen where no length is given


@dataclass(frozen=True)
class Fit:
    """What a second stage came to.

    Attributes:
        prior: the flow.
        latents: how many it has seen.
        seconds: how long it took.
        mmd_before, mmd_after: squared maximum mean discrepancy of samples of p(z), and of samples
            of the flow, from z ~ q(z|x) of validation images.
    """

    prior: FlowMatching
    latents: int
    seconds: float
    mmd_before: float
    mmd_after: float


def fit_prior(
    vae: VAE,
    train: Images,
    validation: Images,
    minutes: float | None = None,
    seed: int = 0,
    flow_width: int = 192,
    layers: int = 6,
) -> Fit:
    """Fit a flow to z ~ q(z|x) of the training images.

    Dai & Wipf 2019, "Diagnosing and Enhancing VAE Models", section 4: a second stage for the
    latents of a first; here by flow matching.

    Args:
        minutes: how long; None: a million latents.

    Raises:
        LatensError: a model whose latents depend on labels, or no time.
    """
    if vae.label_embedding is not None:
        raise LatensError("a second stage is for models whose p(z) depends on no label")
    if minutes is not None and not minutes > 0:
        raise LatensError(f"minutes is {minutes}: it must be above 0")
    device = vae.device
    mean, variance = (values.to(device) for values in embed_all(vae, train))
    scale = variance.sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = FlowMatching(vae.latent_shape, flow_width, layers).to(device)
        flow.standardise(_draw(mean, scale, vae))
        began = time.perf_counter()
        averaged, seen = _regress(flow, vae, mean, scale, minutes)
        seconds = time.perf_counter() - began
        z = _draw(*_of_some(vae, validation), vae)
        before = vae.sample_prior(len(z)).cpu().flatten(1)
        after = averaged.sample(len(z)).cpu().flatten(1)
        z, scale = z.flatten(1), z.flatten(1).std(0)
        distances = (mmd(z / scale, other / scale).item() for other in (before, after))
        return Fit(averaged.eval(), seen, seconds, *distances)


def _regress(
    flow: FlowMatching, vae: VAE, mean: Tensor, scale: Tensor, minutes: float | None
) -> tuple[FlowMatching, int]:
    """The flow with averaged weights, and how many latents it has seen."""
    averaged = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    schedule = LearningRateSchedule(RATE, WARMUP)
    optimizer = torch.optim.AdamW(flow.parameters(), RATE, weight_decay=0.01)
    began, seen, share = time.perf_counter(), 0, 0.0
    with progress("latents") as bar:
        task = bar.add_task("second stage", total=LATENTS if minutes is None else None)
        for rows in _batches(len(mean)):
            spent = (time.perf_counter() - began) / 60
            share = seen / LATENTS if minutes is None else spent / minutes
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = schedule(share)
            loss = flow(_draw(mean[rows], scale[rows], vae)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0 * math.sqrt(mean.shape[1]))
            optimizer.step()
            averaged.update_parameters(flow)
            seen += len(rows)
            bar.update(task, completed=seen)
    return cast("FlowMatching", averaged.module), seen


def _batches(count: int) -> Iterator[Tensor]:
    """Rows in a new order each time round, without end."""
    while True:
        yield from torch.randperm(count).split(min(BATCH, count))


def _draw(
    mean: Float[Tensor, "N D"], scale: Float[Tensor, "N D"], vae: VAE
) -> Float[Tensor, "N *Z"]:
    """Z ~ N(mean, scale²): q(z|x), or one of its mean and variance where it is no Gaussian."""
    return torch.normal(mean, scale).unflatten(1, vae.latent_shape)


def _of_some(vae: VAE, images: Images) -> tuple[Tensor, Tensor]:
    mean, variance = embed_all(vae, images.take(slice(0, COMPARED)))
    return mean, variance.sqrt()
