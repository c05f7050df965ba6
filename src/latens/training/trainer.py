"""The training loop: one class to read from top to bottom."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from latens.console import warn
from latens.data import Images
from latens.errors import LatensError
from latens.evaluation.metrics import Evaluation, ObjectiveTerms, evaluate
from latens.model.latents import Draw
from latens.run.directory import CHECKPOINTS, Checkpoint, Run
from latens.signals import ENDINGS, handled
from latens.training.callbacks import Callback
from latens.training.learner import (
    AVERAGE_EVERY,
    NORM,
    Learner,
    StepOptions,
    TrainingLoss,
    step_seeds,
)
from latens.training.objectives import Objective
from latens.training.processes import Processes
from latens.training.progress import Bar
from latens.training.recorder import Recorder
from latens.training.setup import TrainingSetup, labelled_share
from latens.training.state import TrainingState

CHECKPOINT_SECONDS = 30.0  # between full states
# Between two readings of the metrics: steps where to read means to wait, for an accelerator or for
# other processes, which must all read at once; elsewhere seconds, for a step may take one
SYNC_EVERY, SYNC_SECONDS = 20, 0.05
# Of a time budget: before, z may still come into use; after, too little is left to begin again
COLLAPSE_SHARES = (0.3, 0.6)
# A training goes back so often to its last good state, each time with such a share of the rate
SETBACKS, SLOWER = 3, 0.25
# An epoch whose mean loss is so many times the first step's above it has diverged
RUNAWAY = 10.0
RESIDENT_BYTES = 4 * 2**30  # a training set up to this size moves to the accelerator at once


class Diverged(LatensError):
    """The loss is no longer a number, or far above that of the first step."""


class Collapsed(LatensError):
    """The posterior collapsed, and there is time to begin again.

    Args:
        seconds: that the training took so far.
    """

    def __init__(self, seconds: float):
        super().__init__("posterior collapse")
        self.seconds = seconds


class Interrupted(Exception):
    """The user pressed Ctrl-C; the run, whose path is the argument, is saved."""


class Trainer:
    """The state of a training, and the loop over it.

    Args:
        run: where everything is left.
        setup: data, configuration, model and objective, resolved. The model is trained in place.
        checkpoint: the state to go on from; None starts afresh.
        callbacks: told of each epoch, in the first process.
        processes: that train together. Each has a Trainer, learns from its share of every batch,
            and measures its share of the validation images; the first one alone writes.
    """

    def __init__(
        self,
        run: Run,
        setup: TrainingSetup,
        processes: Processes,
        checkpoint: Checkpoint | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        self.callbacks = callbacks
        self.run, self.setup, self.processes = run, setup, processes
        self.config, self.data = setup.config, setup.data
        self.labelled = labelled_share(setup.data.train)
        self.state = TrainingState()
        self._make_learner()
        self.images = _resident(setup.data.train, processes.device)
        self.evaluation: Evaluation | None = None
        self.unread: list[dict[str, Tensor]] = []  # what the steps since the last reading gave
        self.waits = processes.device.type != "cpu" or processes.count > 1
        self.synced = 0.0
        self.bar = Bar(self.config, setup.model.level_shapes)
        if checkpoint is not None:
            self._restore(*checkpoint)
        self.began = time.perf_counter() - self.state.seconds
        self.saved = -math.inf  # when the last checkpoint was written
        self.recorder = None
        if self.config.run.film and processes.is_main:
            self.recorder = Recorder(run, setup.data, max(run.frames, default=-1))

    # ---- the loop ----------------------------------------------------------------------------

    def fit(self) -> Evaluation:
        """Train, leave everything in the run, and return the last validation figures.

        Raises:
            Diverged: the loss became NaN, infinite or far larger than at first, and did so again
                after three returns to the last good checkpoint, which is kept.
            Collapsed: z is not used, there is time to begin again, and the setup allows it.
            Interrupted: Ctrl-C; the run is saved and can be loaded or resumed.
        """
        with _interrupts() as interrupted, self.bar.bar:
            return self._loop(interrupted)

    def _loop(self, interrupted: threading.Event) -> Evaluation:
        if self.state.images == 0:
            self._save()
            self._record()
        while not self._finished():
            try:
                self._train_epoch(interrupted)
            except Diverged as error:
                self._go_back(error)
                continue
            self._heed(interrupted)  # an epoch may be shorter than the way between two readings
            self._check_collapse()
        if self.state.in_epoch:  # stopped when its time was up, in the middle of an epoch
            self._end_epoch()
        self._save()
        return self.evaluation or self._evaluate()

    def _train_epoch(self, interrupted: threading.Event) -> None:
        for batch, global_batch_size, seed in self.rest_of_epoch():
            self.step(batch, global_batch_size, seed)
            if self.due:
                self.sync_metrics()
                if self._heed(interrupted):
                    break
        self._end_epoch()

    def step(self, batch: Images, global_batch_size: int, seed: int) -> None:
        """Learn from a batch.

        Args:
            batch: this process's share of it.
            global_batch_size: how many images all processes have of it.
            seed: of the noise.
        """
        share = self.share()
        rate = self.setup.learning_rate(share) * SLOWER**self.state.setbacks
        moved = self.setup.moved(share, self.state.epoch)
        self.unread.append(self.learner.step(batch, global_batch_size, moved, rate, seed))
        self.state.count_step(global_batch_size, rate)
        if self.state.steps % AVERAGE_EVERY == 0:
            self.learner.average(AVERAGE_EVERY, self.state.all_steps)

    def rest_of_epoch(self) -> Iterator[tuple[Images, int, int]]:
        """The batches of this epoch that are still to come, in an order fixed by the seed.

        Yields:
            This process's share of a batch, the number of images in all shares, and the seed of
            the step's noise.
        """
        size, count, seed = self.setup.batch_size, len(self.images), self.config.run.seed
        rank, processes = self.processes.rank, self.processes.count
        seeds = step_seeds(seed, self.state.epoch, rank, math.ceil(count / size))
        shuffled = self.images.take(self.order().to(self.images.array.device))
        for start in range(self.state.in_epoch, count, size):
            end = min(start + size, count)
            share = shuffled.take(slice(start + rank, end, processes))
            yield share, end - start, seeds[start // size]

    def order(self) -> Int64[Tensor, " N"]:
        """Which training images this epoch shows, one after the other."""
        rng = np.random.default_rng([self.config.run.seed, self.state.epoch])
        return torch.from_numpy(rng.permutation(len(self.images)))

    @property
    def due(self) -> bool:
        """It is time to read the metrics."""
        if self.waits:
            return len(self.unread) >= SYNC_EVERY
        return time.perf_counter() - self.synced > SYNC_SECONDS

    def sync_metrics(self) -> None:
        """Read what the steps since the last reading gave; the same in all processes.

        Raises:
            Diverged: it is no number.
        """
        state, names = self.state, list(self.unread[0])
        rows = torch.stack([torch.stack([*step.values()]) for step in self.unread]).cpu().double()
        rows[:, :-2] = self.processes.sum(rows[:, :-2])  # terms; norm and limit are the same in all
        self.unread.clear()
        steps = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
        for i, step in enumerate(steps):
            if not (math.isfinite(step["loss"]) and math.isfinite(step[NORM])):
                self._keep_for_a_look(state.steps - len(steps) + i, step)
                raise Diverged(f"the loss became {step['loss']:g}, its gradient {step[NORM]:g}")
        state.add(steps, self.setup.batch_size)
        self.synced = time.perf_counter()
        self._tell_time()
        self.bar.show(
            state.images, state.epoch + 1, self.share(), state.sums["loss"] / state.in_epoch
        )

    def _heed(self, interrupted: threading.Event) -> bool:
        """Save where it is time to; whether the time of the training is up.

        Raises:
            Interrupted: Ctrl-C in one of the processes.
        """
        if self.processes.any(interrupted.is_set()):
            self._save()
            raise Interrupted(self.run.path)
        if self.state.seconds - self.saved > CHECKPOINT_SECONDS:
            self._save()
        return self.setup.out_of_time(self.state.seconds)

    def _end_epoch(self) -> None:
        state = self.state
        moved = self.setup.moved(self.share(), state.epoch, ended=True)
        if self.unread:
            self.sync_metrics()
        if state.steps % AVERAGE_EVERY:
            self.learner.average(state.steps % AVERAGE_EVERY, state.all_steps)
        self._check_runaway()
        state.epoch += 1
        self.evaluation = self._evaluate(moved)
        measured = (self.evaluation.objective or {})["final_loss"]
        if not math.isfinite(measured):
            raise Diverged(f"the loss of validation images became {measured:g}")
        self._tell_time()
        self._record()
        row = state.row(self.evaluation, self.labelled, moved)
        if row["validation"]["final_loss"] < state.best_loss:
            state.best_loss, state.best_epoch = row["validation"]["final_loss"], state.epoch
            self._save_model()
        if self.processes.is_main:
            self.run.add_metrics(row)
            for callback in self.callbacks:
                callback.on_epoch(self.run, row)
        state.begin_epoch()
        self.bar.epoch(row, last=self._finished())

    # ---- where the loss is no number ---------------------------------------------------------

    def _check_runaway(self) -> None:
        """Raise Diverged where the loss is a number, and no step has made it smaller."""
        mean = self.state.sums["loss"] / self.state.in_epoch
        first = self.state.first_loss
        if first is not None and mean - first > RUNAWAY * max(abs(first), 1.0):
            raise Diverged(f"the loss rose from {first:.4g} at the first step to {mean:.4g}")

    def _keep_for_a_look(self, number: int, step: dict[str, float]) -> None:
        """Leave the weights that a step met, and which images it was of.

        Args:
            number: of the step in its epoch, from 0; it has changed nothing.
        """
        if not self.processes.is_main:
            return
        size, state = self.setup.batch_size, self.state
        about = {
            "epoch": state.epoch + 1,
            "step": number + 1,
            "images": self.order()[number * size : (number + 1) * size].tolist(),
            "learning_rate": state.learning_rate,
            "found": {name: f"{value:g}" for name, value in step.items()},
        }
        self.run.save_divergence(about, self.learner.tensors())

    def _go_back(self, error: Diverged) -> None:
        """To the last good state, from which training goes on at a smaller rate.

        Raises:
            Diverged: it has gone back as often as it may.
        """
        setbacks, images, kept = self.state.setbacks + 1, self.state.images, self.state.best_epoch
        if setbacks > SETBACKS:
            see = f", and see `latens doctor {self.run.path}`" if self.run.metrics else ""
            raise Diverged(
                f"{error} after {images:,} images, and so it did {SETBACKS} times before, from the "
                "last good state on: try a smaller --learning-rate or --clip, or --precision "
                f"float32{see}. The last good state is in {self.run.path}/{CHECKPOINTS}"
            ) from error
        self.unread.clear()
        self.processes.wait()
        self._make_learner()  # the optimiser's moments and what is compiled refer to each other
        self._restore(*self.run.last_checkpoint())
        self.state.setbacks = setbacks
        if self.state.best_epoch != kept:  # the model kept is of an epoch that is gone
            self._save_model()
            self.state.best_loss = math.inf  # the next epoch takes its place
        if self.recorder is not None:
            self.recorder.last = max(self.run.frames, default=-1)
        if self.processes.is_main:
            warn(
                f"{error} after {images:,} images: going back to the state after "
                f"{self.state.images:,}, and on with {SLOWER**setbacks:g} of the learning rate"
            )
        self._save()

    def _make_learner(self) -> None:
        self.learner = learner_of(self.setup, self.processes)
        self.averaged = self.learner.averaged

    def _check_collapse(self) -> None:
        early, late = COLLAPSE_SHARES
        if not self.setup.begins_again or not early <= self.share() <= late:
            return
        dims = math.prod(self.setup.model.latent_shape)
        if self.evaluation is not None and self.evaluation.has_collapsed(dims):
            raise Collapsed(self.state.seconds)

    # ---- what is measured --------------------------------------------------------------------

    def _evaluate(self, moved: dict[str, float] | None = None) -> Evaluation:
        """Validation figures and losses; each process measures its share of the images."""
        images, processes = self.data.validation, self.processes
        plain = self.setup.objective.for_data(len(images), labelled_share(images))
        now, last = replace(plain, **(moved or {})), replace(plain, **self.setup.moved_at_last())
        terms = ObjectiveTerms(_both_losses(now, last), samples=plain.samples)
        if processes.count == 1 or len(images) < processes.count:
            return evaluate(self.averaged, images, objective=terms)
        shared = replace(
            terms,
            rank=processes.rank,
            count=processes.count,
            joint=processes.joint,
            own=processes.own,
            gather=processes.gather,
        )
        return evaluate(self.averaged, images, seed=processes.rank, objective=shared)

    def _record(self) -> None:
        if self.recorder is not None:
            self.recorder.record(self.averaged, self.state.epoch, self._finished())

    # ---- how far -----------------------------------------------------------------------------

    def share(self) -> float:
        """How much of the training is done, in [0, 1], by images or by the clock."""
        return self.setup.share(self.state.images, self.state.seconds)

    def _finished(self) -> bool:
        state, run = self.state, self.config.run
        if run.early_stopping and state.epoch - state.best_epoch >= run.early_stopping:
            return True
        return self.setup.out_of_time(state.seconds) or bool(
            run.epochs and state.epoch >= run.epochs
        )

    def _tell_time(self) -> None:
        """By the first process's clock: what hangs on the time is the same in all of them."""
        self.state.seconds = self.processes.from_main(time.perf_counter() - self.began)

    # ---- saving and restoring ----------------------------------------------------------------

    def _save(self) -> None:
        """A checkpoint; before the first evaluation also the model that is loaded and shared."""
        if self.unread:
            self.sync_metrics()
        self._tell_time()
        if self.processes.is_main:
            state = self.state.as_dict()
            self.run.save_checkpoint(self.state.images, self.learner.tensors(), state)
        if not self.state.best_epoch:  # from then on, the model is that of the best epoch
            self._save_model()
        self.saved = self.state.seconds

    def _save_model(self) -> None:
        self.averaged.about = self.setup.model.about
        if self.processes.is_main:
            self.run.save_model(self.averaged)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put back what `_save` wrote.

        Raises:
            LatensError: a checkpoint of something else.
        """
        path = self.run.path / CHECKPOINTS
        try:
            self.state = TrainingState.from_dict(state)
        except LatensError as error:
            raise LatensError(f"{path} holds a checkpoint of another kind: {error}") from error
        self.learner.restore(tensors, path, begun=self.state.images > 0)
        if self.processes.is_main:
            self.run.forget_metrics_after(self.state.epoch)


def learner_of(setup: TrainingSetup, processes: Processes) -> Learner:
    """What makes the steps of a training."""
    config, train = setup.config, setup.data.train
    loss = TrainingLoss(
        setup.model,
        setup.objective.for_data(len(train), labelled_share(train)),
        train.stochastic_binarize,
        config.data.jitter,
        config.data.mirror,
        processes,
        moving=tuple(setup.moved(0.0, 0)),
    )
    options = StepOptions(
        weight_decay=config.optimiser.weight_decay,
        clip=config.optimiser.clip,
        ema=config.optimiser.ema,
        compile=bool(config.run.compile),
        batch_size=setup.batch_size,
        bf16=config.run.precision == "bf16",
    )
    return Learner(loss, options, processes)


def _both_losses(now: Objective, last: Objective) -> Any:
    """The loss of each image with the arguments of now, and with those of the schedule's end."""

    def terms(draw: Draw) -> dict[str, Tensor]:
        loss = now(draw)
        own = {k: v for k, v in loss.terms.items() if k not in ("reconstruction", "kl", "label")}
        final = loss if now == last else last(draw)
        return own | {"loss": loss.per_image, "final_loss": final.per_image}

    return terms


def _resident(images: Images, device: torch.device) -> Images:
    """The images on an accelerator, if they are few enough to stay there."""
    if device.type == "cpu" or len(images) * math.prod(images.shape) > RESIDENT_BYTES:
        return images
    labels = None if images.labels is None else images.labels.to(device)
    return Images(images.pixels.to(device), labels, images.stochastic_binarize)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """The first signal to end, such as Ctrl-C, lets the step finish; a second ends at once."""
    event = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        event.set()
        restored.close()

    with handled(ENDINGS, handle) as restored:
        yield event
