"""Images from a name, a path or Python objects, split and binarised."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latens.config import Binarisation
from latens.console import note
from latens.data.arrays import GREY_OR_RGB
from latens.data.celeba import CROP, SIZE, is_celeba, read_celeba
from latens.data.decoding import DARK, Target, decode
from latens.data.files import SUFFIXES, find_images, read_array, read_folder
from latens.data.images import (
    SPLITS,
    DataSet,
    Images,
    binarise,
    hold_out,
    jittered,
    joined,
    keep_labels,
    mirrored,
    own_bits,
    unit_pixels,
)
from latens.data.in_memory import THE_DATA, is_path, name_in_memory, read_in_memory
from latens.data.shards import is_url, name_of_shards, read_shards, shards_of
from latens.data.sources import SOURCES, Raw, data_folder, is_idx, read_idx_folder, read_source
from latens.errors import LatensError, unknown

__all__ = [
    "IN_MEMORY",
    "SOURCES",
    "SPLITS",
    "Binarisation",
    "DataSet",
    "Images",
    "Target",
    "decode",
    "find_images",
    "jittered",
    "load_alike",
    "load_data",
    "load_split",
    "mirrored",
    "name_of",
    "own_bits",
    "source_of",
    "unit_pixels",
]

FEWEST_IMAGES = 10
LOOKED_AT = 1_000  # images, for whether they are nearly black
IN_MEMORY = "<in memory>"  # the source of data that were given from Python
CELEBA = "celeba"
NAMES = {name: source.about for name, source in SOURCES.items()} | {
    CELEBA: "202,599 faces with 40 attributes (Liu et al. 2015), 64x64, colour; not downloaded"
}


def load_data(
    data: Any,
    *,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    binarisation: Binarisation | str = "none",
    validation: int | None = None,
    split_seed: int = 0,
    labels: int | None = None,
    skip_bad: bool = False,
    strict: bool = False,
    value_range: tuple[float, float] | None = None,
) -> DataSet:
    """A data set by name, from a folder, a `.npy`, a `.npz`, shards, or Python.

    Args:
        data: a name of `SOURCES`; a path, of a folder of images or of IDX files too; shards as
            `latens.data.shards` has them; or images in memory: a numpy array or a tensor (uint8, or
            floats in [0, 1]; `[N, H, W]`, `[N, C, H, W]` or `[N, H, W, C]`, see `as_pixels`), a
            pair of one and its labels, a data set as of torchvision or Hugging Face whose items
            are images, pairs (image, label) or mappings, or a mapping from train, validation and
            test to any of these. A `DataSet` is returned as it is unless an option changes it.
        size: (H, W) to which the images of a folder, or those in memory, are resized; None keeps
            a common size of at most 128 pixels and otherwise chooses one.
        grey: convert such images to grey even where there is colour.
        binarisation: how bits are made of grey levels, see `latens.data.images.binarise`.
        validation: how many training images are held out; None takes the data set's own number,
            or a tenth. A tenth is held out for testing too where there is no test split.
        split_seed: decides which images are held out, and which keep their label.
        labels: how many training images keep their label, evenly over the classes; None: all.
        skip_bad: leave out images that cannot be read, however many, and say which; otherwise up to
            one in a hundred.
        strict: leave out none, neither those nor images far smaller than most.
        value_range: the values of black and of white, of arrays and of images in 16 bits or floats.

    Raises:
        LatensError: data that do not exist, cannot be read or are too few.
    """
    target = Target(size, 1 if grey else None, None, skip_bad, strict, value_range)
    raw, default = _read(data, target)
    if isinstance(data, DataSet) and (binarisation, validation, labels) == ("none", None, None):
        return data
    what = data if is_path(data) else THE_DATA
    _check_enough(raw.train, what)
    if raw.validation is not None and validation is not None and not isinstance(data, DataSet):
        raise LatensError(
            f"{what} has {len(raw.validation):,} validation images of its own: leave out "
            "--validation"
        )
    if value_range is None:
        _note_dark(raw.train, data)
    train, held_out, test = _split(raw, validation, default, split_seed)
    for name, images in (("validation", held_out), ("test", test)):
        if images.shape != train.shape:
            raise LatensError(
                f"{what} has training images of (C, H, W) {train.shape}, but {images.shape} in "
                f"the {name} split"
            )
    if labels is not None:
        train = keep_labels(train, labels, split_seed)
    return binarise(_data_set(data, raw, train, held_out, test), binarisation)


def _check_enough(images: Images, what: Any) -> None:
    if len(images) < FEWEST_IMAGES:
        raise LatensError(
            f"{what} has {len(images)} images: at least {FEWEST_IMAGES} are needed to train, "
            "validate and test"
        )


def _note_dark(images: Images, data: Any) -> None:
    """Say so where pixels seem to be counted from 0 to 1 and not to 255."""
    if images.array.dtype != torch.uint8 or images.stochastic_binarize:
        return
    few = images.some(LOOKED_AT).pixels
    if (brightest := int(few.max())) < DARK:
        is_array = not can_be_resized(data) or not is_path(data)
        remedy = f"give --range 0,{brightest or 1}" if is_array else "scale them to 0 to 255"
        note(
            f"the brightest pixel of {len(few):,} images is {brightest} of 255, so they "
            f"are nearly black: {remedy} if it should be white"
        )


def _data_set(data: Any, raw: Raw, train: Images, held_out: Images, test: Images) -> DataSet:
    about = raw.classes, raw.attributes
    shuffled = is_path(data) and str(data) in NAMES
    train, held_out, test = (replace(x, shuffled=shuffled) for x in (train, held_out, test))
    return DataSet(name_of(data), source_of(data), train, held_out, test, *about, crop=raw.crop)


def _split(
    raw: Raw, validation: int | None, default: int, seed: int
) -> tuple[Images, Images, Images]:
    """Train, validation, test; what the source does not have is held out of its training images.

    Args:
        validation: how many images the user wants held out; None leaves a split that exists.
        default: how many otherwise; 0 is a tenth.
    """
    train, held_out, test = raw.train, raw.validation, raw.test
    if test is None:  # digits and a user's own images
        train, test = hold_out(train, max(1, len(train) // 10), seed, "testing")
    if validation is not None or held_out is None:
        count = (default or max(1, len(train) // 10)) if validation is None else validation
        train, held_out = hold_out(train, count, seed + 1, "validation")
    return train, held_out, test


def source_of(data: Any) -> str:
    """What `load_data` can read again from anywhere: a data set's name, or an absolute path.

    It is `IN_MEMORY` for Python objects, which `load_data` cannot find again. A `DataSet` has the
    source that it was loaded from.
    """
    if isinstance(data, DataSet):
        return data.source
    if not is_path(data):
        return IN_MEMORY
    known = str(data) in NAMES or str(data) == IN_MEMORY or is_url(data)
    return str(data) if known else str(Path(data).expanduser().absolute())


def name_of(data: Any) -> str:
    """A short name of any data that `load_data` takes, such as for a run directory."""
    if not is_path(data):
        return name_in_memory(data)
    return name_of_shards(str(data)) if shards_of(data) else Path(source_of(data)).name


def load_split(
    data: Any,
    split: str | None,
    shape: tuple[int, int, int],
    binarisation: Binarisation | str = "none",
    names: tuple[str, ...] = (),
    value_range: tuple[float, float] | None = None,
    crop: float | None = None,
) -> Images:
    """Images for a model that was not trained on them, resized to its (C, H, W) where they can be.

    Args:
        data: as in `load_data`.
        split: train, validation, test or all; None is the test split of data that have one, and
            otherwise all images.
        names: the model's classes or attributes: labels are converted to their order.
        value_range: as in `load_data`.
        crop: of image files, as the model's training images were, see `Target`.

    Raises:
        LatensError: data that do not exist or cannot be read, or a split they do not have.
    """
    if isinstance(data, DataSet) or (is_path(data) and str(data) in SOURCES):
        known = load_data(data, binarisation=binarisation)
        images = known.split(split or "test")
        return renamed(images, known.classes or known.attributes, names)
    found, labels = read_splits(data, shape, binarisation, names, value_range, crop)
    if split is None:
        split = "test" if "test" in found else "all"
    if split != "all" and split not in found:
        what = data if is_path(data) else THE_DATA
        raise LatensError(f"{what} has no {split} split of its own: leave out --split")
    images = joined(list(found.values()) if split == "all" else [found[split]])
    return renamed(images, labels, names)


def load_alike(
    data: Any, shape: tuple[int, int, int], names: tuple[str, ...] = (), **reading: Any
) -> DataSet:
    """All splits of data for a model that was not trained on them.

    Splits that the data do not have are held out, as in `load_data`.

    Args:
        data, shape, names: as in `load_split`.
        **reading: its `binarisation`, `value_range` and `crop`.

    Raises:
        LatensError: data that do not exist, cannot be read, or are too few.
    """
    found, labels = read_splits(data, shape, names=names, **reading)
    found = {name: renamed(images, labels, names) for name, images in found.items()}
    _check_enough(found["train"], data if is_path(data) else THE_DATA)
    known, of = found["train"].labels, names or labels
    named = ((), of) if known is not None and known.dim() > 1 else (of, ())
    raw = Raw(found["train"], found.get("validation"), found.get("test"), *named)
    return binarise(_data_set(data, raw, *_split(raw, None, 0, 0)), "none")  # are they bits?


def read_splits(
    data: Any,
    shape: tuple[int, int, int],
    binarisation: Binarisation | str = "none",
    names: tuple[str, ...] = (),
    value_range: tuple[float, float] | None = None,
    crop: float | None = None,
) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The splits that data have of their own, resized as in `load_split`, and the labels' names.

    Data without splits are one, called train.
    """
    channels, *size = shape
    if isinstance(data, DataSet) or (is_path(data) and str(data) in SOURCES):
        known = load_data(data, binarisation=binarisation)
        return {name: known.split(name) for name in SPLITS}, known.classes or known.attributes
    target = Target(crop=crop, value_range=value_range)
    if can_be_resized(data):
        wanted = channels if channels in GREY_OR_RGB else None
        target = replace(target, size=(size[0], size[1]), channels=wanted)
    # Class names that are numbers are those of labels, and not of the indices 0, 1, …
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    indexed = names if isinstance(data, Images) or not numbers else ()
    raw, _ = _read(data, target, indexed)
    found = {name: getattr(raw, name) for name in SPLITS if getattr(raw, name) is not None}
    found = {name: own_bits(images, binarisation) for name, images in found.items()}
    return found, raw.classes or raw.attributes


def can_be_resized(data: Any) -> bool:
    """Whether images are files or objects, each of its own size, and not rows of an array."""
    if is_path(data):
        path = Path(data).expanduser()
        return str(data) == CELEBA or bool(shards_of(data)) or (path.is_dir() and not is_idx(path))
    parts = data.values() if isinstance(data, Mapping) else [data]
    return not any(isinstance(part, Images) for part in parts)


def renamed(images: Images, found: tuple[str, ...], names: tuple[str, ...]) -> Images:
    """Images with labels as indices into `names` in place of `found`; −1 for one not among them."""
    if images.labels is None or found == names:
        return images
    if not set(found) & set(names):
        return replace(images, labels=None)
    if images.labels.dim() == 1:
        index = torch.tensor([names.index(name) if name in names else -1 for name in found] + [-1])
        return replace(images, labels=index[images.labels])
    columns = [
        images.labels[:, found.index(name)] if name in found else torch.full((len(images),), -1)
        for name in names
    ]
    return replace(images, labels=torch.stack(columns, 1))


def _read(data: Any, target: Target, names: tuple[str, ...] = ()) -> tuple[Raw, int]:
    """The raw images, and how many are held out for validation by default (0: a tenth)."""
    if not is_path(data):
        return read_in_memory(data, target, names), 0
    path, name = Path(data).expanduser(), str(data)
    _check_text(name)
    own_size = target.size is None and target.channels is None
    if name in SOURCES:
        if not own_size:
            raise LatensError(f"--size and --grey are for folders of images: {data} has its own")
        if target.value_range is not None:
            raise LatensError(f"--range is for your own images: {data} has 8 bits")
        return read_source(name), SOURCES[name].validation
    if name == CELEBA:
        path = data_folder() / CELEBA
    if name == CELEBA or is_celeba(path):
        faces = replace(target, size=target.size or SIZE, channels=target.channels or 3, crop=CROP)
        return read_celeba(path, faces), 0
    if is_idx(path):
        raw = read_idx_folder(path)
        if target.value_range is not None:
            note(f"--range is for images of more than 8 bits, and {data} has 8: it changes nothing")
        if target.size not in (None, raw.train.shape[1:]):
            raise LatensError(f"--size is for folders of image files: {data} has its own")
        return raw, 0
    if shards_of(name) or path.is_dir():
        return read_shards(name, target) if shards_of(name) else read_folder(path, target), 0
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        if not own_size:
            raise LatensError(f"--size and --grey are for folders of images: {data} is a file")
        return read_array(path, target.value_range), 0
    raise _not_found(name, path)


def _check_text(name: str) -> None:
    if name == IN_MEMORY:
        raise LatensError(
            "the run was trained on images that were given from Python: give them again, as in "
            "latens.evaluate(run, data=...)"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LatensError(f"the name {name!r} is not valid UTF-8: rename it") from None


def _not_found(name: str, path: Path) -> LatensError:
    """The error for a name or a path that is not a data set."""
    if path.is_file():
        single = ": for a single image name the folder it is in"
        return LatensError(
            f"{name} is neither a folder of images nor a .npy, .npz, Parquet or tar file"
            + (single if path.suffix.lower() in SUFFIXES else "")
        )
    if len(path.parts) > 1 or path.suffix:
        return LatensError(f"no such file or folder: {name}")
    return unknown("data set (and no file or folder of that name either)", name, NAMES)
