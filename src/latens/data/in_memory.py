"""Images given from Python: arrays, and data sets that give images by index.

What torchvision and Hugging Face call a data set is recognised by its methods and attributes;
neither library is imported.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.data.arrays import (
    GREY_OR_RGB,
    IMAGE_KEYS,
    LABEL_KEYS,
    as_pixels,
    class_indices,
    note_rounding,
    pixels_and_loss,
)
from latens.data.decoding import Header, Target, decode_each, header_of, naming, to_array
from latens.data.files import SPLIT_FOLDERS, split_by
from latens.data.images import DataSet, Images
from latens.data.sources import Raw
from latens.errors import LatensError

BYTES_KEPT = 2**29  # of decoded images, which are read once; further ones are read twice
THE_DATA = "the data set"  # what messages call it


@runtime_checkable
class ByIndex(Protocol):
    """A data set whose items are asked for by 0, 1, …, as torch and Hugging Face have them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def is_path(data: Any) -> bool:
    """Whether data are given by a name or a path, and not in memory."""
    return isinstance(data, str | os.PathLike)


def name_in_memory(data: Any) -> str:
    """A short name: `arrays`, `images`, or the data set's own, such as `mnist` or `cifar10`."""
    if isinstance(data, DataSet):
        return data.name
    if isinstance(data, Mapping) and data:
        return name_in_memory(next(iter(data.values())))
    if _is_array(data) or _is_pair(data):
        return "arrays"
    if isinstance(data, Images | list | tuple | Mapping):
        return "images"
    data = _innermost(data)
    known = getattr(getattr(data, "info", None), "dataset_name", None)  # Hugging Face
    return known if isinstance(known, str) and known else type(data).__name__.lower()


def read_in_memory(data: Any, target: Target, names: tuple[str, ...] = ()) -> Raw:
    """Images that are given as Python objects, and their labels.

    Args:
        data: an array or tensor as `as_pixels` takes it; a pair of one and its labels; an `Images`
            or a `DataSet`; a data set with `__len__` and `__getitem__` whose items are images,
            pairs (image, label) or mappings; or a mapping from train, validation and test to any
            of these but a `DataSet`. An image is a PIL image, or an array `[H, W]`, `[C, H, W]`
            or `[H, W, C]`. A label is a whole number, a text, a row of attributes, or None.
        target: the size and the channels that images are converted to, as those of a folder.
        names: the classes or attributes that whole numbers stand for, if the data name none.

    Raises:
        LatensError: no such data, no images in them, an item that is not an image, or labels that
            do not fit.
    """
    if isinstance(data, DataSet):
        _refuse_target(target)
        return Raw(data.train, data.validation, data.test, data.classes, data.attributes, data.crop)
    parts = _splits(data)
    own = class_names(data)
    arrays = {name: part for name, part in parts.items() if _is_whole(part)}
    images, labels = _read_arrays(arrays, target.value_range)
    if any(isinstance(part, Images) for part in arrays.values()):
        _refuse_target(target)
    if len(arrays) == len(parts) and all(_fits(part, target) for part in images.values()):
        return _labelled(images, labels, own, names)
    for name, part in images.items():
        parts[name] = list(zip(part.pixels, labels[name], strict=True))
    return _read_items(parts, target, own, names)


def class_names(data: Any) -> tuple[str, ...]:
    """The names of the labels 0, 1, … or of the attributes, where the data set has some.

    torchvision has `data.classes` or `data.attr_names`, Hugging Face `data.features[…].names`.
    """
    if isinstance(data, Mapping) and data:
        return class_names(next(iter(data.values())))
    data = _innermost(data, "classes", "attr_names", "features")
    features = getattr(data, "features", None)
    found = getattr(data, "classes", None) or getattr(data, "attr_names", None)
    if isinstance(features, Mapping):
        key = next((key for key in LABEL_KEYS if key in features), None)
        found = getattr(features.get(key), "names", None)
    if not isinstance(found, list | tuple):
        return ()
    texts = [", ".join(name) if isinstance(name, tuple) else str(name) for name in found]
    return tuple(text for text in texts if text)  # CelebA's in torchvision end with an empty one


def _innermost(data: Any, *attributes: str) -> Any:
    """What a subset is of, as `torch.utils.data.Subset` has it, or the first with an attribute."""
    while hasattr(data, "dataset") and not any(hasattr(data, name) for name in attributes):
        data = data.dataset
    return data


# ---- what is given ---------------------------------------------------------------------------


def _is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray | Tensor)


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim in (2, 3))


def _is_pair(data: Any) -> bool:
    """Whether this is (images, labels): neither two images nor two items."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not _is_array(data[0]):
        return False
    images, labels = data
    if not _is_array(labels):
        return isinstance(labels, list | tuple)
    return labels.ndim == 1 or (labels.ndim == 2 and images.ndim > 2)


def _is_whole(data: Any) -> bool:
    """Whether the images are in one array, and not given one by one."""
    return isinstance(data, Images) or _is_array(data) or _is_pair(data)


def _to_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def _splits(data: Any) -> dict[str, Any]:
    """What is given for each split; data without named splits are for training.

    Raises:
        LatensError: no data set, an empty one, or keys that do not name splits.
    """
    parts = {"train": data}
    if isinstance(data, Mapping):
        parts = {SPLIT_FOLDERS.get(str(key), str(key)): part for key, part in data.items()}
        strange = sorted(parts.keys() - set(SPLIT_FOLDERS.values()))
        if strange or len(parts) < len(data) or "train" not in parts:
            raise LatensError(
                f"a mapping with {', '.join(map(str, data)) or 'no splits'}: its keys must be "
                "train and, if there are any, validation and test"
            )
    for name, part in parts.items():
        where = f"the {name} split" if isinstance(data, Mapping) else "data"
        if not isinstance(part, Images | ByIndex):
            raise LatensError(
                f"{where} cannot be of type {type(part).__name__}: give a name, a path, "
                "arrays, or a data set with __len__ and __getitem__"
            )
        if len(part) == 0:
            raise LatensError(f"{where} is empty: there are no images in it")
    return parts


def _fits(images: Images, target: Target) -> bool:
    channels, *size = images.shape
    return target.channels in (None, channels) and target.size in (None, tuple(size))


def _refuse_target(target: Target) -> None:
    if target.size or target.channels:
        raise LatensError(
            "size and grey do not apply to an Images or a DataSet of latens: give the original "
            "images"
        )


# ---- arrays ----------------------------------------------------------------------------------


def _read_arrays(
    parts: Mapping[str, Any], value_range: tuple[float, float] | None
) -> tuple[dict[str, Images], dict[str, list[Any]]]:
    """The images of each split, and a label or None for each image.

    Raises:
        LatensError: arrays that are not images, or not as many labels as images.
    """
    images, labels = {}, {}
    for name, part in parts.items():
        given = None
        if isinstance(part, Images):
            images[name], given = part, part.labels
        elif _is_array(part):
            images[name] = Images(as_pixels(_to_numpy(part), THE_DATA, value_range))
        else:
            array, given = part
            images[name] = Images(as_pixels(_to_numpy(array), THE_DATA, value_range))
        count = len(images[name])
        given = [None] * count if given is None else given
        if len(given) != count:
            raise LatensError(
                f"{THE_DATA} has {count} images but {len(given)} labels: one label per image is "
                "needed"
            )
        given = given.tolist() if isinstance(given, np.ndarray | Tensor) else given
        labels[name] = [_plain_label(label, i) for i, label in enumerate(given)]
    return images, labels


def _labelled(
    images: Mapping[str, Images],
    labels: Mapping[str, list[Any]],
    own: tuple[str, ...],
    names: tuple[str, ...],
) -> Raw:
    """The images with their labels as indices into names that all splits share."""
    every = [label for part in labels.values() for label in part]
    classes, attributes, indices = _index(every, own, names)
    if indices is not None:
        parts = indices.split([len(part) for part in images.values()])
        images = {
            name: replace(part, labels=index)
            for (name, part), index in zip(images.items(), parts, strict=True)
        }
    return Raw(images["train"], images.get("validation"), images.get("test"), classes, attributes)


# ---- items -----------------------------------------------------------------------------------


class _Items:
    """The items of one or several splits, in turn, each converted as it is read.

    Each item is read twice, first for the image's size and then for its pixels, except for the
    first `BYTES_KEPT` of images, which stay in memory in between.

    Attributes:
        splits: the split of each item.
        labels: the label of each item that was read.
        lossy: whether floats of any image were rounded.
    """

    def __init__(
        self, parts: Mapping[str, ByIndex], value_range: tuple[float, float] | None = None
    ):
        self._parts, self._range = parts, value_range
        self._places = [(name, i) for name, part in parts.items() for i in range(len(part))]
        self._kept: dict[int, Image.Image] = {}
        self._bytes = 0
        self.splits = [name for name, _ in self._places]
        self.labels: list[Any] = [None] * len(self._places)
        self.lossy = False

    def __len__(self) -> int:
        return len(self._places)

    def header(self, i: int) -> Header:
        """Size and mode of image i."""
        image = self._image(i)
        header = header_of(image, self._name(i))
        self._bytes += image.width * image.height * len(image.getbands())
        if self._bytes < BYTES_KEPT:
            self._kept[i] = image
        return header

    def pixels(self, i: int, target: Target) -> np.ndarray:
        """Image i as uint8 `[C, H, W]`."""
        image = self._kept.pop(i, None) or self._image(i)
        with naming(self._name(i)):
            return to_array(image, target)

    def _name(self, i: int) -> str:
        split, index = self._places[i]
        return f"item {index}" if len(self._parts) == 1 else f"item {index} of {split}"

    def _image(self, i: int) -> Image.Image:
        split, index = self._places[i]
        with naming(self._name(i)):
            image, label = _image_and_label(self._parts[split][index], self._name(i))
            self.labels[i] = _plain_label(label, index)
            if isinstance(image, Image.Image):
                image.load()
                return image
            array = _to_numpy(image)[None]
            pixels, lossy = pixels_and_loss(array, self._name(i), self._range)
        self.lossy = self.lossy or (lossy and self._range is None)
        if len(pixels[0]) not in GREY_OR_RGB:
            raise LatensError(
                f"{self._name(i)} has {len(pixels[0])} channels, and items are grey or RGB (1 "
                "channel or 3): give all images as one array [N, C, H, W]"
            )
        channels_last = pixels[0].permute(1, 2, 0).numpy()
        return Image.fromarray(channels_last.squeeze(2) if len(pixels[0]) == 1 else channels_last)


def _read_items(
    parts: Mapping[str, ByIndex],
    target: Target,
    own: tuple[str, ...],
    names: tuple[str, ...],
) -> Raw:
    items = _Items(parts, target.value_range)
    pixels, bad = decode_each(len(items), items.header, items.pixels, target)
    if items.lossy:
        note_rounding(THE_DATA)
    classes, attributes, labels = _index(items.labels, own, names)
    raw = split_by(Images(torch.from_numpy(pixels), labels), items.splits, bad)
    return replace(raw, classes=classes, attributes=attributes)


def _image_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """The image of an item, and its label or None.

    Raises:
        LatensError: there is not one image in it.
    """
    if _is_image(item):
        return item, None
    if isinstance(item, Mapping):
        keys = [key for key in IMAGE_KEYS if key in item][:1]
        keys = keys or [key for key, value in item.items() if _is_image(value)]
        if len(keys) == 1 and _is_image(item[keys[0]]):
            return item[keys[0]], next((item[key] for key in LABEL_KEYS if key in item), None)
        raise LatensError(
            f"{name} is a mapping with {', '.join(map(str, item)) or 'nothing'}: it must have one "
            f"image, under {', '.join(IMAGE_KEYS[:-1])} or {IMAGE_KEYS[-1]}"
        )
    if isinstance(item, tuple | list) and len(item) in (1, 2) and _is_image(item[0]):
        return item[0], item[1] if len(item) == 2 else None
    what = type(item).__name__
    if isinstance(item, tuple | list):
        what += f" with {', '.join(type(value).__name__ for value in item[:3])}"
    elif _is_array(item):
        what += f" of shape {tuple(item.shape)}"
    raise LatensError(f"{name} is not an image but of type {what}: give images or (image, label)")


# ---- labels ----------------------------------------------------------------------------------


def _plain_label(label: Any, i: int) -> Any:
    """A label as a number, a text, a tuple of attributes, or None.

    Raises:
        LatensError: it is something else.
    """
    if _is_array(label) or isinstance(label, np.generic):
        label = label.tolist()
    if isinstance(label, list | tuple):
        label = label[0] if len(label) == 1 else tuple(label)
    attributes = isinstance(label, tuple) and all(value in (-1, 0, 1) for value in label)
    if label is None or isinstance(label, int | float | str) or attributes:
        return label
    raise LatensError(
        f"item {i} has a label of type {type(label).__name__}: give a whole number, a name, or "
        "attributes of 0 and 1"
    )


def _index(
    labels: Sequence[Any], own: tuple[str, ...], names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], Tensor | None]:
    """Names of classes, names of attributes (one of them empty), and labels as indices into them.

    Args:
        own: the names that the data have themselves.
        names: what whole numbers and attributes stand for otherwise; empty names them as text.

    Raises:
        LatensError: labels of several kinds, or outside of the names.
    """
    known = [label for label in labels if label is not None and label != -1]
    if not known:
        return (), (), None
    rows = {len(label) if isinstance(label, tuple) else 0 for label in known}
    if len(rows) > 1:
        raise LatensError(f"{THE_DATA} has labels of different kinds: give one kind")
    names = own or names
    width = rows.pop()
    if width:
        names = names if len(names) == width else tuple(map(str, range(width)))
        table = [label if isinstance(label, tuple) else (-1,) * width for label in labels]
        return (), names, torch.tensor(table)
    if names and all(isinstance(label, int) for label in known):
        if max(known) >= len(names) or min(known) < 0:
            raise LatensError(
                f"{THE_DATA} has labels from {min(known)} to {max(known)}, but {len(names)} class "
                "names"
            )
        return names, (), torch.tensor([-1 if label is None else int(label) for label in labels])
    classes, indices = class_indices(labels, THE_DATA, own)
    return classes, (), indices
