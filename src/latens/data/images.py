"""Images in memory: uint8 in one array until they are in the batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latens.errors import LatensError, unknown

Binarisation = Literal["none", "dynamic", "threshold", "static"]
BINARISATION_SEED = 777  # as in Tomczak & Welling 2018, whose validation and test sets it fixes
SPLITS = ("train", "validation", "test")
_AT_ONCE = 65_536  # images handled at a time where a whole set is walked through


def unit_pixels(pixels: UInt8[Tensor, "B C H W"], draw_bits: bool) -> Float[Tensor, "B C H W"]:
    """uint8 pixels as floats in [0, 1]; with `draw_bits` as bits, 1 with that probability."""
    x = pixels.float() / 255
    return torch.bernoulli(x) if draw_bits else x


@dataclass(frozen=True)
class Images:
    """Images and, where known, their labels.

    Attributes:
        pixels: `[N, C, H, W]` uint8, in memory or memory-mapped.
        labels: `[N]` class indices, −1 where unknown; None where no image has one.
        draw_bits: the grey levels are probabilities, and each visit draws fresh bits.
    """

    pixels: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"] | None = None
    draw_bits: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def take(self, index: Int64[Tensor, " n"] | slice) -> "Images":
        """The images at `index`, in its order."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, pixels=self.pixels[index], labels=labels)

    def unit(self) -> Float[Tensor, "N C H W"]:
        """All pixels as floats in [0, 1], ready for a model."""
        return unit_pixels(self.pixels, self.draw_bits)

    def batches(self, size: int) -> Iterator["Images"]:
        """Consecutive batches in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


@dataclass(frozen=True)
class DataSet:
    """A named set of images in three splits.

    Attributes:
        name: what it is called: the data set's name, or that of its file or folder.
        source: what `load_data` reads it from again: the data set's name, or an absolute path.
        train, validation, test: the splits.
        classes: the names of the labels 0, 1, 2, …
        binary: every pixel that a model sees is 0 or 1.
    """

    name: str
    source: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...] = ()
    binary: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    def split(self, name: str) -> Images:
        """The images of one split, or of "all" three in turn.

        Raises:
            LatensError: no such split.
        """
        if name in SPLITS:
            return getattr(self, name)
        if name != "all":
            raise unknown("split", name, (*SPLITS, "all"))
        parts = [self.train, self.validation, self.test]
        labels = None if self.train.labels is None else [part.labels for part in parts]
        return Images(
            torch.cat([part.pixels for part in parts]),
            None if labels is None else torch.cat(labels),  # type: ignore[arg-type]
        )

    def fingerprint(self) -> str:
        """sha256 over pixels, labels and splits: the same only for the very same data."""
        digest = hashlib.sha256()
        for name in SPLITS:
            images = self.split(name)
            digest.update(f"{name} {tuple(images.pixels.shape)} {images.draw_bits}".encode())
            for batch in images.batches(_AT_ONCE):
                digest.update(batch.pixels.contiguous().numpy().data)
            if images.labels is not None:
                digest.update(images.labels.numpy().data)
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        """How many images each split has."""
        return {name: len(self.split(name)) for name in SPLITS}


def hold_out(images: Images, count: int, seed: int, what: str) -> tuple[Images, Images]:
    """`count` images drawn at random by `seed`, and the rest: (rest, held out).

    Raises:
        LatensError: nothing would be left, or nothing held out.
    """
    if not 0 < count < len(images):
        raise LatensError(
            f"cannot hold out {count} of {len(images)} images for {what}: "
            "at least 1 must be held out and 1 must be left"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rest, held_out = order[count:].sort().values, order[:count].sort().values
    return images.take(rest), images.take(held_out)


def binarise(data: DataSet, how: Binarisation | str) -> DataSet:
    """The data set with bits for pixels.

    "threshold" is 1 from grey level 128 up. "static" draws each bit once, by a fixed seed.
    "dynamic" draws training bits afresh at each visit (Salakhutdinov & Murray 2008; Burda et al.
    2016) and fixes those of validation and test by the seed, so that figures can be compared.

    Raises:
        LatensError: no such binarisation.
    """
    if how not in get_args(Binarisation):
        raise unknown("binarisation", how, get_args(Binarisation))
    if how == "none":
        return replace(data, binary=all(_is_binary(data.split(name)) for name in SPLITS))
    generator = torch.Generator().manual_seed(BINARISATION_SEED)
    splits = {}
    for name in SPLITS:
        images = data.split(name)
        if how == "dynamic" and name == "train":
            splits[name] = replace(images, draw_bits=True)
        else:
            splits[name] = replace(images, pixels=_bits(images, how, generator))
    return replace(data, **splits, binary=True)


def _bits(images: Images, how: str, generator: torch.Generator) -> Tensor:
    pixels = torch.empty(images.pixels.shape, dtype=torch.uint8)
    for start in range(0, len(images), _AT_ONCE):
        grey = images.pixels[start : start + _AT_ONCE]
        if how == "threshold":
            bits = grey >= 128
        else:
            bits = torch.bernoulli(grey.float() / 255, generator=generator)
        pixels[start : start + _AT_ONCE] = bits * 255
    return pixels


def _is_binary(images: Images) -> bool:
    return all(
        bool(((batch.pixels == 0) | (batch.pixels == 255)).all())
        for batch in images.batches(_AT_ONCE)
    )
