"""What grows with the data, the batch, the latent dimensions and the image; and starting up."""

import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from PIL import Image
from share import rates
from timing import in_turn, ratio, spread, table

import latens
from latens.data import DataSet

FIXED = {"recipe": "mlp", "batch_size": 128, "epochs": 1, "compile": False, "film": False}
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
FIRST_STEP = """
import os
from latens.training.learner import Learner
step = Learner.step
def first(*arguments):
    step(*arguments)
    os._exit(0)
Learner.step = first
from latens.cli import main
main("train mnist --recipe mlp --no-compile".split())
"""


def measure(rounds: int) -> dict[str, Any]:
    """Print the tables; the figures."""
    return {
        "images": by_images(),
        "options": by_option(rounds),
    }


def by_images() -> dict[str, Any]:
    """An epoch of `latens train` on memory-mapped arrays of more and more images."""
    rng, found, rows = np.random.default_rng(0), {}, []
    digits = latens.load_data("mnist").train.pixels[:, 0].numpy()
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder) / f"{count}.npy"
            array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
            for start in range(0, count, 50_000):
                size = min(50_000, count - start)
                array[start : start + size] = digits[rng.integers(len(digits), size=size)]
            array.flush()
            del array
            out = Path(folder) / f"run-{count}"
            flags = ["--recipe", "mlp", "--epochs", "1", "--no-film", "--no-compile", "--no-report"]
            command = [sys.executable, "-m", "latens", "train", str(path), "--out", str(out)]
            own, mapped = peak_memory([*command, *flags, "--batch-size", "100"])
            row = latens.Run.open(out).metrics[-1]
            speed = row["images"] / row["seconds"]
            found[count] = {"images/s": speed, "own": own, "mapped": mapped}
            over = f"{own / found[10_000]['own']:.2f}" if count >= 10_000 else ""
            rows.append((f"{count:,}", f"{speed:,.0f}", f"{own:,.0f}", over, f"{mapped:,.0f}"))
            path.unlink()
    head = ["images", "images/s, validation included", "peak memory of its own, MB"]
    head += ["over that of 10,000", "peak of mapped files, MB"]
    table("Size of the data set, memory-mapped, the whole command", head, rows)
    return found


def peak_memory(command: list[str]) -> tuple[float, float]:
    """Peak MB of a process: its own, and pages of files, which the system may take back."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks = [0.0, 0.0]

    def watch() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            values = {line.split(":")[0]: line.split()[1] for line in lines if "kB" in line}
            for i, name in enumerate(("RssAnon", "RssFile")):
                peaks[i] = max(peaks[i], float(values.get(name, 0)) / 1000)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    watcher.join()
    if status:
        raise RuntimeError(f"{command} ended with {status}")
    return peaks[0], peaks[1]


def by_option(rounds: int) -> dict[str, list[float]]:
    """Images/s of training steps, one thing changed at a time."""
    mnist = latens.load_data("mnist")
    cases: dict[str, tuple[DataSet, dict[str, Any]]] = {
        f"batch {size}": (mnist, {"batch_size": size}) for size in (32, 128, 512, 2048)
    }
    cases |= {f"{dims} latent dimensions": (mnist, {"latent_dim": dims}) for dims in (2, 20, 200)}
    with tempfile.TemporaryDirectory() as folder:
        for side in (14, 28, 56, 112):
            path = Path(folder) / f"{side}.npy"
            noise = np.random.default_rng(0).integers(0, 256, (1_000, side, side), np.uint8)
            np.save(path, noise)
            small = {"recipe": "conv", "batch_size": 32}
            cases[f"`conv`, batch 32, images of {side}x{side}"] = (latens.load_data(path), small)
        found, rows = {}, []
        for name, (data, options) in cases.items():
            trainer = peers.trainer(data, **(FIXED | options))
            images = 1_000 if "recipe" in options else 12_800
            count = max(1, images // (trainer.setup.batch_size))
            found[name] = rates(trainer, count, rounds)
            rows.append((name, spread(found[name])))
    table("Recipe mlp, MNIST, batch 128, 20 latent dimensions unless said", ["", "images/s"], rows)
    return found


def start_up(rounds: int) -> dict[str, list[float]]:
    """Seconds of whole processes, and how often `import torch` goes into each."""
    latens_ = [sys.executable, "-m", "latens"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "5.png"
        Image.fromarray(latens.load_data("mnist").test.pixels[15, 0].numpy()).save(image)
        commands = {
            "`python -c pass`": [sys.executable, "-c", "pass"],
            "`import torch`": [sys.executable, "-c", "import torch"],
            "`import latens`": [sys.executable, "-c", "import latens"],
            "`latens --help`": [*latens_, "--help"],
            "to the first step of `latens train mnist`": [sys.executable, "-c", FIRST_STEP],
            "`latens sample mnist-2d`": [*latens_, "sample", "mnist-2d", "--out", "samples.png"],
            "`latens reconstruct mnist-2d IMAGE`": [
                *(*latens_, "reconstruct", "mnist-2d", str(image), "--out", "pairs.png"),
            ],
            "`latens report mnist-2d`": [*latens_, "report", "mnist-2d", "--out", "page"],
            "`latens train digits --likelihood gaussian`": [
                *(*latens_, "train", "digits", "--likelihood", "gaussian"),
            ],
        }

        def run(command: list[str]) -> None:
            subprocess.run(command, check=True, capture_output=True, cwd=folder)

        found = in_turn({name: partial(run, words) for name, words in commands.items()}, rounds)
    torch_ = found["`import torch`"]
    rows = [(n, spread(s, ".2f"), spread(ratio(s, torch_), ".2f")) for n, s in found.items()]
    table("Starting up", ["", "seconds", "over `import torch`"], rows)
    return found
