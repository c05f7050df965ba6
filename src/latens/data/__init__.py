"""Images from a name or a path, split and binarised."""

from dataclasses import replace
from pathlib import Path

import torch

from latens.config import Binarisation
from latens.data.celeba import CROP, SIZE, is_celeba, read_celeba
from latens.data.decoding import Target, decode
from latens.data.files import SUFFIXES, find_images, read_array, read_folder
from latens.data.images import (
    SPLITS,
    DataSet,
    Images,
    binarise,
    fix_bits,
    hold_out,
    jittered,
    joined,
    keep_labels,
    unit_pixels,
)
from latens.data.sources import SOURCES, Raw, data_folder, read_source
from latens.errors import LatensError, unknown

__all__ = [
    "SOURCES",
    "SPLITS",
    "Binarisation",
    "DataSet",
    "Images",
    "Target",
    "decode",
    "find_images",
    "jittered",
    "load_data",
    "load_split",
    "source_of",
    "unit_pixels",
]

FEWEST_IMAGES = 10
CELEBA = "celeba"
NAMES = {name: source.about for name, source in SOURCES.items()} | {
    CELEBA: "202,599 faces with 40 attributes (Liu et al. 2015), 64x64, colour; not downloaded"
}


def load_data(
    data: str | Path,
    *,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    binarisation: Binarisation | str = "none",
    validation: int | None = None,
    split_seed: int = 0,
    labels: int | None = None,
    skip_bad: bool = False,
) -> DataSet:
    """A data set by name, or from a folder of images, a `.npy` or a `.npz`.

    Args:
        data: a name of `SOURCES`, or a path.
        size: (H, W) that images of a folder are brought to; None finds one.
        grey: read a folder's images as grey even where there is colour.
        binarisation: how bits are made of grey levels, see `latens.data.images.binarise`.
        validation: how many training images are held out; None takes the data set's own number,
            or a tenth. A tenth is held out for testing too where there is no test split.
        split_seed: decides which images are held out, and which keep their label.
        labels: how many training images keep their label, evenly over the classes; None: all.
        skip_bad: leave out image files that cannot be read, and say which.

    Raises:
        LatensError: data that do not exist, cannot be read or are too few.
    """
    raw, default = _read(data, size, grey, skip_bad)
    if len(raw.train) < FEWEST_IMAGES:
        raise LatensError(
            f"{data} has {len(raw.train)} images: at least {FEWEST_IMAGES} are needed to train, "
            "validate and test"
        )
    train, held_out, test = _split(raw, validation, default, split_seed)
    for name, images in (("validation", held_out), ("test", test)):
        if images.shape != train.shape:
            raise LatensError(
                f"{data}: images of (C, H, W) {train.shape} to train on, but {images.shape} in "
                f"the {name} split"
            )
    if labels is not None:
        train = keep_labels(train, labels, split_seed)
    source = source_of(data)
    named = DataSet(
        Path(source).name,
        source,
        train,
        held_out,
        test,
        raw.classes,
        raw.attributes,
        crop=raw.crop,
    )
    return binarise(named, binarisation)


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


def source_of(data: str | Path) -> str:
    """What `load_data` can read again from anywhere: a data set's name, or an absolute path."""
    return str(data) if str(data) in NAMES else str(Path(data).expanduser().absolute())


def load_split(
    data: str | Path,
    split: str | None,
    shape: tuple[int, int, int],
    binarisation: Binarisation | str = "none",
    names: tuple[str, ...] = (),
) -> Images:
    """Images for a model that was not trained on them, brought to its (C, H, W) where they can be.

    Args:
        split: train, validation, test or all; None is the test split of data that have one, and
            otherwise all there is.
        names: the model's classes or attributes: labels are brought to their order.

    Raises:
        LatensError: data that do not exist or cannot be read, or a split they do not have.
    """
    channels, height, width = shape
    if str(data) in SOURCES:
        known = load_data(data, binarisation=binarisation)
        images = known.split(split or "test")
        return _renamed(images, known.classes or known.attributes, names)
    folder = str(data) == CELEBA or Path(data).expanduser().is_dir()
    raw, _ = _read(data, (height, width) if folder else None, folder and channels == 1)
    found = {name: getattr(raw, name) for name in SPLITS if getattr(raw, name) is not None}
    if split is None:
        split = "test" if "test" in found else "all"
    if split != "all" and split not in found:
        raise LatensError(f"{data} has no {split} split of its own: leave out --split")
    images = joined(list(found.values()) if split == "all" else [found[split]])
    images = _renamed(images, raw.classes or raw.attributes, names)
    return images if binarisation == "none" else fix_bits(images, binarisation)


def _renamed(images: Images, found: tuple[str, ...], names: tuple[str, ...]) -> Images:
    """The images with labels as indices into `names`; −1 for one that is not among them."""
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


def _read(
    data: str | Path, size: tuple[int, int] | None, grey: bool, skip_bad: bool = False
) -> tuple[Raw, int]:
    """The raw images, and how many are held out for validation by default (0: a tenth)."""
    path = Path(data).expanduser()
    try:
        str(data).encode()
    except UnicodeEncodeError:
        raise LatensError(f"the name {str(data)!r} is not valid UTF-8: rename it") from None
    if str(data) in SOURCES:
        if size or grey:
            raise LatensError(f"--size and --grey are for folders of images: {data} has its own")
        return read_source(str(data)), SOURCES[str(data)].validation
    if str(data) == CELEBA:
        path = data_folder() / CELEBA
    if str(data) == CELEBA or is_celeba(path):
        return read_celeba(path, Target(size or SIZE, 1 if grey else 3, CROP, skip_bad)), 0
    if path.is_dir():
        return read_folder(path, Target(size, 1 if grey else None, skip_bad=skip_bad)), 0
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        if size or grey:
            raise LatensError(f"--size and --grey are for folders of images, and {data} is none")
        return read_array(path), 0
    if path.is_file():
        raise LatensError(
            f"{data} is neither a folder of images nor a .npy or .npz file; a single image "
            "is too little to train on"
            if path.suffix.lower() in SUFFIXES
            else f"{data} is neither a folder of images nor a .npy or .npz file"
        )
    if len(path.parts) > 1 or path.suffix:
        raise LatensError(f"no such file or folder: {data}")
    raise unknown("data set (and no file or folder of that name either)", str(data), NAMES)
