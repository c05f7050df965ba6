"""What a page needs for its explorer: test images as points, and networks that it runs itself."""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from latens import pictures
from latens.analysis.projections import SPREAD, Plane
from latens.data import Images
from latens.data.arrays import GREY_OR_RGB
from latens.errors import LatensError
from latens.neighbour_maps import LEAST_PROJECTED, neighbour_maps_apart
from latens.pictures.planes import colour_of
from latens.report.context import ReportContext, floats
from latens.report.html import webp_url
from latens.report.portable import Program, portable

PIXELS = 1_600_000  # of all images that are points
POINTS = 1_000
TRIED = 32  # latents or images on which a network that travels is tried
ROOM = 6_000_000  # characters for the weights of both networks: 4.5 MB in base64
SLIDERS = 24  # latent dimensions that can be moved one by one
LEVEL = 1 / 255  # of a pixel
LATENT_STEP = 0.02  # of a mean z, which lies about as far from zero as 1


def points_of(context: ReportContext) -> Int64[Tensor, " N"]:
    """Which of the page's test images are points of the explorer."""
    pixels = math.prod(context.vae.image_shape[1:])
    return context.test.some_rows(min(POINTS, max(1, PIXELS // pixels)))


def neighbour_maps(z: Float[Tensor, "N D"]) -> dict[str, Float[np.ndarray, "N 2"]]:
    """The points by t-SNE, and by UMAP where it is installed; none of two dimensions or fewer."""
    if z.shape[1] <= 2 or len(z) < LEAST_PROJECTED:
        return {}
    names = {"tsne": "t-SNE"} | ({"umap": "UMAP"} if importlib.util.find_spec("umap") else {})
    return {names[how]: at for how, at in neighbour_maps_apart(z.numpy(), [*names]).items()}


def explorer_of(
    context: ReportContext, maps: Mapping[str, Float[np.ndarray, "N 2"]]
) -> dict[str, Any]:
    """Points, projections and networks of a run, for `templates/explorer.js`.

    Args:
        maps: the points as `neighbour_maps` places them.
    """
    rows = points_of(context)
    images, z = context.test.take(rows), context.latents.mean[rows]
    networks, missing = _networks(context, images)
    labels, names, _ = context.colours
    ranked = context.ranked_dims[:SLIDERS]
    return {
        "shape": list(context.vae.image_shape),
        "latent": list(context.vae.latent_shape),
        "total": context.dims,
        "z": floats(z),
        "loss": [round(value, 1) for value in context.costs[rows].tolist()],
        "labels": [-1] * len(images) if labels is None else labels[rows.numpy()].tolist(),
        "names": list(names),
        "colours": [colour_of(k) for k in range(len(names))],
        "conditional": context.conditional,
        "images": _sprite(images),
        "projections": [
            *_linear_projections(context, z),
            *(
                {"kind": "map", "name": name, "points": floats(points)}
                for name, points in maps.items()
            ),
        ],
        "networks": {name: program.as_json() for name, program in networks.items()},
        "missing": missing,
        "words": _words(context, len(images), networks, missing),
        "ranked": context.ranked_by,
        "dims": [[d, context.dim_names[d]] for d in ranked],
        "unit": context.unit_prior,
        "contours": _contours(context),
        "binarisation": context.run.config.data.binarisation,
        "crop": context.run.record["data"].get("crop"),
    }


def _contours(context: ReportContext) -> list[str]:
    """Where a learned prior is densest, as lines on the plane of two dimensions."""
    z, _, prior = context.plane
    if not callable(prior):
        return []
    from latens.pictures.planes import contour_lines, limits_of_density, plane_limits

    limits = limits_of_density(prior, plane_limits(z, None))
    return [floats(line) for line in contour_lines(prior, limits)]


def _networks(context: ReportContext, images: Images) -> tuple[dict[str, Program], str]:
    """The decoder, and the encoder where there is room; and why there is no decoder."""
    vae = context.vae
    few = images.some(TRIED)
    x, y = few.unit(), few.labels
    if context.conditional and (y is None or y.dim() > 1):
        return {}, "a decoder that depends on attributes does not travel with the page"
    drawn = vae.sample_prior(len(x), y)[:, : vae.latent_shape[0]]  # of a ladder the topmost level
    z = torch.cat((vae.embed(x, y), drawn))
    labels = [()] * len(x) if not context.conditional or y is None else [(of[None],) for of in y]

    def decode(z: Tensor, *y: Tensor) -> Tensor:
        return vae.decode(z, *y).mean.clamp(0, 1)

    def encode(x: Tensor, *y: Tensor) -> Tensor:
        return vae.encode(x, *y).mean

    programs = {}
    try:
        given = [(row[None], *of) for row, of in zip(z, labels * 2, strict=True)]
        programs["decode"] = portable(decode, given, LEVEL, ROOM)
        size = len(programs["decode"].as_json()["weights"])
        if x.shape[1] not in GREY_OR_RGB:
            return programs, f"its {x.shape[1]} channels are more than a picture has"
        given = [(row[None], *of) for row, of in zip(x, labels, strict=True)]
        programs["encode"] = portable(encode, given, LATENT_STEP, ROOM - size)
    except LatensError as error:
        return programs, str(error)
    return programs, ""


def _words(
    context: ReportContext, count: int, networks: Mapping[str, Program], missing: str
) -> str:
    """What is to be known of the points, the sliders and the networks."""
    said = [f"{count:,} test images at their mean z."]
    if context.dims > SLIDERS and "decode" in networks:
        said.append(
            f"The sliders are {SLIDERS} of {context.dims} latent dimensions, those of the largest "
            f"{context.ranked_by}."
        )
    if "decode" in networks:
        decoder, tried = networks["decode"], 2 * min(TRIED, count)
        said.append(
            f"The decoder travels with the page in weights of {decoder.bits} bits: on {tried} "
            f"latents tried, no pixel was more than {decoder.difference / LEVEL:.2f} of 255 levels "
            "from the full decoder's."
        )
        said.append(f"An image of your own cannot be encoded here: {missing}." if missing else "")
    return " ".join(said)


def _linear_projections(
    context: ReportContext, z: Float[Tensor, "N D"]
) -> Iterator[Mapping[str, Any]]:
    """Planes with linear axes, of which it is known how to go back to z."""
    yield {"kind": "linear", **_linear(Plane(context.latents.mean), z)}
    if context.dims > 2:
        yield {"kind": "turning", **_linear(Plane(context.latents.mean, 3), z)}


def _linear(plane: Plane, z: Float[Tensor, "N D"]) -> dict[str, Any]:
    basis, origin = np.eye(plane.latent_dim)[: plane.dims], np.zeros(plane.latent_dim)
    if plane.pca is not None:
        basis, origin = plane.pca.directions.numpy(), plane.pca.mean.numpy()
    axes = [axis for axis in plane.axes if axis != SPREAD]
    short = [axis.replace("principal component", "PC") for axis in axes]
    name = " and ".join(axes) if plane.pca is None else "PCA" if plane.dims == 2 else "PCA, 3-D"
    return {
        "name": name,
        "short": list(plane.short_axes),
        "axes": [axis.partition(" of the")[0] + ")" * ("(" in axis) for axis in short],
        "points": floats(plane.of(z)),
        "basis": np.round(basis, 5).tolist(),
        "origin": np.round(origin, 5).tolist(),
        "prior": list(plane.prior),
    }


def _sprite(images: Images) -> dict[str, Any]:
    columns = math.ceil(math.sqrt(len(images)))
    x = images.unit()
    padded = x.new_ones(math.ceil(len(x) / columns) * columns, *x.shape[1:])
    padded[: len(x)] = x
    sheet = pictures.tile(padded.unflatten(0, (-1, columns)), least_side=1, gap=0)
    return {"url": webp_url(Image.fromarray(sheet)), "columns": columns}
