"""What recording a film costs: trainings with and without it, in turn, in one process.

    python benchmarks/film.py [--rounds 3] [--epochs 1]

Prints the seconds of each training (its loop and validation; loading and the report are apart) and
the ratio of their medians, and writes benchmarks/film.json.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import latens
from latens.api import prepare
from latens.config import TrainConfig
from latens.runs import Run
from latens.training import Trainer

RESULT = Path(__file__).with_suffix(".json")


def seconds(film: bool, epochs: int, folder: Path) -> float:
    """Of a training of the recipe conv on MNIST."""
    options = TrainConfig(recipe="conv", epochs=epochs, film=film)
    data, config, vae = prepare("mnist", options)
    record = latens.Run.open("mnist-2d").record | {"options": config.as_dict()}
    run = Run.create(folder, record)
    Trainer(run, vae, data, config).fit()
    return run.metrics[-1]["seconds"]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What recording a film costs.")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turn (3)")
    parser.add_argument("--epochs", type=int, default=1, help="of each training (1)")
    options = parser.parse_args()
    found: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.rounds):
            order = ("without", "with") if i % 2 == 0 else ("with", "without")
            for which in order:
                path = Path(folder) / f"{which}-{i}"
                found[which].append(seconds(which == "with", options.epochs, path))
    medians = {which: statistics.median(values) for which, values in found.items()}
    ratio = medians["with"] / medians["without"]
    for which, values in found.items():
        print(f"{which:>8} film  median {medians[which]:6.2f} s of", [f"{v:.2f}" for v in values])
    print(f"ratio {ratio:.3f}")
    RESULT.write_text(json.dumps({"seconds": found, "ratio": ratio, "epochs": options.epochs}))


if __name__ == "__main__":
    main()
