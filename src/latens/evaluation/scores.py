"""Scores of single images: how unusual each is to a model, larger for the more unusual."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution

from latens.data import Images
from latens.errors import LatensError, unknown
from latens.evaluation.importance import importance_weights
from latens.evaluation.metrics import evaluate_each
from latens.evaluation.proposals import refined, rows_of
from latens.model.latent_model import LatentModel
from latens.model.noise import OwnNoise, seeds_of

Score = Literal["-elbo", "nll", "reconstruction", "displacement", "regret", "typicality"]
SCORES: tuple[str, ...] = get_args(Score)
QUICK = tuple(score for score in SCORES if score != "regret")  # 50 steps for each image take long
UNITS = dict.fromkeys(SCORES, "nats") | {"displacement": "pixels"}
IMAGES_AT_ONCE = 500
GREY_LEVEL = 1 / 255  # the least gradient that an image is taken to have
REGRET_STEPS, REGRET_SAMPLES = 50, 16
REFINED_AT_ONCE = 25  # images: twice as fast as 500, whose memory the system maps anew each time


def image_scores(
    vae: LatentModel,
    images: Images | Float[Tensor, "N C H W"],
    scores: Sequence[str] = SCORES,
    typical: float | None = None,
    importance_samples: int = 100,
    steps: int = REGRET_STEPS,
    seed: int = 0,
) -> dict[str, Float64[Tensor, " N"]]:
    """Scores of each image by name, in the units of `UNITS`.

    - `-elbo`: reconstruction + KL, from one z; `reconstruction`: −E_q log p(x|z) alone.
    - `nll`: −log p(x) by importance sampling.
    - `displacement`: how far the image would have to be distorted to become its reconstruction, see
      `displacement`; an image of few edges is not taken for a usual one.
    - `regret`: likelihood regret, how much the image's own q(z|x) gains over the encoder's (Xiao et
      al. 2020, "Likelihood Regret: An Out-of-Distribution Detection Score for Variational
      Auto-Encoder", equation 7): an image unlike any seen is encoded badly, however simple it is.
    - `typicality`: |−elbo − its mean over training images| (Nalisnick et al. 2019, "Detecting
      Out-of-Distribution Inputs to Deep Generative Models Using Typicality", equation 4, for one
      image): one that is too likely is as unusual.

    Args:
        scores: which of `SCORES`.
        typical: the mean −elbo of training images; needed for typicality.
        importance_samples: K, of nll.
        steps: of Adam for each image's q, of regret.
        seed: of z. The noise of an image comes from it and the image's pixels, so that its scores
            are the same whatever is scored beside it.

    Raises:
        LatensError: a score of another name, or typicality without `typical`.
    """
    for name in scores:
        if name not in SCORES:
            raise unknown("score", name, SCORES)
    if "typicality" in scores and typical is None:
        raise LatensError("typicality needs the mean −elbo of training images: give typical")
    parts = []
    for first in range(0, len(images), IMAGES_AT_ONCE):
        rows = slice(first, min(first + IMAGES_AT_ONCE, len(images)))
        x, y = rows_of(images, None, rows, vae.device)
        parts.append(_scores(vae, x, y, scores, importance_samples, steps, seeds_of(x, seed)))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if typical is not None:
        found["typicality"] = (found["-elbo"] - typical).abs()
    return {name: found[name] for name in scores}


@torch.no_grad()
def _scores(
    vae: LatentModel,
    x: Tensor,
    y: Tensor | None,
    scores: Sequence[str],
    k: int,
    steps: int,
    seeds: Sequence[int],
) -> dict[str, Tensor]:
    with OwnNoise(seeds, x.device):
        draw = vae.draw(x, y)
        reconstruction = -draw.log_px_z.mean(0)
        found = {"-elbo": reconstruction + draw.kl, "reconstruction": reconstruction}
    if "nll" in scores:
        with OwnNoise(seeds, x.device):
            found["nll"] = -importance_weights(vae, x, y, k).log_mean
    if "displacement" in scores:
        found["displacement"] = displacement(x, vae.reconstruct(x, y))
    if "regret" in scores:
        found["regret"] = torch.empty(len(x))
        for first in range(0, len(x), REFINED_AT_ONCE):
            rows = slice(first, first + REFINED_AT_ONCE)
            with OwnNoise(seeds[rows], x.device):
                found["regret"][rows] = _regret(vae, x[rows], None if y is None else y[rows], steps)
    return {name: values.double().cpu() for name, values in found.items()}


def displacement(
    x: Float[Tensor, "N C H W"], again: Float[Tensor, "N C H W"]
) -> Float[Tensor, " N"]:
    """√(2 ‖x − x̂‖² / Σ ‖∇x‖²), in pixels.

    To first order an image whose pixels move by u changes by u·∇x. So this is the root mean square
    of the movement, equally likely in all directions, that accounts for the error (the equation of
    optical flow: Horn & Schunck 1981, "Determining Optical Flow", section 4). ∇ is forward
    differences.
    """
    across, down = x.diff(dim=3), x.diff(dim=2)
    gradient = sum(part.square().flatten(1).sum(1) for part in (across, down))
    error = (x - again).square().flatten(1).sum(1)
    return (2 * error / torch.as_tensor(gradient).clamp(min=GREY_LEVEL**2)).sqrt()


def _regret(vae: LatentModel, x: Tensor, y: Tensor | None, steps: int) -> Tensor:
    own, of_encoder = (_elbo(vae, x, y, q) for q in (refined(vae, x, y, steps), vae.encode(x, y)))
    return own - of_encoder


def _elbo(vae: LatentModel, x: Tensor, y: Tensor | None, q: Distribution) -> Tensor:
    draw = vae.draw(x, y, REGRET_SAMPLES, q)
    return draw.log_px_z.mean(0) - draw.kl


def typical_elbo(vae: LatentModel, train: Images, images: int = 1_000, seed: int = 0) -> float:
    """The mean −elbo of training images, in nats: what typicality is measured from."""
    return evaluate_each(vae, train.some(images), seed=seed)["-elbo"].mean().item()
