"""All measurements, or some: `python benchmarks/run.py [PART ...] [--rounds N]`.

Prints tables and writes benchmarks/results.json. Nothing else should run on the machine.
"""

import argparse
import json
import logging
import os
import platform
import time
import warnings
from pathlib import Path

import film
import gains
import growth
import quality
import same_work
import scale
import serve
import share
import torch

from latens.training.devices import machine

PARTS = {
    "same-work": same_work.measure,
    "quality": quality.measure,
    "convolutions": quality.convolutions,
    "share": share.measure,
    "gains": gains.measure,
    "growth": growth.measure,
    "start": growth.start_up,
    "scale": scale.measure,
    "film": film.measure,
    "serve": serve.measure,
}
RESULT = Path(__file__).with_name("results.json")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure latens beside its peers.")
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison, in turn (5)")
    options = parser.parse_args()
    for name in options.part:
        if name not in PARTS:
            parser.error(f"no part {name}: there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    print(f"{machine('cpu')}; torch {torch.__version__}; Python {platform.python_version()}")
    for name in options.part or PARTS:
        began, load = time.perf_counter(), os.getloadavg()[0]
        found[name] = PARTS[name](options.rounds)
        print(
            f"\n{name}: {time.perf_counter() - began:.0f} s, load {load:.1f} before it", flush=True
        )
        RESULT.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
