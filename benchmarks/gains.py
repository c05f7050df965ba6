"""What each part of the fast path gains: steps with all of it, and with one part taken back."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import peers
import torch
from share import steps
from timing import in_turn, ratio, spread, table
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

import latens
from latens.data import Images
from latens.model import priors
from latens.training import learner
from latens.training import trainer as training

MLP = {"recipe": "mlp", "hidden": "400", "batch_size": 128, "epochs": 50, "compile": False}
COMPILED = MLP | {"compile": True}
MIXTURE = {"recipe": "mlp", "prior": "mixture", "components": 300, "batch_size": 256}
MIXTURE |= {"latent_dim": 20, "epochs": 50, "compile": False}
CONV = {"recipe": "conv", "batch_size": 128, "epochs": 50, "compile": False}
Patch = Callable[[], AbstractContextManager[Any]]


def seeding() -> AbstractContextManager[Any]:
    """Every kind of generator, at every step."""
    return patch.object(learner, "seed_noise", lambda seed, _: torch.manual_seed(seed))


def averaging() -> AbstractContextManager[Any]:
    """The weights, at every step."""
    return patch.object(training, "AVERAGE_EVERY", 1)


def looking() -> AbstractContextManager[Any]:
    """At the numbers of a step, at every step."""
    return patch.object(training, "SYNC_SECONDS", 0.0)


def gathering() -> AbstractContextManager[Any]:
    """Single bytes of pixels, in place of whole rows."""
    pixels = property(lambda self: self.array if self.rows is None else self.array[self.rows])
    return patch.object(Images, "pixels", pixels)


def mixing() -> AbstractContextManager[Any]:
    """By torch's own mixture, with a value for each sample, component and axis."""

    def mixture(logits: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> Distribution:
        return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, scale), 1))

    return patch.object(priors, "DiagonalMixture", mixture)


CASES: dict[str, dict[str, tuple[dict[str, Any], Patch]]] = {
    "MLP 784-400-20, batch 128": {
        "as it is, not compiled": (MLP, nullcontext),
        "float32 in place of bfloat16": (MLP | {"precision": "float32"}, nullcontext),
        "torch.manual_seed at every step": (MLP, seeding),
        "the weights averaged at every step": (MLP, averaging),
        "compiled": (COMPILED, nullcontext),
        "compiled, float32": (COMPILED | {"precision": "float32"}, nullcontext),
    },
    "MLP 784-400-20, batch 128, compiled": {
        "as it is, compiled": (COMPILED, nullcontext),
        "looked at at every step": (COMPILED, looking),
        "single bytes gathered": (COMPILED, gathering),
    },
    "mlp, 20 dimensions, a mixture of 300 Gaussians, batch 256": {
        "as it is, not compiled": (MIXTURE, nullcontext),
        "by torch's MixtureSameFamily": (MIXTURE, mixing),
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
        count = 16 if "conv" in title else 200
        tasks = {name: task(data, *case, count) for name, case in cases.items()}
        seconds = in_turn(tasks, rounds)
        first = seconds[next(iter(cases))]
        rows = [
            (
                n,
                spread([count * cases[n][0]["batch_size"] / v for v in s]),
                spread(ratio(first, s), ".2f"),
            )
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
