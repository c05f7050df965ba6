"""Shards: tar files as WebDataset has them, and Parquet files as Hugging Face has them.

They are read from one end to the other, once; what is kept is the decoded pixels, in the cache. So
a set of photographs may be larger than the disk: tar files on a server are never stored.
"""

import itertools
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch

from latens import limits
from latens.console import note, progress
from latens.data.arrays import IMAGE_KEYS, LABEL_KEYS, class_indices
from latens.data.cache import cached
from latens.data.decoding import (
    NAMED,
    InMemoryFile,
    Target,
    decide_size,
    decode_some,
    warn_of_left_out,
)
from latens.data.files import SPLIT_FOLDERS, SUFFIXES, split_by
from latens.data.images import Images
from latens.data.sources import Raw, reason_of
from latens.errors import LatensError, one_line, required

TAR, PARQUET = (".tar", ".tar.gz", ".tgz"), (".parquet",)
IMAGES_AT_ONCE = 512
SECONDS_TO_WAIT = 30  # for a server
SPLIT = re.compile(r"(?:^|[-_.])(train|validation|valid|val|test)(?![a-z])")


def is_url(data: Any) -> bool:
    """Whether data are on a server."""
    return str(data).startswith(("http://", "https://"))


def shards_of(data: str | Path) -> list[str]:
    """The paths or addresses of the shards that data name, in order; none where they name none.

    They name a shard, a folder of shards (or with them in data/), or shards with numbers, such as
    `train-{000..099}.tar`; also at an address.

    Raises:
        LatensError: more than `latens.limits` allows.
    """
    name = str(data)
    if is_url(name) or name.lower().endswith(TAR + PARQUET):
        names = [name] if is_url(name) else [str(Path(name).expanduser())]
        return list(itertools.chain.from_iterable(map(_numbered, names)))
    folder = Path(name).expanduser()
    for place in (folder, folder / "data"):
        if place.is_dir():
            found = [path for path in place.iterdir() if _is_shard(path)]
            if found:
                return [str(path) for path in sorted(found)]
    return []


def name_of_shards(data: str) -> str:
    """A short name, without numbers and suffix."""
    plain = re.split("[?#]", data)[0] if is_url(data) else Path(data).expanduser().absolute()
    name = PurePosixPath(plain).name
    return re.sub(r"[-_.]*\{.*?\}|(\.tar\.gz|\.tgz|\.tar|\.parquet)$", "", name) or "shards"


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith(TAR + PARQUET) and not path.name.startswith(".")


def _numbered(name: str) -> list[str]:
    """A name for each number in its braces; of several braces, for each combination."""
    parts = re.split(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}", name)
    pieces, count = [parts[:1]], 1
    for first, last, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        low, high, width = int(first), int(last), len(first)
        if high < low:
            raise LatensError(f"{name} is from {low} to {high}: give the smaller number first")
        count *= high - low + 1
        limits.check("shards", count, f"{name} names")
        pieces += [[f"{i:0{width}d}" for i in range(low, high + 1)], [text]]
    return ["".join(combination) for combination in itertools.product(*pieces)]


# ---- all shards ------------------------------------------------------------------------------


def read_shards(data: str, target: Target) -> Raw:
    """The images of all shards, with their labels, in the splits that the shards' names tell.

    Where none of them is for training, they are all images, without splits.

    Where no size is asked for, the first `IMAGES_AT_ONCE` images decide it.

    Raises:
        LatensError: shards that do not exist or cannot be read, or hold no images.
    """
    source = data if is_url(data) else str(Path(data).expanduser().absolute())
    shards = shards_of(source)
    stamps = _stamps(shards)
    pixels, about = cached(source, target, stamps, lambda path: _write(shards, target, path))
    labels = torch.tensor(about["labels"]) if about["classes"] else None
    splits = [split for split, count in about["splits"] for _ in range(count)]
    if "train" not in splits:  # a test set alone, which is all there is
        splits = ["train"] * len(splits)
    raw = split_by(Images(torch.from_numpy(pixels), labels), splits, [])
    return replace(raw, classes=tuple(about["classes"]))


def _stamps(shards: list[str]) -> list[list[object]]:
    """What identifies the versions of the shards.

    Raises:
        LatensError: one that does not exist.
    """
    if not is_url(shards[0]):
        missing = [shard for shard in shards if not Path(shard).is_file()]
        if missing:
            raise LatensError(f"no such file or folder: {missing[0]}")
        status = {shard: Path(shard).stat() for shard in shards}
        return [[shard, of.st_size, of.st_mtime_ns] for shard, of in status.items()]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(_stamp_of_url, shards))


def _stamp_of_url(url: str) -> list[object]:
    import requests

    with _reading(url):
        answer = requests.head(url, timeout=SECONDS_TO_WAIT, allow_redirects=True)
        answer.raise_for_status()
    fields = ("ETag", "Last-Modified", "Content-Length")
    return [url, *(answer.headers.get(name) for name in fields)]


@dataclass
class _Written:
    """What is noted of the images as they are written.

    Attributes:
        labels: of each, as it was read.
        names: of the classes, where a shard tells them.
        splits: of consecutive images: which, and how many.
        count: of images, the bad ones included.
        errors: the first of the bad images.
        bad: how many.
    """

    labels: list[Any] = field(default_factory=list)
    names: tuple[str, ...] = ()
    splits: list[list[Any]] = field(default_factory=list)
    count: int = 0
    errors: list[LatensError] = field(default_factory=list)
    bad: int = 0


def _write(shards: list[str], target: Target, path: Path) -> dict[str, Any]:
    """Write all images as one `.npy`, and return what is noted of them."""
    noted = _Written()
    with progress("shards") as bar, path.open("wb") as file:
        task = bar.add_task("decoding", total=len(shards))
        for shard in shards:
            split, before = _split_of(shard), len(noted.labels)
            for block in _blocks(_samples(shard, noted)):
                target = decide_size(target, (image for image, _ in block))
                _append(file, block, target, noted)
            noted.splits.append([split, len(noted.labels) - before])
            bar.advance(task)
        if not noted.labels:
            raise noted.errors[0] if noted.errors else LatensError(_no_images(shards))
        if noted.bad > target.most_bad(noted.count):
            raise noted.errors[0]
        _write_header(file, len(noted.labels), target)
    warn_of_left_out(noted.errors, noted.bad, noted.count)
    classes, labels = class_indices(noted.labels, shards[0], noted.names)
    about = {"bad": noted.bad, "labels": labels.tolist(), "splits": noted.splits}
    return about | {"classes": list(classes)}


def _no_images(shards: list[str]) -> str:
    return (
        f"no images in {shards[0]}{' and others' if len(shards) > 1 else ''}: a tar file has "
        f"{', '.join(sorted(SUFFIXES))} files, a Parquet file a column {' or '.join(IMAGE_KEYS)}"
    )


def _append(
    file: IO[bytes], block: list[tuple[InMemoryFile, Any]], target: Target, noted: _Written
) -> None:
    for (_, label), found in zip(block, decode_some([f for f, _ in block], target), strict=True):
        noted.count += 1
        if isinstance(found, LatensError):
            noted.bad += 1
            noted.errors = [*noted.errors, found][:NAMED]
        else:
            if not noted.labels:
                _write_header(file, 0, target)
            file.write(np.ascontiguousarray(found).data)
            noted.labels.append(label)


def _write_header(file: IO[bytes], count: int, target: Target) -> None:
    """The header of a `.npy`; NumPy leaves room in it for a count that grows."""
    channels, size = target.known
    file.seek(0)
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, channels, *size)}
    np.lib.format.write_array_header_1_0(file, about)


def _split_of(shard: str) -> str:
    """By a word of the shard's name, such as imagenet-val-0001.tar, else by the folder it is in."""
    path = PurePosixPath(shard)
    found = SPLIT.search(path.name.lower())
    return SPLIT_FOLDERS.get(found[1] if found else path.parent.name.lower(), "train")


def _blocks(samples: Iterator[tuple[InMemoryFile, Any]]) -> Iterator[list[Any]]:
    while block := list(itertools.islice(samples, IMAGES_AT_ONCE)):
        yield block


# ---- one shard -------------------------------------------------------------------------------


def _samples(shard: str, noted: _Written) -> Iterator[tuple[InMemoryFile, Any]]:
    """Each image file of a shard, and its label or None."""
    if shard.lower().endswith(PARQUET):
        yield from _of_parquet(shard, noted)
    else:
        yield from _of_tar(shard)


@contextmanager
def _reading(shard: str) -> Iterator[None]:
    """What libraries raise for a shard that they cannot read becomes one line."""
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, HTTPError) as error:
        if isinstance(error, LatensError):
            raise
        if isinstance(error, HTTPError):  # of urllib3, in the middle of a file
            reason = "the connection broke"
        else:
            reason = reason_of(error) if isinstance(error, RequestException) else one_line(error)
        raise LatensError(f"{shard} cannot be read: {reason}") from error


@contextmanager
def _opened(shard: str) -> Iterator[IO[bytes]]:
    if not is_url(shard):
        with Path(shard).open("rb") as file:
            yield file
        return
    import requests

    with requests.get(shard, stream=True, timeout=SECONDS_TO_WAIT) as answer:
        answer.raise_for_status()
        yield answer.raw


def _of_tar(shard: str) -> Iterator[tuple[InMemoryFile, Any]]:
    """Files of one name up to its first dot are a sample (WebDataset): an image, and its .cls or
    .json.

    Several images without one whose suffix has no dot, such as `cell.1.png`, are samples each.
    """
    further: set[str] = set()
    with (
        _reading(shard),
        _opened(shard) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        for key, members in itertools.groupby(_files(archive, shard), key=lambda each: each[0]):
            files = {suffix: content for _, suffix, content in members}
            images = [suffix for suffix in files if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
            plain = [suffix for suffix in images if "." not in suffix]
            for suffix in plain[:1] or images:
                name = f"{key}.{suffix} of {shard}"
                yield InMemoryFile(name, files[suffix]), _label_of(files, name)
            further |= {suffix for suffix in images if plain and suffix != plain[0]}
    if further:
        note(f"{shard} has further images of its samples ({', '.join(sorted(further))}): left out")


def _files(archive: tarfile.TarFile, shard: str) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of each file in a tar file; hidden ones are left out."""
    total = 0
    for member in archive:
        path = PurePosixPath(member.name)
        limits.check("member_bytes", member.size, f"{path.name} of {shard} has")
        total += member.size
        if not is_url(shard):
            limits.check_unpacked(Path(shard), total)
        if not member.isfile() or path.name.startswith("."):
            continue
        content = archive.extractfile(member)
        stem, _, suffix = path.name.partition(".")
        yield str(path.parent / stem), suffix.lower(), content.read() if content else b""


def _label_of(files: dict[str, bytes], name: str) -> Any:
    try:
        if "cls" in files:
            text = files["cls"].decode().strip()
            return int(text) if text.lstrip("-").isdecimal() else text
        about = json.loads(files.get("json", b"null"))
    except (ValueError, RecursionError) as error:
        raise LatensError(f"{name} has a label that cannot be read: {one_line(error)}") from error
    if not isinstance(about, dict):
        return None
    return next((about[key] for key in LABEL_KEYS if key in about), None)


def _of_parquet(shard: str, noted: _Written) -> Iterator[tuple[InMemoryFile, Any]]:
    """Rows with a column of image files: bytes, or as Hugging Face has them a struct with bytes."""
    if is_url(shard):
        raise LatensError(
            f"{shard} is a Parquet file, which is read from its end: download it first"
        )
    parquet = required("pyarrow.parquet", "parquet", "Parquet")
    with _reading(shard):
        table = parquet.ParquetFile(shard)
        groups = range(table.num_row_groups)
        unpacked = sum(table.metadata.row_group(i).total_byte_size for i in groups)
        limits.check_unpacked(Path(shard), unpacked)
        names = table.schema_arrow.names
        image = next((key for key in IMAGE_KEYS if key in names), None)
        if image is None:
            raise LatensError(f"{shard} has {', '.join(names)}: call the images' column image")
        label = next((key for key in LABEL_KEYS if key in names), None)
        noted.names = noted.names or _class_names(table.schema_arrow.metadata, label)
        columns = [image] if label is None else [image, label]
        row = 0
        for batch in table.iter_batches(batch_size=IMAGES_AT_ONCE, columns=columns):
            values = batch.to_pydict()
            labels = itertools.repeat(None) if label is None else values[label]
            for content, of in zip(values[image], labels, strict=False):
                name, row = f"row {row} of {shard}", row + 1
                yield InMemoryFile(name, _bytes(content, name)), _named(of, noted.names)


def _bytes(content: Any, name: str) -> bytes:
    if isinstance(content, dict):
        content = content.get("bytes")
    if not isinstance(content, bytes):
        raise LatensError(f"{name} holds no image file: the column must hold bytes")
    return content


def _named(label: Any, names: tuple[str, ...]) -> Any:
    return names[label] if names and isinstance(label, int) and 0 <= label < len(names) else label


def _class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> tuple[str, ...]:
    """The names of the classes, where Hugging Face's metadata tell them."""
    try:
        about = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        names = about["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
