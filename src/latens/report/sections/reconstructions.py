"""Reconstructions of training and validation images, and interpolations between test images."""

from collections.abc import Iterator

import torch
from PIL import Image

from latens import pictures
from latens.analysis.generation import likeliest_condition
from latens.data import Images
from latens.model.latent_model import LatentModel
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import adjective, class_list

SHOWN = 24  # images in a picture of pairs
STEPS = 11  # of an interpolation


def reconstruction_pictures(context: ReportContext) -> Iterator[Picture]:
    """Training and validation images above their reconstructions."""
    for split in ("train", "validation"):
        shown = context.data.split(split).some(SHOWN)
        x = shown.unit()
        image = pictures.pairs(
            x,
            context.vae.reconstruct(x, shown.labels),
            context.title(f"{adjective(split)} images"),
        )
        yield Picture(
            f"reconstructions-{split}",
            [image],
            f"{adjective(split).capitalize()} images in rows, each above its reconstruction",
            f"{adjective(split).capitalize()} images, each above the mean of p(x|z) at its mean z"
            + ("." if split == "train" else "; none was trained on."),
            classes=class_list(shown),
        )


def interpolations(context: ReportContext) -> Iterator[Picture]:
    """Straight lines between the mean z of test images."""
    count = min(6, len(context.data.test) // 2)
    if count < 1:
        return
    order = torch.randperm(len(context.data.test))[: 2 * count].sort().values
    shown = context.data.test.take(order)
    a, b = shown.take(slice(0, None, 2)), shown.take(slice(1, None, 2))
    yield Picture(
        "interpolations",
        [interpolation(context.vae, a, b, context.title("between test images"))],
        "Rows of images that change from one test image into another",
        "From xA and its reconstruction x̂A to x̂B and xB, in equal steps on the straight line "
        "between their mean z.",
    )


def interpolation(
    vae: LatentModel, a: Images, b: Images, title: str, steps: int = STEPS, spherical: bool = False
) -> Image.Image:
    """Rows xA, x̂A, the steps between, x̂B, xB.

    Args:
        steps: from x̂A to x̂B, both included.
        spherical: along a great circle of latent space, not the straight line.
    """
    xa, xb = a.unit().to(vae.device), b.unit().to(vae.device)
    ya, yb = (
        likeliest_condition(vae, x) if of.labels is None else of.labels.to(vae.device)
        for x, of in ((xa, a), (xb, b))
    )
    between = vae.interpolate(xa, xb, steps, ya, yb, spherical)
    columns = ["xA", "x̂A", *[""] * (steps - 2), "x̂B", "xB"]
    return pictures.table(torch.cat((xa[:, None], between, xb[:, None]), 1), title, columns)
