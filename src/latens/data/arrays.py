"""Arrays of images as uint8 pixels, and labels as indices into class names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from latens.console import note
from latens.data.decoding import levels_between
from latens.errors import LatensError

GREY_OR_RGB, MOST_CHANNELS = (1, 3), 64
# Under which a row that is a mapping, or a table, may hold an image and its label
IMAGE_KEYS = ("image", "img", "images", "pixel_values")
LABEL_KEYS = ("label", "labels", "cls", "class", "fine_label")
IMAGES_IN_BLOCK = 1_024  # floats are rounded so many images at a time, which bounds the memory


def as_pixels(
    array: np.ndarray, name: str | Path, value_range: tuple[float, float] | None = None
) -> UInt8[Tensor, "N C H W"]:
    """An array of images as uint8 `[N, C, H, W]`; a uint8 array shares its memory.

    Args:
        array: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`; uint8, bool, integers from 0 to 255,
            or floats in [0, 1], which are rounded to 256 levels. A note says so where that loses
            precision. C is 1 or 3 where one of the two axes has that size, else the smaller one.
        name: what messages call the array.
        value_range: the values of black and of white; None: as above. Between them are 256 levels.

    Raises:
        LatensError: wrong rank, channels, type or values; or no image at all.
    """
    pixels, lossy = pixels_and_loss(array, name, value_range)
    if lossy and value_range is None:
        note_rounding(name)
    return pixels


def note_rounding(name: str | Path) -> None:
    """Tell the user that floats did not survive as they were."""
    note(f"{name} holds floats between the 256 grey levels: they were rounded to 8 bits")


def pixels_and_loss(
    array: np.ndarray, name: str | Path, value_range: tuple[float, float] | None = None
) -> tuple[UInt8[Tensor, "N C H W"], bool]:
    """As `as_pixels`, and whether rounding lost precision, without a note.

    Raises:
        LatensError: as in `as_pixels`.
    """
    if array.ndim not in (3, 4):
        raise LatensError(
            f"{name} has shape {array.shape}: images must be [N, H, W], [N, H, W, C] or "
            "[N, C, H, W]"
        )
    if array.size == 0:
        raise LatensError(f"{name} has shape {array.shape}: it contains no images")
    if array.ndim == 3:
        array = array[:, None]
    elif _has_channels_last(array.shape, name):
        array = array.transpose(0, 3, 1, 2)
    array, lossy = _as_uint8(array, name, value_range)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch takes neither
    return torch.from_numpy(array), lossy


def _has_channels_last(shape: tuple[int, ...], name: str | Path) -> bool:
    _, first, height, last = shape
    if last in GREY_OR_RGB or first in GREY_OR_RGB:
        return last in GREY_OR_RGB
    if first == last or min(first, last) > min(MOST_CHANNELS, height):
        raise LatensError(
            f"{name} has shape {shape}: which axis holds the channels cannot be told: give "
            f"[N, C, H, W] with at most {MOST_CHANNELS} channels, and no more than rows"
        )
    return last < first


def _as_uint8(
    array: np.ndarray, name: str | Path, value_range: tuple[float, float] | None
) -> tuple[np.ndarray, bool]:
    if value_range is not None and array.dtype.kind in "fiu":
        return _between(array, name, value_range), True
    if array.dtype == np.uint8:
        return array, False
    if array.dtype == np.bool_:
        return array * np.uint8(255), False
    if array.dtype.kind not in "fiu":
        raise LatensError(f"{name} holds {array.dtype}: pixels must be uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if np.isnan(low):
        raise LatensError(f"{name} holds NaN: fix or remove those images")
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise LatensError(
                f"{name} holds integers from {low} to {high}: pixels are 0 to 255, or "
                "between the ends of --range LOW,HIGH"
            )
        return array.astype(np.uint8), False
    if low < 0 or high > 1:
        raise LatensError(
            f"{name} holds floats from {low:g} to {high:g}: scale them to [0, 1], or give "
            "--range LOW,HIGH"
        )
    return _rounded(array)


def _between(array: np.ndarray, name: str | Path, value_range: tuple[float, float]) -> np.ndarray:
    pixels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), IMAGES_IN_BLOCK):
        block = slice(start, start + IMAGES_IN_BLOCK)
        try:
            pixels[block] = levels_between(array[block], value_range)
        except ValueError as error:
            raise LatensError(f"{name}: {error}; fix or remove those images") from error
    return pixels


def _rounded(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Floats in [0, 1] as 256 levels, and whether any was between two levels."""
    pixels = np.empty(array.shape, np.uint8)
    # k / 255 comes back as k up to the precision of its type
    tolerance = max(1e-3, 255 * float(np.finfo(array.dtype).eps))
    lossy = False
    for start in range(0, len(array), IMAGES_IN_BLOCK):
        block = slice(start, start + IMAGES_IN_BLOCK)
        levels = array[block].astype(np.result_type(array.dtype, np.float32)) * 255
        nearest = np.rint(levels)
        pixels[block] = nearest
        lossy = lossy or bool((np.abs(levels - nearest) > tolerance).any())
    return pixels, lossy


def class_indices(
    labels: Sequence[Any], name: str | Path, known: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], Int64[Tensor, " N"]]:
    """The names of the classes, and each label as an index into them; −1 where it is unknown.

    Args:
        labels: whole numbers or texts; None and the integer −1 are unknown.
        name: what messages call the data.
        known: the names, where they are given; None takes the sorted labels as text.

    Raises:
        LatensError: labels that are no classes, or that are not among `known`.
    """
    wrong = LatensError(f"{name} has labels that are not classes: use whole numbers or names")

    def whole(label: Any) -> Any:
        if isinstance(label, float) and not label.is_integer():
            raise wrong
        label = int(label) if isinstance(label, float) else label
        return None if label == -1 else label

    labels = [whole(label) for label in labels]
    try:
        values = sorted({label for label in labels if label is not None})
    except TypeError:  # numbers beside texts, or neither
        raise wrong from None
    names = known or tuple(str(value) for value in values)
    strange = {str(value) for value in values} - set(names)
    if strange:
        raise LatensError(
            f"{name} has labels that are not among its classes: {', '.join(sorted(strange))}"
        )
    index = {text: i for i, text in enumerate(names)}
    return names, torch.tensor([-1 if label is None else index[str(label)] for label in labels])
