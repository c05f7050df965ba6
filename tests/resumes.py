"""Trainings under many options are stopped at some step and gone on with.

`python tests/resumes.py` prints a row for each set of options: how often it was stopped, and what
differed from the training that nobody stopped: weights, averages, moments, metrics.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latens
from latens.training.trainer import Interrupted, Trainer

SMALL = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 3, "report": False}
SMALL |= {"film": False, "batch_size": 200}
NETWORK = {"hidden": None, "recipe": "conv", "channels": 4, "features": 16, "epochs": 2}
SETS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "float32": {"precision": "float32"},
    "a film": {"film": True},
    "conv": NETWORK,
    "unet": NETWORK | {"recipe": "unet"},
    "ladder": {"hidden": None, "recipe": "ladder", "levels": "2x2,4x2", "channels": 8, "epochs": 2},
    "dropout": {"dropout": 0.2},
    "noise on inputs": {"input_noise": 0.2},
    "jitter and mirror": {"jitter": 0.5, "mirror": True},
    "bits drawn at each visit": {"binarisation": "dynamic"},
    "labels": {"recipe": "semi_supervised", "network": "mlp", "labels": 100},
    "conditional": {"recipe": "conditional", "network": "mlp"},
    "beta in cycles": {"beta_warmup": 0.5, "beta_cycles": 2},
    "beta in steps": {"beta_step": 0.5},
    "warm-up, decay and clip": {"warmup": 0.2, "weight_decay": 0.1, "clip": 5.0},
    "no averages": {"ema": 0.0},
    "free bits": {"free_bits": 0.5},
    "iwae": {"objective": "iwae", "samples": 3},
    "beta-tc": {"objective": "beta-tc"},
    "info-vae": {"objective": "info-vae"},
    "VampPrior": {"prior": "vamp", "components": 10},
    "mixture": {"prior": "mixture", "components": 10},
    "flow": {"prior": "flow"},
    "full covariance": {"posterior": "full"},
    "inverse autoregressive flow": {"posterior": "iaf"},
    "grid": {"posterior": "grid", "cells": 8},
    "early stopping": {"early_stopping": 1},
    "compiled": {"compile": True},
    "batch of an eighth": {"batch_size": 180},
}


class Stopped(Exception):
    """In the middle of a training."""


def result(path: Path) -> dict[str, Any]:
    """All that a training ends with, without times."""
    run = latens.Run.open(path)
    tensors, state = run.last_checkpoint()
    rows = [{**row, "seconds": 0} for row in run.metrics]
    saved = run.vae.state_dict()
    figures = {name: v for name, v in (run.figures or {}).items() if name != "seconds"}
    state = {name: value for name, value in state.items() if name != "seconds"}
    return {
        **{f"checkpoint {name}": value for name, value in tensors.items()},
        **{f"model {name}": value for name, value in saved.items()},
        "metrics": json.dumps(rows),
        "state": json.dumps(state),
        "figures": json.dumps(figures),
    }


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what is not equal to the bit."""

    def same(name: str) -> bool:
        a, b = one.get(name), other.get(name)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return torch.equal(a, b)
        return a == b

    return sorted(name for name in one | other if not same(name))


def stopped_at(step: int, options: Mapping[str, Any], out: Path) -> bool:
    """Whether a training was stopped after so many steps, its state saved as by Ctrl-C."""
    count, take = 0, Trainer.step

    def counted(self: Trainer, *arguments: Any) -> None:
        nonlocal count
        take(self, *arguments)
        count += 1
        if count == step:
            self._save()
            raise Interrupted(self.run.path)

    Trainer.step = counted
    try:
        latens.train("digits", out=out, **options)
    except Interrupted:
        return True
    finally:
        Trainer.step = take
    return False


def inject(name: str, stops: int, folder: Path) -> tuple[int, list[str]]:
    """How often a training was stopped, and what then differed."""
    options = {key: value for key, value in (SMALL | SETS[name]).items() if value is not None}
    whole = latens.train("digits", out=folder / f"{name} whole", **options)
    expected, steps = result(whole.path), whole.last_checkpoint()[1]["all_steps"]
    rng, wrong, count = np.random.default_rng(len(name)), [], 0
    chosen = {steps // whole.metrics[-1]["epoch"], *rng.integers(1, steps, stops - 1).tolist()}
    for step in sorted(chosen):  # the last step of an epoch is among them
        out = folder / f"{name} {step}"
        if not stopped_at(step, options, out):
            continue
        count += 1
        latens.resume(out)
        differs = differing(expected, result(out))
        if differs:
            wrong.append(f"after step {step} of {steps}: {', '.join(differs[:4])}")
    return count, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=4, help="of each set of options")
    parser.add_argument("--only", nargs="*", help="these sets of options")
    options = parser.parse_args()
    stops = defects = 0
    for name in options.only or SETS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            count, wrong = inject(name, options.stops, Path(folder))
        print(f"{name}: stopped {count} times, {len(wrong)} differ", *wrong, sep="\n  ", flush=True)
        stops, defects = stops + count, defects + len(wrong)
    print(f"{stops} stops, {defects} defects")
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
