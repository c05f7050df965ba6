"""The training loop: one function to read, over Lightning Fabric for device and precision."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from latens.config import TrainConfig
from latens.data import DataSet, Images, unit_pixels
from latens.errors import LatensError
from latens.evaluation import Evaluation, evaluate
from latens.messages import note, stderr, warn
from latens.objectives import ELBO
from latens.runs import Run
from latens.vae import VAE

CHECKPOINT_SECONDS = 30.0  # between full states, unless an epoch takes longer
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
        sums: loss, reconstruction and KL summed over the images of this epoch, in nats.
        clipped: steps of this epoch whose gradient was clipped, and all of its steps.
        gradient_norm: summed over the steps of this epoch.
        best_elbo, best_epoch: of validation so far.
    """

    epoch: int = 0
    images: int = 0
    in_epoch: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    clipped: int = 0
    steps: int = 0
    gradient_norm: float = 0.0
    best_elbo: float = -math.inf
    best_epoch: int = 0

    def begin_epoch(self) -> None:
        """Forget what was summed over the last epoch."""
        self.in_epoch, self.sums = 0, [0.0, 0.0, 0.0]
        self.clipped, self.steps, self.gradient_norm = 0, 0, 0.0


class TrainingLoss(nn.Module):
    """uint8 pixels in, nats per image out: one module, so that Fabric wraps all of it at once."""

    def __init__(self, vae: VAE, objective: ELBO, draw_bits: bool):
        super().__init__()
        self.vae = vae
        self.objective = objective
        self.draw_bits = draw_bits

    def forward(
        self, pixels: UInt8[Tensor, "B C H W"], y: Int64[Tensor, " B"] | None
    ) -> Float[Tensor, "3 B"]:
        """Loss, reconstruction and KL of each image."""
        x = unit_pixels(pixels, self.draw_bits)
        loss = self.objective(self.vae(x, y))
        return torch.stack((loss.per_image, loss.reconstruction, loss.kl))


def resolve_device(device: str) -> str:
    """The device meant by `auto`, or the one named.

    Raises:
        LatensError: a device this machine does not have.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, available in here.items() if available)
    if not here.get(device):
        names = ", ".join(name for name, available in here.items() if available)
        raise LatensError(f"device {device} is not to be had here; there are: {names}")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """The precision meant by `auto`: bf16 where the processor computes in it, else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "mps":
        return "float32"
    cpu = torch.cpu.get_capabilities()
    return (
        "bf16" if any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
    )


class Trainer:
    """The state of a training, and the loop over it.

    `config` must be resolved: device, precision and epochs (or minutes) are given. A run that has
    a checkpoint is gone on with.
    """

    def __init__(self, run: Run, vae: VAE, data: DataSet, config: TrainConfig):
        self.run, self.data, self.config = run, data, config
        self.fabric = Fabric(
            accelerator=config.device,
            devices=1,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        )
        vae = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            vae.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=config.device != "mps",
        )
        loss = TrainingLoss(
            vae, ELBO(beta=config.beta, free_bits=config.free_bits), data.train.draw_bits
        )
        self.vae = vae
        self.loss, self.optimizer = self.fabric.setup(loss, optimizer)
        self.average = AveragedModel(vae, multi_avg_fn=_average(config.ema))
        self.averaged = cast("VAE", self.average.module)
        self.images = self._resident(data.train)
        self.at = Progressed()
        self.evaluation: Evaluation | None = None
        self.began = time.perf_counter()
        self.saved = -math.inf  # when the last checkpoint was written
        self.bar = _Bar(self)
        self._restore()

    def _resident(self, images: Images) -> Images:
        if self.fabric.device.type == "cpu" or images.pixels.nbytes > RESIDENT_BYTES:
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
        with _interrupts() as interrupted, self.bar:
            return self._loop(interrupted)

    def _loop(self, interrupted: threading.Event) -> Evaluation:
        if self.at.images == 0:
            self._save()
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
        self._save()
        if self.evaluation is None:  # resumed when there was nothing left to do
            self.evaluation = evaluate(self.averaged, self.data.validation)
        return self.evaluation

    def _step(self, batch: Images) -> None:
        torch.manual_seed(_step_seed(self.config.seed, self.at.images))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        pixels = batch.pixels.to(self.fabric.device, non_blocking=True)
        terms = self.loss(pixels, batch.labels)  # [3, B]
        self.fabric.backward(terms[0].mean())
        norm = nn.utils.clip_grad_norm_(self.loss.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.vae)
        self._count(terms.detach().sum(1), float(norm), len(batch))

    def _count(self, sums: Float[Tensor, "3"], norm: float, images: int) -> None:
        at = self.at
        values = sums.tolist()
        if not (math.isfinite(values[0]) and math.isfinite(norm)):
            raise Diverged(
                f"the loss became {values[0]:g} and the gradient's norm {norm:g} after "
                f"{at.images:,} images: try a smaller --learning-rate or --precision float32. "
                f"The last good state is in {self.run.path}/checkpoints"
            )
        at.sums = [a + b for a, b in zip(at.sums, values, strict=True)]
        at.clipped += norm > self.config.clip
        at.gradient_norm += norm
        at.steps += 1
        at.images += images
        at.in_epoch += images
        self.bar.step()

    def _rest_of_epoch(self) -> Iterator[Images]:
        """The batches of this epoch that are still to come, in an order fixed by the seed."""
        rng = np.random.default_rng([self.config.seed, self.at.epoch])
        order = torch.from_numpy(rng.permutation(len(self.images)))
        order = order[self.at.in_epoch :].to(self.images.pixels.device)
        for index in order.split(cast("int", self.config.batch_size)):
            yield self.images.take(index)

    def _end_epoch(self) -> None:
        self.at.epoch += 1
        self.evaluation = evaluate(self.averaged, self.data.validation)
        if self.evaluation.elbo > self.at.best_elbo:
            self.at.best_elbo, self.at.best_epoch = self.evaluation.elbo, self.at.epoch
            if self.config.early_stopping:
                self._save_model()
        row = self._row(self.evaluation)
        self.run.add_metrics(row)
        self.bar.epoch(row)
        self.at.begin_epoch()

    def _row(self, validation: Evaluation) -> dict[str, Any]:
        """One line of metrics.jsonl; losses and KL in nats per image."""
        at = self.at
        means = [value / at.in_epoch for value in at.sums]
        return {
            "epoch": at.epoch,
            "images": at.images,
            "seconds": round(self._seconds(), 3),
            "train": dict(zip(("loss", "reconstruction", "kl"), means, strict=True)),
            "validation": {
                "loss": validation.reconstruction + self.config.beta * validation.kl,
                "elbo": validation.elbo,
                "reconstruction": validation.reconstruction,
                "kl": validation.kl,
                "kl_per_dim": validation.kl_per_dim,
                "active_units": validation.active_units,
            },
            "beta": self.config.beta,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": at.gradient_norm / at.steps,
            "clipped": at.clipped / at.steps,
        }

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
        """A checkpoint, and the model that is loaded and shared."""
        if not (self.config.early_stopping and self.at.best_epoch):
            self._save_model()
        state = asdict(self.at) | {"seconds": self._seconds()}
        self.run.save_checkpoint(self.at.images, self._tensors(), state)
        self.saved = self._seconds()

    def _save_model(self) -> None:
        self.averaged.about = self.vae.about
        self.run.save_model(self.averaged)

    def _tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights and the optimiser's moments, each under a name."""
        tensors = {f"model.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for (name, _), state in zip(self._named_parameters(), self._moments(), strict=True):
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        return tensors

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, value) for name, value in self.vae.named_parameters()]

    def _moments(self) -> list[dict[str, Tensor]]:
        state = self.optimizer.state
        return [state.get(parameter, {}) for _, parameter in self._named_parameters()]

    def _restore(self) -> None:
        found = self.run.last_checkpoint()
        if found is None:
            return
        tensors, state = found
        part = {
            prefix: {
                name.removeprefix(f"{prefix}."): value
                for name, value in tensors.items()
                if name.startswith(f"{prefix}.")
            }
            for prefix in ("model", "average", "optimizer")
        }
        self.vae.load_state_dict(part["model"])
        self.average.load_state_dict(part["average"])
        for name, parameter in self._named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = part["optimizer"].get(f"{name}.{key}")
                if value is not None:
                    # In the parameter's own memory layout: the fused step walks both in parallel
                    like = torch.empty_like(parameter) if value.dim() else torch.empty_like(value)
                    self.optimizer.state[parameter][key] = like.copy_(value)
        known = {field.name for field in fields(Progressed)}
        self.at = Progressed(**{key: value for key, value in state.items() if key in known})
        self.run.forget_metrics_after(self.at.epoch)


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets its first steps: min(decay, (1 + n) / (10 + n)).

    The warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    """

    @torch.no_grad()
    def update(averaged: Any, current: Any, n: Any) -> None:
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]

    return update


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


class _Bar:
    """What is seen of a training: a bar on a terminal, a line per epoch elsewhere."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.lines = 0.0  # when the last line was printed
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
        self.images = 0

    def __enter__(self) -> "_Bar":
        self.images = self.trainer.at.images
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self) -> None:
        now = time.perf_counter()
        if now - self.shown < 0.2:
            return
        at = self.trainer.at
        speed = (at.images - self.images) / (now - self.shown)
        total = self.trainer.config.epochs
        self.bar.update(
            self.task,
            completed=self.trainer.share(),
            epoch=f"{at.epoch + 1}/{total}" if total else f"{at.epoch + 1}",
            nats=f"loss {at.sums[0] / at.in_epoch:.2f} nats",
            speed=f"{speed:,.0f} images/s",
        )
        self.shown, self.images = now, at.images

    def epoch(self, row: dict[str, Any]) -> None:
        """A line for the epoch that ended, at most one a second."""
        now = time.perf_counter()
        if now - self.lines < 1 and not self.trainer._finished():
            return
        self.lines = now
        train, validation = row["train"], row["validation"]
        stderr.print(
            f"epoch {row['epoch']:>4}  {row['images']:>11,} images  {row['seconds']:7.1f} s  "
            f"loss {train['loss']:8.2f}  validation −elbo {-validation['elbo']:8.2f} = "
            f"{validation['reconstruction']:.2f} + kl {validation['kl']:.2f} nats  "
            f"active {validation['active_units']}/{len(validation['kl_per_dim'] or [])}"
        )


def warn_of_collapse(evaluation: Evaluation, config: TrainConfig) -> None:
    """Say so when most latent dimensions carry nothing, and what helps."""
    if evaluation.active_units <= config.latent_dim // 10:
        warn(
            f"posterior collapse: {evaluation.active_units} of {config.latent_dim} latent "
            "dimensions are in use. Try --free-bits 0.25, a smaller --beta, or train longer"
        )


def warn_of_overfitting(rows: list[dict[str, Any]], config: TrainConfig) -> None:
    """Say so when validation was clearly better before the end, unless that state was kept."""
    best = max(rows, key=lambda row: row["validation"]["elbo"])
    lost = best["validation"]["elbo"] - rows[-1]["validation"]["elbo"]
    if lost > 1 and not config.early_stopping:
        warn(
            f"overfitting: validation was {lost:.1f} nats better after epoch {best['epoch']}. Try "
            f"--early-stopping 15, which keeps the best, or --epochs {best['epoch']}"
        )


def note_clipping(rows: list[dict[str, Any]], config: TrainConfig) -> None:
    """Say so when the gradient was clipped so often that it shaped the training."""
    share = sum(row["clipped"] for row in rows) / max(1, len(rows))
    if share > 0.5:
        note(f"{share:.0%} of the steps were clipped to --clip {config.clip:g}")
