"""Image files to uint8 arrays: many at a time, from folders and from inside a zip file."""

import warnings
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import Progress

from latens.errors import LatensError
from latens.console import note, progress, warn

ImageFile = Path | zipfile.Path
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
DEFAULT_SIDE = 64  # pixels: what a folder of mixed or large images is brought to
LARGEST_KEPT = 128  # pixels: images of one size up to this are left as they are
NAMED = 3  # bad files that a note names; it counts the rest

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """What image files are brought to.

    Attributes:
        size: (H, W); None keeps a common size up to 128, else takes 64x64 (less if any image is).
        channels: 1 for grey, 3 for RGB; None takes 3 as soon as one image has colour.
        crop: cut a central square of this share of the width first; None cuts no more than the
            shape of `size` demands.
        skip_bad: go on without files that cannot be read.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    crop: float | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded."""

    path: ImageFile
    size: tuple[int, int]  # (H, W)
    mode: str


def read_header(path: ImageFile) -> Header:
    """Size and mode of an image file.

    Raises:
        LatensError: the file is no image, is animated, or would take too much memory.
    """
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            frames = getattr(image, "n_frames", 1)
            header = Header(path, (image.height, image.width), image.mode)
            animated = frames > 1 and image.format != "MPO"  # of a stereo camera: take its first
    except UnidentifiedImageError:
        raise LatensError(f"{path} is no image, whatever its name says: remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise LatensError(
            f"{path} has more pixels than is safe to decode (over {Image.MAX_IMAGE_PIXELS:,}): "
            "make it smaller or remove it"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise LatensError(f"{path} cannot be read: {one_line(error)}") from error
    if animated:
        raise LatensError(
            f"{path} is animated ({frames} frames): latens reads still images; save its frames "
            "as files of their own"
        )
    return header


def read_image(
    path: ImageFile, channels: int, size: tuple[int, int], crop: float | None = None
) -> np.ndarray:
    """One image as uint8 `[C, H, W]`: turned upright, resized to cover `size`, cut at the centre.

    With a `crop` a central square is cut out first. Palette and CMYK images become RGB, 16-bit
    ones 8-bit; what is transparent is laid on white.

    Raises:
        LatensError: the file is truncated or broken.
    """
    try:
        with path.open("rb") as stream, Image.open(stream) as opened:
            image = _plain(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise LatensError(f"{path} is damaged ({one_line(error)}): replace or remove it") from error
    if crop is not None:
        side = crop * image.width / 2
        x, y = image.width / 2, image.height / 2
        image = image.crop((round(x - side), round(y - side), round(x + side), round(y + side)))
    if image.size != size[::-1]:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(*size, channels).transpose(2, 0, 1)


def _plain(image: Image.Image) -> Image.Image:
    """The image as 8-bit L or RGB."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65_535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def one_line(error: Exception) -> str:
    """An exception's text without what follows its first line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _note_conversions(headers: list[Header]) -> None:
    kinds = {
        "16-bit": lambda mode: mode.startswith("I"),
        "palette": lambda mode: mode == "P",
        "CMYK": lambda mode: mode == "CMYK",
        "with transparency": lambda mode: mode.endswith("A"),
    }
    counts = {kind: sum(test(h.mode) for h in headers) for kind, test in kinds.items()}
    found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    if found:
        note(f"images converted to 8-bit grey or RGB: {found} (what is transparent, on white)")


def _common_size(headers: list[Header]) -> tuple[int, int]:
    """The size all images are brought to unless the user names one."""
    sizes = {header.size for header in headers}
    if len(sizes) == 1 and max(headers[0].size) <= LARGEST_KEPT:
        return headers[0].size
    side = min([DEFAULT_SIDE, *(min(size) for size in sizes)])
    return side, side


def decode(
    files: Sequence[ImageFile],
    target: Target,
    allocate: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(shape, np.uint8),
) -> tuple[np.ndarray, list[int]]:
    """Image files as one uint8 array `[N, C, H, W]`, and the indices of those left out as bad.

    Args:
        allocate: gives the array for a shape; rows of bad files stay as they are in it.

    Raises:
        LatensError: a file that cannot be read, unless `target.skip_bad`; or none that can.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool, progress("images") as bar:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        work = _Work(len(files), target.skip_bad, pool, bar)
        headers = work.every(lambda i: read_header(files[i]), "scanning")
        _note_conversions(headers)
        size = target.size or _common_size(headers)
        grey = all(header.mode in GREY_MODES for header in headers)
        channels = target.channels or (1 if grey else 3)
        pixels = allocate((len(files), channels, *size))

        def fill(i: int) -> bool:  # a worker writes its row itself, so that no images pile up
            pixels[i] = read_image(files[i], channels, size, target.crop)
            return True

        work.every(fill, "decoding")
    _note_left_out([work.bad[i] for i in sorted(work.bad)], len(files))
    return pixels, sorted(work.bad)


class _Work:
    """Tasks over files, many at a time; bad files drop out where that is asked for.

    Attributes:
        bad: the error of each file that dropped out.
    """

    def __init__(self, count: int, skip_bad: bool, pool: ThreadPoolExecutor, bar: Progress):
        self.count, self.skip_bad, self.pool, self.bar = count, skip_bad, pool, bar
        self.bad: dict[int, LatensError] = {}

    def every(self, task: Callable[[int], T], what: str) -> list[T]:
        """What the task gives for each file that has not dropped out.

        Raises:
            LatensError: of the first bad file, if none may drop out or all have.
        """

        def attempt(i: int) -> T | None:
            try:
                return task(i)
            except LatensError as error:
                if not self.skip_bad:
                    raise
                self.bad[i] = error
                return None

        todo = [i for i in range(self.count) if i not in self.bad]
        done = self.bar.track(self.pool.map(attempt, todo), len(todo), description=what)
        found = [result for result in done if result is not None]
        if not found:
            raise next(iter(self.bad.values()))
        return found


def _note_left_out(errors: Sequence[LatensError], count: int) -> None:
    if errors:
        named = "; ".join(str(error) for error in errors[:NAMED])
        more = f"; and {len(errors) - NAMED:,} more" if len(errors) > NAMED else ""
        warn(f"left out {len(errors):,} of {count:,} images: {named}{more}")
