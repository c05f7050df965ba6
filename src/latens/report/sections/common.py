"""Helpers that several sections share: names, counts, films, and which dimensions to show."""

import unicodedata
from collections.abc import Iterator, Sequence

from PIL import Image

from latens.data import Images
from latens.report.context import Picture, ReportContext

MOST_ROWS = 20  # classes, attributes or latent dimensions in one picture
TRAINING = "training"  # the group of films from epoch to epoch
MOST_SHEETS = 2  # of latent dimensions; of the others less is to be seen


def adjective(split: str) -> str:
    """The split as an adjective: "training" images."""
    return "training" if split == "train" else split


def count_of(shown: int, every: int, what: str) -> str:
    """How many are shown, as in ", 20 of 200 classes"; nothing where all are."""
    return f", {shown} of {every:,} {what}" if shown < every else ""


def signed(value: float) -> str:
    """A number with its sign and one decimal."""
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"


def file_name(name: str) -> str:
    """A name without what cannot stand in a file's."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in name)


def sheets(context: ReportContext, name: str, most: int) -> Iterator[tuple[str, list[int], str]]:
    """The latent dimensions that are ranked highest, over at most two pictures of at most so many.

    Yields:
        The name of each picture, its dimensions, and words on which they are.
    """
    for first in range(0, min(context.dims, MOST_SHEETS * most), most):
        dims = context.ranked_dims[first : first + most]
        which = f", {first + 1} to {first + len(dims)} of {context.dims:,} by {context.ranked_by}"
        number = f"-{first // most + 1}" if first else ""
        yield name + number, dims, which if context.dims > most else ""


def same_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames on white of the size of the largest: their titles differ in width."""
    size = max(f.width for f in frames), max(f.height for f in frames)
    if all(frame.size == size for frame in frames):
        return list(frames)
    padded = [Image.new("RGB", size, "white") for _ in frames]
    for page, frame in zip(padded, frames, strict=True):
        page.paste(frame, (0, 0))
        page.info |= frame.info
    return padded


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number added to one that a file system may take for an earlier one.

    Some tell neither case nor composed letters apart.
    """
    unique: dict[str, str] = {}
    for name in names:
        free, number = name, 2
        while (key := unicodedata.normalize("NFKC", free).casefold()) in unique:
            free, number = f"{name}-{number}", number + 1
        unique[key] = free
    return list(unique.values())


def film(
    name: str,
    frames: Sequence[Image.Image],
    what: str,
    steps: Sequence[str],
    group: str,
    detail: bool = False,
) -> Picture:
    """A film of `what`, its frames brought to one size.

    Args:
        steps: a few words on each frame.
        group: the films that a page moves together with this one.
    """
    return Picture(
        name,
        same_size(frames),
        f"A film of {what}",
        what[0].upper() + what[1:] + ".",
        detail=detail,
        group=group,
        steps=steps,
    )


def class_list(images: Images) -> list[int]:
    """The class of each image; empty where images have none."""
    labels = images.labels
    return [] if labels is None or labels.dim() > 1 else labels.tolist()
