"""Tables written to a file block by block: CSV, Parquet or `.npz`, in constant memory, atomically.

A column is a list of texts or an array of numbers; an array `[n, D]` is D columns of a CSV or a
Parquet file (`mu_1`, …), and stays one array in a `.npz`.
"""

import csv
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from latens.errors import LatensError, required
from latens.files import replacing

Columns = Mapping[str, Sequence[str] | np.ndarray]


class Table(Protocol):
    """An open file that rows are added to."""

    def write(self, columns: Columns) -> None:
        """Add rows; each block has the same columns."""
        ...


def check_table(out: Path, suffixes: Sequence[str] = (".csv", ".parquet", ".npz")) -> None:
    """Refuse a file that could not be written, before the work.

    Raises:
        LatensError: another suffix, no such folder, a folder of that name, or Parquet without
            pyarrow.
    """
    if out.suffix.lower() not in suffixes:
        raise LatensError(f"--out {out} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if not out.parent.is_dir():
        raise LatensError(f"there is no folder {out.parent} for --out {out}: create it")
    if out.is_dir():
        raise LatensError(f"--out {out} is a folder: name a file")
    if out.suffix.lower() == ".parquet":
        _pyarrow()


@contextmanager
def table(out: Path) -> Iterator[Table]:
    """Write a table; the file takes its name when the block succeeds."""
    kinds = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
    with replacing(out) as temporary, kinds[out.suffix.lower()](temporary) as writer:
        yield writer


def _flat(columns: Columns) -> dict[str, Sequence[str] | np.ndarray]:
    """With a column for each dimension of an array `[n, D]`."""
    flat: dict[str, Sequence[str] | np.ndarray] = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            rows = values.reshape(len(values), -1)
            flat |= {f"{name}_{d + 1}": rows[:, d] for d in range(rows.shape[1])}
        else:
            flat[name] = values
    return flat


# ---- CSV -------------------------------------------------------------------------------------


class _CSV:
    def __init__(self, file: IO[str]):
        self.writer, self.has_header = csv.writer(file), False

    def write(self, columns: Columns) -> None:
        flat = _flat(columns)
        if not self.has_header:
            self.writer.writerow(flat)
            self.has_header = True
        lists = [v.tolist() if isinstance(v, np.ndarray) else v for v in flat.values()]
        texts = [[f"{x:.7g}" if isinstance(x, float) else x for x in values] for values in lists]
        self.writer.writerows(zip(*texts, strict=True))


@contextmanager
def _csv(path: Path) -> Iterator[Table]:
    # A file's name that is not UTF-8 is written as the bytes that it has
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield _CSV(file)


# ---- Parquet ---------------------------------------------------------------------------------


class _Parquet:
    def __init__(self, path: Path, stack: ExitStack):
        self.path, self.stack, self.writer = path, stack, None

    def write(self, columns: Columns) -> None:
        pyarrow, parquet = _pyarrow()
        rows = pyarrow.table({name: pyarrow.array(_utf8(v)) for name, v in _flat(columns).items()})
        if self.writer is None:
            self.writer = self.stack.enter_context(parquet.ParquetWriter(self.path, rows.schema))
        self.writer.write_table(rows)


def _utf8(values: Any) -> Any:
    """Texts of a column, with a question mark for what cannot be UTF-8, which Parquet demands."""
    if isinstance(values, np.ndarray):
        return values
    return [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values]


def _pyarrow() -> tuple[Any, Any]:
    return tuple(required(name, "parquet", "Parquet") for name in ("pyarrow", "pyarrow.parquet"))


@contextmanager
def _parquet(path: Path) -> Iterator[Table]:
    with ExitStack() as stack:
        yield _Parquet(path, stack)


# ---- NumPy -----------------------------------------------------------------------------------


class _Npz:
    """Each column in a temporary file of its own until the number of rows is known."""

    def __init__(self, stack: ExitStack, folder: Path):
        self.stack, self.folder = stack, folder
        self.parts: dict[str, IO[bytes]] = {}
        self.kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self.count = 0

    def write(self, columns: Columns) -> None:
        for name, values in columns.items():
            array = np.asarray(values)
            if name not in self.parts:
                part = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - the stack's
                self.parts[name] = self.stack.enter_context(part)
                self.kinds[name] = array.dtype, array.shape[1:]
            if array.dtype.kind == "U":
                texts = [str(value).encode("utf-8", "surrogateescape") for value in values]
                widest = max(self.kinds[name][0], array.dtype, key=lambda kind: kind.itemsize)
                self.kinds[name] = widest, ()
                lengths = [len(text).to_bytes(4, "little") for text in texts]
                content = b"".join(
                    part for pair in zip(lengths, texts, strict=True) for part in pair
                )
            else:
                content = array.tobytes()
            self.parts[name].write(content)
        self.count += len(next(iter(columns.values())))

    def pack(self, path: Path) -> None:
        """One `.npz` of all columns."""
        with zipfile.ZipFile(path, "w") as packed:
            for name, part in self.parts.items():
                kind, shape = self.kinds[name]
                header = {"descr": kind.str, "fortran_order": False, "shape": (self.count, *shape)}
                part.seek(0)
                with packed.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for content in self._texts(part, kind) if kind.kind == "U" else _chunks(part):
                        file.write(content)

    def _texts(self, part: IO[bytes], kind: np.dtype) -> Iterator[bytes]:
        for _ in range(self.count):
            content = part.read(int.from_bytes(part.read(4), "little"))
            text = content.decode("utf-8", "surrogateescape")
            yield np.array(text, kind).tobytes()


def _chunks(part: IO[bytes]) -> Iterator[bytes]:
    while content := part.read(2**20):
        yield content


@contextmanager
def _npz(path: Path) -> Iterator[Table]:
    with ExitStack() as stack:
        writer = _Npz(stack, path.parent)
        yield writer
        writer.pack(path)
