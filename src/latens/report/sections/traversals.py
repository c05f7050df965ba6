"""Latent traversals: what each latent dimension does."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from latens import pictures
from latens.analysis.traversals import traversals
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import MOST_ROWS, count_of, same_size, sheets, signed

TRAVERSAL_STEPS = 13
FILM_STEPS = 24


def latent_traversals(context: ReportContext) -> Iterator[Picture]:
    """Tables and a film in which one latent dimension varies and the others stay."""
    shown = context.data.validation.take(slice(0, 1))
    label = None if shown.labels is None or shown.labels.dim() > 1 else int(shown.labels[0])
    start = context.vae.embed(shown.unit(), shown.labels)[0].flatten()
    steps = torch.linspace(-3, 3, TRAVERSAL_STEPS)
    of = " of the topmost level" if context.run.levels > 1 else ""
    caption = (
        "Latent traversals from the mean z of one validation image: in each row one latent "
        f"dimension{of} alone takes values from −3 to 3, the largest {context.ranked_by} first"
    )
    for name, dims, which in sheets(context, "traversals", MOST_ROWS):
        images = traversals(context.vae, start, dims, steps, label)
        columns = [signed(step) for step in steps.tolist()]
        rows = [context.dim_names[d] for d in dims]
        yield Picture(
            name,
            [pictures.table(images, context.title(f"traversals{which}"), columns, rows)],
            "Rows of images, in each of which one latent dimension changes",
            f"{caption}{which}.",
            detail=name != "traversals",
        )
    yield _film(context, start, label)


def _film(context: ReportContext, start: Float[Tensor, " D"], label: int | None) -> Picture:
    dims = context.ranked_dims[:MOST_ROWS]
    names = [context.dim_names[d] for d in dims]
    there = torch.linspace(-3, 3, FILM_STEPS)
    steps = torch.cat((there, there.flip(0)[1:-1]))
    images = traversals(context.vae, start, dims, steps, label)
    frames = [
        pictures.grid(
            images[:, i], context.title(f"each dimension at {signed(value)}"), captions=names
        )
        for i, value in enumerate(steps.tolist())
    ]
    what = f"latent dimensions, those of the largest {context.ranked_by}"
    more = count_of(len(dims), context.dims, what)
    return Picture(
        "traversals-film",
        same_size(frames),
        "A film of images, in each of which one latent dimension goes from −3 to 3 and back",
        f"The same as a film: one latent dimension in each image, from −3 to 3 and back{more}.",
        seconds=0.1,
        endless=True,
        steps=[f"all at {signed(value)}" for value in steps.tolist()],
    )
