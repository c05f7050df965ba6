"""The named data sets: where they come from, and their checksums."""

import gzip
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import requests
import torch
from jaxtyping import UInt8

from latens.data.cache import cached, stamp
from latens.data.decoding import Target
from latens.data.images import Images
from latens.data.shapes import FORMS, draw_shapes, shuffled_factors
from latens.errors import LatensError, unknown
from latens.files import gunzip, scratch
from latens.limits import check_unpacked

DIGITS = tuple("0123456789")
UNSIGNED_BYTES = 0x08  # the type of the values of an IDX file
KEPT_FROM = 1_000_000  # bytes of a packed file: smaller ones are unpacked each time
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Raw:
    """Images as read from a source, before they are split and binarised.

    Splits that the source does not have are None.
    """

    train: Images
    validation: Images | None = None
    test: Images | None = None
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    crop: float | None = None


@dataclass(frozen=True)
class Source:
    """A data set with a name.

    Attributes:
        about: one line for `latens data`.
        read: reads the source's files.
        validation: how many training images are held out unless the user says otherwise.
        folder: where its files are, below the data folder.
        mirrors: addresses of the folder that holds the files, tried in turn.
        files: file name -> md5.
        classes: the names of the labels.
    """

    about: str
    read: Callable[["Source"], Raw]
    validation: int
    folder: str = ""
    mirrors: tuple[str, ...] = ()
    files: dict[str, str] | None = None
    classes: tuple[str, ...] = DIGITS


def data_folder() -> Path:
    """Where downloads are kept: `LATENS_DATA`, or the user's cache.

    Raises:
        LatensError: `LATENS_DATA` is set and is not a folder.
    """
    chosen = os.environ.get("LATENS_DATA")
    if not chosen:
        return Path(pooch.os_cache("latens"))
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise LatensError(
            f"LATENS_DATA is '{chosen}', which is not a folder: create it or unset it"
        )
    return folder


def fetch(source: Source, file: str) -> Path:
    """The path of one file of `source`, downloaded unless it is there with the right checksum.

    Downloads are atomic: a file appears under its name only once its checksum is verified.

    Raises:
        LatensError: the file is not available from any mirror.
    """
    path = data_folder() / source.folder / file
    known_hash = f"md5:{(source.files or {})[file]}"
    if path.is_file() and _md5(path.read_bytes()) == (source.files or {})[file]:
        return path
    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for mirror in source.mirrors:
        try:
            with scratch(path) as partial:
                bar = sys.stderr.isatty()
                found = pooch.retrieve(mirror + file, known_hash, file, partial, progressbar=bar)
                Path(found).replace(path)
            return path
        except (requests.RequestException, ValueError) as error:
            reasons.append(f"{mirror}: {reason_of(error)}")
    advice = f"set LATENS_DATA to a folder that contains {source.folder}/{file}"
    if path.is_file():
        advice = f"name {path.parent} in its place: a file of that name, but not its MD5, is there"
    raise LatensError(
        f"cannot download {source.folder}/{file}: {'; '.join(reasons)}. Check the network, or "
        f"{advice}"
    )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def reason_of(error: Exception) -> str:
    """Why an address could not be read, in a few words."""
    match error:
        case requests.HTTPError(response=requests.Response(status_code=status)):
            return f"HTTP status {status}"
        case requests.ConnectionError():
            return "no connection"
        case requests.Timeout():
            return "no answer"
        case ValueError():
            return "the downloaded file has the wrong checksum"
    return type(error).__name__


def _images(pixels: np.ndarray, labels: np.ndarray | None = None) -> Images:
    return Images(
        torch.from_numpy(pixels)[:, None],
        None if labels is None else torch.from_numpy(labels.astype(np.int64)),
    )


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """An array in the IDX format: two zeros, type, rank, big-endian sizes, then the values.

    Raises:
        LatensError: a damaged file, or one of another format.
    """
    if path.suffix == ".gz" and path.stat().st_size >= KEPT_FROM:
        return _kept(path, lambda: _unpacked_idx(path, rank))
    return _unpacked_idx(path, rank)


def _kept(path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What `read` gives, which takes longer than to map it from the cache of decoded images."""

    def write(temporary: Path) -> dict[str, Any]:
        with temporary.open("wb") as file:
            np.save(file, read())
        return {}

    try:
        return cached(str(path.resolve()), Target(), stamp(path, path.parent), write)[0]
    except LatensError:  # no room for it, or a damaged file
        return read()


def _unpacked_idx(path: Path, rank: int) -> np.ndarray:
    is_packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if is_packed else path.open("rb") as file:
            magic, sizes = file.read(4), file.read(4 * rank)
            if magic != bytes((0, 0, UNSIGNED_BYTES, rank)):
                raise ValueError
            shape = [int(size) for size in np.frombuffer(sizes, ">u4", count=rank)]
            if is_packed:
                check_unpacked(path, math.prod(shape))
            elif math.prod(shape) > path.stat().st_size:
                raise ValueError
            values = np.empty(shape, np.uint8)
            if file.readinto(values.reshape(-1).data) < values.size or file.read(1):
                raise ValueError
        return values
    except (OSError, EOFError, ValueError, zlib.error) as error:
        what = "images" if rank == 3 else "labels"
        raise LatensError(f"{path} is truncated or no IDX file of {what}") from error


def is_idx(path: Path) -> bool:
    """Whether a folder holds images in the files of MNIST and Fashion-MNIST, gzipped or not."""
    return any((path / name).is_file() for name in _variants(IDX_FILES[0]))


def read_idx_folder(path: Path) -> Raw:
    """The images and labels of such a folder; its test files may be missing.

    Raises:
        LatensError: a file that is missing or cannot be read, or labels of another number.
    """
    splits, highest = [], 0
    for images_file, labels_file in (IDX_FILES[:2], IDX_FILES[2:]):
        paths = [_found(path, images_file), _found(path, labels_file)]
        if paths == [None, None] and splits:
            break
        if paths[0] is None or paths[1] is None:
            missing = images_file if paths[0] is None else labels_file
            raise LatensError(f"{path} holds IDX files and no {missing}: add it")
        x, y = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
        if len(x) != len(y):
            raise LatensError(f"{path}: {len(x)} images in {paths[0].name}, and {len(y)} labels")
        highest = max(highest, int(y.max(initial=0)))
        splits.append(_images(x, y))
    test = splits[1] if len(splits) > 1 else None
    return Raw(splits[0], test=test, classes=tuple(map(str, range(highest + 1))))


def _variants(name: str) -> tuple[str, str]:
    return name, name.removesuffix(".gz")


def _found(folder: Path, name: str) -> Path | None:
    paths = (folder / variant for variant in _variants(name))
    return next((path for path in paths if path.is_file()), None)


def _idx(source: Source) -> Raw:
    train_x, train_y, test_x, test_y = (
        _read_idx(fetch(source, file), rank)
        for file, rank in zip(IDX_FILES, (3, 1, 3, 1), strict=True)
    )
    return Raw(_images(train_x, train_y), test=_images(test_x, test_y), classes=source.classes)


def _amat(source: Source) -> Raw:
    splits = {}
    for split, file in zip(("train", "validation", "test"), source.files or {}, strict=True):
        packed = data_folder() / source.folder / f"{file}.gz"
        path = packed if packed.is_file() else fetch(source, file)
        splits[split] = _images(_kept(path, partial(_bits, source, file)))
    return Raw(**splits)


def _bits(source: Source, file: str) -> UInt8[np.ndarray, "N 28 28"]:
    """Images from text, 0 and 255."""
    text = np.frombuffer(_read_text(source, file), np.uint8)
    bits = text.reshape(-1, 784, 2)[..., 0] == ord("1")  # "0 1 0 … \n", two bytes a pixel
    return (bits * np.uint8(255)).reshape(-1, 28, 28)


def _read_text(source: Source, file: str) -> bytes:
    """A text file's content; a gzipped copy in the data folder is used if its checksum is right."""
    packed = data_folder() / source.folder / f"{file}.gz"
    if packed.is_file():
        content = gunzip(packed)
        if _md5(content) == (source.files or {})[file]:
            return content
    return fetch(source, file).read_bytes()


def _digits(source: Source) -> Raw:
    """The file that `sklearn.datasets.load_digits` reads, without a second for importing it."""
    table = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    values = np.loadtxt(str(table), np.uint8, delimiter=",")  # 64 pixels of 17 levels, the label
    pixels = np.rint(values[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Raw(_images(pixels, values[:, 64]), classes=source.classes)


def _shapes(source: Source) -> Raw:
    train, held_out, test = (
        _drawn(shuffled_factors(start, count)) for start, count in SHAPES_SPLITS
    )
    return Raw(train, held_out, test, source.classes)


def _drawn(factors: np.ndarray) -> Images:
    """Images of `shapes`; their label is their form."""
    return Images(torch.from_numpy(draw_shapes(factors)), torch.from_numpy(factors[:, 0].copy()))


# Where each split of `shapes` begins in the shuffled combinations, and how many it has
SHAPES_SPLITS = ((0, 18_000), (18_000, 2_000), (20_000, 4_000))

SOURCES: dict[str, Source] = {
    "digits": Source(
        about="1,797 grey 8x8 handwritten digits, embedded in scikit-learn: no download",
        read=_digits,
        validation=180,
    ),
    "mnist": Source(
        about="70,000 grey 28x28 handwritten digits (LeCun et al. 1998), 12 MB",
        read=_idx,
        validation=5_000,
        folder="mnist",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files=dict(
            zip(
                IDX_FILES,
                (
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "d53e105ee54ea40749a09fcbcd1e9432",
                    "9fb629c4189551a2d022fa330f9573f3",
                    "ec29112dd5afa0611ce80d1b7f02629c",
                ),
                strict=True,
            )
        ),
    ),
    "fashion-mnist": Source(
        about="70,000 grey 28x28 pieces of clothing (Xiao et al. 2017), 31 MB",
        read=_idx,
        validation=5_000,
        folder="fashion-mnist",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        files=dict(
            zip(
                IDX_FILES,
                (
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "25c81989df183df01b3e8a0aad5dffbe",
                    "bef4ecab320f06d8554ea6380940ec79",
                    "bb300cfdad3c16e7a12a480ee83cd310",
                ),
                strict=True,
            )
        ),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "kmnist": Source(
        about="70,000 grey 28x28 cursive Japanese characters (Clanuwat et al. 2018), 21 MB",
        read=_idx,
        validation=5_000,
        folder="kmnist",
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
        files=dict(
            zip(
                IDX_FILES,
                (
                    "bdb82020997e1d708af4cf47b453dcf7",
                    "e144d726b3acfaa3e44228e80efcd344",
                    "5c965bf0a639b31b8f53240b1b52f4d7",
                    "7320c461ea6c1c855c0b718fb2a4b134",
                ),
                strict=True,
            )
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "binarized-mnist": Source(
        about="70,000 binary digits, static (Larochelle & Murray 2011), no labels, 110 MB",
        read=_amat,
        validation=0,
        folder="binarized_mnist",
        mirrors=(
            "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
            "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        ),
        files={
            "binarized_mnist_train.amat": "db28b1a6ae0fe70cbd3da91acf46e477",
            "binarized_mnist_valid.amat": "bf37822a04e94123630de6a7dfd9c9ef",
            "binarized_mnist_test.amat": "14e41ae11040adba6ab8cb291eda0dd8",
        },
        classes=(),
    ),
    "shapes": Source(
        about="24,000 colour 64x64 squares, ellipses and triangles whose six factors are known: "
        "drawn by latens, no download",
        read=_shapes,
        validation=0,
        classes=FORMS,
    ),
}


def read_source(name: str) -> Raw:
    """The raw images of a named data set.

    Raises:
        LatensError: no such data set, or its files are not available.
    """
    if name not in SOURCES:
        raise unknown("data set (and no file or folder of that name either)", name, SOURCES)
    source = SOURCES[name]
    return source.read(source)
