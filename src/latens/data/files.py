"""The user's own images: a folder of image files, a `.npy` or a `.npz`."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from latens.data.images import SPLITS, Images
from latens.data.sources import Raw
from latens.errors import LatensError
from latens.messages import note, progress

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
DEFAULT_SIDE = 64  # pixels: what a folder of mixed or large images is brought to
LARGEST_KEPT = 128  # pixels: images of one size up to this are left as they are
SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation"} | {
    name: name for name in SPLITS
}

# ---- image files -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded."""

    path: Path
    size: tuple[int, int]  # (H, W)
    mode: str


def read_header(path: Path) -> Header:
    """Size and mode of an image file.

    Raises:
        LatensError: the file is no image, is animated, or would take too much memory.
    """
    try:
        with Image.open(path) as image:
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
        raise LatensError(f"{path} cannot be read: {_one_line(error)}") from error
    if animated:
        raise LatensError(
            f"{path} is animated ({frames} frames): latens reads still images; save its frames "
            "as files of their own"
        )
    return header


def read_image(path: Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """One image as uint8 `[C, H, W]`: turned upright, resized to cover `size`, cut at the centre.

    Palette and CMYK images become RGB, 16-bit ones 8-bit; what is transparent is laid on white.

    Raises:
        LatensError: the file is truncated or broken.
    """
    try:
        with Image.open(path) as opened:
            image = _plain(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise LatensError(
            f"{path} is damaged ({_one_line(error)}): replace or remove it"
        ) from error
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


def _one_line(error: Exception) -> str:
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


# ---- folders ---------------------------------------------------------------------------------


def find_images(*places: Path) -> list[Path]:
    """The image files among files and, sorted, in folders and their sub-folders.

    Raises:
        LatensError: a path that does not exist, or a folder without images.
    """
    found = []
    for place in places:
        if not place.exists():
            raise LatensError(f"no such file or folder: {place}")
        inside = sorted(path for path in _walk(place) if _is_image(path.relative_to(place)))
        if place.is_dir() and not inside:
            raise LatensError(
                f"no images in {place}: latens looks for {', '.join(sorted(SUFFIXES))} files, "
                "also in sub-folders"
            )
        found += inside if place.is_dir() else [place]
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, through links too, each folder once."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(name) / file for file in files)


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def read_files(
    paths: list[Path], size: tuple[int, int] | None = None, channels: int | None = None
) -> np.ndarray:
    """Image files as one uint8 array `[N, C, H, W]`.

    Args:
        size: (H, W); None keeps a common size up to 128, else takes 64x64 (less if any image is).
        channels: 1 for grey, 3 for RGB; None takes 3 as soon as one image has colour.

    Raises:
        LatensError: a file that cannot be read.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool, progress("images") as bar:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        headers = list(bar.track(pool.map(read_header, paths), len(paths), description="scanning"))
        _note_conversions(headers)
        size = size or _common_size(headers)
        channels = channels or (1 if all(h.mode in GREY_MODES for h in headers) else 3)
        pixels = np.empty((len(paths), channels, *size), np.uint8)
        decoded = pool.map(lambda path: read_image(path, channels, size), paths)
        for i, image in enumerate(bar.track(decoded, len(paths), description="decoding")):
            pixels[i] = image
    return pixels


def read_folder(folder: Path, size: tuple[int, int] | None, grey: bool) -> Raw:
    """A folder of images. Sub-folders are classes; train/, validation/ and test/ are splits.

    Raises:
        LatensError: no images in it, or one that cannot be read.
    """
    paths = find_images(folder)
    pixels = torch.from_numpy(read_files(paths, size, 1 if grey else None))
    parts = [path.relative_to(folder).parts[:-1] for path in paths]
    splits = ["train"] * len(paths)
    if any(part and part[0] == "train" for part in parts):
        strange = sorted({part[0] if part else "." for part in parts} - SPLIT_FOLDERS.keys())
        if strange:
            raise LatensError(
                f"{folder} has train/ and beside it {', '.join(strange)}: only validation/ and "
                "test/ can stand there"
            )
        splits = [SPLIT_FOLDERS[part[0]] for part in parts]
        parts = [part[1:] for part in parts]
    classes = tuple(sorted({part[0] for part in parts if part}))
    labels = torch.tensor([classes.index(part[0]) if part else -1 for part in parts])
    return _split(Images(pixels, labels if classes else None), splits, classes)


def _split(images: Images, splits: list[str], classes: tuple[str, ...]) -> Raw:
    found = {}
    for name in SPLITS:
        index = torch.tensor([i for i, split in enumerate(splits) if split == name])
        found[name] = images.take(index) if len(index) else None
    return Raw(**found, classes=classes)


# ---- arrays ----------------------------------------------------------------------------------


def read_array(path: Path) -> Raw:
    """A `.npy` of images (memory-mapped), or a `.npz` of images with labels.

    Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`; uint8, bool, or floats in [0, 1],
    which are rounded to 256 levels. In a `.npz` they are called images, x, x_train or data, the
    labels labels, y or y_train, and a test split x_test and y_test.

    Raises:
        LatensError: the file is no such array.
    """
    with path.open("rb") as file:
        start = file.read(6)
    if start != b"\x93NUMPY" and not zipfile.is_zipfile(path):
        raise LatensError(f"{path} is no {path.suffix} file, whatever its name says")
    try:
        # Copy-on-write: pages are read as they are needed, and nothing is ever written back.
        loaded = np.load(path, mmap_mode="c" if start == b"\x93NUMPY" else None)
        if isinstance(loaded, np.ndarray):
            return Raw(Images(as_pixels(loaded, path)))
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
            if any(not isinstance(array, np.ndarray) for array in arrays.values()):
                raise LatensError(f"{path} is a zip file of something else than arrays")
    except LatensError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "bject" in str(error):  # "Object arrays cannot be loaded", "Python objects in dtype"
            raise LatensError(
                f"{path} holds pickled Python objects, which latens does not open: save plain "
                "numbers"
            ) from error
        raise LatensError(f"{path} is truncated or damaged: {_one_line(error)}") from error
    return _read_arrays(arrays, path)


def _read_arrays(arrays: dict[str, np.ndarray], path: Path) -> Raw:
    def first(*names: str) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    x = next(iter(arrays.values())) if len(arrays) == 1 else first("images", "x", "x_train", "data")
    if x is None:
        raise LatensError(
            f"{path} holds {', '.join(arrays) or 'nothing'}: call the images 'images' and the "
            "labels 'labels'"
        )
    train = as_pixels(x, path)
    names, labels = _label_names(first("labels", "y", "y_train"), len(train), path)
    x_test = first("x_test")
    if x_test is None:
        return Raw(Images(train, labels), classes=names)
    test = as_pixels(x_test, path)
    _, test_labels = _label_names(first("y_test"), len(test), path, names)
    return Raw(Images(train, labels), test=Images(test, test_labels), classes=names)


def _label_names(
    y: np.ndarray | None, count: int, path: Path, known: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], torch.Tensor | None]:
    if y is None:
        return (), None
    if y.shape not in ((count,), (count, 1)):
        raise LatensError(
            f"{path} has {count} images but labels of shape {y.shape}: one each is needed"
        )
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all():
        raise LatensError(f"{path} has labels that are no classes: use whole numbers or names")
    if y.dtype.kind == "f":
        y = y.astype(np.int64)
    values = y.reshape(-1).tolist()
    unlabelled = -1 if y.dtype.kind == "i" else None
    names = known or tuple(str(v) for v in np.unique(y).tolist() if v != unlabelled)
    texts = [str(value) for value in values]
    strange = {text for text in texts if text != str(unlabelled)} - set(names)
    if strange:
        raise LatensError(f"{path}: test labels unknown in training: {', '.join(sorted(strange))}")
    index = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([index.get(text, -1) for text in texts])


def as_pixels(array: np.ndarray, path: Path) -> torch.Tensor:
    """Any array of images as uint8 `[N, C, H, W]`.

    Raises:
        LatensError: wrong rank, channels, type or values; or no image at all.
    """
    if array.ndim not in (3, 4):
        raise LatensError(
            f"{path} has shape {array.shape}: images must be [N, H, W], [N, H, W, C] or "
            "[N, C, H, W]"
        )
    if array.size == 0:
        raise LatensError(f"{path} has shape {array.shape}: there is no image in it")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1] not in (1, 3):
        raise LatensError(
            f"{path} has shape {array.shape}: images must have 1 channel (grey) or 3 (RGB)"
        )
    return torch.from_numpy(_as_uint8(array, path))


def _as_uint8(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind not in "fiu":
        raise LatensError(f"{path} holds {array.dtype}: pixels must be uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if np.isnan(low):
        raise LatensError(f"{path} holds NaN: mend or remove those images")
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise LatensError(f"{path} holds integers from {low} to {high}: pixels are 0 to 255")
        return array.astype(np.uint8)
    if low < 0 or high > 1:
        raise LatensError(
            f"{path} holds floats from {low:g} to {high:g}: scale them to [0, 1], or save uint8"
        )
    return np.rint(array * 255).astype(np.uint8)
