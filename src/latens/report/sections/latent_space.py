"""Where test images lie in latent space: a plane, a rotating projection, histograms."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from PIL import Image

from latens import pictures
from latens.analysis.projections import Plane
from latens.pictures.marginals import MOST_HISTOGRAMS
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import sheets

TURNING_POINTS = 800
# Samples from which a prior's density is drawn, fewer of many dimensions
PRIOR_POINTS, LEAST_PRIOR_POINTS, PRIOR_VALUES = 10_000, 1_000, 2**22


def latent_space_pictures(context: ReportContext) -> Iterator[Picture]:
    """Test images on a plane, on a rotating projection, and each latent dimension's histogram."""
    _, _, prior = context.plane
    by = context.colours[2]
    coloured = f", by {by}" if by else ""
    how = f", by {context.projection}" if context.dims > 2 else ""
    dashed = "" if prior is None else "; dashed: the prior at 1, 2 and 3 σ"
    if callable(prior):
        dashed = "; dashed: where the prior is densest, with the share of its samples inside"
    title = context.title(f"{len(context.test):,} test images in latent space{coloured}")
    yield Picture(
        "latent-space",
        [latent_plane_image(context, title)],
        f"Test images as points in latent space{coloured}",
        f"The mean z of test images{how}{dashed}.",
        on_page=False,  # the page's explorer shows the same points
    )
    if context.dims > 2:
        yield _rotating_projection(context, coloured)
    sample, prior = context.latents.sample.numpy(), _prior_sample(context)
    for name, dims, which in sheets(context, "histograms", MOST_HISTOGRAMS):
        title = context.title(f"z of {len(sample):,} test images{which}")
        yield Picture(
            name,
            [pictures.histograms(sample, dims, title, prior, context.dim_names)],
            "A histogram of each latent dimension beside the prior's density",
            "Each latent dimension over the test images (blue) against the prior's density (orange)"
            f"{which}; values beyond ±4 are counted at the edges; the heights are not comparable.",
            detail=name != "histograms",
        )


def _prior_sample(context: ReportContext) -> Float[np.ndarray, "M D"] | None:
    """Samples of p(z), from which its density is drawn; None of N(0, I), whose density is known."""
    if context.unit_prior:
        return None
    count = max(LEAST_PRIOR_POINTS, min(PRIOR_POINTS, PRIOR_VALUES // context.dims))
    return context.sample_of_prior(count).flatten(1).numpy()


def _rotating_projection(context: ReportContext, coloured: str) -> Picture:
    rows = context.test.some_rows(TURNING_POINTS)
    mean = context.latents.mean[rows]
    labels, names, _ = context.colours
    title = context.title(f"latent space, rotating{coloured}")
    some = None if labels is None else labels[rows.numpy()]
    space = Plane(mean, 3)
    return Picture(
        "latent-space-3d",
        pictures.turning(space.of(mean), some, names, title, space.short_axes),
        "A film of test images as points in latent space, rotating about an axis",
        "The three dimensions of the mean z."
        if space.pca is None
        else "The first three principal components of the mean z.",
        seconds=0.1,
        endless=True,
        on_page=False,  # the page's explorer can be turned by hand
    )


def latent_plane_image(
    context: ReportContext, title: str, limits: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """The test images on the context's latent plane."""
    points, axes, prior = context.plane
    labels, names, _ = context.colours
    return pictures.latent_plane(points, labels, names, title, axes, prior, limits)
