"""Of a hierarchy: what each level of latents holds."""

from collections.abc import Iterator

import torch

from latens import pictures
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import class_list

SHOWN = 8  # images
MOST_COLUMNS = 9  # numbers of levels that keep the image's latents


def level_pictures(context: ReportContext) -> Iterator[Picture]:
    """Test images rebuilt from the first levels alone, and the KL of each level."""
    shapes = context.vae.level_shapes
    if len(shapes) < 2:
        return
    shown = context.data.test.some(SHOWN)
    x = shown.unit()
    count = min(MOST_COLUMNS, len(shapes) + 1)
    kept = torch.linspace(0, len(shapes), count).round().int().tolist()
    columns, errors = [], []
    for levels in kept:
        images = context.vae.reconstruct(x, shown.labels, levels)
        columns.append(images)
        errors.append((images - x).square().mean().item())
    told = ", ".join(f"{k}: {error:.4f}" for k, error in zip(kept, errors, strict=True))
    yield Picture(
        "levels",
        [
            pictures.table(
                torch.stack((x, *columns), 1),
                context.title("what each level holds"),
                ["x", *map(str, kept)],
            )
        ],
        "Rows of test images, each rebuilt from more and more levels of its latents",
        "Each image, and what the model makes of it where only so many levels, from the topmost "
        "on, keep its z and the others are sampled: what varies is not in the kept ones. Mean "
        f"squared error by the number of levels kept: {told}.",
        classes=class_list(shown),
    )
    per_level = context.run.figures["kl_per_level"] if context.run.figures else None
    if not per_level:
        return
    names = [f"{i} · {'×'.join(map(str, shape))}" for i, shape in enumerate(shapes, start=1)]
    yield Picture(
        "kl-per-level",
        [pictures.kl_per_level(per_level, names, context.title("KL of each level"))],
        "Bars: the KL of each level of latents",
        "KL(q ‖ p) of each level on test images, in nats per image: what the level says of an "
        "image beyond the levels above it. Near zero, it is inactive.",
    )
