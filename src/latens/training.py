"""The training loop: one function to read, over Lightning Fabric for device and precision."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from latens.config import TrainConfig
from latens.data import DataSet, Images, jittered, unit_pixels
from latens.errors import LatensError
from latens.evaluation import Evaluation, evaluate
from latens.objectives import ELBO, BetaSchedule
from latens.recording import Recorder
from latens.runs import CHECKPOINTS, Checkpoint, Run
from latens.storage import load_tensors
from latens.vae import VAE
from latens.watching import Bar

CHECKPOINT_SECONDS = 30.0  # between full states
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not what it chose, every time
# The scale of gradients depends on pixels and likelihood; an outlier is one beside its neighbours.
CLIP_FACTOR, CLIP_MEMORY = 4.0, 100
RESIDENT_BYTES = 4 * 2**30  # a training set up to this size moves to the accelerator at once


TERMS = ("loss", "reconstruction", "kl", "label")


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
        usual_norm: an exponential average of the clipped norm over the last hundred steps or so.
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
    usual_norm: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0

    def begin_epoch(self) -> None:
        """Forget what was summed over the last epoch."""
        self.in_epoch, self.sums = 0, [0.0] * len(TERMS)
        self.clipped, self.steps, self.gradient_norm = 0, 0, 0.0


class TrainingLoss(nn.Module):
    """uint8 pixels in, nats per image out: one module, so that Fabric wraps all of it at once."""

    def __init__(self, vae: VAE, objective: ELBO, draw_bits: bool, jitter: float = 0.0):
        super().__init__()
        self.jitter = jitter
        self.vae = vae
        self.objective = objective  # replaced as β moves
        self.draw_bits = draw_bits

    def forward(
        self, pixels: UInt8[Tensor, "B C H W"], y: Int64[Tensor, "B *A"] | None
    ) -> Float[Tensor, "T B"]:
        """The terms of each image's loss, in the order of `TERMS`."""
        x = unit_pixels(pixels, self.draw_bits and not self.jitter)
        if self.jitter:
            x = jittered(x, self.jitter)
            x = torch.bernoulli(x) if self.draw_bits else x
        loss = self.objective(self.vae(x, y))
        return torch.stack((loss.per_image, loss.reconstruction, loss.kl, loss.label))


class Trainer:
    """The state of a training, and the loop over it.

    Args:
        run: where everything is left.
        vae: what is trained, in place.
        data: its training images are learned from, its validation images choose the best epoch.
        config: resolved: device, precision, batch size, epochs or minutes are given.
        checkpoint: the state to go on from; None starts afresh.
    """

    def __init__(
        self,
        run: Run,
        vae: VAE,
        data: DataSet,
        config: TrainConfig,
        checkpoint: Checkpoint | None = None,
    ):
        self.run, self.data, self.config = run, data, config
        self.fabric = Fabric(
            accelerator=config.device,
            devices=1,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        )
        self.labelled = _labelled_share(data.train)
        vae = vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.AdamW(
            vae.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=config.device != "mps",
        )
        self.at = Progressed()
        self.schedule = BetaSchedule(
            config.beta or 0.0, config.beta_warmup or 0.0, config.beta_cycles, config.beta_step
        )
        self.training_loss = TrainingLoss(vae, ELBO(), data.train.draw_bits, config.jitter)
        self.vae = vae
        self.loss, self.optimizer = self.fabric.setup(self.training_loss, optimizer)
        self.average = AveragedModel(vae, multi_avg_fn=_average(config.ema))
        self.averaged = cast("VAE", self.average.module)
        self.images = self._resident(data.train)
        self.evaluation: Evaluation | None = None
        self.began = time.perf_counter()
        self.saved = -math.inf  # when the last checkpoint was written
        self.bar = Bar(config)
        if checkpoint is not None:
            self._restore(*checkpoint)
        self.recorder = Recorder(run, data, max(run.frames, default=-1)) if config.film else None

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
            for batch in self._rest_of_epoch():
                self._step(batch)
                if interrupted.is_set():
                    self._save()
                    raise Interrupted(self.run.path)
                if self._out_of_time():
                    break
                if self._seconds() - self.saved > CHECKPOINT_SECONDS:
                    self._save()
            self._end_epoch()
        if self.at.in_epoch:  # stopped when its time was up, in the middle of an epoch
            self._end_epoch()
        self._save()
        return self.evaluation or evaluate(self.averaged, self.data.validation)

    def _step(self, batch: Images) -> None:
        torch.manual_seed(_step_seed(self.config.seed, self.at.images))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.training_loss.objective = self.objective(self.labelled)
        pixels = batch.pixels.to(self.fabric.device, non_blocking=True)
        labels = None if batch.labels is None else batch.labels.to(self.fabric.device)
        terms = self.loss(pixels, labels)  # [T, B]
        self.fabric.backward(terms[0].mean())
        limit = self._largest_norm()
        norm = float(nn.utils.clip_grad_norm_(self.loss.parameters(), limit))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.vae)
        self._count(terms.detach().sum(1), norm, limit, len(batch))

    def _largest_norm(self) -> float:
        """The norm that gradients are clipped to: the user's, or relative to what is usual."""
        if self.config.clip is not None:
            return self.config.clip
        return CLIP_FACTOR * self.at.usual_norm or math.inf

    def _count(self, sums: Float[Tensor, " T"], norm: float, limit: float, images: int) -> None:
        at = self.at
        values = sums.tolist()
        if not (math.isfinite(values[0]) and math.isfinite(norm)):
            raise Diverged(
                f"the loss became {values[0]:g} and the gradient's norm {norm:g} after "
                f"{at.images:,} images: try a smaller --learning-rate or --precision float32. "
                f"The last good state is in {self.run.path}/checkpoints"
            )
        at.sums = [a + b for a, b in zip(at.sums, values, strict=True)]
        at.clipped += norm > limit
        clipped = min(norm, limit)
        at.usual_norm += (clipped - at.usual_norm) / (CLIP_MEMORY if at.usual_norm else 1)
        at.gradient_norm += norm
        at.steps += 1
        at.images += images
        at.in_epoch += images
        self.bar.step(images, at.epoch + 1, self.share(), at.sums[0] / at.in_epoch)

    def _rest_of_epoch(self) -> Iterator[Images]:
        """The batches of this epoch that are still to come, in an order fixed by the seed."""
        size = cast("int", self.config.batch_size)
        rng = np.random.default_rng([self.config.seed, self.at.epoch])
        order = torch.from_numpy(rng.permutation(len(self.images)))
        order = order[self.at.in_epoch :].to(self.images.array.device)
        for start in range(0, len(order), size):
            yield self.images.take(order[start : start + size])

    def _end_epoch(self) -> None:
        objective = self.objective()  # before the schedule moves on
        self.at.epoch += 1
        self.evaluation = evaluate(self.averaged, self.data.validation)
        self._record()
        row = self._row(self.evaluation, objective)
        if row["validation"]["final_loss"] < self.at.best_loss:
            self.at.best_loss, self.at.best_epoch = row["validation"]["final_loss"], self.at.epoch
            self._save_model()
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
            "seconds": round(self._seconds(), 3),
            "train": means,
            "validation": figures,
            "beta": objective.beta,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
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

    def _seconds(self) -> float:
        return self.at.seconds + time.perf_counter() - self.began

    def share(self) -> float:
        """How much of the training is done, in [0, 1], by images or by the clock."""
        shares = []
        if self.config.epochs:
            shares.append(self.at.images / (self.config.epochs * len(self.images)))
        if self.config.minutes:
            shares.append(self._seconds() / (60 * self.config.minutes))
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
        return bool(self.config.minutes) and self._seconds() >= 60 * (self.config.minutes or 0)

    def _finished(self) -> bool:
        config, at = self.config, self.at
        if config.early_stopping and at.epoch - at.best_epoch >= config.early_stopping:
            return True
        return self._out_of_time() or bool(config.epochs and at.epoch >= config.epochs)

    # ---- saving and restoring ----------------------------------------------------------------

    def _save(self) -> None:
        """A checkpoint; before the first evaluation also the model that is loaded and shared."""
        state = asdict(self.at) | {"seconds": self._seconds()}
        self.run.save_checkpoint(self.at.images, self._tensors(), state)
        if not self.at.best_epoch:  # from then on, the model is that of the best epoch
            self._save_model()
        self.saved = self._seconds()

    def _save_model(self) -> None:
        self.averaged.about = self.vae.about
        self.run.save_model(self.averaged)

    def _tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights and the optimiser's moments, each under a name."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.vae.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return {
            **{f"model.{name}": value for name, value in self.vae.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in moments.items()},
        }

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put back what `_tensors` and `_save` wrote.

        Raises:
            LatensError: a checkpoint of something else.
        """
        path = self.run.path / CHECKPOINTS
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        load_tensors(self.vae, parts["model"], path)
        load_tensors(self.average, parts["average"], path)
        try:
            self.at = Progressed(**state)
            if self.at.images:
                self._restore_moments(parts["optimizer"])
        except (TypeError, KeyError, RuntimeError) as error:
            raise LatensError(f"{path} holds a checkpoint of another kind: {error}") from error
        self.run.forget_metrics_after(self.at.epoch)

    def _restore_moments(self, moments: dict[str, Tensor]) -> None:
        state = {}
        for i, (name, parameter) in enumerate(self.vae.named_parameters()):
            values = {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for key in ("exp_avg", "exp_avg_sq"):
                # In the parameter's own memory layout: the fused step walks both in parallel
                values[key] = torch.empty_like(parameter).copy_(values[key])
            state[i] = values
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets its first steps: min(decay, (1 + n) / (10 + n)).

    The warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, n: Any) -> None:
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]

    return update


def _labelled_share(images: Images) -> float:
    """The share of images of which a label is known, in [0, 1]."""
    if images.labels is None:
        return 0.0
    return (images.labels >= 0).reshape(len(images), -1).any(1).double().mean().item()


def _loss_of(objective: ELBO, figures: Evaluation) -> float:
    return objective.of_means(figures.reconstruction, figures.kl, figures.kl_per_dim, figures.label)


def _step_seed(seed: int, images: int) -> int:
    """Each step draws its noise from its own seed, so that a resumed run repeats it exactly."""
    return int(np.random.SeedSequence([seed, images]).generate_state(1)[0])


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
