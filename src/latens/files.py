"""Atomic writes, and JSON."""

import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens.errors import LatensError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}(\.\w+)?")  # a name that `replacing` gives


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: a temporary path beside `path`, renamed to it when the block succeeds.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{path.suffix}")
    # The kernel applies the umask, which cannot be read without changing it for all threads
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Atomic write of a folder: one beside it, renamed to it when the block succeeds.

    What a process that was killed has left of the same folder is removed.

    Raises:
        LatensError: by then there is such a folder.
        OSError: it cannot be written.
    """
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        if not _runs(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():  # an empty one would be replaced
            raise LatensError(f"{folder} exists already: choose another folder")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _runs(process: str) -> bool:
    """Whether a process of this number runs; where that cannot be told, it does."""
    try:
        if os.name == "posix":  # elsewhere a signal of 0 ends a process
            os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def clear_temporaries(*folders: Path) -> None:
    """Remove what atomic writes that were killed have left; nothing else may write meanwhile."""
    for folder in folders:
        for path in folder.glob(".*"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, each list of numbers on one line."""
    text = json.dumps(content, indent=2)
    text = re.sub(r"\[[-+.,\deE\s]+\]", lambda found: " ".join(found[0].split()), text)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        LatensError: the file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise LatensError(f"{path.parent} has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise LatensError(f"{path} is damaged: it is not JSON ({error})") from error
