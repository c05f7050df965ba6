"""Decoded images on disk: made once, memory-mapped, recognised by a fingerprint of their files."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import pooch

from latens.data.decoding import ImageFile, Target, decode
from latens.errors import LatensError
from latens.files import read_json, replacing, write_json
from latens.console import note

CACHED_FROM = 1_000  # images; fewer are decoded anew each time, in a second or so


def cache_folder() -> Path:
    """Where decoded images are kept: `LATENS_CACHE`, or the user's cache. It is created.

    Raises:
        LatensError: it cannot be.
    """
    folder = Path(os.environ.get("LATENS_CACHE") or pooch.os_cache("latens") / "decoded")
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatensError(
            f"cannot keep decoded images in {folder}: {error.strerror}; set LATENS_CACHE to a "
            "folder that can be written"
        ) from error
    return folder.expanduser()


def decoded(
    source: Path, files: Sequence[ImageFile], target: Target
) -> tuple[np.ndarray, list[int]]:
    """Image files as one uint8 array `[N, C, H, W]`, and the indices of those left out as bad.

    From a thousand images on the array is a file of the cache, memory-mapped: it is decoded once,
    and again when a file of the source has changed. It has its name only when it is whole.

    Args:
        source: the folder or zip file that the files are in.

    Raises:
        LatensError: a file that cannot be read, unless `target.skip_bad`; no room for the cache.
    """
    if len(files) < CACHED_FROM:
        return decode(files, target)
    key = _digest([str(source.resolve()), asdict(target)])
    path = cache_folder() / f"{key}-{_digest([_stamp(file) for file in files])}.npy"
    known = _read(path)
    if known is not None:
        return known
    stale = [old for old in path.parent.glob(f"{key}-*") if old.stem != path.stem]
    if stale:
        note(f"{source} has changed since its images were decoded: decoding them again")
    try:
        with replacing(path) as temporary:
            pixels, bad = decode(files, target, lambda shape: _new_array(temporary, shape))
            cast("np.memmap", pixels).flush()
            write_json(path.with_suffix(".json"), {"source": str(source), "bad": bad})
    except OSError as error:
        raise LatensError(
            f"cannot keep decoded images in {path.parent}: {error.strerror}; make room, or set "
            "LATENS_CACHE to another folder"
        ) from error
    for old in stale:
        old.unlink(missing_ok=True)
    return np.load(path, mmap_mode="c"), bad


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _stamp(file: ImageFile) -> list[object]:
    """What changes when a file changes: in a zip its checksum, on disk its size and time."""
    if isinstance(file, zipfile.Path):
        info = file.root.getinfo(file.at)
        return [file.at, info.file_size, info.CRC]
    status = file.stat()
    return [str(file), status.st_size, status.st_mtime_ns]


def _read(path: Path) -> tuple[np.ndarray, list[int]] | None:
    """What the cache holds under this name, if it is whole."""
    try:
        return np.load(path, mmap_mode="c"), list(read_json(path.with_suffix(".json"))["bad"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped array whose room on the disk is taken at once.

    Raises:
        OSError: there is not so much room; later it would be a signal that ends the process.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
