"""Images as uint8 in one array, converted to floats batch by batch."""

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latens.config import Binarisation
from latens.errors import LatensError, unknown
from latens.limits import check

BINARISATION_SEED = 777  # as in Tomczak & Welling 2018, whose validation and test sets it fixes
SPLITS = ("train", "validation", "test")
SOME_SEED = 0  # of images that stand for all
BYTES_IN_BLOCK = 2**23  # of pixels, processed at a time when all images are read


def unit_pixels(
    pixels: UInt8[Tensor, "B C H W"], stochastic_binarize: bool
) -> Float[Tensor, "B C H W"]:
    """uint8 pixels as floats in [0, 1].

    Args:
        stochastic_binarize: draw each pixel as 0 or 1, with its grey level as the probability of 1.
    """
    x = pixels.float().div_(255)
    return torch.bernoulli(x) if stochastic_binarize else x


def jittered(x: Float[Tensor, "B C H W"], pixels: float) -> Float[Tensor, "B C H W"]:
    """Each image under its own small random affine map: shifted, rotated, scaled and sheared.

    Data augmentation against overfitting (Simard et al. 2003, "Best Practices for Convolutional
    Neural Networks").

    Args:
        pixels: the standard deviation in pixels of the shift in x and in y, and of the
            displacement of the border by the linear part.
    """
    count, _, height, width = x.shape
    if not count:  # affine_grid takes no empty batch, which one of several processes may get
        return x
    # In units of half the image, in which grid_sample measures
    scale = 2 * pixels / torch.tensor([width, height], device=x.device).reshape(2, 1)
    affine = torch.eye(2, 3, device=x.device) + scale * torch.randn(count, 2, 3, device=x.device)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirrored(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Half of the images, drawn at random, from right to left."""
    turned = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(turned, x.flip(-1), x)


@dataclass(frozen=True)
class Images:
    """Images and, where known, their labels: rows of one array that several splits share.

    Attributes:
        array: `[M, C, H, W]` uint8, in memory or memory-mapped; it is not copied until `pixels`
            is read.
        labels: class indices `[N]`, or rows of attributes `[N, A]` of 0 and 1; −1 where unknown;
            None where no image has any.
        stochastic_binarize: the grey levels are probabilities, and `unit` draws new bits each
            time.
        rows: which of the array's images these are, in their order; None is all of them.
        places: the row of each in what it was read from, where the array was made anew of it.
        shuffled: they lie in no order, neither of classes nor of time, so that the first of them
            stand for all.
    """

    array: UInt8[Tensor, "M C H W"]
    labels: Int64[Tensor, "N *A"] | None = None
    stochastic_binarize: bool = False
    rows: Int64[Tensor, " N"] | None = None
    places: Int64[Tensor, " N"] | None = None
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.array if self.rows is None else self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.array.shape[1:]
        return channels, height, width

    @property
    def pixels(self) -> UInt8[Tensor, "N C H W"]:
        """The images, gathered from the array."""
        # Whole rows are copied, where array[rows] picks single bytes
        return self.array if self.rows is None else self.array.index_select(0, self.rows)

    def take(self, index: Int64[Tensor, " n"] | slice) -> "Images":
        """The images at `index`, in its order."""
        about = {
            name: None if (values := getattr(self, name)) is None else values[index]
            for name in ("labels", "places")
        }
        if self.rows is not None:
            return replace(self, rows=self.rows[index], **about)
        if isinstance(index, slice):
            return replace(self, array=self.array[index], **about)
        return replace(self, rows=index, **about)

    @property
    def origins(self) -> Int64[Tensor, " N"]:
        """The row of each image in what it was read from."""
        if self.places is not None:
            return self.places
        return torch.arange(len(self)) if self.rows is None else self.rows

    def some_rows(self, count: int) -> Int64[Tensor, " n"]:
        """The rows of `some`."""
        if self.shuffled or count >= len(self):
            return torch.arange(min(count, len(self)))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(SOME_SEED))
        return order[:count].sort().values

    def some(self, count: int) -> "Images":
        """At most `count` images that stand for all, the same each time, in their order.

        Of a folder with a sub-folder for each class the first ones would be of one class.
        """
        return self.take(self.some_rows(count))

    def unit(self) -> Float[Tensor, "N C H W"]:
        """All pixels as floats in [0, 1], ready for a model."""
        return unit_pixels(self.pixels, self.stochastic_binarize)

    def batches(self, size: int) -> Iterator["Images"]:
        """Consecutive batches in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def blocks(self) -> Iterator["Images"]:
        """Consecutive batches of at most `BYTES_IN_BLOCK`, to go through sets of any size."""
        return self.batches(max(1, BYTES_IN_BLOCK // math.prod(self.shape)))


@dataclass(frozen=True)
class DataSet:
    """A named set of images in three splits.

    Attributes:
        name: the data set's name, or that of its file or folder.
        source: what `load_data` reads it from again: the data set's name, or an absolute path;
            `IN_MEMORY` for images that were given from Python.
        train, validation, test: the splits.
        classes: the names of the labels 0, 1, 2, … where an image has one of them.
        attributes: the names of the labels' columns where an image has or lacks each of them.
        binary: every pixel that a model sees is 0 or 1.
        crop: the share of its width that was cut out of the middle of each image; None: all.
    """

    name: str
    source: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    binary: bool = False
    crop: float | None = None

    def __post_init__(self) -> None:
        for name in (*self.classes, *self.attributes):
            check("name_length", len(name), f"the name of a class of {self.name} has")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    def split(self, name: str) -> Images:
        """The images of one split, or of "all" three in turn, with bits drawn once.

        Raises:
            LatensError: no such split.
        """
        if name in SPLITS:
            return getattr(self, name)
        if name != "all":
            raise unknown("split", name, (*SPLITS, "all"))
        return joined([getattr(self, name) for name in SPLITS])

    def fingerprint(self, known_only: bool = False) -> str:
        """sha256 over pixels, labels and splits.

        Args:
            known_only: of labels, as runs of 0.1.0 have it where no test image of a `.npz` has one.
        """
        digest = hashlib.sha256()
        for name in SPLITS:
            images = self.split(name)
            digest.update(
                f"{name} {len(images)} {images.shape} {images.stochastic_binarize}".encode()
            )
            for batch in images.blocks():
                digest.update(batch.pixels.contiguous().numpy().data)
            if images.labels is not None and not (known_only and (images.labels < 0).all()):
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


def keep_labels(images: Images, count: int, seed: int) -> Images:
    """The images with only `count` labels left, drawn by `seed` evenly over the classes.

    Raises:
        LatensError: fewer labels than that, or none.
    """
    labels = images.labels
    known = torch.zeros(0) if labels is None else (labels >= 0).reshape(len(labels), -1).any(1)
    if labels is None or count > known.sum():
        raise LatensError(f"cannot keep {count} labels: {int(known.sum())} images have one")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[known[order]]
    if labels.dim() == 1:  # the first image of every class, then the second of every class, …
        of = labels[order]
        rank = torch.empty_like(of)
        for label in of.unique():
            rank[of == label] = torch.arange(int((of == label).sum()))
        order = order[torch.argsort(rank, stable=True)]
    kept = torch.full_like(labels, -1)
    kept[order[:count]] = labels[order[:count]]
    return replace(images, labels=kept)


def binarise(data: DataSet, how: Binarisation | str) -> DataSet:
    """The data set with bits for pixels.

    "threshold" is 1 from grey level 128 up. "static" draws each bit once, with a fixed seed.
    "dynamic" draws training bits anew each time (Salakhutdinov & Murray 2008; Burda et al.
    2016) and fixes those of validation and test by the seed, so that results are comparable.

    Raises:
        LatensError: no such binarisation.
    """
    if how not in get_args(Binarisation):
        raise unknown("binarisation", how, get_args(Binarisation))
    if how == "none":
        return replace(data, binary=all(_is_binary(data.split(name)) for name in SPLITS))
    generator = torch.Generator().manual_seed(BINARISATION_SEED)
    splits = {name: fix_bits(data.split(name), how, generator) for name in SPLITS}
    if how == "dynamic":
        splits["train"] = replace(data.train, stochastic_binarize=True)
    return replace(data, **splits, binary=True)


def fix_bits(images: Images, how: str, generator: torch.Generator | None = None) -> Images:
    """The images with bits that stay as they are: by threshold, or drawn once by a fixed seed.

    One generator draws for all images, in turn: so a data set of the field has the bits that are
    usual.
    """
    drawing = generator or torch.Generator().manual_seed(BINARISATION_SEED)
    return _with_bits(images, how, lambda grey: torch.bernoulli(grey / 255, generator=drawing))


def own_bits(images: Images, how: str) -> Images:
    """As `fix_bits`, but with a generator of each image's own: no bit depends on other images.

    Args:
        how: "none" leaves the images as they are.
    """
    if how == "none":
        return images

    def draw(grey: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        seeds = (zlib.crc32(image.tobytes(), BINARISATION_SEED) for image in grey.numpy())
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        share = grey / 255
        return torch.stack(
            [torch.bernoulli(p, generator=own) for p, own in zip(share, generators, strict=True)]
        )

    return _with_bits(images, how, draw)


def _with_bits(images: Images, how: str, draw: Callable[[Tensor], Tensor]) -> Images:
    array = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    done = 0
    for block in images.blocks():
        grey = block.pixels
        array[done : done + len(block)] = (grey >= 128 if how == "threshold" else draw(grey)) * 255
        done += len(block)
    return replace(images, array=array, rows=None, places=images.origins, stochastic_binarize=False)


def joined(parts: list[Images]) -> Images:
    """Images of several splits in turn, with fixed bits; −1 where a part has no labels."""
    parts = [fix_bits(part, "static") if part.stochastic_binarize else part for part in parts]
    if len(parts) == 1:
        return parts[0]
    shapes = {part.labels.shape[1:] for part in parts if part.labels is not None}
    pixels = torch.cat([part.pixels for part in parts])
    if not shapes:
        return Images(pixels)
    shape = shapes.pop()
    unknown_labels = (torch.full((len(part), *shape), -1) for part in parts)
    labels = [
        none if part.labels is None else part.labels
        for part, none in zip(parts, unknown_labels, strict=True)
    ]
    return Images(pixels, torch.cat(labels))


def _is_binary(images: Images) -> bool:
    if images.stochastic_binarize:
        return True
    batches = (batch.pixels for batch in images.blocks())
    return all(bool(((pixels == 0) | (pixels == 255)).all()) for pixels in batches)
