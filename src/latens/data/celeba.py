"""CelebA in its original layout: aligned faces with 40 attributes (Liu et al. 2015)."""

import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from latens.data.cache import decoded
from latens.data.decoding import ImageFile, Target
from latens.data.files import SUFFIXES, split_by
from latens.data.images import SPLITS, Images
from latens.data.sources import Raw
from latens.errors import LatensError, one_line

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
SIZE = (64, 64)
# The central 140 of 178 columns, as in Tolstikhin et al. 2018, "Wasserstein Auto-Encoders", and
# later; a fraction, so that images at half size are cropped in the same way.
CROP = 140 / 178
PARTITIONS = {str(i): name for i, name in enumerate(SPLITS)}  # as list_eval_partition.txt has them


def is_celeba(folder: Path) -> bool:
    """Whether a folder has CelebA's layout."""
    return (folder / ATTRIBUTES).is_file() or (folder / PARTITION).is_file()


def read_celeba(folder: Path, target: Target) -> Raw:
    """The faces of `img_align_celeba.zip`, or of that folder, in their own three splits.

    Raises:
        LatensError: a file that is missing, lists that disagree, a split without images, or an
            image that cannot be read.
    """
    for name in (ATTRIBUTES, PARTITION):
        if not (folder / name).is_file():
            raise LatensError(
                f"{folder} lacks {name}: CelebA is {IMAGES}.zip (or the folder {IMAGES}), "
                f"{ATTRIBUTES} and {PARTITION}. Its terms ask each user to download it from "
                "mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
            )
    attributes, names = _read_attributes(folder / ATTRIBUTES)
    splits = _read_partition(folder / PARTITION)
    source, files = _find(folder)
    for what, listed in ((ATTRIBUTES, names), (PARTITION, splits)):
        _check_same(files.keys(), listed.keys(), source, folder / what)
    order = sorted(files)
    pixels, bad = decoded(source, [files[name] for name in order], target)
    labels = torch.from_numpy(np.stack([names[name] for name in order]))
    images = Images(torch.from_numpy(pixels), labels)
    raw = split_by(images, [splits[name] for name in order], bad)
    return replace(raw, attributes=attributes, crop=target.crop)


def _find(folder: Path) -> tuple[Path, dict[str, ImageFile]]:
    """Where the images are, and each by its name."""
    unpacked, packed = folder / IMAGES, folder / f"{IMAGES}.zip"
    if unpacked.is_dir():
        found: list[ImageFile] = [p for p in unpacked.iterdir() if p.suffix.lower() in SUFFIXES]
        return unpacked, {path.name: path for path in found}
    if not packed.is_file():
        raise LatensError(f"{folder} has neither {IMAGES}.zip nor a folder {IMAGES}")
    try:
        archive = zipfile.ZipFile(packed)
    except Exception as error:  # zipfile raises whatever a damaged directory leads it to
        raise LatensError(
            f"{packed} is not a complete zip file ({one_line(error)}): download it again"
        ) from error
    names = [name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES]
    return packed, {Path(name).name: zipfile.Path(archive, name) for name in names}


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The attributes' names, and each image's row of 0 and 1."""
    try:
        lines = path.read_text("utf-8").split("\n")
        count, names = int(lines[0]), tuple(lines[1].split())
        rows = {}
        for line in filter(None, lines[2:]):
            file, *values = line.split()
            rows[file] = (np.array(values, np.int64) + 1) // 2
            if len(values) != len(names) or not set(values) <= {"-1", "1"}:
                raise ValueError(f"{file} has other values than {len(names)} times −1 or 1")
    except (ValueError, IndexError) as error:
        raise LatensError(f"{path} is damaged or not a list of attributes: {error}") from error
    if len(rows) != count:
        raise LatensError(f"{path} announces {count:,} images and lists {len(rows):,}")
    return names, rows


def _read_partition(path: Path) -> dict[str, str]:
    """The split of each image."""
    try:
        pairs = (line.split() for line in path.read_text("utf-8").splitlines() if line.strip())
        splits = {file: PARTITIONS[split] for file, split in pairs}
    except (ValueError, KeyError) as error:
        raise LatensError(
            f"{path} is damaged or not a partition: each line is a file and 0, 1 or 2"
        ) from error
    for name in SPLITS:
        if name not in splits.values():
            raise LatensError(f"{path} leaves the {name} split empty: correct it")
    return splits


def _check_same(files: Iterable[str], listed: Iterable[str], source: Path, path: Path) -> None:
    missing, extra = sorted(set(listed) - set(files)), sorted(set(files) - set(listed))
    if missing or extra:
        few = [f"{len(missing):,} images listed but not there ({missing[0]} …)"] if missing else []
        few += [f"{len(extra):,} there but not listed ({extra[0]} …)"] if extra else []
        raise LatensError(f"{path} and {source} disagree: {'; '.join(few)}")
