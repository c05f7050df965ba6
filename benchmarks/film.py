"""What recording a film costs: trainings with and without it, in turn."""

import time
from typing import Any

import peers
from timing import ratio, spread, table

import latens


def seconds(film: bool) -> float:
    """Of a training of one epoch of conv on MNIST, with a recording before and after it."""
    trainer = peers.trainer(latens.load_data("mnist"), recipe="conv", epochs=1, film=film)
    began = time.perf_counter()
    trainer.fit()
    return time.perf_counter() - began


def measure(rounds: int) -> dict[str, Any]:
    """Print the table; the seconds of each."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    for i in range(rounds):
        for which in ("without", "with") if i % 2 == 0 else ("with", "without"):
            found[which].append(seconds(which == "with"))
    rows = [(f"{which} a film", spread(values, ".2f")) for which, values in found.items()]
    rows.append(("with over without", spread(ratio(found["with"], found["without"]), ".3f")))
    table("An epoch of conv on MNIST, 2 frames recorded", ["", "seconds"], rows)
    return found
