"""Damaged and hostile inputs, made by a seed, and what each reader does with them.

`python tests/faults.py` prints a table: an input is accepted, refused in one line, or a defect.
A defect is any other exception, other weights than were written, or a forbidden act: a program
started, a connection, a pickle. docs/reliability.md has the table.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import resource
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

import latens
from latens import LatensError
from latens.data.decoding import Target, decode_some
from latens.model.serialization import read_tensors

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
IMAGE_SUFFIXES = (".png", ".jpg", ".gif", ".bmp", ".webp", ".tif", ".ppm")
SIDE, IMAGES = 12, 20
Read = Callable[[Path], Any]


@dataclass
class Row:
    """What one reader did with all of its inputs."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    defects: list[str] = field(default_factory=list)


# ---- damage ----------------------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one kind of damage: bits flipped, cut short, zeros, a piece moved or repeated."""
    data = bytearray(content)
    at = int(rng.integers(len(data)))
    length = int(rng.integers(1, max(2, len(data) // 4)))
    match rng.integers(6):
        case 0:
            for place in rng.integers(len(data), size=rng.integers(1, 9)):
                data[place] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        case 3:
            data[at : at + length] = rng.bytes(length)
        case 4:
            data[at:at] = data[at : at + length]
        case 5:  # in the header, where sizes stand
            for place in rng.integers(min(64, len(data)), size=3):
                data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    return bytes(data)


def damaged_header(content: bytes, rng: np.random.Generator) -> bytes:
    """An array whose header is damaged, or which is cut short."""
    if rng.random() < 0.5:
        return content[: int(rng.integers(len(content)))]
    return damaged(content[:100], rng) + content[100:]


def odd_text(content: bytes, rng: np.random.Generator) -> bytes:
    """A text with a value that has another type, size or sign."""
    odd = [
        "null",
        "-1",
        "1e999",
        "[]",
        "{}",
        '""',
        "9" * 40,
        "true",
        '"\\u0000"',
        "[" * 2000,
        "NaN",
    ]
    words = content.decode().replace(",", " , ").replace(":", " : ").split(" ")
    words[int(rng.integers(len(words)))] = str(rng.choice(odd))
    return " ".join(words).encode()


# ---- what is damaged, and how it is read -----------------------------------------------------


def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE), np.uint8)


def image_bytes(suffix: str, mode: str = "L") -> bytes:
    packed = io.BytesIO()
    image = Image.fromarray(photos()[0]).convert("RGB" if suffix == ".ppm" else mode)
    image.save(packed, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()))
    return packed.getvalue()


def archives(folder: Path) -> Iterator[Path]:
    """Files of many images, of every kind."""
    np.save(folder / "x.npy", photos())
    np.savez_compressed(folder / "x.npz", images=photos(), labels=np.arange(IMAGES) % 3)
    for name in ("x.tar", "x.tar.gz"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as file:
            for i in range(IMAGES):
                for suffix, content in ((".png", image_bytes(".png")), (".cls", b"%d" % (i % 3))):
                    member = tarfile.TarInfo(f"{i:02d}{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    rows = {"image": [{"bytes": image_bytes(".png"), "path": "a.png"}] * IMAGES, "label": [0] * 20}
    pd.DataFrame(rows).to_parquet(folder / "x.parquet")
    yield from sorted(folder.glob("x.*"))


def read_image(path: Path) -> None:
    found = decode_some([path], Target((8, 8), 1))[0]
    if isinstance(found, LatensError):
        raise found


def read_model(path: Path) -> None:
    """Weights that are not those that were written are a defect."""
    expected = read_tensors(path.parent / "whole" / path.name)[0]
    found = latens.load(path.parent).state_dict()
    if any(not torch.equal(found[name], of) for name, of in expected.items() if name in found):
        raise AssertionError("other weights than were written")


def read_labels(path: Path) -> None:
    """A cache that is damaged is written anew."""
    found = latens.load_data(path.parent.parent / "sets" / "x.tar").split("all")
    if found.labels.bincount().tolist() != [7, 7, 6]:
        raise AssertionError("other labels than were written")


def read_checkpoint(path: Path) -> None:
    run = latens.Run.open(path.parent.parent)
    with contextlib.redirect_stderr(io.StringIO()):
        _, state = run.last_checkpoint()
    if state["epoch"] not in (0, 1):
        raise AssertionError("another state than was written")


def readers(folder: Path) -> Iterator[tuple[str, Path, Read, Callable[..., bytes]]]:
    """Name, file, how it is read, how it is damaged."""
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"image{suffix}"
        path.write_bytes(image_bytes(suffix))
        yield f"image {suffix}", path, read_image, damaged
    (folder / "sets").mkdir()
    for path in list(archives(folder / "sets")):
        yield path.name.removeprefix("x"), path, latens.load_data, damaged
    idx = folder / "idx"
    idx.mkdir()
    sizes = b"".join(size.to_bytes(4, "big") for size in photos().shape)
    labels = (np.arange(IMAGES) % 3).astype(np.uint8).tobytes()
    images = idx / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(b"\0\0\x08\3" + sizes + photos().tobytes()))
    (idx / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\1" + sizes[:4] + labels)
    )
    for path in sorted(idx.iterdir()):
        yield f"IDX {path.name[6:12]}", path, lambda path: latens.load_data(path.parent), damaged
    latens.load_data(folder / "sets" / "x.tar")
    for path in sorted((folder / "cache").glob("*")):
        if json.loads(path.with_suffix(".json").read_bytes())["source"].endswith("x.tar"):
            header = damaged if path.suffix == ".json" else damaged_header
            yield f"cache {path.suffix}", path, read_labels, header
    run = latens.train(
        "digits",
        recipe="mlp",
        hidden="8",
        latent_dim=2,
        epochs=1,
        report=False,
        film=False,
        out=folder / "run",
    )
    whole = run.path / "whole"
    whole.mkdir()
    whole.joinpath("model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
    texts: dict[str, Read] = {
        "config.yaml": lambda path: latens.Run.open(path.parent).config,
        "config.json": lambda path: latens.load(path.parent),
        "metrics.jsonl": lambda path: latens.Run.open(path.parent).metrics,
        "figures.json": lambda path: latens.Run.open(path.parent).figures,
    }
    for name, read in texts.items():
        yield name, run.path / name, read, odd_text
        yield f"{name}, bytes", run.path / name, read, damaged
    yield "model.safetensors", run.path / "model.safetensors", read_model, damaged
    last = sorted((run.path / "checkpoints").glob("*.safetensors"))[-1]
    yield "checkpoint", last, read_checkpoint, damaged


# ---- the run ---------------------------------------------------------------------------------


def attempt(read: Read, path: Path) -> str:
    """Accepted, refused, or what went wrong.

    Warnings and notes are allowed: they are lines on stderr.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except LatensError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return "accepted"


def inject(count: int, seed: int = 0) -> list[Row]:
    """So many damaged files of each kind, each read once."""
    acts: list[str] = []
    watching = [False]
    sys.addaudithook(lambda event, _: acts.append(event) if watching[0] else None)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LATENS_CACHE"] = str(folder / "cache")
        for kind, path, read, damage in readers(folder):
            row, whole = Row(kind), path.read_bytes()
            first = attempt(read, path)
            if first != "accepted":
                row.defects.append(f"undamaged: {first}")
            for i in range(count):
                path.write_bytes(damage(whole, np.random.default_rng([seed, i, len(kind)])))
                acts.clear()
                watching[0], began = True, time.perf_counter()
                found = attempt(read, path)
                watching[0] = False
                row.seconds = max(row.seconds, time.perf_counter() - began)
                found = next((act for act in acts if act.startswith(FORBIDDEN)), found)
                row.counts[found if found in ("accepted", "refused") else "defect"] += 1
                if found not in ("accepted", "refused"):
                    row.defects.append(f"{i}: {found}")
            path.write_bytes(whole)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=75, help="of inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = inject(options.count, options.seed)
    print("| input | read | accepted | refused | defects | longest, s |\n|---|---|---|---|---|---|")
    for row in rows:
        counts = row.counts
        print(
            f"| {row.name} | {counts.total()} | {counts['accepted']} | {counts['refused']} | "
            f"{counts['defect']} | {row.seconds:.2f} |"
        )
    total = sum(row.counts.total() for row in rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    defects = [f"{row.name} {defect}" for row in rows for defect in row.defects]
    print(f"\n{total:,} inputs, {len(defects)} defects; the process took {peak:,.0f} MiB at most")
    print("\n".join(defects))
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
