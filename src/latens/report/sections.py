"""Every picture and film of a run: what there is to see, in which order, and what to look for."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from latens import pictures
from latens.analysis.generation import along_attribute, draw, likeliest_condition
from latens.analysis.projections import SPREAD, Plane
from latens.analysis.traversals import lattice, manifold, through_classes, traversals
from latens.data import Images
from latens.evaluation.labels import LabelStatistics
from latens.model.latent_model import LatentModel
from latens.pictures.planes import MOST_HISTOGRAMS
from latens.report.context import Picture, ReportContext, Section
from latens.run.directory import best_row

SHOWN = 24  # images in a picture of pairs
SAMPLES = 64
TURNING_POINTS = 800
PRIOR_POINTS = 10_000  # from which a prior's density is drawn
HOVER_PIXELS = 1_600_000  # of all images that hovering shows
HOVER_POINTS = 1_500
MOST_ROWS = 20  # classes, attributes or latent dimensions in one picture
PER_ROW = 10
STEPS = 11  # of an interpolation
TRAVERSAL_STEPS = 13
FILM_STEPS = 24
CLASS_STEPS = 8  # from one class to the next
MOST_CLASS_FRAMES = 400
MANIFOLD_SIDES = (9, 13, 17, 25, 33)  # images from −4 to 4, one of them at each even number
MANIFOLD_WIDTH = 930  # screen pixels, which the page shows as they are
SMALL_MANIFOLD_WIDTH, LEAST_MANIFOLD_WIDTH = 480, 560
FEATURE_SHEET = 360  # screen pixels, about
PAIRS_IN_ROW = 8  # of a film


def _reconstructions(context: ReportContext) -> Iterator[Picture]:
    for split in ("train", "validation"):
        shown = context.data.split(split).take(slice(0, SHOWN))
        x = shown.unit()
        image = pictures.pairs(
            x,
            context.vae.reconstruct(x, shown.labels),
            context.title(f"{_adjective(split)} images"),
        )
        yield Picture(
            f"reconstructions-{split}",
            [image],
            f"{_adjective(split).capitalize()} images in rows, each above its reconstruction",
            f"{_adjective(split).capitalize()} images above what the decoder makes of their mean z"
            + ("." if split == "train" else ": never trained on."),
        )


def _signed(value: float) -> str:
    """A number with its sign and one decimal."""
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"


def _adjective(split: str) -> str:
    return "training" if split == "train" else split


def _samples(context: ReportContext) -> Iterator[Picture]:
    images = draw(context.vae, SAMPLES).images
    yield Picture(
        "samples",
        [pictures.grid(images, context.title("samples, z ~ p(z)"))],
        "A grid of images sampled from the model",
        "The mean of p(x|z) for z ~ p(z): images that never existed.",
    )
    statistics = context.statistics
    if statistics is None or not statistics.exclusive:
        return
    names = statistics.names[:MOST_ROWS]
    if context.conditional:
        rows, how = _told_each_class(context, len(names))
    else:
        rows = [draw(context.vae, PER_ROW, name).images for name in names]
        how = "z ~ N(μ, σ²) of the class's training images"
    more = _of(len(names), len(statistics.names), "classes")
    yield Picture(
        "samples-by-class",
        [
            pictures.table(
                torch.stack(rows), context.title(f"samples of each class{more}"), rows=names
            )
        ],
        "Rows of sampled images, one row for each class",
        f"A row for each class, {how}{more}.",
    )


def _told_each_class(context: ReportContext, classes: int) -> tuple[list[Tensor], str]:
    """Samples of each class by a model that is told it, and how z was drawn."""
    vae, same = context.vae, context.unit_prior
    z = vae.sample_prior(PER_ROW) if same else None
    rows = []
    for label in range(classes):
        y = torch.full((PER_ROW,), label)
        rows.append(vae.decode_images(vae.sample_prior(PER_ROW, y) if z is None else z, y))
    return rows, "the same z in each column" if same else "z ~ p(z), given the class where it is"


def _of(shown: int, every: int, what: str) -> str:
    return f", {shown} of {every} {what}" if shown < every else ""


def _interpolations(context: ReportContext) -> Iterator[Picture]:
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
        "xA, its reconstruction x̂A, equal steps on the straight line between their mean z, x̂B, xB.",
    )


def interpolation(
    vae: LatentModel, a: Images, b: Images, title: str, steps: int = STEPS, spherical: bool = False
) -> Image.Image:
    """Rows xA, x̂A, the steps between, x̂B, xB.

    Args:
        steps: from x̂A to x̂B, both included.
        spherical: along a great circle of latent space, not the straight line.
    """
    xa, xb = a.unit(), b.unit()
    ya, yb = (
        likeliest_condition(vae, x) if of.labels is None else of.labels
        for x, of in ((xa, a), (xb, b))
    )
    between = vae.interpolate(xa, xb, steps, ya, yb, spherical)
    columns = ["xA", "x̂A", *[""] * (steps - 2), "x̂B", "xB"]
    return pictures.table(torch.cat((xa[:, None], between, xb[:, None]), 1), title, columns)


def _class_to_class(context: ReportContext) -> Iterator[Picture]:
    statistics = context.statistics
    if statistics is None:
        return
    if not statistics.exclusive:
        yield _attributes(context, statistics)
    elif len(statistics.names) > 1:
        images, words = through_classes(context.vae, CLASS_STEPS)
        count = MOST_CLASS_FRAMES // (1 if context.conditional else CLASS_STEPS)
        more = _of(min(count, len(statistics.names)), len(statistics.names), "classes")
        more = more or " and back"
        frames = [
            pictures.grid(image[None], context.title(word), least_side=280)
            for image, word in zip(images[:MOST_CLASS_FRAMES], words, strict=False)
        ]
        what = "straight lines between the mean z of each"
        what = "z = 0 with each label in turn" if context.conditional else what
        yield Picture(
            "transitions",
            of_one_size(frames),
            "A film of an image that turns from class to class",
            f"From class to class{more}: {what}.",
            seconds=0.6 if context.conditional else 0.12,
            endless=True,
        )


def of_one_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames on white of the size of the largest: their titles differ in width."""
    size = max(f.width for f in frames), max(f.height for f in frames)
    if all(frame.size == size for frame in frames):
        return list(frames)
    padded = [Image.new("RGB", size, "white") for _ in frames]
    for page, frame in zip(padded, frames, strict=True):
        page.paste(frame, (0, 0))
    return padded


def _attributes(context: ReportContext, statistics: LabelStatistics) -> Picture:
    x = context.data.validation.take(slice(0, 1)).unit()
    direction = torch.tensor(statistics.direction).norm(dim=1)
    names = [statistics.names[i] for i in direction.argsort(descending=True)[:MOST_ROWS].tolist()]
    amounts = torch.linspace(-2, 2, 9)
    rows = [along_attribute(context.vae, x, name, amounts)[0] for name in names]
    columns = [_signed(amount) for amount in amounts.tolist()]
    more = _of(len(names), len(statistics.names), "attributes")
    title = context.title(f"attributes{more}")
    return Picture(
        "attributes",
        [pictures.table(torch.stack(rows), title, columns, names)],
        "Rows of one face with less and more of each attribute",
        "One validation image with less and more of each attribute; 0 is its reconstruction, 1 "
        f"adds what sets images with the attribute apart{more}.",
    )


def _latent_space(context: ReportContext) -> Iterator[Picture]:
    _, _, prior = context.plane
    by = context.colours[2]
    coloured = f", by {by}" if by else ""
    how = f", by {context.projection}" if context.dims > 2 else ""
    circles = "" if prior is None else "; dashed: the prior at 1, 2 and 3 σ"
    title = context.title(f"{len(context.test):,} test images in latent space{coloured}")
    yield Picture(
        "latent-space",
        [plane_image(context, title)],
        f"Test images as points in latent space{coloured}",
        f"The mean z of test images{how}{circles}.",
        hover=_points(context),
    )
    if context.dims > 2:
        yield _turning(context, coloured)
    sample = context.latents.sample.numpy()
    drawn = None
    if not context.unit_prior:
        drawn = context.vae.sample_prior(PRIOR_POINTS).flatten(1).numpy()
    for name, dims, which in _sheets(context, "histograms", MOST_HISTOGRAMS):
        title = context.title(f"z of {len(sample):,} test images{which}")
        yield Picture(
            name,
            [pictures.histograms(sample, dims, title, drawn)],
            "A histogram of each latent dimension beside the prior's density",
            "Each latent dimension over the test images (blue) against the prior's density (orange)"
            f"{which}; what lies beyond ±4 is counted at the edges; each has a height of its own.",
            detail=name != "histograms",
        )


def _sheets(context: ReportContext, name: str, most: int) -> Iterator[tuple[str, list[int], str]]:
    """Every latent dimension, largest KL first, over pictures of at most so many.

    Yields:
        The name of each picture, its dimensions, and words on which they are.
    """
    for first in range(0, context.dims, most):
        dims = context.by_kl[first : first + most]
        which = f", {first + 1} to {first + len(dims)} of {context.dims} by their KL"
        number = f"-{first // most + 1}" if first else ""
        yield name + number, dims, which if context.dims > most else ""


def _turning(context: ReportContext, coloured: str) -> Picture:
    mean = context.latents.mean[:TURNING_POINTS]
    labels, names, _ = context.colours
    title = context.title(f"latent space turning{coloured}")
    some = None if labels is None else labels[:TURNING_POINTS]
    return Picture(
        "latent-space-3d",
        pictures.turning(Plane(mean, 3).of(mean), some, names, title),
        "A film of test images as points that turn around an axis in latent space",
        "The first three principal components of the mean z.",
        seconds=0.1,
        endless=True,
    )


def plane_image(
    context: ReportContext, title: str, limits: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """The test images on the context's latent plane."""
    points, axes, prior = context.plane
    labels, names, _ = context.colours
    return pictures.latent_plane(points, labels, names, title, axes, prior, limits)


def _points(context: ReportContext) -> dict[str, Any]:
    """Points of the latent plane with their images, for hovering."""
    points, axes, _ = context.plane
    labels, names, _ = context.colours
    height, width = context.vae.image_shape[1:]
    count = min(len(points), HOVER_POINTS, max(1, HOVER_PIXELS // (height * width)))
    images = context.test.take(slice(0, count))
    columns = math.ceil(math.sqrt(count))
    x = images.unit()
    padded = x.new_ones(math.ceil(count / columns) * columns, *x.shape[1:])
    padded[:count] = x
    sheet = pictures.tile(padded.unflatten(0, (-1, columns)), least_side=1, gap=0)
    told = [-1] * count if labels is None else labels[:count].tolist()
    return {
        "points": np.round(points[:count], 3).tolist(),
        "labels": told,
        "names": list(names),
        "axes": [axis.partition(" (")[0] for axis in axes if axis != SPREAD],
        "sprite": Image.fromarray(sheet),
        "columns": columns,
        "side": [width, height],
    }


def _manifolds(context: ReportContext) -> Iterator[Picture]:
    for name, label, what in manifolds_of(context):
        yield _manifold(context, name, places_of(context), label, what)
        if label is None and context.unit_prior:
            points = places_of(context, quantiles=True)
            title = f"{what}, at quantiles of the prior"
            yield _manifold(context, f"{name}-quantiles", points, label, title)


def manifolds_of(context: ReportContext) -> list[tuple[str, int | None, str]]:
    """The latent planes to decode, as names of files, labels and words: one, or one per class."""
    x, y = context.dims_shown
    along = "" if context.dims <= 2 else f" along z[{x}] and z[{y}], all others 0"
    if not context.conditional or not context.classes:
        return [("manifold", None, f"latent plane{along}")]
    names = [_plain(name) for name in context.classes]
    unique = [f"{n}-{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    return [
        (f"manifold-{unique[label]}", label, f"latent plane of {name}{along}")
        for label, name in enumerate(context.classes[:MOST_ROWS])
    ]


def _plain(name: str) -> str:
    """A name without what cannot stand in a file's."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in name)


def side_of(context: ReportContext) -> int:
    """Images along the side of a square of them; whole z are among its steps."""
    one_of_many = context.conditional and context.classes
    width = SMALL_MANIFOLD_WIDTH if one_of_many else MANIFOLD_WIDTH
    image = max(context.vae.image_shape[1:])
    fitting = (side for side in MANIFOLD_SIDES if side * image <= width)
    return max(fitting, default=min(MANIFOLD_SIDES))


def places_of(context: ReportContext, quantiles: bool = False) -> Float[Tensor, "R C 2"]:
    """The places on the latent plane that are decoded: a lattice, of one dimension a row of it."""
    points = lattice(side_of(context), quantiles)
    return points[len(points) // 2][None] if context.dims == 1 else points


def _manifold(
    context: ReportContext, name: str, points: Tensor, label: int | None, what: str
) -> Picture:
    return Picture(
        name,
        [manifold_image(context, points, label, context.title(what))],
        f"Images decoded from a grid of places on the {what}",
        f"What places on the {what} decode to.",
        detail=label is not None,
        hover={
            "x": points[0, :, 0].tolist(),
            "y": points[:, 0, 1].tolist(),
            "axes": [f"z[{d}]" for d in context.dims_shown][: context.dims],
        },
    )


def manifold_image(
    context: ReportContext, points: Float[Tensor, "R C 2"], label: int | None, title: str
) -> Image.Image:
    """Images without gaps over the plane that they were decoded from, with its coordinates.

    Args:
        points: of a `lattice`.
        label: the class a conditional model is told.
    """
    images = manifold(context.vae, points, context.dims_shown, label)
    columns = points.shape[1]
    every = max(1, (columns - 1) // (8 if columns % 8 == 1 else 4))

    def names(values: Tensor) -> list[str]:
        return [_signed(v) if i % every == 0 else "" for i, v in enumerate(values.tolist())]

    image = max(images.shape[-2:])
    least_side = image * max(1, LEAST_MANIFOLD_WIDTH // (columns * image))
    rows = names(points[:, 0, 1]) if len(points) > 1 else ()
    return pictures.table(images, title, names(points[0, :, 0]), rows, least_side, gap=0)


def _traversals(context: ReportContext) -> Iterator[Picture]:
    steps = torch.linspace(-3, 3, TRAVERSAL_STEPS)
    shown = context.data.validation.take(slice(0, 1))
    label = None if shown.labels is None or shown.labels.dim() > 1 else int(shown.labels[0])
    start = context.vae.embed(shown.unit(), shown.labels)[0].flatten()
    columns = [_signed(step) for step in steps.tolist()]
    caption = "One validation image; in each row one latent dimension alone moves, largest KL first"
    for name, some, which in _sheets(context, "traversals", MOST_ROWS):
        still = traversals(context.vae, start, some, steps, label)
        rows = [f"z[{d}]" for d in some]
        yield Picture(
            name,
            [pictures.table(still, context.title(f"traversals{which}"), columns, rows)],
            "Rows of images, in each of which one latent dimension moves",
            f"{caption}{which}.",
            detail=name != "traversals",
        )
    dims = context.by_kl
    names = [f"z[{d}]" for d in dims]
    there = torch.linspace(-3, 3, FILM_STEPS)
    moving = traversals(context.vae, start, dims, torch.cat((there, there.flip(0)[1:-1])), label)
    values = torch.cat((there, there.flip(0)[1:-1])).tolist()
    frames = [
        pictures.grid(
            moving[:, i],
            context.title(f"each dimension at {_signed(value)}"),
            captions=names,
        )
        for i, value in enumerate(values)
    ]
    yield Picture(
        "traversals-film",
        of_one_size(frames),
        "A film of images, in each of which one latent dimension moves from −3 to 3 and back",
        "The same as a film: each image moves along one latent dimension, from −3 to 3 and back.",
        seconds=0.1,
        endless=True,
    )


def _curves(context: ReportContext) -> Iterator[Picture]:
    yield Picture(
        "curves",
        [pictures.curves(context.rows, context.title("training"))],
        "Loss, reconstruction, KL, β, learning rate and active units over the epochs",
        f"The loss is {_loss_in_words(context)}, in nats per image: blue on training images as "
        "they are learned from, orange on validation images with averaged weights.",
    )
    per_dim = best_row(context.rows)["validation"]["kl_per_dim"]
    if not per_dim:
        return
    yield Picture(
        "kl-per-dim",
        [pictures.kl_per_dim(per_dim, context.title("KL of each latent dimension"))],
        "Bars: the KL of each latent dimension, largest first",
        "How much each latent dimension tells about a validation image. Near zero: it is not used.",
    )
    if len(context.rows) > 1:
        values = np.array([row["validation"]["kl_per_dim"] for row in context.rows])
        epochs = [row["epoch"] for row in context.rows]
        title = context.title("KL of each latent dimension over the training")
        yield Picture(
            "kl-over-training",
            [pictures.kl_over_training(epochs, values, title)],
            "A heat map of the KL of each latent dimension over the epochs",
            "When each latent dimension came into use, on validation images.",
        )


def _loss_in_words(context: ReportContext) -> str:
    told = context.run.config.objective
    if told.name != "elbo":
        return f"that of the objective {context.run.objective}"
    bits = told.options.get("free_bits")
    free = f" and {bits:g} nats free per dimension" if bits else ""
    return f"reconstruction + β · KL, with β {context.run.beta}{free}"


# ---- films of the training -------------------------------------------------------------------


def _films(context: ReportContext) -> Iterator[Picture]:
    recording = context.recording
    for split in ("train", "validation"):
        again = recording.images(split)
        x = context.data.split(split).take(slice(0, again.shape[1])).unit()
        what = f"{_adjective(split)} images"
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


def film(name: str, frames: Sequence[Image.Image], what: str, detail: bool = False) -> Picture:
    """A film of `what`, its frames brought to one size."""
    return Picture(
        name,
        of_one_size(frames),
        f"A film of {what}",
        what[0].upper() + what[1:] + ".",
        detail=detail,
    )


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


def _feature_films(context: ReportContext) -> Iterator[Picture]:
    recording = context.recording
    for layer, maps in recording.features.items():
        channels, height, width = maps.shape[1:]
        low = maps.min(axis=(1, 2, 3), keepdims=True)
        span = np.maximum(maps.max(axis=(1, 2, 3), keepdims=True) - low, 1e-6)
        coloured = pictures.in_colours(torch.from_numpy((maps - low) / span))
        side = max(1, FEATURE_SHEET // math.ceil(math.sqrt(channels)))
        what = f"{layer}: {channels} channels of {height}×{width}"
        yield film(
            f"film-{_plain(layer)}",
            [
                pictures.grid(frame, context.title(f"{what}, epoch {epoch}"), least_side=side)
                for epoch, frame in zip(recording.epochs, coloured, strict=True)
            ],
            f"the outputs of {what}, from epoch to epoch",
            detail=True,
        )


SECTIONS = (
    Section(
        "Reconstructions",
        "Look for strokes, colours and faces that survive; a bad model shows the same average "
        "image everywhere. If validation images look much worse than training ones, the model "
        "has learned its images by heart.",
        _reconstructions,
    ),
    Section(
        "Samples",
        "Good ones could pass for data and differ from each other; blurred mixtures mean that "
        "the posterior and the prior do not meet.",
        _samples,
    ),
    Section(
        "Latent space",
        "Points should fill the circles of the prior, each class as a cloud of its own (of a "
        "conditional model all classes alike); points far outside are places that samples never "
        "reach, and holes inside are samples that look like nothing. "
        "Histograms should follow the curve: elsewhere the prior draws what no image is. One that "
        "follows it perfectly may hold nothing at all; the bars of the KL tell.",
        _latent_space,
    ),
    Section(
        "Manifold",
        "Neighbours should differ little, and every place show an image that could be real; "
        "large areas of the same blur are room that the model does not use.",
        _manifolds,
    ),
    Section(
        "Interpolations",
        "The way between two images should lead over images that could be real; two images laid "
        "over each other in the middle are the sign of a latent space with holes.",
        _interpolations,
    ),
    Section(
        "From class to class",
        "Each class should be plainly itself at its own place, and the way between short.",
        _class_to_class,
    ),
    Section(
        "Traversals",
        "Each row should change in one way that has a name, such as slant or width; rows in "
        "which nothing changes are latent dimensions that are not used.",
        _traversals,
    ),
    Section(
        "Curves",
        "Validation that turns up while training goes down is overfitting; a KL that falls to "
        "zero is posterior collapse.",
        _curves,
    ),
    Section(
        "Films of the training",
        "Images should come from blur to detail, and clouds part early; where frames no longer "
        "change, more epochs are in vain. Epoch 0 is the model before its first step.",
        _films,
    ),
    Section(
        "Inside the networks",
        "The outputs of every convolution for the first validation image, dark the lowest and "
        "bright the highest of each frame: early layers should keep edges and strokes; channels "
        "that stay dark do nothing.",
        _feature_films,
    ),
)
