"""What was tried on the step and not kept, measured again.

`python benchmarks/tried.py widths` prints images/s of a compiled step at several widths, and which
share of it are a cast of all weights to bfloat16 and the averaging of the weights: what keeping the
cast or fusing the average with the optimiser could gain at most. `python benchmarks/tried.py
batches` prints −ELBO on validation images after three epochs of batches that grow, shrink or stay.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

import latens
from latens import TrainConfig
from latens.data import DataSet
from latens.evaluation.metrics import evaluate
from latens.training.learner import Learner
from latens.training.processes import Processes
from latens.training.setup import prepare
from latens.training.trainer import learner_of

EPOCHS, BATCH, WARMUP = 3, 128, 0.05
PLANS = ((128,), (64, 128, 256), (256, 128, 64), (256,))


def learner(data: DataSet, width: int, compiled: bool, seed: int = 0) -> Learner:
    """Of the network of the PyTorch example, at a width of its own."""
    options = {"recipe": "mlp", "hidden": str(width), "device": "cpu", "seed": seed}
    config = TrainConfig.from_options(**options, compile=compiled, batch_size=BATCH)
    return learner_of(prepare(data, config), Processes.launch("cpu", 1))


def median_ms(action: Callable[[int], object], times: int) -> float:
    """The median duration of an action, after a few of them."""
    durations = []
    for i in range(times + 20):
        begin = time.perf_counter()
        action(i)
        durations.append(time.perf_counter() - begin)
    return 1_000 * statistics.median(durations[20:])


def widths(data: DataSet) -> None:
    """Print the row of each width, twice in turn."""
    batch = data.train.take(slice(0, BATCH))
    print("| width | images/s | casts | averaging |\n|---|---|---|---|")
    for width in (400, 384, 416, 448) * 2:
        each = learner(data, width, compiled=True)
        step = median_ms(lambda i, t=each: t.step(batch, BATCH, {}, 1e-3, i), 1_000)
        cast = median_ms(lambda _, t=each: [p.detach().bfloat16() for p in t.parameters], 300)
        average = median_ms(lambda _, t=each: t.average(8, 1_000), 300) / 8
        print(
            f"| {width} | {BATCH / step * 1_000:,.0f} | {cast / step:.1%} | {average / step:.1%} |"
        )


def batches(data: DataSet) -> None:
    """Print the row of each plan at two rates, with two seeds."""
    print("| batches | rate at 128 | seconds | −ELBO |\n|---|---|---|---|")
    for seed in range(2):
        for rate in (0.002, 0.003):
            for plan in PLANS:
                seconds, elbo = trained(data, plan, rate, seed)
                print(f"| {', '.join(map(str, plan))} | {rate} | {seconds:.1f} | {-elbo:.2f} |")


def trained(data: DataSet, plan: tuple[int, ...], rate: float, seed: int) -> tuple[float, float]:
    """Seconds and ELBO of three epochs with the sizes of a plan, one after the other."""
    torch.manual_seed(seed)
    t, images = learner(data, 400, compiled=False, seed=seed), len(data.train)
    seen, begin = 0, time.perf_counter()
    for _ in range(EPOCHS):
        order = torch.randperm(images)
        while len(order):
            share = seen / (EPOCHS * images)
            size = plan[int(len(plan) * share)]
            rows, order = order[:size], order[size:]
            falling = min(1, share / WARMUP) * (1 + math.cos(math.pi * share)) / 2
            now = rate * math.sqrt(size / BATCH) * falling
            t.step(data.train.take(rows), len(rows), {}, now, seed * 10**6 + t.steps)
            if t.steps % 8 == 0:
                t.average(8, t.steps)
            seen += len(rows)
    return time.perf_counter() - begin, evaluate(t.averaged, data.validation).elbo


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What was tried on the step and not kept.")
    parser.add_argument("what", choices=("widths", "batches"))
    {"widths": widths, "batches": batches}[parser.parse_args().what](latens.load_data("mnist"))


if __name__ == "__main__":
    main()
