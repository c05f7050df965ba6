"""Images of any number in blocks, in constant memory, each with its file, split and label."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latens.data import IN_MEMORY, NAMES, DataSet, read_splits, renamed
from latens.data.arrays import GREY_OR_RGB, note_rounding, pixels_and_loss
from latens.data.celeba import is_celeba
from latens.data.decoding import NAMED, Target, decode_some, warn_of_left_out
from latens.data.files import SPLIT_FOLDERS, find_images, iterate_images, open_npy
from latens.data.images import SPLITS, Images, own_bits
from latens.data.in_memory import is_path
from latens.data.shards import shards_of
from latens.data.sources import is_idx
from latens.errors import LatensError

IMAGES_IN_BLOCK = 500


@dataclass(frozen=True)
class Block:
    """Consecutive images of a stream.

    Attributes:
        images: with labels as the model has them, −1 where unknown; None where there are none.
        paths: of each image's file below the folder, or its row in an array.
        splits: of each image; empty where the data have no splits.
        labels: names of each image's class or attributes (joined by a vertical bar); empty where
            unknown.
    """

    images: Images
    paths: list[str]
    splits: list[str]
    labels: list[str]


@dataclass(frozen=True)
class Stream:
    """Blocks of images that are read as they are asked for.

    Attributes:
        count: of images, those that cannot be read included.
        blocks: gives them from the first on.
    """

    count: int
    blocks: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        return self.blocks()


def stream_images(
    data: Any,
    shape: tuple[int, int, int],
    names: Sequence[str] = (),
    binarisation: str = "none",
    crop: float | None = None,
    value_range: tuple[float, float] | None = None,
    splits: Sequence[str] = SPLITS,
    indexed: bool = False,
) -> Stream:
    """Any data that `load_data` takes, for a model of images of (C, H, W).

    Image files are decoded, and the rows of a `.npy` read, block by block; other data are held in
    memory or in a memory-mapped cache.

    Args:
        names: the model's classes or attributes, in whose order labels are.
        binarisation: as in `load_data`.
        crop, value_range: of image files, see `latens.data.decoding.Target`.
        splits: which of them, of data that have these of their own; otherwise all images.
        indexed: whole numbers given from Python as labels are indices into `names`.

    Raises:
        LatensError: data that do not exist, cannot be read, or have another size; or numbers that
            are no indices.
    """
    path = Path(data).expanduser() if is_path(data) and str(data) not in NAMES else None
    if path is not None and path.is_dir() and not _is_special(path):
        if shape[0] not in GREY_OR_RGB:
            raise LatensError(
                f"the model's images have {shape[0]} channels, and image files are grey or RGB: "
                "use a .npy"
            )
        folder = _of_splits(path, splits)
        count = sum(1 for _ in iterate_images(folder)) or len(find_images(folder))
        target = Target((shape[1], shape[2]), shape[0], crop, value_range=value_range)
        return Stream(count, lambda: _bits(_files(path, target, names, folder), binarisation))
    if path is not None and path.is_file() and path.suffix.lower() == ".npy":
        count = len(open_npy(path))
        pixels, lossy = pixels_and_loss(open_npy(path)[:IMAGES_IN_BLOCK], path, value_range)
        check_shape(pixels.shape[1:], shape, data)
        if lossy and value_range is None:
            note_rounding(path)
        return Stream(count, lambda: _bits(_rows_of_npy(path, count, value_range), binarisation))
    known = tuple(names) if indexed else ()
    read, found = read_splits(data, shape, binarisation, known, value_range, crop)
    read = {name: read[name] for name in splits if name in read} or read
    for images in read.values():
        check_shape(images.shape, shape, data)
    if list(read) == ["train"]:  # all there is, and not a split that the data tell
        read = {"": read["train"]}
    count = sum(map(len, read.values()))
    return Stream(count, lambda: _rows(read, found, tuple(names)))


def _of_splits(folder: Path, splits: Sequence[str]) -> Path:
    """A folder; of one that has its splits in folders the only one asked for, if it is there."""
    if len(splits) > 1 or not (folder / "train").is_dir():
        return folder
    names = [name for name, split in SPLIT_FOLDERS.items() if split in splits]
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def stream_of_data_set(
    data: DataSet, splits: Sequence[str] = SPLITS, names: Sequence[str] | None = None
) -> Stream:
    """A data set in its splits; of a folder each image has its file's path.

    Args:
        splits: which of them.
        names: the model's classes or attributes, in whose order labels are; None: the data's.
    """
    found = data.classes or data.attributes
    wanted = {name: data.split(name) for name in splits}
    path = Path(data.source)
    files: Sequence[Path] = ()
    if data.source not in (*NAMES, IN_MEMORY) and path.is_dir() and not _is_special(path):
        files = [file.relative_to(path) for file in find_images(path)]
    order = found if names is None else tuple(names)
    count = sum(map(len, wanted.values()))
    return Stream(count, lambda: _rows(wanted, found, order, files))


def _is_special(folder: Path) -> bool:
    """Whether a folder holds other files than images."""
    return is_idx(folder) or is_celeba(folder) or bool(shards_of(folder))


def check_shape(found: Sequence[int], shape: Sequence[int], data: Any) -> None:
    """Refuse images of another (C, H, W) than the model's.

    Raises:
        LatensError: they have another.
    """
    if tuple(found) != tuple(shape):
        what = data if is_path(data) else "the data"
        raise LatensError(f"the model reads {tuple(shape)}, and {what} has {tuple(found)}")


def _bits(blocks: Iterable[Block], binarisation: str) -> Iterator[Block]:
    for block in blocks:
        yield replace(block, images=own_bits(block.images, binarisation))


# ---- folders ---------------------------------------------------------------------------------


def _files(folder: Path, target: Target, names: Sequence[str], within: Path) -> Iterator[Block]:
    """Blocks of the files within a part of a folder; their paths are below the folder."""
    errors, left_out, count = [], 0, 0
    index = {name: i for i, name in enumerate(names)}
    has_splits = (folder / "train").is_dir()
    for paths in _batched(iterate_images(within)):
        count += len(paths)
        results = decode_some(paths, target)
        errors = [*errors, *(r for r in results if isinstance(r, LatensError))][:NAMED]
        good = {i: result for i, result in enumerate(results) if isinstance(result, np.ndarray)}
        left_out += len(paths) - len(good)
        if not good:
            continue
        parts = [paths[i].relative_to(folder).parts for i in good]
        splits = [SPLIT_FOLDERS.get(part[0], "") if has_splits else "" for part in parts]
        parts = [part[1:] if split else part for part, split in zip(parts, splits, strict=True)]
        labels = [part[0] if len(part) > 1 else "" for part in parts]
        y = torch.tensor([index.get(label, -1) for label in labels])
        pixels = torch.from_numpy(np.stack(list(good.values())))
        images = Images(pixels, y if (y >= 0).any() else None)
        yield Block(images, [str(paths[i].relative_to(folder)) for i in good], splits, labels)
    if left_out == count:
        raise errors[0]
    warn_of_left_out(errors, left_out, count)


def _batched(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(paths, IMAGES_IN_BLOCK)):
        yield batch


# ---- arrays ----------------------------------------------------------------------------------


def _rows_of_npy(
    path: Path, count: int, value_range: tuple[float, float] | None
) -> Iterator[Block]:
    """The file is mapped anew for each block: pages of a mapping that stays count as memory."""
    for start in range(0, count, IMAGES_IN_BLOCK):
        rows = np.array(open_npy(path)[start : start + IMAGES_IN_BLOCK])
        images = Images(pixels_and_loss(rows, path, value_range)[0])
        paths = [str(start + i) for i in range(len(rows))]
        yield Block(images, paths, [""] * len(rows), [""] * len(rows))


def _rows(
    splits: dict[str, Images],
    found: tuple[str, ...],
    names: tuple[str, ...],
    files: Sequence[Path] = (),
) -> Iterator[Block]:
    for split, images in splits.items():
        rows = images.origins
        for start in range(0, len(images), IMAGES_IN_BLOCK):
            block = images.take(slice(start, start + IMAGES_IN_BLOCK))
            if block.stochastic_binarize:  # the same bits at each call
                block = own_bits(block, "static")
            places = rows[start : start + IMAGES_IN_BLOCK].tolist()
            paths = [str(files[row]) if files else str(row) for row in places]
            labels = _names_of(block, found)
            block = renamed(block, found, names)
            yield Block(block, paths, [split] * len(block), labels)


def _names_of(images: Images, names: tuple[str, ...]) -> list[str]:
    """What the labels of images are called."""
    if images.labels is None or not names:
        return [""] * len(images)
    if images.labels.dim() == 1:
        return [names[label] if label >= 0 else "" for label in images.labels.tolist()]
    return [
        "|".join(name for name, has in zip(names, row, strict=True) if has == 1)
        for row in images.labels.tolist()
    ]
