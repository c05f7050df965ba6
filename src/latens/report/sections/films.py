"""Films of the training: reconstructions, samples, latent space, feature maps."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latens import pictures
from latens.analysis.projections import Plane
from latens.pictures.planes import colour_of
from latens.report.context import Picture, ReportContext, floats
from latens.report.sections.common import TRAINING, adjective, file_name, film
from latens.run.recording import POINTS, Recording

FEATURE_SHEET = 360  # screen pixels, about
PAIRS_IN_ROW = 8  # of a film
LEAST_OUTPUT = 1e-6  # of a channel, to which it is scaled


def training_films(context: ReportContext) -> Iterator[Picture]:
    """Reconstructions, samples and the latent space from epoch to epoch."""
    recording = context.recording
    for split in ("train", "validation"):
        again = recording.images(split)
        x = context.data.split(split).take(recording.rows[split]).unit()
        what = f"{adjective(split)} images"
        yield film(
            f"film-reconstructions-{split}",
            [
                pictures.pairs(x, frame, context.title(f"{what}, epoch {epoch}"), PAIRS_IN_ROW)
                for epoch, frame in zip(recording.epochs, again, strict=True)
            ],
            f"reconstructions of {what} from epoch to epoch",
            _steps(recording),
            TRAINING,
        )
    samples = recording.images("samples")
    yield film(
        "film-samples",
        [
            pictures.grid(frame, context.title(f"samples, epoch {epoch}"))
            for epoch, frame in zip(recording.epochs, samples, strict=True)
        ],
        "images decoded from the same noise, from epoch to epoch",
        _steps(recording),
        TRAINING,
    )
    yield _latent_film(context)


def _steps(recording: Recording) -> list[str]:
    return [f"epoch {epoch}" for epoch in recording.epochs]


def _latent_film(context: ReportContext) -> Picture:
    """Validation images on the latent plane; a page draws the points itself."""
    recording = context.recording
    z = torch.from_numpy(recording.latents)
    plane = Plane(z[-1])
    prior = plane.prior if context.unit_prior and context.dims > 1 else None
    axes = (plane.axes[0].partition(" (")[0], plane.axes[1].partition(" (")[0])
    points = [plane.of(frame) for frame in z]
    # Of the later frames: the first steps may throw points far out
    limits = pictures.plane_limits(np.concatenate(points[len(points) // 2 :]), prior)
    images = context.data.validation.take(recording.rows[POINTS])
    classes = images.labels is not None and images.labels.dim() == 1
    labels = images.labels.cpu().numpy() if images.labels is not None and classes else None
    titles = [context.title(f"validation images, epoch {epoch}") for epoch in recording.epochs]
    frames = pictures.latent_planes(points, labels, context.classes, titles, axes, prior, limits)
    of = film(
        "film-latent-space", frames, "latent space from epoch to epoch", _steps(recording), TRAINING
    )
    about = {
        "drawn": "latents",
        "points": [floats(at) for at in points],
        "limits": [round(value, 3) for value in limits],
        "prior": None if prior is None else list(prior),
        "labels": [-1] * z.shape[1] if labels is None else labels.tolist(),
        "names": list(context.classes),
        "axes": list(axes),
        "colours": [colour_of(k) for k in range(len(context.classes))],
    }
    return replace(of, about=about)


def feature_map_films(context: ReportContext) -> Iterator[Picture]:
    """The output of each convolution for one image, from epoch to epoch, the image beside them."""
    recording = context.recording
    x = context.data.validation.take(recording.rows["validation"][:1]).unit()
    names = _layer_names(recording.features)
    for layer, maps in recording.features.items():
        channels, height, width = maps.shape[1:]
        side = max(1, FEATURE_SHEET // math.ceil(math.sqrt(1 + channels)))
        count = f"{channels} channels" if channels > 1 else "1 channel"
        what = f"{names[layer]}: {count}, {height}×{width}"
        frames = [
            pictures.grid(sheet, context.title(f"{what}, epoch {epoch}"), least_side=side)
            for epoch, sheet in zip(recording.epochs, _sheets(x, maps), strict=True)
        ]
        yield film(
            f"film-{file_name(names[layer])}",
            frames,
            f"the image, and the outputs of {what}, from epoch to epoch: red above zero, blue "
            "below, each channel on a scale of its own that all epochs share",
            _steps(recording),
            TRAINING,
            detail=True,
        )


def _layer_names(layers: Iterable[str]) -> dict[str, str]:
    """Convolutions by number: encoder 1, encoder 2, …, decoder 1; of a ladder level 3 prior 1."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in layers:
        part, *within = layer.split(".")
        if part == "levels":
            part = f"level {int(within[0]) + 1} {within[1]}"
        counts[part] += 1
        names[layer] = f"{part} {counts[part]}"
    return names


def _sheets(
    x: Float[Tensor, "1 C H W"], maps: Float[np.ndarray, "E channels h w"]
) -> Iterator[Float[Tensor, "N 3 height width"]]:
    """Of each epoch the image, and each channel in colours, as large as the larger of the two."""
    largest = np.maximum(np.abs(maps).max(axis=(0, 2, 3))[:, None, None], LEAST_OUTPUT)
    size = [max(a, b) for a, b in zip(x.shape[-2:], maps.shape[-2:], strict=True)]
    image = torch.nn.functional.interpolate(pictures.in_rgb(x), size)
    for frame in maps:
        coloured = pictures.in_colours(torch.from_numpy(frame / largest), diverging=True)
        yield torch.cat((image, torch.nn.functional.interpolate(coloured, size)))
