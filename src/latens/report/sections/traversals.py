"""Latent traversals: what each latent dimension does."""

from collections.abc import Iterator

import torch

from latens import pictures
from latens.analysis.traversals import traversals
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import MOST_ROWS, count_of, same_size, sheets, signed

TRAVERSAL_STEPS = 13
FILM_STEPS = 24


def latent_traversals(context: ReportContext) -> Iterator[Picture]:
    """Sheets and a film in which one latent dimension varies and the others stay."""
    steps = torch.linspace(-3, 3, TRAVERSAL_STEPS)
    shown = context.data.validation.take(slice(0, 1))
    label = None if shown.labels is None or shown.labels.dim() > 1 else int(shown.labels[0])
    start = context.vae.embed(shown.unit(), shown.labels)[0].flatten()
    columns = [signed(step) for step in steps.tolist()]
    caption = (
        "Latent traversals from the mean z of one validation image: in each row one latent "
        f"dimension alone takes values from −3 to 3, the largest {context.ranked_by} first"
    )
    for name, some, which in sheets(context, "traversals", MOST_ROWS):
        still = traversals(context.vae, start, some, steps, label)
        rows = [context.dim_names[d] for d in some]
        yield Picture(
            name,
            [pictures.table(still, context.title(f"traversals{which}"), columns, rows)],
            "Rows of images, in each of which one latent dimension changes",
            f"{caption}{which}.",
            detail=name != "traversals",
        )
    dims = context.ranked_dims[:MOST_ROWS]
    names = [context.dim_names[d] for d in dims]
    more = count_of(
        len(dims), context.dims, f"latent dimensions, those of the largest {context.ranked_by}"
    )
    there = torch.linspace(-3, 3, FILM_STEPS)
    moving = traversals(context.vae, start, dims, torch.cat((there, there.flip(0)[1:-1])), label)
    values = torch.cat((there, there.flip(0)[1:-1])).tolist()
    frames = [
        pictures.grid(
            moving[:, i],
            context.title(f"each dimension at {signed(value)}"),
            captions=names,
        )
        for i, value in enumerate(values)
    ]
    yield Picture(
        "traversals-film",
        same_size(frames),
        "A film of images, in each of which one latent dimension goes from −3 to 3 and back",
        f"The same as a film: one latent dimension in each image, from −3 to 3 and back{more}.",
        seconds=0.1,
        endless=True,
    )
