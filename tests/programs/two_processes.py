"""A step by each of several processes, and what they measure together: to the file named.

The objectives named after it are those with statistics over the batch.
"""

import atexit
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from learning import learner
from torch.distributions import Normal

import latens
from latens.evaluation.metrics import ObjectiveTerms, evaluate
from latens.training.processes import Processes

Normal.rsample = lambda self, shape=(): self.loc.expand(shape + self.loc.shape)  # no noise
Normal.sample = Normal.rsample


def no_threads_are_left() -> None:
    """A thread of the group of processes that outlives Python may abort the process."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if any("gloo" in name for name in names):
        print("left behind:", *names, file=sys.stderr, flush=True)
        os._exit(1)


def main(out: str) -> None:
    atexit.register(no_threads_are_left)  # before the group's own, so that it is called after it
    digits = latens.load_data("digits")
    processes = Processes.launch("cpu", 1)
    rank, count = processes.rank, processes.count
    found = {"count": count}
    for name, options in {
        "elbo": {},
        "free-bits": {"free_bits": 0.05},
        "beta-tc": {"objective": "beta-tc"},
        "info-vae": {"objective": "info-vae"},
        "jitter": {"jitter": 1.0},
    }.items():
        t = learner(digits, processes, **options)
        images = 1 if name == "jitter" else 33  # one process has none of it, or fewer
        batch = digits.train.take(slice(rank, images, count))
        step = t.step(batch, images, {"beta": 0.5}, 1e-3, rank)
        own = [name for name in step if not name.startswith(("gradient", "clip"))]
        terms = {name: processes.sum(step[name]) for name in own}
        found[name] = {"terms": terms, "tensors": t.tensors()}
    free = latens.ELBO(free_bits=0.05)
    measured = ObjectiveTerms(lambda draw: {"loss": free(draw).per_image})
    if count > 1:
        exchange = {name: getattr(processes, name) for name in ("joint", "own", "gather")}
        measured = replace(measured, rank=rank, count=count, **exchange)
    figures = evaluate(learner(digits, processes).averaged, digits.test, objective=measured)
    found["figures"] = figures.as_dict() | figures.objective
    if processes.is_main:
        torch.save(found, out)


main(sys.argv[1])
