"""Samples from the prior, and of each class."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from latens import pictures
from latens.analysis.generation import CONFIDENCE, at_temperature, draw
from latens.evaluation.judges import Verdict
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import MOST_ROWS, count_of

SAMPLES = 64
PER_ROW = 10


def sample_pictures(context: ReportContext) -> Iterator[Picture]:
    """Images sampled from the prior, and of each class where there are classes."""
    images = draw(context.vae, SAMPLES).images
    z = "z ~ p(z)" if context.second_stage is None else "z of the second stage"
    yield Picture(
        "samples",
        [pictures.grid(images, context.title(f"samples, {z}{at_temperature(context.vae)}"))],
        "A grid of images sampled from the model",
        f"The mean of p(x|z) for {z}{at_temperature(context.vae)}.",
    )
    statistics = context.statistics
    if statistics is None or not statistics.exclusive:
        return
    names = statistics.names[:MOST_ROWS]
    if context.conditional:
        rows, how = _samples_of_each_class(context, len(names))
    else:
        drawn = [draw(context.vae, PER_ROW, label) for label in range(len(names))]
        rows, unsure = [samples.images for samples in drawn], sum(s.unsure for s in drawn)
        how = f"z from the density of the class in latent space, with p(y|z) ≥ {CONFIDENCE:g}"
        how += f" but for {unsure} of {PER_ROW * len(names)}" if unsure else ""
        how = "z ~ p(z|y)" if context.vae.label_embedding is not None else how
    images = torch.stack(rows)
    more = count_of(len(names), len(statistics.names), "classes")
    yield Picture(
        "samples-by-class",
        [pictures.table(images, context.title(f"samples of each class{more}"), rows=names)],
        "Rows of sampled images, one row for each class",
        f"A row for each class, {how}{more}.{_verdict(context, images)}",
        classes=list(range(len(names))),
    )


def _verdict(context: ReportContext, images: Float[Tensor, "A N C H W"]) -> str:
    """What an independent classifier says of rows of images, one for each class."""
    if context.judge is None:
        return ""
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    return f" {Verdict.on(context.judge, images.flatten(0, 1), labels)}."


def _samples_of_each_class(context: ReportContext, classes: int) -> tuple[list[Tensor], str]:
    """Samples by a decoder that is given the class, and how z was drawn."""
    vae, same = context.vae, context.unit_prior
    z = vae.sample_prior(PER_ROW) if same else None
    rows = []
    for label in range(classes):
        y = torch.full((PER_ROW,), label, device=vae.device)
        rows.append(vae.decode_images(vae.sample_prior(PER_ROW, y) if z is None else z, y))
    return (
        rows,
        "the same z in each column"
        if same
        else "z ~ p(z), or p(z|y) of a prior that depends on the class",
    )
