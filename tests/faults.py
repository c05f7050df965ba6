"""Damaged and hostile inputs, made by a seed, and what each reader does with them.

`python tests/faults.py` prints a table: an input is accepted, refused in one line, or a defect.
A defect is any other exception, other weights than were written, a forbidden act (a program
started, a connection, a pickle, a file written outside), more than 1 GiB or 20 s of the processor.
docs/reliability.md has the table.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
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
from latens.run.recording import read_recording

MOST_MIB, MOST_SECONDS = 1024, 20
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
    mib: float = 0.0
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


def celeba(folder: Path) -> Iterator[Path]:
    """Images in a zip file and two lists, in CelebA's layout."""
    folder.mkdir()
    names = [f"{i:06d}.png" for i in range(IMAGES)]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name in names:
            archive.writestr(f"img_align_celeba/{name}", image_bytes(".png", "RGB"))
    rows = [f"{name} {' '.join(['1', '-1'])}" for name in names]
    attributes = folder / "list_attr_celeba.txt"
    attributes.write_text("\n".join([str(IMAGES), "Bald Smiling", *rows]))
    splits = [f"{name} {max(0, i // 2 - 7)}" for i, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(splits))
    yield from sorted(folder.iterdir())


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
    for path in celeba(folder / "celeba"):
        yield f"CelebA {path.name}", path, lambda path: latens.load_data(path.parent), damaged
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
    frame = next(iter(run.frames.values()))
    yield "film", frame, lambda path: read_recording(latens.Run.open(path.parent.parent)), damaged
    last = sorted((run.path / "checkpoints").glob("*.safetensors"))[-1]
    yield "checkpoint", last, read_checkpoint, damaged


# ---- small files that stand for much ---------------------------------------------------------


def npz_bomb(folder: Path) -> Path:
    np.savez_compressed(folder / "bomb.npz", images=np.zeros((4_000_000, 28, 28), np.uint8))
    return folder / "bomb.npz"


def gzip_bomb(folder: Path) -> Path:
    """IDX images that are all zero: 8 GB in 8 MB."""
    header = b"\0\0\x08\3" + (10_000_000).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(490):
            file.write(bytes(2**24))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\0"))
    return folder


def tar_bomb(folder: Path) -> Path:
    """Texts of 3 GB in 3 MB, beside images."""
    with tarfile.open(folder / "bomb.tar.gz", "w:gz", compresslevel=1) as file:
        for i in range(60):
            member = tarfile.TarInfo(f"{i:02d}.txt")
            member.size = 5 * 10**7
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return folder / "bomb.tar.gz"


def deep_images(folder: Path) -> Path:
    """Grey images of 9,400×9,400 pixels in 16 bits: 2 GB in 2 MB."""
    Image.fromarray(np.zeros((9400, 9400), np.uint16)).save(folder / "00.png")
    for i in range(1, 12):
        os.link(folder / "00.png", folder / f"{i:02d}.png")
    return folder


def large_image(folder: Path) -> Path:
    Image.new("1", (40_000, 40_000)).save(folder / "00.png")
    return folder


def long_name(folder: Path) -> Path:
    labels = np.array(["a" * 100_000, "b"])[np.arange(IMAGES) % 2]
    np.savez_compressed(folder / "x.npz", images=photos(), labels=labels)
    return folder / "x.npz"


def pipe(folder: Path) -> Path:
    Image.fromarray(photos()[0]).save(folder / "00.png")
    os.mkfifo(folder / "01.png")
    return folder


def links(folder: Path) -> Path:
    for i, pixels in enumerate(photos()):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    for name, target in {"usr": "/usr", "proc": "/proc", "self": str(folder)}.items():
        (folder / name).symlink_to(target)
    return folder


def program(folder: Path) -> Path:
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage"
    for i in range(3):
        (folder / f"{i}.png").write_text(text)
    return folder


def aliases(folder: Path) -> Path:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (folder / "config.yaml").write_text("\n".join(lines))
    return folder


def model_of(folder: Path, **changes: Any) -> Path:
    """A run whose config.json asks for another model than its weights are of."""
    options = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 1, "prior": "mixture"}
    run = latens.train("digits", **options, report=False, film=False, out=folder / "run")
    path = run.path / "config.json"
    config = json.loads(path.read_bytes())
    for name, value in changes.items():
        part = {"components": "prior", "hidden": "encoder"}[name]
        config["model"][part][name] = value
    path.write_text(json.dumps(config))
    return run.path


HOSTILE: dict[str, tuple[Callable[[Path], Path], Read]] = {
    ".npz of 3 MB that stands for 3 GB": (npz_bomb, latens.load_data),
    "IDX of 36 MB that stands for 8 GB": (gzip_bomb, latens.load_data),
    ".tar.gz of 13 MB that stands for 3 GB": (tar_bomb, latens.load_data),
    "12 images of 9,400×9,400 in 16 bits": (deep_images, latens.load_data),
    "image of 40,000×40,000": (large_image, latens.load_data),
    "class with a name of 100,000 letters": (long_name, latens.load_data),
    "pipe among images": (pipe, latens.load_data),
    "links to /usr, /proc and the folder itself": (links, latens.load_data),
    "PostScript called .png": (program, latens.load_data),
    "YAML aliases for 10^9 values": (aliases, lambda path: latens.Run.open(path).config),
    "mixture of 3·10^8 components": (
        lambda folder: model_of(folder, components=300_000_000),
        latens.load,
    ),
    "network of 10^6 layers": (lambda folder: model_of(folder, hidden=[8] * 10**6), latens.load),
    "layer of 10^9 units": (lambda folder: model_of(folder, hidden=[10**9]), latens.load),
}


def resident(name: str) -> float:
    """MiB of this process: VmRSS now, or VmHWM at most since `forget_peak`; Linux tells."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# ---- the run ---------------------------------------------------------------------------------


class Watch:
    """What a read does that it must not: an audit hook, which stays, and clocks."""

    def __init__(self, inside: Path):
        self.inside, self.watching = str(inside), False
        self.acts: list[str] = []
        sys.addaudithook(self._heed)

    def _heed(self, event: str, arguments: tuple) -> None:
        if not self.watching:
            return
        if event.startswith(FORBIDDEN):
            self.acts.append(event)
        if event == "open" and isinstance(arguments[0], str) and arguments[2]:
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            own = (self.inside, "/dev/", "/proc/self/")
            if writes and not arguments[0].startswith(own):
                self.acts.append(f"wrote {arguments[0]}")

    def __call__(self, row: Row, name: str, read: Read, path: Path) -> None:
        """Count one read."""
        self.acts.clear()
        forget_peak()
        base, began = resident("VmRSS"), time.process_time()
        self.watching = True
        found = attempt(read, path)
        self.watching = False
        seconds, mib = time.process_time() - began, resident("VmHWM") - base
        row.seconds, row.mib = max(row.seconds, seconds), max(row.mib, mib)
        if seconds > MOST_SECONDS or mib > MOST_MIB:
            found = f"{seconds:.0f} s, {mib:,.0f} MiB"
        found = next(iter(self.acts), found)
        row.counts[found if found in ("accepted", "refused") else "defect"] += 1
        if found not in ("accepted", "refused"):
            row.defects.append(f"{name}: {found}")


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


def inject(count: int, seed: int = 0, hostile: bool = True) -> list[Row]:
    """So many damaged files of each kind, each read once, and small ones that stand for much."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LATENS_CACHE"] = str(folder / "cache")
        watch = Watch(folder)
        for kind, path, read, damage in readers(folder):
            row, whole = Row(kind), path.read_bytes()
            first = attempt(read, path)
            if first != "accepted":
                row.defects.append(f"undamaged: {first}")
            for i in range(count):
                path.write_bytes(damage(whole, np.random.default_rng([seed, i, len(kind)])))
                watch(row, str(i), read, path)
            path.write_bytes(whole)
            rows.append(row)
        for kind, (make, read) in (HOSTILE if hostile else {}).items():
            row = Row(kind)
            (folder / "hostile").mkdir()
            with contextlib.redirect_stderr(io.StringIO()):
                path = make(folder / "hostile")
            watch(row, kind, read, path)
            rows.append(row)
            shutil.rmtree(folder / "hostile")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=75, help="of inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only damaged files")
    options = parser.parse_args()
    rows = inject(options.count, options.seed, not options.quick)
    print("| input | read | accepted | refused | defects | longest, s | most, MiB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        counts = row.counts
        print(
            f"| {row.name} | {counts.total()} | {counts['accepted']} | {counts['refused']} | "
            f"{counts['defect']} | {row.seconds:.2f} | {row.mib:.0f} |"
        )
    total = sum(row.counts.total() for row in rows)
    defects = [f"{row.name} {defect}" for row in rows for defect in row.defects]
    print(f"\n{total:,} inputs, {len(defects)} defects")
    print("\n".join(defects))
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
