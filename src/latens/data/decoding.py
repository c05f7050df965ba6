"""Images of any size and mode as one uint8 array: files of a folder or a zip file, or in memory."""

import contextlib
import io
import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from rich.progress import Progress

from latens import limits
from latens.console import note, progress, warn
from latens.errors import LatensError, one_line


@dataclass(frozen=True)
class InMemoryFile:
    """The bytes of an image file that came by another way than a file system.

    Attributes:
        name: what messages call it.
        content: its bytes.
    """

    name: str
    content: bytes

    def open(self, mode: str) -> io.BytesIO:
        """As a file."""
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


ImageFile = Path | zipfile.Path
AnyImageFile = ImageFile | InMemoryFile
# What Pillow may open: no format that starts another program (EPS), or that nobody sends
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}  # one channel of more than 8 bits
GREY_MODES = {"1", "L", "LA"} | DEEP_MODES
DEFAULT_SIDE = 64  # pixels: the side to which mixed or large images are resized
LARGEST_KEPT = 128  # pixels: images of one size up to this are not resized
NAMED = 3  # bad images that a warning names; it counts the rest
UNREADABLE_SHARE = 0.01  # of the images may be left out without being asked for
COMMON_SHARE = 0.9  # of the images must have a size that is kept
DARK = 64  # of 255: images of 16 bits without a brighter pixel were meant to be stretched
TINY = 0.25  # of the median of the images' shorter sides: a smaller image is left out

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """The size and the channels that images are converted to.

    Attributes:
        size: (H, W) in pixels; None keeps the size that nine of ten images have, up to 128, else
            takes 64x64, or less if half of the images are smaller.
        channels: 1 for grey, 3 for RGB; None takes 3 as soon as one image has colour.
        crop: cut out a central square of this fraction of the width first; None crops only as
            far as the aspect ratio of `size` demands.
        skip_bad: leave out images that cannot be read, however many; otherwise up to one in a
            hundred.
        strict: leave out none: neither those, nor images far smaller than most.
        value_range: the values of black and of white, of images of one channel in 16 bits or in
            floats; None: 0 and 65,535, and no floats.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    crop: float | None = None
    skip_bad: bool = False
    strict: bool = False
    value_range: tuple[float, float] | None = None

    @property
    def known(self) -> tuple[int, tuple[int, int]]:
        """Channels and size, where both are decided."""
        assert self.channels is not None, "the channels are decided before images are decoded"
        assert self.size is not None, "the size is decided before images are decoded"
        return self.channels, self.size

    def most_bad(self, count: int) -> float:
        """How many of so many images may be unreadable."""
        if self.strict:
            return 0.0
        return math.inf if self.skip_bad else count * UNREADABLE_SHARE


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is converted.

    Attributes:
        size: (H, W), before any rotation that its EXIF data ask for.
        mode: Pillow's name for its pixels' format.
    """

    size: tuple[int, int]
    mode: str


def header_of(image: Image.Image, name: str | AnyImageFile) -> Header:
    """Size and mode of an opened image; `name` is what messages call it.

    Raises:
        LatensError: the image is animated.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # of a stereo camera: its first frame is used
        raise LatensError(
            f"{name} is animated ({frames} frames): latens reads still images; save its frames "
            "as separate images"
        )
    return Header((image.height, image.width), image.mode)


def read_header(path: AnyImageFile) -> Header:
    """Size and mode of an image file.

    Raises:
        LatensError: the file is not an image, is animated, or would take too much memory.
    """
    try:
        _check_regular(path)
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            limits.check("image_pixels", image.width * image.height, f"{path} has")
            return header_of(image, path)
    except LatensError:
        raise
    except UnidentifiedImageError:
        raise LatensError(f"{path} is not an image ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limits.check("image_pixels", limits.limits().image_pixels + 1, f"{path} has")
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise LatensError(f"{path} cannot be read: {one_line(error)}") from error


def _check_regular(path: AnyImageFile) -> None:
    """Raise a LatensError for what would hang or never end, such as a pipe."""
    if isinstance(path, Path) and not path.is_file():
        raise LatensError(f"{path} is no regular file: remove it")


def read_image(path: AnyImageFile, target: Target, alone: Executor | None = None) -> np.ndarray:
    """One image file as uint8 `[C, H, W]`, see `to_array`.

    Args:
        alone: one thread, where large images are decoded: each thread keeps the memory that the
            largest of its images took.

    Raises:
        LatensError: the file is truncated or damaged.
    """
    with naming(path), path.open("rb") as stream, Image.open(stream, formats=FORMATS) as opened:
        if alone and opened.width * opened.height > limits.limits().parallel_pixels:
            return alone.submit(to_array, opened, target).result()
        return to_array(opened, target)


@contextmanager
def naming(name: str | AnyImageFile) -> Iterator[None]:
    """What Pillow raises for a damaged image becomes one line that names it.

    Raises:
        LatensError: the block met an image that cannot be decoded.
    """
    try:
        yield
    except (LatensError, MemoryError):
        raise
    except Exception as error:  # as in `read_header`
        raise LatensError(f"{name} is damaged ({one_line(error)}): replace or remove it") from error


def to_array(image: Image.Image, target: Target) -> np.ndarray:
    """An image as uint8 `[C, H, W]`: rotated as its EXIF data say, resized to cover the size that
    is asked for, cropped at the centre.

    With a crop a central square is cut out first, at most as high as the image. Palette and CMYK
    images become RGB, 16-bit ones 8-bit; transparent pixels are blended with white.

    Raises:
        Exception: whatever Pillow raises for damaged pixels; ValueError for an unknown range.
    """
    channels, size = target.known
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which would be copied
    image = _plain(upright, target.value_range).convert("L" if channels == 1 else "RGB")
    if target.crop is not None:
        side = min(target.crop * image.width, image.height) / 2  # nothing beyond the border
        x, y = image.width / 2, image.height / 2
        image = image.crop((round(x - side), round(y - side), round(x + side), round(y + side)))
    if image.size != size[::-1]:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(*size, channels).transpose(2, 0, 1)


def _plain(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """The image as 8-bit L or RGB."""
    if image.mode in DEEP_MODES and value_range is not None:
        return Image.fromarray(levels_between(np.asarray(image), value_range))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        values = values if values.dtype == np.uint16 else values.clip(0, 65_535)
        return Image.fromarray((values // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels: give --range LOW,HIGH")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def levels_between(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Numbers as 256 levels, from 0 at the low end of a range to 255 at its high end.

    Raises:
        ValueError: a NaN among them.
    """
    low, high = value_range
    if np.isnan(values.sum(dtype=np.float64)):
        raise ValueError("it holds NaN")
    if values.dtype.itemsize > 2 and values.dtype != np.float32:  # whose digits may be too few
        levels = (values - np.float64(low)).astype(np.float32)
    else:
        levels = values.astype(np.float32)  # once: an image may have a hundred million pixels
        levels -= low
    levels /= high - low
    levels.clip(0, 1, out=levels)
    levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)


def _note_conversions(headers: list[Header], value_range: tuple[float, float] | None) -> None:
    deep = value_range is None
    if not deep and not any(header.mode in DEEP_MODES for header in headers):
        note("--range is for images of more than 8 bits, and these have 8: it changes nothing")
    kinds = {
        "of more than 8 bits": lambda mode: deep and mode in DEEP_MODES,
        "palette": lambda mode: mode == "P",
        "CMYK": lambda mode: mode == "CMYK",
        "with transparency (blended with white)": lambda mode: mode.endswith("A"),
    }
    counts = {kind: sum(test(h.mode) for h in headers) for kind, test in kinds.items()}
    found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    if found:
        note(f"images converted to 8-bit grey or RGB: {found}")


def _note_unused_range(pixels: np.ndarray, deep: Iterable[int]) -> None:
    """Say so where images of 16 bits use so little of their range that they are nearly black."""
    # One at a time: the array may be larger than memory
    brightest = max((int(pixels[i].max()) for i in deep), default=DARK)
    if brightest < DARK:
        note(
            f"the images of 16 bits have values of at most {257 * brightest + 256:,}, of 65,535: "
            "their details are lost unless you give --range LOW,HIGH, the values of black and of "
            "white"
        )


def decided(target: Target, headers: list[Header]) -> Target:
    """The target with the size and the channels of these images, where it leaves them open."""
    grey = all(header.mode in GREY_MODES for header in headers)
    size, channels = target.size or _common_size(headers), target.channels or (1 if grey else 3)
    return replace(target, size=size, channels=channels)


def decide_size(target: Target, files: Iterable[AnyImageFile]) -> Target:
    """The target, with the size and the channels of those of the files that can be read."""
    if target.size and target.channels:
        return target
    headers = []
    for file in files:
        with contextlib.suppress(LatensError):
            headers.append(read_header(file))
    return decided(target, headers) if headers else target


def _common_size(headers: list[Header]) -> tuple[int, int]:
    """The size (H, W) of all images unless the user names one."""
    size, count = Counter(header.size for header in headers).most_common(1)[0]
    if count >= COMMON_SHARE * len(headers) and max(size) <= LARGEST_KEPT:
        return size
    side = min(DEFAULT_SIDE, _usual_side(headers))
    return side, side


def _usual_side(headers: Iterable[Header]) -> int:
    """The median of the shorter sides, in pixels."""
    return median_low(min(header.size) for header in headers)


def _in_memory(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


@contextmanager
def _limited() -> Iterator[None]:
    """Inside, Pillow's own limit is an error, and what the user allows is allowed."""
    allowed, before = limits.limits().image_pixels, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = allowed
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode(
    files: Sequence[ImageFile],
    target: Target,
    allocate: Callable[[tuple[int, ...]], np.ndarray] = _in_memory,
) -> tuple[np.ndarray, list[int]]:
    """Image files as one uint8 array `[N, C, H, W]`, and the indices of those left out as bad.

    Args:
        allocate: gives the array for a shape; rows of bad files are not written.

    Raises:
        LatensError: more files that cannot be read than `target` allows.
    """
    with _limited(), ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as alone:
        return decode_each(
            len(files),
            lambda i: read_header(files[i]),
            lambda i, target: read_image(files[i], target, alone),
            target,
            allocate,
            pool.map,
            lambda i: files[i],
        )


def decode_some(files: Sequence[AnyImageFile], target: Target) -> list[np.ndarray | LatensError]:
    """Each image file as uint8 `[C, H, W]`, or why it cannot be read.

    Args:
        target: with size and channels.
    """

    def attempt(path: AnyImageFile) -> np.ndarray | LatensError:
        try:
            read_header(path)
            return read_image(path, target, alone)
        except LatensError as error:
            return error

    with _limited(), ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as alone:
        return list(pool.map(attempt, files))


def decode_each(
    count: int,
    header: Callable[[int], Header],
    image: Callable[[int, Target], np.ndarray],
    target: Target,
    allocate: Callable[[tuple[int, ...]], np.ndarray] = _in_memory,
    apply: Callable[..., Iterable[Any]] = map,
    name: Callable[[int], Any] = lambda i: f"image {i}",
) -> tuple[np.ndarray, list[int]]:
    """Images of any origin as one uint8 array `[N, C, H, W]`, and the indices of the bad ones.

    Args:
        count: N.
        header: gives the header of image i; every header is read before the first image.
        image: gives image i as uint8 `[C, H, W]`, from i and the target with its size and channels.
        allocate: as in `decode`.
        apply: how a function is applied to many indices: in turn, or by several threads.
        name: what messages call image i.

    Raises:
        LatensError: more images that cannot be read than `target` allows.
    """
    with progress("images") as bar:
        work = _Work(count, target.most_bad(count), apply, bar)
        scanned = work.every(header, "scanning")
        if not target.strict:
            tiny = _tiny(scanned)
            work.tiny = {i: LatensError(f"{name(i)} is {size}") for i, size in tiny.items()}
        headers = [found for i, found in scanned.items() if i not in work.tiny]
        _note_conversions(headers, target.value_range)
        target = decided(target, headers)
        channels, size = target.known
        pixels = allocate((count, channels, *size))

        def fill(i: int) -> bool:  # a worker writes its row itself, so that no images pile up
            pixels[i] = image(i, target)
            return True

        decoded = work.every(fill, "decoding")
        if target.value_range is None:
            _note_unused_range(pixels, (i for i in decoded if scanned[i].mode in DEEP_MODES))
    left_out = work.bad | work.tiny
    warn_of_left_out([left_out[i] for i in sorted(left_out)], len(left_out), count)
    return pixels, sorted(left_out)


class _Work:
    """Tasks over images, several at a time; bad images are left out, up to a number of them.

    Attributes:
        bad: the error of each image that was left out because it cannot be read.
        tiny: the same of those that are far smaller than most.
    """

    def __init__(
        self, count: int, most_bad: float, apply: Callable[..., Iterable[Any]], bar: Progress
    ):
        self.count, self.most_bad, self.apply, self.bar = count, most_bad, apply, bar
        self.bad: dict[int, LatensError] = {}
        self.tiny: dict[int, LatensError] = {}

    def every(self, task: Callable[[int], T], what: str) -> dict[int, T]:
        """What the task gives for each image that has not been left out.

        Raises:
            LatensError: of a bad image, if there are too many or all are bad.
        """

        def attempt(i: int) -> T | None:
            try:
                return task(i)
            except LatensError as error:
                self.bad[i] = error
                if len(self.bad) > self.most_bad:
                    raise
                return None

        todo = [i for i in range(self.count) if i not in self.bad and i not in self.tiny]
        done = self.bar.track(self.apply(attempt, todo), len(todo), description=what)
        found = {i: result for i, result in zip(todo, done, strict=True) if result is not None}
        if not found:
            raise next(iter(self.bad.values()))
        return found


def _tiny(headers: Mapping[int, Header]) -> dict[int, str]:
    """The images that are far smaller than most, and their size in words."""
    least = TINY * _usual_side(headers.values())
    sizes = {i: header.size for i, header in headers.items() if min(header.size) < least}
    return {i: f"{height}x{width}, far smaller than most" for i, (height, width) in sizes.items()}


def warn_of_left_out(errors: Sequence[LatensError], left_out: int, count: int) -> None:
    """One line on images that cannot be used, with the first errors; none where there are none."""
    if left_out:
        named = "; ".join(str(error) for error in errors[:NAMED])
        more = f"; and {left_out - NAMED:,} more" if left_out > NAMED else ""
        warn(f"left out {left_out:,} of {count:,} images: {named}{more}")
