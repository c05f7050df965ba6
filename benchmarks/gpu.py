"""Steps on a GPU: images/s by how they are launched, and the share of the card's bf16 peak.

`python benchmarks/gpu.py` runs each row in a process of its own, one after the other.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timing import table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import latens
from latens.training import learner as learning
from latens.training.processes import Processes
from latens.training.setup import prepare
from latens.training.trainer import Trainer

SECONDS, ROUNDS = 1.5, 5
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bf16 FLOP/s without sparsity, by NVIDIA
LAUNCHES = ("eager", "compiled", "captured")
MLP = {"recipe": "mlp", "hidden": "400", "latent_dim": 20}
CONV, UNET = {"recipe": "conv"}, {"recipe": "unet"}
# Options of latens; None is the PyTorch example. MNIST where no side in pixels is named
ROWS: dict[str, tuple[dict[str, Any] | None, int, int, tuple[str, ...]]] = {
    "example's MLP, PyTorch": (None, 0, 128, ("eager",)),
    "example's MLP": (MLP, 0, 128, LAUNCHES),
    "example's MLP, large batches": (MLP, 0, 8192, ("captured",)),
    "conv, 28x28": (CONV, 0, 128, LAUNCHES),
    "conv, 64x64": (CONV, 64, 512, ("captured",)),
    "unet, 64x64": (UNET, 64, 512, ("captured",)),
    "conv, 256x256": (CONV, 256, 64, ("captured",)),
}


class Example(nn.Module):
    """The network of the PyTorch example (github.com/pytorch/examples, vae), 784-400-20."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> Tensor:
        """The loss summed over a batch `[B, 784]`."""
        h = F.relu(self.fc1(x))
        mean, log_variance = self.fc21(h), self.fc22(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        decoded = torch.sigmoid(self.fc4(F.relu(self.fc3(z))))
        cross_entropy = F.binary_cross_entropy(decoded, x, reduction="sum")
        return cross_entropy - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()


def example_epochs(batch_size: int) -> Callable[[], int]:
    """An epoch of the example, with all images on the card; how many it saw."""
    images = latens.load_data("mnist").train.pixels.cuda().flatten(1)
    model = Example().cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> int:
        for rows in torch.randperm(len(images), device="cuda").split(batch_size):
            optimizer.zero_grad()
            model(images[rows].float() / 255).backward()
            optimizer.step()
        return len(images)

    return epoch


def latens_epochs(
    options: dict[str, Any], side: int, batch_size: int, launch: str, folder: Path
) -> tuple[Callable[[], int], Trainer]:
    """An epoch of latens without its validation; how many images it saw."""
    data: Any = "mnist"
    if side:
        rng = np.random.default_rng(0)
        data = rng.integers(0, 256, (max(2048, 4 * batch_size), 3, side, side), np.uint8)
    config = latens.TrainConfig.from_options(
        **options, batch_size=batch_size, epochs=1000, device="cuda", compile=launch != "eager"
    )
    setup = prepare(data, config)
    run = latens.Run.create(folder / "run", setup.record())
    trainer = Trainer(run, setup, Processes.launch("cuda", 1))

    def epoch() -> int:
        seen = 0
        for batch, size, seed in trainer.rest_of_epoch():
            trainer.step(batch, size, seed)
            seen += size
            if trainer.due:
                trainer.sync_metrics()
        trainer.state.begin_epoch()
        return seen

    return epoch, trainer


def flops_of_an_image(trainer: Trainer, batch_size: int) -> float:
    """Of a step's passes forward and back, by torch's counter."""
    batch, size, _ = next(trainer.rest_of_epoch())
    with FlopCounterMode(display=False) as counter:
        terms = trainer.learner.training_loss(batch.pixels, batch.labels, size)
        terms["loss"].sum().backward()
    for parameter in trainer.learner.parameters:
        parameter.grad = None
    return counter.get_total_flops() / batch_size


def measure(name: str, launch: str, folder: Path) -> dict[str, float]:
    """Images/s in rounds, and FLOPs of an image."""
    options, side, batch_size, _ = ROWS[name]
    flops = 0.0
    uncaptured = patch.object(learning.Learner, "_replayed", lambda self, *of: self._compiled(*of))
    with uncaptured if launch == "compiled" else contextlib.nullcontext():
        if options is None:
            epoch = example_epochs(batch_size)
        else:
            epoch, trainer = latens_epochs(options, side, batch_size, launch, folder)
            flops = flops_of_an_image(trainer, batch_size)
        epoch()
        speeds = []
        for _ in range(ROUNDS):
            torch.cuda.synchronize()
            began, seen = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS:
                seen += epoch()
                torch.cuda.synchronize()
            speeds.append(seen / (time.perf_counter() - began))
    return {
        "median": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
        "flops": flops,
    }


def main() -> None:
    """Every row, or that of this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", help="of this process alone: NAME, LAUNCH and FOLDER", nargs=3)
    options = parser.parse_args()
    if options.row:
        name, launch, folder = options.row
        print(json.dumps(measure(name, launch, Path(folder))))
        return
    card = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAKS.items() if part in card), float("nan"))
    rows, first = [], 0.0
    for name, (_, _, batch_size, launches) in ROWS.items():
        for launch in launches:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--row", name, launch, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}, {launch}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            first = first or found["median"]
            speed, share = found["median"], found["median"] * found["flops"] / peak
            row = (
                f"{name}, batch {batch_size:,}, {launch}",
                f"{speed:,.0f} ({found['least']:,.0f} to {found['most']:,.0f})",
                f"{speed / first:.1f}" if "example" in name else "",
                f"{100 * share:.1f} %" if found["flops"] else "",
            )
            print(*row, sep=" | ", file=sys.stderr, flush=True)
            rows.append(row)
    head = ("training", "images/s", "over the first", "share of bf16 peak")
    table(f"{card}, torch {torch.__version__}", head, rows)


if __name__ == "__main__":
    main()
