"""The user's own images: a folder of image files, a `.npy` or a `.npz`."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from latens.console import warn
from latens.data.arrays import as_pixels, class_indices
from latens.data.cache import decoded
from latens.data.decoding import Target
from latens.data.images import SPLITS, Images
from latens.data.sources import Raw
from latens.errors import LatensError, one_line
from latens.limits import check_unpacked

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation"} | {
    name: name for name in SPLITS
}

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
        inside = sorted(iterate_images(place))
        if place.is_dir() and not inside:
            raise LatensError(
                f"no images in {place}: latens looks for {', '.join(sorted(SUFFIXES))} files, "
                "also in sub-folders"
            )
        found += inside if place.is_dir() else [place]
    return found


def iterate_images(folder: Path) -> Iterator[Path]:
    """The image files in a folder and its sub-folders, each folder's in order."""
    return (path for path in _walk(folder) if _is_image(path.relative_to(folder)))


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, each folder once, through links that stay inside of it."""
    seen, root = set(), os.path.realpath(folder)
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if os.path.commonpath([real, root]) != root:
            warn(f"{name} is a link out of {folder}, and left out: copy or move what it names")
            folders.clear()
            continue
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(name) / file for file in sorted(files))


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def read_folder(folder: Path, target: Target) -> Raw:
    """A folder of images. Sub-folders are classes; train/, validation/ and test/ are splits.

    Raises:
        LatensError: the folder has no images, or one that cannot be read.
    """
    paths = find_images(folder)
    pixels, bad = decoded(folder, paths, target)
    parts = [path.relative_to(folder).parts[:-1] for path in paths]
    splits = ["train"] * len(paths)
    if any(part and part[0] == "train" for part in parts):
        strange = sorted({part[0] if part else "." for part in parts} - SPLIT_FOLDERS.keys())
        if strange:
            raise LatensError(
                f"{folder} has train/ and beside it {', '.join(strange)}: only validation/ and "
                "test/ may stand there"
            )
        splits = [SPLIT_FOLDERS[part[0]] for part in parts]
        parts = [part[1:] for part in parts]
    classes = tuple(sorted({part[0] for part in parts if part}))
    labels = torch.tensor([classes.index(part[0]) if part else -1 for part in parts])
    images = Images(torch.from_numpy(pixels), labels if classes else None)
    raw = split_by(images, splits, bad)
    return replace(raw, classes=classes)


def split_by(images: Images, splits: list[str], bad: list[int]) -> Raw:
    """The images in the split that each is named for, without the bad ones.

    Raises:
        LatensError: no image to train on is left.
    """
    left_out = set(bad)

    def of(name: str) -> Images | None:
        rows = [i for i, split in enumerate(splits) if split == name and i not in left_out]
        if len(rows) == len(images):
            return images
        return images.take(torch.tensor(rows)) if rows else None

    train = of("train")
    if train is None:
        raise LatensError("there is no training image among them that can be read")
    return Raw(train, of("validation"), of("test"))


# ---- arrays ----------------------------------------------------------------------------------


def read_array(path: Path, value_range: tuple[float, float] | None = None) -> Raw:
    """A `.npy` of images (memory-mapped), or a `.npz` of images with labels.

    Images are arrays as `as_pixels` takes them. In a `.npz` they are called images, x, x_train or
    data, the labels labels, y or y_train, and a test split x_test and y_test.

    Args:
        value_range: as in `as_pixels`.

    Raises:
        LatensError: the file is not such an array.
    """
    if _is_npy(path):
        return Raw(Images(as_pixels(open_npy(path), path, value_range)))
    with _reading(path), zipfile.ZipFile(path) as archive:
        check_unpacked(path, sum(member.file_size for member in archive.infolist()))
    with _reading(path), np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
        if any(not isinstance(array, np.ndarray) for array in arrays.values()):
            raise LatensError(f"{path} is a zip file that holds other things than arrays")
    return _read_arrays(arrays, path, value_range)


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(6)
    if start != b"\x93NUMPY" and not zipfile.is_zipfile(path):
        raise LatensError(f"{path} is not a {path.suffix} file, despite its extension")
    return start == b"\x93NUMPY"


def open_npy(path: Path) -> np.ndarray:
    """A `.npy`, memory-mapped: pages are read as they are needed, and nothing is written back.

    Raises:
        LatensError: the file is no array of numbers.
    """
    with _reading(path):
        if not _is_npy(path):
            raise LatensError(f"{path} is a .npz, despite its extension")
        return np.load(path, mmap_mode="c")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What NumPy raises for a file that it cannot read becomes one line."""
    try:
        yield
    except (LatensError, MemoryError):
        raise
    except Exception as error:  # of NumPy, zipfile, zlib, and of the tokenizer for a header
        if "bject" in str(error):  # "Object arrays cannot be loaded", "Python objects in dtype"
            raise LatensError(
                f"{path} holds pickled Python objects, which latens does not open: save plain "
                "numbers"
            ) from error
        raise LatensError(f"{path} is truncated or damaged: {one_line(error)}") from error


def _read_arrays(
    arrays: dict[str, np.ndarray], path: Path, value_range: tuple[float, float] | None
) -> Raw:
    def first(*names: str) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    x = next(iter(arrays.values())) if len(arrays) == 1 else first("images", "x", "x_train", "data")
    if x is None:
        raise LatensError(
            f"{path} holds {', '.join(arrays) or 'nothing'}: call the images 'images' and the "
            "labels 'labels'"
        )
    train = as_pixels(x, path, value_range)
    names, labels = _label_names(first("labels", "y", "y_train"), len(train), path)
    x_test = first("x_test")
    if x_test is None:
        return Raw(Images(train, labels), classes=names)
    test = as_pixels(x_test, path, value_range)
    _, test_labels = _label_names(first("y_test"), len(test), path, names)
    if labels is not None and test_labels is None:
        test_labels = torch.full((len(test),), -1)
    return Raw(Images(train, labels), test=Images(test, test_labels), classes=names)


def _label_names(
    y: np.ndarray | None, count: int, path: Path, known: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], torch.Tensor | None]:
    if y is None:
        return (), None
    if y.shape not in ((count,), (count, 1)):
        raise LatensError(
            f"{path} has {count} images but labels of shape {y.shape}: one label per image is "
            "needed"
        )
    return class_indices(y.reshape(-1).tolist(), path, known)
