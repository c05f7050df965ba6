"""What each part of the fast path gains: steps with all of it, and with one part taken back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import peers
import torch
from share import steps
from timing import in_turn, ratio, spread, table

import latens
from latens import steps as stepping
from latens import training

MLP = {"recipe": "mlp", "hidden": "400", "batch_size": 128, "epochs": 50, "compile": False}
CONV = {"recipe": "conv", "batch_size": 128, "epochs": 50, "compile": False}
Patch = Callable[[], AbstractContextManager[Any]]


def seeding() -> AbstractContextManager[Any]:
    """Every kind of generator, at every step."""
    return patch.object(stepping, "seed_noise", lambda seed, _: torch.manual_seed(seed))


def averaging() -> AbstractContextManager[Any]:
    """The weights, at every step."""
    return patch.object(training, "AVERAGE_EVERY", 1)


CASES: dict[str, dict[str, tuple[dict[str, Any], Patch]]] = {
    "MLP 784-400-20, batch 128": {
        "as it is, not compiled": (MLP, nullcontext),
        "float32 in place of bfloat16": (MLP | {"precision": "float32"}, nullcontext),
        "torch.manual_seed at every step": (MLP, seeding),
        "the weights averaged at every step": (MLP, averaging),
        "compiled": (MLP | {"compile": True}, nullcontext),
        "compiled, float32": (MLP | {"compile": True, "precision": "float32"}, nullcontext),
    },
    "conv, batch 128": {
        "as it is, not compiled": (CONV, nullcontext),
        "float32 in place of bfloat16": (CONV | {"precision": "float32"}, nullcontext),
        "compiled": (CONV | {"compile": True}, nullcontext),
    },
}


def measure(rounds: int) -> dict[str, Any]:
    """Print the tables; the seconds of each."""
    found: dict[str, Any] = {}
    data = latens.load_data("mnist")
    for title, cases in CASES.items():
        count = 200 if "MLP" in title else 16
        tasks = {name: task(data, *case, count) for name, case in cases.items()}
        seconds = in_turn(tasks, rounds)
        first = seconds["as it is, not compiled"]
        rows = [
            (n, spread([count * 128 / v for v in s]), spread(ratio(first, s), ".2f"))
            for n, s in seconds.items()
        ]
        table(title, ["", "images/s", "over the first"], rows)
        found[title] = seconds
    return found


def task(data: Any, options: dict[str, Any], changed: Patch, count: int) -> Callable[[], None]:
    """So many steps of a training, with something changed."""
    endless: Iterator[None] = steps(peers.trainer(data, film=False, **options))

    def run() -> None:
        with changed():
            for _ in range(count):
                next(endless)

    return run
