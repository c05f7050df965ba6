"""Atomic writes, and JSON."""

import glob
import gzip
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latens import limits
from latens.errors import LatensError

TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}-\d+)-[0-9a-f]{8}(\.\w+)?")  # what `replacing` names
# Of two machines that share a folder, each knows only whether its own processes live
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: a temporary path beside `path`, renamed to it when the block succeeds.

    What processes that were killed have left of the same write is removed.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{_writer()}-{secrets.token_hex(4)}{path.suffix}")
    _clear(path.parent.glob(f".{glob.escape(path.name)}.*"))
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
def scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what becomes it, removed at the end.

    What a process that was killed has left of the same is removed too.

    Raises:
        OSError: it cannot be written.
    """
    for old in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        if _is_dead(old.name.rpartition("partial-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    partial = path.with_name(f".{path.name}.partial-{_writer()}")
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Atomic write of a folder: one beside it, renamed to it when the block succeeds.

    Raises:
        LatensError: by then there is such a folder.
        OSError: it cannot be written.
    """
    with scratch(folder) as partial:
        yield partial
        if folder.exists():  # an empty one would be replaced
            raise LatensError(f"{folder} exists already: choose another folder")
        partial.rename(folder)


def _writer() -> str:
    """This process, among those of all machines."""
    return f"{MACHINE}-{os.getpid()}"


def _is_dead(writer: str) -> bool:
    """Whether a process, as `_writer` names it, has ended; False where that cannot be told."""
    machine, _, process = writer.partition("-")
    if machine != MACHINE or os.name != "posix":  # elsewhere a signal of 0 ends a process
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def clear_temporaries(*folders: Path) -> None:
    """Remove what atomic writes of processes that were killed have left."""
    for folder in folders:
        _clear(folder.glob(".*"))


def _clear(paths: Iterable[Path]) -> None:
    for path in paths:
        found = TEMPORARY.fullmatch(path.name)
        if found and _is_dead(found[1]):
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that becomes another, or would have."""
    return TEMPORARY.fullmatch(path.name) is not None


def gunzip(path: Path) -> bytes:
    """The content of a gzip file.

    Raises:
        LatensError: it is far more than the file has.
        OSError, EOFError, zlib.error: a damaged file.
    """
    blocks, size = [], 0
    with gzip.open(path) as file:
        while block := file.read(2**24):
            size += len(block)
            limits.check_unpacked(path, size)
            blocks.append(block)
    return b"".join(blocks)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON; what is NaN or infinite becomes null, for JSON has no name for it."""

    def plain(value: Any) -> Any:
        match value:
            case dict():
                return {name: plain(of) for name, of in value.items()}
            case list() | tuple():
                return [plain(of) for of in value]
            case float() if not math.isfinite(value):
                return None
        return value

    return json.dumps(plain(content), indent=indent, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, each list of numbers on one line."""
    text = json_text(content, indent=2)
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
