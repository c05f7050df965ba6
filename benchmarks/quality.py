"""Whole commands, from Python's start to the last line: how long until others' quality."""

import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from timing import alternately, ratio, spread, table

from latens.data.sources import data_folder

PEERS = Path(__file__).with_name("peers.py")
EXAMPLE = "PyTorch example, 10 epochs"
QUICK = "train mnist --recipe mlp --validation 1000"
# The PyTorch example's last test loss; the CNN and the MLP of tutorials, as their authors ran them
# (784-400-10 and its kin); what reaches them was chosen on validation images.
TO_105 = f"{QUICK} --batch-size 192 --latent-dim 20 --hidden 640 --epochs 2 --learning-rate 0.011"
TO_105 += " --warmup 0.2 --prior mixture --components 200"
TO_144 = f"{QUICK} --batch-size 256 --latent-dim 2 --epochs 5 --learning-rate 0.004"
LESS = "--validation 1000 --no-film --no-report"
TO_119 = f"{QUICK} --batch-size 256 --latent-dim 10 --hidden 512 --epochs 1 --learning-rate 0.006"
COMMANDS = {
    "105.55": (TO_105, f"{TO_105} --no-film --no-report", f"{TO_105} --precision float32"),
    "144.49": (TO_144, f"{TO_144} --no-film --no-report"),
    "119.64": (TO_119, f"{TO_119} --no-film --no-report"),
}
# 97 nats at 20 dimensions and 140 at 2 by convolutions. The CNN of tutorials reached 144.49 at 2
# dimensions after 50 epochs of its author's.
CNN, CNN_EPOCHS = "CNN 32-64-512, eager float32, 50 epochs, 2 dimensions", 50
CONVOLVED = f"train mnist {LESS} --learning-rate 0.003 --recipe"
CONVOLUTIONS = {
    "97 at 20 dims": f"{CONVOLVED} conv --latent-dim 20 --epochs 5",
    "140 at 2 dims": f"{CONVOLVED} conv --latent-dim 2 --decoder-network mlp --epochs 5",
    "140 at 2 dims, `unet`": f"{CONVOLVED} unet --latent-dim 2 --epochs 6",
}
HEAD = ["to reach", "by", "seconds, the whole command", "−ELBO on test images"]


def measure(rounds: int) -> dict[str, Any]:
    """Print the table; seconds and −ELBO of each."""
    rounds = min(rounds, 3)  # the example takes about a minute
    tasks: dict[str, Any] = {EXAMPLE: example}
    for commands in COMMANDS.values():
        tasks |= {command: partial(ours, command) for command in commands}
    found = alternately(tasks, rounds)
    slow = [seconds for seconds, _ in found[EXAMPLE]]
    rows = []
    for target, commands in COMMANDS.items():
        for name in (EXAMPLE, *commands) if target == "105.55" else commands:
            seconds, loss = zip(*found[name], strict=True)
            words = name if name == EXAMPLE else f"`latens {name}`"
            over = spread(ratio(slow, seconds), ".1f") if target == "105.55" else ""
            rows.append((target, words, spread(seconds, ".1f"), spread(loss, ".2f"), over))
    table("Time to quality on MNIST", [*HEAD, "the example's time over it"], rows)
    return found


def convolutions(_rounds: int) -> dict[str, Any]:
    """Print the table of convolutional networks, one round: the CNN takes a quarter of an hour."""
    found = {name: ours(command) for name, command in CONVOLUTIONS.items()}
    found[CNN] = _timed([sys.executable, str(PEERS), str(CNN_EPOCHS)], r"test loss ([\d.]+)")
    rows = []
    for name, (seconds, loss) in found.items():
        words = f"`latens {CONVOLUTIONS[name]}`" if name in CONVOLUTIONS else ""
        rows.append((name, words, f"{seconds:.0f}", f"{loss:.2f}"))
    table("Time to quality by convolutions", HEAD, rows)
    return found


def example() -> tuple[float, float]:
    """The example's script: (seconds, its last test loss)."""
    script = str(Path(__file__).with_name("example.py"))
    return _timed([sys.executable, script, str(data_folder() / "mnist")], r"test loss ([\d.]+)")


def ours(command: str) -> tuple[float, float]:
    """A command of latens: (seconds, −ELBO on test images)."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*command.split(), "--out", f"{folder}/run"]
        return _timed([sys.executable, "-m", "latens", *words], r"test: −elbo ([\d.]+)")


def _timed(command: list[str], pattern: str) -> tuple[float, float]:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return seconds, float(re.findall(pattern, done.stdout + done.stderr)[-1])
