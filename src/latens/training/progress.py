"""What is seen of a training while it runs, and what is said when it has ended."""

import math
import time
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from latens.config import TrainConfig
from latens.console import note, stderr, warn
from latens.evaluation.findings import findings_of_training
from latens.evaluation.metrics import Evaluation

REFRESH_SECONDS = 0.2
LINE_SECONDS = 1.0  # between printed epochs, however short they are


class Bar:
    """A bar on a terminal, and a line for each epoch, at most one a second.

    Args:
        level_shapes: Z of each level of latents, the topmost first.
    """

    def __init__(self, config: TrainConfig, level_shapes: Sequence[tuple[int, ...]]):
        self.epochs = config.run.epochs
        self.dims = math.prod(level_shapes[0])
        self.active = "active at the top" if len(level_shapes) > 1 else "active"
        self.moving = bool(config.objective.beta_warmup or config.objective.beta_step)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[nats]}  {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0, epoch="1", nats="", speed="")
        self.shown = time.perf_counter()
        self.images: int | None = None  # seen until then
        self.printed = float("-inf")

    def show(self, images: int, epoch: int, share: float, loss: float) -> None:
        """Show how far a training is, at most five times a second.

        Args:
            images: seen so far.
            epoch: the one under way, from 1.
            share: of the training that is done, in [0, 1].
            loss: mean of this epoch so far, in nats per image.
        """
        seconds = time.perf_counter() - self.shown
        if seconds < REFRESH_SECONDS:
            return
        speed = (images - self.images) / seconds if self.images is not None else 0
        self.bar.update(
            self.task,
            completed=share,
            epoch=f"{epoch}/{self.epochs}" if self.epochs else str(epoch),
            nats=f"loss {loss:.2f} nats",
            speed=f"{speed:,.0f} images/s" if speed else "",
        )
        self.shown, self.images = time.perf_counter(), images

    def epoch(self, row: dict[str, Any], last: bool) -> None:
        """Print a row of metrics.jsonl; the last one always."""
        now = time.perf_counter()
        if now - self.printed < LINE_SECONDS and not last:
            return
        self.printed = now
        train, validation = row["train"], row["validation"]
        right = validation.get("accuracy")
        stderr.print(
            f"epoch {row['epoch']:>4}  {row['images']:>11,} images  {row['seconds']:7.1f} s  "
            f"loss {train['loss']:8.2f}  validation −elbo {-validation['elbo']:8.2f} = "
            f"{validation['reconstruction']:.2f} + kl {validation['kl']:.2f} nats  "
            f"{self.active} {validation['active_units']}/{self.dims}"
            + (f"  q {validation['posterior']}" if "posterior" in validation else "")
            + (f"  β {row['beta']:.2f}" if self.moving else "")
            + ("" if right is None else f"  accuracy {right:.1%}")
        )


def comment(
    rows: list[dict[str, Any]], evaluation: Evaluation, config: TrainConfig, dims: int
) -> None:
    """Say what went wrong in a training that ran to its end, each with its remedy.

    Args:
        dims: how many latent dimensions there are.
    """
    for finding in findings_of_training(rows, evaluation, config, dims):
        (warn if finding.serious else note)(str(finding))
    if config.model.posterior == "grid":
        note(
            "validation was measured under the grid, and the test images are under the encoder's "
            "q(z|x), which is what is used; `latens evaluate RUN --posterior grid` tells the other"
        )
