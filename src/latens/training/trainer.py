"""The training loop: one function to read, over Lightning Fabric for device and precision."""

import atexit
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from latens.config import TrainConfig
from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.metrics import Evaluation, evaluate
from latens.training.objectives import ELBO, BetaSchedule
from latens.training.recorder import Recorder
from latens.run.directory import CHECKPOINTS, Checkpoint, Run
from latens.training.learner import AVERAGE_EVERY, TERMS, Learner, step_seeds
from latens.model.vae import VAE
from latens.training.progress import Bar

CHECKPOINT_SECONDS = 30.0  # between full states
# Between two looks at the numbers: steps where to look means to wait, for an accelerator or for
# other processes, which must all look at once; elsewhere seconds, for a step may take one
LOOK_EVERY, LOOK_SECONDS = 20, 0.05
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not what it chose, every time
RESIDENT_BYTES = 4 * 2**30  # a training set up to this size moves to the accelerator at once


class Diverged(LatensError):
    """The loss is no longer a number."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the run, whose path is the argument, is saved."""


@dataclass
class Progressed:
    """How far a training is: all that the next step depends on, besides tensors.

    Attributes:
        epoch: epochs finished.
        images: images seen.
        in_epoch: images seen of the epoch under way.
        seconds: time spent in training, evaluation included.
        sums: loss, reconstruction, KL and the label's loss summed over the images of this epoch,
            in nats.
        clipped: steps of this epoch whose gradient was clipped, and all of its steps.
        gradient_norm: summed over the steps of this epoch.
        all_steps: since the training began.
        best_loss, best_epoch: of validation so far, at the schedule's last β.
    """

    epoch: int = 0
    images: int = 0
    in_epoch: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(TERMS))
    clipped: int = 0
    steps: int = 0
    gradient_norm: float = 0.0
    all_steps: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0

    def begin_epoch(self) -> None:
        """Forget what was summed over the last epoch."""
        self.in_epoch, self.sums = 0, [0.0] * len(TERMS)
        self.clipped, self.steps, self.gradient_norm = 0, 0, 0.0


def launch(config: TrainConfig) -> Fabric:
    """Device, precision and processes; from here on the program runs in each of these.

    With several devices Fabric starts this program anew for each further one, up to here, unless
    `torchrun` has started them all.

    Args:
        config: resolved.
    """
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))  # as torchrun says
    fabric = Fabric(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=nodes,
        strategy="ddp" if config.devices * nodes > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """Leave the other processes in order, or the group's threads may abort this one as it ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Trainer:
    """The state of a training, and the loop over it.

    Args:
        run: where everything is left.
        vae: what is trained, in place.
        data: its training images are learned from, its validation images choose the best epoch.
        config: resolved: device, precision, batch size, epochs or minutes are given.
        checkpoint: the state to go on from; None starts afresh.
        fabric: launched; None launches one. Each of its processes has a Trainer, learns from its
            share of every batch, and measures its share of the validation images; the first one
            alone writes.
    """

    def __init__(
        self,
        run: Run,
        vae: VAE,
        data: DataSet,
        config: TrainConfig,
        checkpoint: Checkpoint | None = None,
        fabric: Fabric | None = None,
    ):
        self.run, self.vae, self.data, self.config = run, vae, data, config
        self.fabric = fabric or launch(config)
        self.leads = self.fabric.is_global_zero
        self.labelled = _labelled_share(data.train)
        self.at = Progressed()
        self.schedule = BetaSchedule(
            config.beta or 0.0, config.beta_warmup or 0.0, config.beta_cycles, config.beta_step
        )
        self.learner = Learner(self.fabric, vae, data.train.draw_bits, config)
        self.averaged = self.learner.averaged
        self.images = self._resident(data.train)
        self.evaluation: Evaluation | None = None
        self.unread: list[Tensor] = []  # what the steps since the last look gave
        self.waits = self.fabric.device.type != "cpu" or self.fabric.world_size > 1
        self.looked = 0.0
        self.bar = Bar(config)
        if checkpoint is not None:
            self._restore(*checkpoint)
        self.began = time.perf_counter() - self.at.seconds
        self.seconds = self.at.seconds  # at the last look, the same in all processes
        self.saved = -math.inf  # when the last checkpoint was written
        self.recorder = None
        if config.film and self.leads:
            self.recorder = Recorder(run, data, max(run.frames, default=-1))

    def _resident(self, images: Images) -> Images:
        if (
            self.fabric.device.type == "cpu"
            or len(images) * math.prod(images.shape) > RESIDENT_BYTES
        ):
            return images
        labels = None if images.labels is None else images.labels.to(self.fabric.device)
        return Images(images.pixels.to(self.fabric.device), labels, images.draw_bits)

    # ---- the loop ----------------------------------------------------------------------------

    def fit(self) -> Evaluation:
        """Train, leave everything in the run, and return the last validation figures.

        Raises:
            Diverged: the loss became NaN or infinite; the last good checkpoint is kept.
            Interrupted: Ctrl-C; the run is saved and can be loaded or resumed.
        """
        with _interrupts() as interrupted, self.bar.bar:
            return self._loop(interrupted)

    def _loop(self, interrupted: threading.Event) -> Evaluation:
        if self.at.images == 0:
            self._save()
            self._record()
        while not self._finished():
            for batch, of, seed in self.rest_of_epoch():
                self.step(batch, of, seed)
                if self.due:
                    self.look()
                    if self._heed(interrupted):
                        break
            self._end_epoch()
            self._heed(interrupted)  # an epoch may be shorter than the way from look to look
        if self.at.in_epoch:  # stopped when its time was up, in the middle of an epoch
            self._end_epoch()
        self._save()
        return self.evaluation or self._evaluate()

    def _heed(self, interrupted: threading.Event) -> bool:
        """Save where it is time to; whether the time of the training is up.

        Raises:
            Interrupted: Ctrl-C in one of the processes.
        """
        if self._any_process(interrupted.is_set()):
            self._save()
            raise Interrupted(self.run.path)
        if self.seconds - self.saved > CHECKPOINT_SECONDS:
            self._save()
        return self._out_of_time()

    def step(self, batch: Images, of: int, seed: int) -> None:
        """Learn from a batch.

        Args:
            batch: this process's share of it.
            of: how many images all processes have of it.
            seed: of the noise.
        """
        objective, at = self.objective(self.labelled), self.at
        beta, alpha = cast("float", objective.beta), cast("float", objective.label_weight)
        rate = self.learning_rate()
        self.unread.append(self.learner.step(batch, of, beta, alpha, rate, seed))
        at.steps += 1
        at.all_steps += 1
        at.images += of
        at.in_epoch += of
        if at.steps % AVERAGE_EVERY == 0:
            self.learner.average(AVERAGE_EVERY, at.all_steps)

    def rest_of_epoch(self) -> Iterator[tuple[Images, int, int]]:
        """The batches of this epoch that are still to come, in an order fixed by the seed.

        Yields:
            This process's share of a batch, the number of images in all shares, and the seed of
            the step's noise.
        """
        size, count = cast("int", self.config.batch_size), len(self.images)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        seeds = step_seeds(self.config.seed, self.at.epoch, rank, math.ceil(count / size))
        rng = np.random.default_rng([self.config.seed, self.at.epoch])
        order = torch.from_numpy(rng.permutation(count)).to(self.images.array.device)
        shuffled = self.images.take(order)
        for start in range(self.at.in_epoch, count, size):
            end = min(start + size, count)
            share = shuffled.take(slice(start + rank, end, world))
            yield share, end - start, seeds[start // size]

    @property
    def due(self) -> bool:
        """It is time to look."""
        if self.waits:
            return len(self.unread) >= LOOK_EVERY
        return time.perf_counter() - self.looked > LOOK_SECONDS

    def look(self) -> None:
        """Read what the steps since the last look gave; the same in all processes.

        Raises:
            Diverged: it is no number.
        """
        at, terms = self.at, len(TERMS)
        rows = torch.stack(self.unread).cpu().double()  # [S, T + 2]
        sums, norms, limits = rows[:, :terms], rows[:, terms], rows[:, terms + 1]
        if self.fabric.world_size > 1:
            # A row after the other in memory: gloo takes no notice of strides
            sums = cast("Tensor", self.fabric.all_reduce(sums.contiguous(), reduce_op="sum"))
        self.unread.clear()
        if not (sums[:, 0].isfinite().all() and norms.isfinite().all()):
            raise Diverged(
                f"the loss became {rows[-1, 0]:g} and the gradient's norm {norms[-1]:g} after "
                f"{at.images:,} images: try a smaller --learning-rate or --precision float32. "
                f"The last good state is in {self.run.path}/checkpoints"
            )
        for step, norm in zip(sums.tolist(), norms.tolist(), strict=True):
            # One by one: figures must not hang on when somebody looked
            at.sums = [a + b for a, b in zip(at.sums, step, strict=True)]
            at.gradient_norm += norm
        at.clipped += int((norms > limits).sum())
        self.looked = time.perf_counter()
        self._tell_time()
        self.bar.show(at.images, at.epoch + 1, self.share(), at.sums[0] / at.in_epoch)

    def _any_process(self, holds: bool) -> bool:
        """Whether it holds in one of the processes."""
        if self.fabric.world_size == 1:
            return holds
        return bool(self.fabric.all_reduce(torch.tensor(float(holds)), reduce_op="sum"))

    def _tell_time(self) -> None:
        """By the first process's clock: what hangs on the time is the same in all of them."""
        self.seconds = time.perf_counter() - self.began
        if self.fabric.world_size > 1:
            self.seconds = self.fabric.broadcast(self.seconds)

    def _evaluate(self) -> Evaluation:
        """Validation figures, for which each process measures its share of the images."""
        images, world = self.data.validation, self.fabric.world_size
        if world == 1 or len(images) < world:
            return evaluate(self.averaged, images)
        rank = self.fabric.global_rank
        share = images.take(slice(rank, None, world))
        return evaluate(self.averaged, share, seed=rank, gather=_gathered)

    def _end_epoch(self) -> None:
        objective = self.objective()  # before the schedule moves on
        if self.unread:
            self.look()
        if self.at.steps % AVERAGE_EVERY:
            self.learner.average(self.at.steps % AVERAGE_EVERY, self.at.all_steps)
        self.at.epoch += 1
        self.evaluation = self._evaluate()
        self._tell_time()
        self._record()
        row = self._row(self.evaluation, objective)
        if row["validation"]["final_loss"] < self.at.best_loss:
            self.at.best_loss, self.at.best_epoch = row["validation"]["final_loss"], self.at.epoch
            self._save_model()
        if self.leads:
            self.run.add_metrics(row)
        self.at.begin_epoch()
        self.bar.epoch(row, last=self._finished())

    def _record(self) -> None:
        if self.recorder is not None:
            self.recorder.record(self.averaged, self.at.epoch, self._finished())

    def _row(self, validation: Evaluation, objective: ELBO) -> dict[str, Any]:
        """One line of metrics.jsonl; losses and KL in nats per image."""
        at = self.at
        means = dict(zip(TERMS, (value / at.in_epoch for value in at.sums), strict=True))
        means["label"] /= self.labelled or 1
        figures = {
            "loss": _loss_of(objective, validation),
            "final_loss": _loss_of(self.objective(last=True), validation),
            "elbo": validation.elbo,
            "reconstruction": validation.reconstruction,
            "kl": validation.kl,
            "label": validation.label,
            "accuracy": validation.accuracy,
            "kl_per_dim": validation.kl_per_dim,
            "active_units": validation.active_units,
        }
        if self.vae.classifier is None:
            for terms in (means, figures):
                terms.pop("label")
            figures.pop("accuracy")
        return {
            "epoch": at.epoch,
            "images": at.images,
            "seconds": round(self.seconds, 3),
            "train": means,
            "validation": figures,
            "beta": objective.beta,
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "gradient_norm": at.gradient_norm / at.steps,
            "clipped": at.clipped / at.steps,
        }

    def objective(self, labelled: float = 1.0, last: bool = False) -> ELBO:
        """What is minimised now, or at the `last` β of the schedule.

        Args:
            labelled: the share of images with a label; its term becomes a mean over those.
        """
        config, epochs = self.config, self.config.epochs or 1
        beta = self.schedule.last(epochs) if last else self.schedule(self.share(), self.at.epoch)
        return ELBO(beta, config.free_bits, (config.label_weight or 0.0) / (labelled or 1.0))

    # ---- how far, how fast -------------------------------------------------------------------

    def share(self) -> float:
        """How much of the training is done, in [0, 1], by images or by the clock."""
        shares = []
        if self.config.epochs:
            shares.append(self.at.images / (self.config.epochs * len(self.images)))
        if self.config.minutes:
            shares.append(self.seconds / (60 * self.config.minutes))
        return min(1.0, max(shares))

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
        share, warmup = self.share(), self.config.warmup
        if share < warmup:
            return self.config.learning_rate * max(share / warmup, 1e-3)
        return (
            self.config.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))
        )

    def _out_of_time(self) -> bool:
        return bool(self.config.minutes) and self.seconds >= 60 * (self.config.minutes or 0)

    def _finished(self) -> bool:
        config, at = self.config, self.at
        if config.early_stopping and at.epoch - at.best_epoch >= config.early_stopping:
            return True
        return self._out_of_time() or bool(config.epochs and at.epoch >= config.epochs)

    # ---- saving and restoring ----------------------------------------------------------------

    def _save(self) -> None:
        """A checkpoint; before the first evaluation also the model that is loaded and shared."""
        if self.unread:
            self.look()
        self._tell_time()
        if self.leads:
            state = asdict(self.at) | {"seconds": self.seconds}
            self.run.save_checkpoint(self.at.images, self.learner.tensors(), state)
        if not self.at.best_epoch:  # from then on, the model is that of the best epoch
            self._save_model()
        self.saved = self.seconds

    def _save_model(self) -> None:
        self.averaged.about = self.vae.about
        if self.leads:
            self.run.save_model(self.averaged)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put back what `_save` wrote.

        Raises:
            LatensError: a checkpoint of something else.
        """
        path = self.run.path / CHECKPOINTS
        try:
            self.at = Progressed(**state)
        except TypeError as error:
            raise LatensError(f"{path} holds a checkpoint of another kind: {error}") from error
        self.learner.restore(tensors, path, begun=self.at.images > 0)
        if self.leads:
            self.run.forget_metrics_after(self.at.epoch)


def _gathered(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of the images of all processes, from those of each."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, terms)
    return {name: torch.cat([part[name] for part in parts]) for name in terms}


def _labelled_share(images: Images) -> float:
    """The share of images of which a label is known, in [0, 1]."""
    if images.labels is None:
        return 0.0
    return (images.labels >= 0).reshape(len(images), -1).any(1).double().mean().item()


def _loss_of(objective: ELBO, figures: Evaluation) -> float:
    return objective.of_means(figures.reconstruction, figures.kl, figures.kl_per_dim, figures.label)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C lets the step finish; a second one is Python's own."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(_number: int, _frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
