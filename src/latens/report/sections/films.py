"""Films of the training: reconstructions, samples, latent space, feature maps."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from latens import pictures
from latens.analysis.projections import Plane
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import adjective, file_name, film

FEATURE_SHEET = 360  # screen pixels, about
PAIRS_IN_ROW = 8  # of a film


def training_films(context: ReportContext) -> Iterator[Picture]:
    """Reconstructions, samples and the latent space from epoch to epoch."""
    recording = context.recording
    for split in ("train", "validation"):
        again = recording.images(split)
        x = context.data.split(split).take(slice(0, again.shape[1])).unit()
        what = f"{adjective(split)} images"
        yield film(
            f"film-reconstructions-{split}",
            [
                pictures.pairs(x, frame, context.title(f"{what}, epoch {epoch}"), PAIRS_IN_ROW)
                for epoch, frame in zip(recording.epochs, again, strict=True)
            ],
            f"reconstructions of {what} from epoch to epoch",
        )
    samples = recording.images("samples")
    yield film(
        "film-samples",
        [
            pictures.grid(frame, context.title(f"samples, epoch {epoch}"))
            for epoch, frame in zip(recording.epochs, samples, strict=True)
        ],
        "images decoded from the same noise, from epoch to epoch",
    )
    yield film("film-latent-space", _latent_frames(context), "latent space from epoch to epoch")


def _latent_frames(context: ReportContext) -> list[Image.Image]:
    recording = context.recording
    z = torch.from_numpy(recording.latents)
    plane = Plane(z[-1])
    prior = plane.prior if context.unit_prior else None
    axes = (plane.axes[0].partition(" (")[0], plane.axes[1].partition(" (")[0])
    points = [plane.of(frame) for frame in z]
    # Of the later frames: the first steps may throw points far out
    limits = pictures.plane_limits(np.concatenate(points[len(points) // 2 :]), prior)
    images = context.data.validation.take(slice(0, z.shape[1]))
    classes = images.labels is not None and images.labels.dim() == 1
    labels = images.labels.cpu().numpy() if images.labels is not None and classes else None
    return [
        pictures.latent_plane(
            at,
            labels,
            context.classes,
            context.title(f"validation images, epoch {epoch}"),
            axes,
            prior,
            limits,
        )
        for epoch, at in zip(recording.epochs, points, strict=True)
    ]


def feature_map_films(context: ReportContext) -> Iterator[Picture]:
    """The output of each convolution for one image, from epoch to epoch."""
    recording = context.recording
    for layer, maps in recording.features.items():
        channels, height, width = maps.shape[1:]
        low = maps.min(axis=(1, 2, 3), keepdims=True)
        span = np.maximum(maps.max(axis=(1, 2, 3), keepdims=True) - low, 1e-6)
        coloured = pictures.in_colours(torch.from_numpy((maps - low) / span))
        side = max(1, FEATURE_SHEET // math.ceil(math.sqrt(channels)))
        what = f"{layer}: {channels} channels of {height}×{width}"
        yield film(
            f"film-{file_name(layer)}",
            [
                pictures.grid(frame, context.title(f"{what}, epoch {epoch}"), least_side=side)
                for epoch, frame in zip(recording.epochs, coloured, strict=True)
            ],
            f"the outputs of {what}, from epoch to epoch",
            detail=True,
        )
