"""Many images, by whole commands: a log-likelihood, samples, features; images/s and memory."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import growth
import numpy as np
from share import DTYPES, fastest
from timing import table

import latens

LATENT, HIDDEN, PIXELS = 20, 400, 784
TRAIN = f"train mnist --recipe mlp --hidden {HIDDEN} --latent-dim {LATENT} --epochs 1"
SAMPLES, TESTED = 1_000, 10_000
DECODER = 2 * (LATENT * HIDDEN + HIDDEN * PIXELS)  # floating-point operations for a z
HEAD = ["", "images", "seconds", "images/s", "peak memory of its own, MB", "share of the peak"]


def measure(rounds: int) -> dict[str, Any]:
    """Print the table; the figures."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        words = f"{TRAIN} --no-film --no-report --no-compile --out {run}".split()
        subprocess.run([sys.executable, "-m", "latens", *words], check=True, capture_output=True)
        for precision, dtype in DTYPES.items():
            command = f"evaluate {run} --importance-samples {SAMPLES} --precision {precision}"
            label = f"`evaluate --importance-samples {SAMPLES:,} --precision {precision}`"
            found[label] = _timed(command, TESTED) | {
                "peak": statistics.median(fastest(dtype, rounds)) * 1e9
            }
        for count in (6_000, 60_000):
            label = f"`generate -n {count}`"
            found[label] = _timed(f"generate {run} -n {count} --out {folder / str(count)}", count)
        for count in (10_000, 1_000_000):
            images = _repeated(folder / f"{count}.npy", count)
            found[f"`embed`, {count:,}"] = _timed(
                f"embed {run} {images} --out {folder / f'{count}.npz'}", count
            )
            images.unlink()
    table("Many images, whole commands", HEAD, [_row(name, of) for name, of in found.items()])
    return found


def _row(name: str, of: dict[str, float]) -> tuple[str, ...]:
    share = ""
    if "peak" in of:
        share = f"{100 * SAMPLES * of['images'] * DECODER / of['seconds'] / of['peak']:.0f} %"
    speed = f"{of['images'] / of['seconds']:,.0f}"
    return name, f"{of['images']:,}", f"{of['seconds']:.1f}", speed, f"{of['memory']:,.0f}", share


def _timed(command: str, images: int) -> dict[str, float]:
    began = time.perf_counter()
    own, _ = growth.peak_memory([sys.executable, "-m", "latens", *command.split()])
    return {"images": images, "seconds": time.perf_counter() - began, "memory": own}


def _repeated(path: Path, count: int) -> Path:
    """So many images of MNIST, the same ones over and over."""
    digits = latens.load_data("mnist").train.pixels[:, 0].numpy()
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *digits.shape[1:]))
    for start in range(0, count, len(digits)):
        rows = min(len(digits), count - start)
        array[start : start + rows] = digits[:rows]
    array.flush()
    return path
