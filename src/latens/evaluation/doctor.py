"""`latens doctor`: what is wrong with a trained model, measured, and what would fix it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributions import Independent, Normal

from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.baselines import mean_image_cost
from latens.evaluation.densities import IMAGES as FITTED
from latens.evaluation.densities import ClassDensity
from latens.evaluation.findings import Finding, findings_of_training, noise_on_images
from latens.evaluation.labels import sample_all
from latens.evaluation.metrics import Evaluation, evaluate
from latens.model.composed import ComposedModel
from latens.model.latent_model import LatentModel
from latens.model.likelihoods import LEAST_LOGISTIC, LEAST_SCALE
from latens.model.noise import forked_rng
from latens.model.parts import to_config
from latens.model.posteriors import Tabulated
from latens.model.vae import VAE
from latens.run.directory import Run

IMAGES = 2_000  # of each split, at most
REFINED, STEPS = 200, 50  # images whose q(z|x) is improved, at most, and by how many steps
VALUES = 2**18  # pixels times channels of all of them
GRID_DIMS, GRID_CELLS = 2, 128  # up to so many dimensions a grid is tried beside it
GAP = 1.0  # nats of amortisation gap, or that a fitted prior would gain
ERRORS = 4.0  # standard errors beyond which a difference is one
UNSEEN = 0.05  # of what z saves, that unseen images cost more
NARROW = 2e-3  # σ of q(z|x): a density so sharp that float32 hardly resolves it
NEAR_FLOOR = 1.05  # of the least scale of a likelihood
NO_BETTER = 0.002  # of the mean image's cost: noise of the estimate
SEED = 0


@dataclass(frozen=True)
class Examination:
    """What is looked at."""

    run: Run
    vae: LatentModel
    data: DataSet
    train: Evaluation
    test: Evaluation
    baseline: float

    @property
    def saved(self) -> float:
        """Nats that the model saves on the mean image, on test images."""
        return self.baseline + self.test.elbo


def examine(run: Run, vae: LatentModel, data: DataSet) -> list[Finding]:
    """Everything found, the serious first; an empty list where nothing is wrong.

    Args:
        run: with its metrics and its configuration.
        vae: its model.
        data: that it was trained on.
    """
    few = [images.some(IMAGES) for images in (data.train, data.test)]
    train, test = (evaluate(vae, images, seed=SEED) for images in few)
    baseline = mean_image_cost(vae.likelihood, data.train, data.test)
    case = Examination(run, vae, data, train, test, baseline)
    findings = [
        *(findings_of_training(run.metrics, test, run.config, run.latent_dims)),
        *_costs(case),
        *_unseen(case),
        *_likelihood(case),
        *_sigma(case),
        *_prior(case),
        *_amortisation(case),
    ]
    return sorted(findings, key=lambda finding: not finding.serious)


def _costs(case: Examination) -> Iterator[Finding]:
    test, bound = case.test, case.baseline + NO_BETTER * abs(case.baseline)
    if min(-test.elbo, -case.train.elbo) < bound or test.has_collapsed(case.run.latent_dims):
        return  # of images that only the training images' z saves, another finding tells
    costs = f"−elbo is {-test.elbo:,.1f} nats, and the mean image alone costs {case.baseline:,.1f}"
    if test.reconstruction < case.baseline and test.kl > 1:
        saves = case.baseline - test.reconstruction
        yield Finding(
            "KL blow-up",
            f"{costs}: z costs {test.kl:,.1f} and saves {saves:,.1f}",
            "A code that costs more than it tells is worse than none.",
            "Try --beta 1 if it is smaller, --beta-warmup 0.1, or a smaller --learning-rate",
            serious=True,
        )
    else:
        yield Finding(
            "no better than the mean image",
            costs,
            "Nothing has been learned yet that is of use.",
            "Try more --epochs, or a larger --learning-rate where the curve is flat",
            serious=True,
        )


def _unseen(case: Examination) -> Iterator[Finding]:
    lost = case.train.elbo - case.test.elbo
    error = math.hypot(*(e.errors["elbo"].total for e in (case.train, case.test) if e.errors))
    if lost > max(1.0, ERRORS * error, UNSEEN * abs(case.saved)):
        yield Finding(
            "generalisation gap",
            f"test images cost {lost:,.1f} ± {error:,.1f} nats more than training images",
            "What was learned of training images does not carry over to others.",
            f"Try {noise_on_images(case.run.config)}, more images, or a smaller network",
        )


def _likelihood(case: Examination) -> Iterator[Finding]:
    name, pixels = case.run.config.model.likelihood, case.data.train.some(IMAGES).pixels
    binary = not ((pixels > 0) & (pixels < 255)).any() or case.data.train.stochastic_binarize
    figure, remedy = "", ""
    if binary and name != "bernoulli":
        figure = f"the pixels are 0 or 1, and {name} is a likelihood of levels between"
        remedy = "Try --likelihood bernoulli"
    elif not binary and name == "bernoulli" and len(pixels[0]) > 1:
        figure = "the pixels are colours of 256 levels, and bernoulli is a likelihood of bits"
        remedy = "Try --likelihood logistic-mixture"
    elif not binary and name == "bernoulli":
        figure = "the pixels are grey levels, and bernoulli is a likelihood of bits"
        remedy = (
            "Compare the figures with none but their kind; for a likelihood try "
            "--likelihood discretised-logistic, or --binarisation dynamic"
        )
    if figure:
        yield Finding(
            "likelihood",
            figure,
            "A cost that is no −log p(x) of these pixels cannot be ranked beside one that is.",
            remedy,
        )


@torch.no_grad()
def _sigma(case: Examination) -> Iterator[Finding]:
    vae = case.vae
    log_scale = getattr(vae.likelihood, "log_scale", None)
    why = "What is all on one value breaks off learning there, and figures mean little."
    if isinstance(log_scale, torch.Tensor):
        of_8_bits = case.test.kind == "8-bit"
        floor = LEAST_LOGISTIC if of_8_bits else LEAST_SCALE
        scale = floor + log_scale.exp().min().item()
        if scale < NEAR_FLOOR * floor:
            remedy = (
                "Try --likelihood logistic-mixture, which has a scale for each pixel"
                if of_8_bits
                else "Try --likelihood discretised-logistic, whose levels have a width"
            )
            figure = f"σ of p(x|z) is {scale:.4f}, its least value"
            yield Finding("saturated σ", figure, why, remedy, serious=True)
    q = vae.encode(*_batch(case.data.test, vae))
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        narrow = (q.stddev < NARROW).float().mean().item()
        if narrow > 0.01:
            figure = f"σ of q(z|x) is below {NARROW} in {narrow:.0%} of all dimensions of images"
            remedy = "Try a learned σ of the likelihood (--likelihood gaussian), or a larger --beta"
            yield Finding("saturated σ", figure, why, remedy, serious=True)


def _batch(images: Images, vae: LatentModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    few = images.some(REFINED)
    y = None if few.labels is None else few.labels.to(vae.device)
    return few.unit().to(vae.device), y


def _prior(case: Examination) -> Iterator[Finding]:
    """What a mixture fitted to the latents of training images gains on those of test images."""
    vae = case.vae
    if not isinstance(vae, ComposedModel) or vae.label_embedding is not None:
        return
    if vae.sampler is not None:  # which samples come from
        return
    gain = prior_gain(vae, case.data.train.some(FITTED), case.data.test)
    if gain > GAP:
        yield Finding(
            "prior",
            f"a mixture fitted to the latents would cost {gain:.1f} nats less than p(z) on test "
            "images",
            "Samples come from p(z), and images lie elsewhere: samples look worse than they could.",
            "Try `latens fit-prior RUN --prior mixture`, which trains nothing anew, or train with "
            "--prior mixture or --prior vamp",
        )


@torch.no_grad()
def prior_gain(vae: ComposedModel, train: Images, test: Images) -> float:
    """E log p̂(z) − log p(z) over z ~ q(z|x) of test images, in nats per image.

    p̂ is a mixture of ten Gaussians fitted to z of training images: the gain is what −elbo would
    fall by with it as the prior (Hoffman & Johnson 2016, "ELBO surgery").
    """
    with forked_rng(vae.device, SEED):
        of_train, of_test = (sample_all(vae, images) for images in (train, test.some(IMAGES)))
    fitted = ClassDensity.fit(of_train)
    z = of_test.unflatten(1, vae.latent_shape).to(vae.device)
    log_p = vae.prior_given().log_prob(z).double().cpu()
    return (fitted.log_prob(of_test) - log_p).mean().item()


def _better_encoders(vae: LatentModel) -> Iterator[str]:
    """Options that give q(z|x) more room, as far as the model's parts have them."""
    deeper = {"hidden": "--hidden 1024,1024,1024", "blocks": "--blocks 2"}
    known = to_config(vae.encoder) if isinstance(vae, VAE) else {}
    options = [option for name, option in deeper.items() if name in known]
    yield f"a deeper encoder ({' or '.join(options)})" if options else "a longer training"
    if len(vae.latent_shape) == 1:
        yield "--posterior iaf"


def _amortisation(case: Examination) -> Iterator[Finding]:
    vae = case.vae
    few = case.data.test.some(min(REFINED, max(16, VALUES // math.prod(vae.image_shape))))
    if isinstance(vae, VAE) and isinstance(vae.posterior, Tabulated):
        return
    try:
        by_encoder = evaluate(vae, few, seed=SEED)
        refined = evaluate(vae, few, seed=SEED, refine=STEPS)
    except LatensError:  # a q that is no diagonal Gaussian
        return
    gain = refined.elbo - by_encoder.elbo
    remedy = f"Try {', or '.join(_better_encoders(vae))}"
    best = f"{gain:.1f} nats are won by a Gaussian q(z|x) refined for each image"
    if isinstance(vae, VAE) and math.prod(vae.latent_shape) <= GRID_DIMS:
        grid = evaluate(vae, few, seed=SEED, posterior="grid", cells=GRID_CELLS)
        by_grid = grid.elbo - by_encoder.elbo
        best += f", and {by_grid:.1f} by the grid's q, which need not be a Gaussian"
        remedy += ", and name the figure of --posterior grid beside the encoder's"
        gain = max(gain, by_grid)
    if gain > GAP:
        why = "So much of −elbo is the encoder's loss, and not that of the model p(x, z)."
        yield Finding("amortisation gap", best, why, remedy)
