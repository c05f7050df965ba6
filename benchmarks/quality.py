"""Seconds of training until a quality that others published, each in as few epochs as it takes."""

import tempfile
import time
from pathlib import Path
from typing import Any

import peers
from timing import spread, table

import latens
from latens.data import DataSet

# The PyTorch example's last test loss; the CNN and the MLP of tutorials, as their authors ran them
# (784-400-10 and its kin); what reaches them was chosen on validation images.
QUICK = {"recipe": "mlp", "batch_size": 256, "validation": 1000}
TARGETS = {
    105.55: QUICK
    | {"latent_dim": 20, "hidden": "640", "epochs": 2, "learning_rate": 0.011}
    | {"batch_size": 192, "warmup": 0.2, "prior": "mixture", "components": 200},
    144.49: QUICK | {"latent_dim": 2, "epochs": 5, "learning_rate": 4e-3},
    119.64: QUICK | {"latent_dim": 10, "hidden": "512", "epochs": 1, "learning_rate": 6e-3},
}
EXAMPLE_EPOCHS = 12  # at most; it takes about 10


def measure(rounds: int) -> dict[str, Any]:
    """Print the table; seconds and −ELBO of each."""
    rounds = min(rounds, 2)  # the example takes most of a minute
    data = latens.load_data("mnist")
    found: dict[str, Any] = {"PyTorch example": []}
    found |= {str(target): [] for target in TARGETS}
    for _ in range(rounds):
        found["PyTorch example"].append(example(data))
        for target, options in TARGETS.items():
            found[str(target)].append(ours(options))
    slow = [seconds for seconds, _ in found["PyTorch example"]]
    rows = []
    for name, results in found.items():
        seconds, elbo = zip(*results, strict=True)
        over = [a / b for a, b in zip(slow, seconds, strict=True)]
        target = "105.55" if name == "PyTorch example" else name
        rows.append(
            (target, name if target != name else command(float(name)), spread(seconds, ".1f"))
        )
        rows[-1] += (spread(elbo, ".2f"), spread(over, ".1f") if target == "105.55" else "")
    head = [
        "to reach",
        "by",
        "seconds of training",
        "−ELBO on test images",
        "the example's time over it",
    ]
    table("Time to quality, nats per image on MNIST", head, rows)
    return found


def command(target: float) -> str:
    """What trains to that quality."""
    flags = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in TARGETS[target].items()
    )
    return f"`latens train mnist {flags}`"


def example(data: DataSet) -> tuple[float, float]:
    """Epochs of the PyTorch example until its test loss is there: (seconds of training, loss)."""
    contender, seconds, loss = peers.pytorch_example(data), 0.0, float("inf")
    for _ in range(EXAMPLE_EPOCHS):
        began = time.perf_counter()
        contender.train()
        seconds += time.perf_counter() - began
        loss = contender.evaluate()
        if loss <= min(TARGETS, key=lambda target: abs(target - 105.55)):
            break
    return seconds, loss


def ours(options: dict[str, Any]) -> tuple[float, float]:
    """A training of latens: (seconds with its validation after each epoch, −ELBO on test)."""
    out = Path(tempfile.mkdtemp()) / "run"
    run = latens.train("mnist", out=out, film=False, report=False, **options)
    assert run.figures is not None
    return run.metrics[-1]["seconds"], -run.figures["elbo"]
