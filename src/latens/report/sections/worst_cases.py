"""Worst cases: the costliest images, the surest mistakes of the classifier, holes in the prior."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical

from latens import pictures
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import class_list

SHOWN = 16
EMPTY = 16  # places of the prior
# In more dimensions no number of images covers a prior, and every place of it seems empty
FEW_DIMS = 3
TRIED = 2_000  # samples of the prior, among which the emptiest are sought
NOTHING = 1e-6  # a density ratio that is called zero
HOLE = 0.1  # of the prior's density: below it, the aggregated posterior has a hole


def worst_cases(context: ReportContext) -> Iterator[Picture]:
    """The test images that cost most, confident mistakes, and where the prior is emptiest."""
    yield _costliest(context)
    yield from _mistakes(context)
    if context.dims <= FEW_DIMS and not context.conditional:
        yield _emptiest(context)


def costliest(context: ReportContext) -> str:
    """In a sentence: the most that an image costs, and what is usual."""
    costs = context.costs
    most, usual = costs.max().item(), costs.median().item()
    words = (
        f"The costliest of {len(costs):,} test images costs {most:,.0f} nats; half of them cost "
        f"less than {usual:,.0f}."
    )
    return words.replace("-", "−")


def _costliest(context: ReportContext) -> Picture:
    order = context.costs.argsort(descending=True)[:SHOWN]
    shown = context.test.take(order)
    x = shown.unit()
    words = [f"{cost:,.0f}".replace("-", "−") for cost in context.costs[order].tolist()]
    title = context.title("the costliest test images")
    again = context.vae.reconstruct(x, shown.labels)
    image = pictures.pairs(x, again, title, captions=words)
    return Picture(
        "costliest",
        [image],
        "The test images of the largest −ELBO, each above its reconstruction",
        f"The {len(x)} test images of the largest −ELBO, each above its reconstruction. Below "
        f"each, its −ELBO in nats, by {context.cost_samples} z ~ q(z|x).",
        classes=class_list(shown),
    )


def _mistakes(context: ReportContext) -> Iterator[Picture]:
    """The test images that the model's own classifier takes for another class most surely."""
    labels = context.latents.labels
    if labels is None or not context.classes or context.vae.classifier is None:
        return
    given = context.vae.classify(context.latents.mean.unflatten(1, context.vae.latent_shape))
    if not isinstance(given, Categorical):
        return
    sure, found = given.probs.max(1)
    wrong = ((found != labels) & (labels >= 0)).nonzero().flatten()
    if not len(wrong):
        return
    rows = wrong[sure[wrong].argsort(descending=True)][:SHOWN]
    names = context.classes
    captions = [
        f"{names[int(labels[i])]}, predicted {names[int(found[i])]}: {sure[i]:.0%}"
        for i in rows.tolist()
    ]
    shown, known = context.test.take(rows).unit(), int((labels >= 0).sum())
    title = context.title("confident mistakes")
    yield Picture(
        "mistakes",
        [pictures.grid(shown, title, captions=captions, least_side=112)],
        "Test images that the classifier takes for another class, the most confident first",
        f"The model's classifier is wrong about {len(wrong):,} of {known:,} test images; "
        "here are those of which it is surest, with their class, the predicted class and its "
        "probability.",
        classes=labels[rows].tolist(),
    )


@torch.no_grad()
def _emptiest(context: ReportContext) -> Picture:
    """What is decoded where the prior has mass and the aggregated posterior has least."""
    z = context.sample_of_prior(TRIED)
    ratio = log_density_ratio(context, z)
    holes = (ratio < math.log(HOLE)).double().mean().item()
    order = ratio.argsort()[:EMPTY]
    images = context.vae.decode_images(z[order])
    factors = [f"{r:.1g}" if r >= NOTHING else "0" for r in ratio[order].exp().tolist()]
    title = context.title("the emptiest places of the prior")
    return Picture(
        "emptiest",
        [pictures.grid(images, title, captions=factors)],
        "Images decoded where samples of the prior fall and hardly any test image lies",
        f"Decoded from those of {TRIED:,} samples of the prior where the aggregated posterior of "
        f"{len(context.test):,} test images is thinnest; below each, its density as a "
        f"share of the prior's. {holes:.1%} of the samples fall where that is below {HOLE:g}.",
    )


def log_density_ratio(context: ReportContext, z: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Log q(z) − log p(z), with the aggregated posterior q(z) = 1/M Σ_m q(z|x_m) of test images."""
    total = z.new_full((len(z),), -math.inf)
    for q in context.latents.posteriors:
        log_q = q.log_prob(z.unsqueeze(1))  # [N, B]
        total = torch.logaddexp(total, log_q.logsumexp(1))
    return total - math.log(len(context.test)) - context.log_prior(z)
