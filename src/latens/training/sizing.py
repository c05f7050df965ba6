"""What fits: how wide a network a time budget allows, and whether one fits the memory."""

import math
import os
import statistics
import time
from collections.abc import Callable

import torch

from latens.config import TrainConfig, replaced
from latens.console import note, warn
from latens.data import NAMES, DataSet, can_be_resized
from latens.errors import LatensError
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.training.objectives import Objective

CHANNELS = (32, 16, 8)  # of the finest level, from the default down
STEPS, IMAGES = 2, 32  # that are timed, after a first step, and the images in each
# A training goes through its images so often, or sees so many, before a wider network pays
LEAST_EPOCHS, LEAST_IMAGES = 20, 300_000
# Of a weight in float32: itself, its gradient, two moments of AdamW, its average, and that saved
BYTES_OF_A_WEIGHT = 4 * 6
OVERHEAD = 0.8  # of a budget is left for steps: validation, averages and checkpoints take the rest


def fitted(
    config: TrainConfig,
    data: DataSet,
    objective: Objective,
    build: Callable[[TrainConfig, DataSet], LatentModel],
) -> TrainConfig:
    """The configuration with the widest convolutional network that fits the time budget.

    It is left as it is without a budget, for data sets that have a name, on an accelerator, and
    where the user has said how wide.

    Args:
        config: resolved.
        build: a model from a configuration.
    """
    minutes = config.run.minutes
    if minutes is None or data.source in NAMES or config.run.device != "cpu":
        return config
    if config.model.latent_map or config.model.network == "mlp" or config.model.recipe == "mlp":
        return config
    wanted = min(LEAST_EPOCHS * len(data.train), LEAST_IMAGES)
    chosen = config.model.options.get("channels")
    widths = CHANNELS if chosen is None else (chosen,)
    tried: list[tuple[int, float]] = []  # channels, and the images seen with them
    for channels in widths:
        speed = _images_per_second(_with_channels(config, channels), data, objective, build)
        tried.append((channels, OVERHEAD * 60 * minutes * speed))
        if tried[-1][1] >= wanted:
            break
    _tell_of_too_little(tried[-1][1], data, minutes)
    if len(tried) == 1:
        return config
    (wider, fewer), (channels, seen) = tried[-2:]
    note(
        f"--channels {channels}: --minutes {minutes:g} holds about {_epochs(seen, data)} with it, "
        f"and {_epochs(fewer, data)} with {wider}"
    )
    return _with_channels(config, channels)


def _tell_of_too_little(seen: float, data: DataSet, minutes: float) -> None:
    """Say before the first step where not every image will be seen, and what would let it."""
    images = len(data.train)
    if seen < images:
        height, width = data.shape[1:]
        smaller = (
            f", or --size {max(8, height // 2)}x{max(8, width // 2)} about four times as many"
            if can_be_resized(data.source)
            else ""
        )
        warn(
            f"--minutes {minutes:g} holds about {seen:,.0f} of the {images:,} images: --minutes "
            f"{math.ceil(minutes * images / max(seen, 1)):,} would show each of them once{smaller}"
        )


def check_memory(config: TrainConfig, weights: int) -> None:
    """Refuse a network whose training cannot fit this machine's memory.

    Args:
        config: resolved.
        weights: that the network has, or the part of it that was made so far.

    Raises:
        LatensError: too large a network.
    """
    memory = _memory()
    if memory is None or config.run.device != "cpu":
        return
    needed = weights * BYTES_OF_A_WEIGHT
    if needed > memory:
        raise LatensError(
            f"a network of more than {weights:,} weights takes more than {needed / 1e9:,.0f} GB to "
            f"train, and this machine has {memory / 1e9:,.0f} GB: choose a smaller --channels, "
            "--hidden, --features or --size"
        )


def _memory() -> int | None:
    """Bytes of this machine; None where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _with_channels(config: TrainConfig, channels: int) -> TrainConfig:
    return replaced(config, model={"options": {**config.model.options, "channels": channels}})


def _epochs(images: float, data: DataSet) -> str:
    return f"{images / len(data.train):.2g} epochs"


def _images_per_second(
    config: TrainConfig,
    data: DataSet,
    objective: Objective,
    build: Callable[[TrainConfig, DataSet], LatentModel],
) -> float:
    """The speed of a step's passes forward and back; the user's random numbers stay."""
    size = min(IMAGES, config.optimiser.batch_size or 1)
    batch = data.train.take(slice(0, size))
    with forked_rng():
        model = build(config, data)
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = batch.unit()
        times = []
        for _ in range(1 + STEPS):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bf16"):
                draw = model(x, batch.labels, objective.samples)
            objective(draw).per_image.mean().backward()
            times.append(time.perf_counter() - began)
    return size / statistics.median(times[1:])
