"""Images decoded from a grid of points on a plane of latent space."""

from collections.abc import Iterator

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from latens import pictures
from latens.analysis.traversals import lattice, manifold
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import MOST_ROWS, file_name, signed, unique_names

MANIFOLD_SIDES = (9, 13, 17, 25, 33)  # images from −4 to 4, one of them at each even number
MANIFOLD_WIDTH = 930  # screen pixels, which the page shows as they are
SMALL_MANIFOLD_WIDTH, LEAST_MANIFOLD_WIDTH = 480, 560


def manifold_pictures(context: ReportContext) -> Iterator[Picture]:
    """A plane of latent space, and the same at quantiles of the prior; of each class in turn."""
    for name, label, what in manifolds_of(context):
        yield _manifold(context, name, grid_points(context), label, what)
        if label is None and context.unit_prior:
            points = grid_points(context, quantiles=True)
            title = f"{what}, at quantiles of the prior"
            yield _manifold(context, f"{name}-quantiles", points, label, title)


def manifolds_of(context: ReportContext) -> list[tuple[str, int | None, str]]:
    """The latent planes to decode, as names of files, labels and words: one, or one per class."""
    x, y = context.dims_shown
    levels = len(context.vae.level_shapes)
    rest = "of that level at 0, the other levels at their means" if levels > 1 else "0"
    along = (
        ""
        if context.dims <= 2
        else f" along {context.dim_names[x]} and {context.dim_names[y]}, all others {rest}"
    )
    if not context.conditional or not context.classes:
        return [("manifold", None, f"latent plane{along}")]
    shown = context.classes[:MOST_ROWS]
    files = unique_names([f"manifold-{file_name(name)}" for name in shown])
    return [
        (files[label], label, f"latent plane of {name}{along}") for label, name in enumerate(shown)
    ]


def grid_side(context: ReportContext) -> int:
    """Images along the side of a square of them; whole numbers are among its values of z."""
    one_of_many = context.conditional and context.classes
    width = SMALL_MANIFOLD_WIDTH if one_of_many else MANIFOLD_WIDTH
    image = max(context.vae.image_shape[1:])
    fitting = (side for side in MANIFOLD_SIDES if side * image <= width)
    return max(fitting, default=min(MANIFOLD_SIDES))


def grid_points(context: ReportContext, quantiles: bool = False) -> Float[Tensor, "R C 2"]:
    """The points of the latent plane to decode: a lattice, of one dimension a row of it."""
    points = lattice(grid_side(context), quantiles)
    return points[len(points) // 2][None] if context.dims == 1 else points


def _manifold(
    context: ReportContext, name: str, points: Tensor, label: int | None, what: str
) -> Picture:
    return Picture(
        name,
        [manifold_image(context, points, label, context.title(what))],
        f"Images decoded from a grid of points on the {what}",
        f"The mean of p(x|z) for a grid of z on the {what}.",
        detail=label is not None,
        about={
            "x": points[0, :, 0].tolist(),
            "y": points[:, 0, 1].tolist(),
            "axes": [context.dim_names[d] for d in context.dims_shown[: context.dims]],
        },
    )


def manifold_image(
    context: ReportContext, points: Float[Tensor, "R C 2"], label: int | None, title: str
) -> Image.Image:
    """Images without gaps over the plane that they were decoded from, with its coordinates.

    Args:
        points: of a `lattice`.
        label: the class that a conditional model is given.
    """
    images = manifold(context.vae, points, context.dims_shown, label)
    columns = points.shape[1]
    every = max(1, (columns - 1) // (8 if columns % 8 == 1 else 4))

    def names(values: Tensor) -> list[str]:
        return [signed(v) if i % every == 0 else "" for i, v in enumerate(values.tolist())]

    image = max(images.shape[-2:])
    least_side = image * max(1, LEAST_MANIFOLD_WIDTH // (columns * image))
    rows = names(points[:, 0, 1]) if len(points) > 1 else ()
    return pictures.table(images, title, names(points[0, :, 0]), rows, least_side, gap=0)
