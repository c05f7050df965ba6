"""A cache of decoded images on disk: memory-mapped arrays, named by a digest of their source."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pooch

from latens.console import note, overheard, say
from latens.data.decoding import ImageFile, Target, decode
from latens.errors import LatensError
from latens.files import clear_temporaries, read_json, replacing, write_json

CACHED_FROM = 1_000  # images; fewer are decoded each time, which takes about a second
DIGEST = "digest"  # of what was noted of the images
FORMAT = 4  # to be raised when the same files would be decoded to other pixels, or stored otherwise


def cache_path() -> Path:
    """Where decoded images are stored: `LATENS_CACHE`, or the user's cache."""
    chosen = os.environ.get("LATENS_CACHE") or pooch.os_cache("latens") / "decoded"
    return Path(chosen).expanduser()


def cache_folder() -> Path:
    """`cache_path`, created.

    The images may be private: other users of the machine cannot read a folder that is created here.

    Raises:
        LatensError: the folder cannot be created.
    """
    folder = cache_path()
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LatensError(
            f"cannot store decoded images in {folder}: {error.strerror}; set LATENS_CACHE to a "
            "writable folder"
        ) from error
    return folder


def decoded(
    source: Path, files: Sequence[ImageFile], target: Target
) -> tuple[np.ndarray, list[int]]:
    """Image files as one uint8 array `[N, C, H, W]`, and the indices of those left out as bad.

    From a thousand images on the array is a memory-mapped file of the cache: it is decoded once,
    and again when a file of the source has changed. It is written atomically.

    Args:
        source: the folder or zip file that the files are in.

    Raises:
        LatensError: a file that cannot be read, more than `target` allows; no space for the cache.
    """
    if len(files) < CACHED_FROM:
        return decode(files, target)

    def write(path: Path) -> dict[str, Any]:
        pixels, bad = decode(files, target, lambda shape: _new_array(path, shape))
        cast("np.memmap", pixels).flush()
        return {"bad": bad}

    stamps = [stamp(file, source) for file in files]
    pixels, about = cached(str(source.resolve()), target, stamps, write)
    return pixels, list(about["bad"])


def cached(
    source: str, target: Target, stamps: Any, write: Callable[[Path], dict[str, Any]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The images of a source as a memory-mapped array, and what was noted of them.

    Args:
        source: what they are of.
        target: what they are converted to.
        stamps: the version of the source; another one is decoded again.
        write: writes the array as a `.npy`, and returns what is to be noted.

    Raises:
        LatensError: no space for the cache.
    """
    key = _digest([FORMAT, source, asdict(target)])
    path = cache_folder() / f"{key}-{_digest(stamps)}.npy"
    known = _read(path)
    if known is not None:
        for kind, text in known[1].get("said", ()):  # the images are the same
            say(kind, text)
        return known
    stale = [old for old in path.parent.glob(f"{key}-*") if old.stem != path.stem]
    if stale:
        note(f"{source} has changed since its images were decoded: decoding them again")
    try:
        clear_temporaries(path.parent)
        with replacing(path) as temporary:
            with overheard() as said:
                about = write(temporary) | {"said": said}
            about |= {"source": source, "shape": list(np.load(temporary, mmap_mode="r").shape)}
            write_json(path.with_suffix(".json"), about | {DIGEST: _digest(about)})
    except OSError as error:
        raise LatensError(
            f"cannot store decoded images in {path.parent}: {error.strerror}; free some space, "
            "or set LATENS_CACHE to another folder"
        ) from error
    for old in stale:
        old.unlink(missing_ok=True)
    return np.load(path, mmap_mode="c"), about


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def stamp(file: ImageFile, folder: Path) -> list[object]:
    """What identifies a version of a file: in a zip its checksum, on disk its size and time.

    Its name is that within the folder, so that another way to the folder is no change.
    """
    if isinstance(file, zipfile.Path):
        info = file.root.getinfo(file.at)
        return [file.at, info.file_size, info.CRC]
    status = file.stat()
    return [str(file.relative_to(folder)), status.st_size, status.st_mtime_ns]


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What the cache holds under this name; None if it is missing, incomplete or damaged.

    Pixels are not read for it: those of a run's data are compared by their fingerprint.
    """
    try:
        pixels = np.load(path, mmap_mode="c")
        about = dict(read_json(path.with_suffix(".json")))
        whole = about.pop(DIGEST, None) == _digest(about)
    except MemoryError:
        raise
    except Exception:  # whatever is wrong with it, it is written anew
        return None
    same = whole and about["shape"] == list(pixels.shape) and pixels.dtype == np.uint8
    return (pixels, about) if same else None


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped array whose disk space is allocated in advance.

    Raises:
        OSError: the disk is full; without allocation, a later write would end in SIGBUS.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
