"""Floating-point operations of a step over its time, against the fastest matrix product."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import peers
import torch
from timing import spread, table
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import latens
from latens.training.trainer import Trainer

CASES = [("conv", 128), ("conv", 512), ("mlp", 128), ("mlp", 512)]
SIZES = (1024, 2048, 4096)  # of the square matrices
STEPS = {"conv": 20, "mlp": 100}
# Where a step's time goes, by the operation that spends it; the rest is Python and dispatch.
GROUPS = {
    "matrix products, convolutions": ("mm", "addmm", "bmm", "convolution"),
    "optimiser, clipping, average": ("adam", "lerp", "norm", "foreach"),
    "data: gather, to float": ("index", "bernoulli"),
    "element-wise, reductions, casts": (),
}


def measure(rounds: int) -> dict[str, Any]:
    """Print the tables; the figures."""
    peak = {name: fastest(dtype, rounds) for name, dtype in DTYPES.items()}
    table("Largest matrix product", ["", "GFLOP/s"], [(n, spread(p)) for n, p in peak.items()])
    best = statistics.median(peak["bf16"])
    data = latens.load_data("mnist")
    found: dict[str, Any] = {"peak": peak}
    rows, parts = [], {}
    for recipe, batch in CASES:
        for compiled in (False, True):
            options = {"recipe": recipe, "batch_size": batch, "compile": compiled, "epochs": 50}
            trainer = peers.trainer(data, film=False, **options)
            operations = operations_of(trainer)
            speed = rates(trainer, STEPS[recipe] * 128 // batch, rounds)
            achieved = [operations * value / 1e9 for value in speed]
            name = f"{recipe}, batch {batch}" + (", compiled" if compiled else "")
            found[name] = {"images/s": speed, "flop per image": operations}
            shares = [100 * value / best for value in achieved]
            rows.append((name, f"{operations / 1e6:.1f}", spread(speed), spread(achieved)))
            rows[-1] += (spread(shares, ".0f") + " %",)
            if not compiled:
                parts[name] = breakdown(trainer)
    head = ["", "MFLOP per image", "images/s", "GFLOP/s", "share of the bf16 peak"]
    table("A whole training step: loss, gradient, clipping, AdamW, average", head, rows)
    groups = [*GROUPS, "Python, dispatch"]
    rows = [(n, *(f"{100 * p[g]:.0f} %" for g in groups)) for n, p in parts.items()]
    table("Where the time of a step goes, not compiled", ["", *groups], rows)
    return found | {"breakdown": parts}


DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def fastest(dtype: torch.dtype, rounds: int) -> list[float]:
    """GFLOP/s of square matrix products, those of the fastest size."""
    best: list[float] = [0.0]
    for size in SIZES:
        a = torch.randn(size, size, dtype=dtype)
        a @ a
        speed = []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(4):
                a @ a
            speed.append(4 * 2 * size**3 / (time.perf_counter() - began) / 1e9)
        best = max(best, speed, key=statistics.median)
    return best


def steps(trainer: Trainer) -> Iterator[None]:
    """Steps without end, on full batches."""
    while True:
        for batch in trainer.rest_of_epoch():
            if batch[1] == trainer.setup.batch_size:
                trainer.step(*batch)
                if trainer.due:
                    trainer.sync_metrics()
                yield
        trainer.state.begin_epoch()


def operations_of(trainer: Trainer) -> float:
    """Floating-point operations for each image of a step, forward and backward (torch's count)."""
    batch, images, seed = next(trainer.rest_of_epoch())
    with FlopCounterMode(display=False) as counter:  # the first step is never compiled
        trainer.step(batch, images, seed)
    trainer.sync_metrics()
    trainer.state.begin_epoch()
    return counter.get_total_flops() / images


def rates(trainer: Trainer, count: int, rounds: int) -> list[float]:
    """Images/s over `count` steps, in each of so many rounds."""
    endless, speed = steps(trainer), []
    for _ in range(count):
        next(endless)
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            next(endless)
        speed.append(count * trainer.setup.batch_size / (time.perf_counter() - began))
    return speed


def breakdown(trainer: Trainer) -> dict[str, float]:
    """The share of each group in the time of a step; the profiler's own cost is in Python's."""
    endless, count = steps(trainer), 10
    next(endless)
    began = time.perf_counter()
    with profile() as profiler:
        for _ in range(count):
            next(endless)
    wall = time.perf_counter() - began
    spent = dict.fromkeys(GROUPS, 0.0)
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            matching: Callable[[str], bool] = lambda g: any(w in event.key for w in GROUPS[g])  # noqa: B023, E731
            group = next(filter(matching, GROUPS), list(GROUPS)[-1])
            spent[group] += event.self_cpu_time_total / 1e6
    spent["Python, dispatch"] = max(0.0, wall - sum(spent.values()))
    return {name: seconds / wall for name, seconds in spent.items()}
