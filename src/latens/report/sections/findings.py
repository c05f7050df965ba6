"""What a chapter found, in one sentence with a number that was measured for it."""

import torch

from latens.evaluation.labels import vote
from latens.report.context import ReportContext

NEIGHBOURS = 10


def reconstruction_finding(context: ReportContext) -> str:
    """How much of the mean image's cost z saves."""
    figures, base = context.run.figures, context.baseline
    if not figures or base is None:
        return ""
    saved = round(base - figures["reconstruction"])  # an integer has no −0
    words = (
        f"Knowing z saves {saved:,} of the {base:,.0f} nats that the mean image alone costs on "
        f"unseen images, and z itself costs {figures['kl']:,.1f}."
    )
    return words.replace("-", "−")


def latent_space_finding(context: ReportContext) -> str:
    """How often the neighbours in latent space tell the class, and how many dimensions are used."""
    active = None if not context.run.figures else context.run.figures["active_units"]
    of = " of the topmost level" if context.run.levels > 1 else ""
    words = f"{active} of {context.dims} latent dimensions{of} are in use."
    words = "" if active is None else words
    labels = context.latents.labels
    least = 2 * NEIGHBOURS * len(context.classes)
    is_told = context.vae.encodes_labels  # so that z would only tell back what it was told
    if is_told or labels is None or not context.classes or int((labels >= 0).sum()) < least:
        return words
    known = (labels >= 0).nonzero()[:, 0]
    z, y = context.latents.mean[known], labels[known]
    half = len(y) // 2
    votes = torch.zeros(len(y), dtype=torch.bool)
    votes[context.test.take(known).some_rows(half)] = True
    told = vote(z[votes], y[votes], z[~votes], NEIGHBOURS)
    right = (told == y[~votes]).double().mean().item()
    chance = y.bincount().max().item() / len(y)
    return (
        f"{words} The {NEIGHBOURS} nearest of {half:,} other images in latent space predict the "
        f"class of {right:.0%} of test images; always naming the largest "
        f"class would be right for {chance:.0%}."
    ).strip()
