"""How far a training is: the counters of its loop, and the row of metrics of each epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from latens.errors import LatensError
from latens.evaluation.metrics import Evaluation
from latens.training.learner import LIMIT, NORM

# What the sums of a checkpoint of latens 0.1.0 were of, in their order.
_TERMS_OF_0_1_0 = ("loss", "reconstruction", "kl", "label")


@dataclass
class TrainingState:
    """All that the next step depends on, besides tensors.

    Attributes:
        epoch: epochs finished.
        images: images seen.
        in_epoch: images seen of the epoch under way.
        seconds: time spent in training, evaluation included.
        sums: the terms of the loss summed over the images of this epoch, in nats.
        clipped: steps of this epoch whose gradient was clipped.
        steps: steps of this epoch.
        gradient_norm: summed over the steps of this epoch.
        learning_rate: of the last step.
        all_steps: since the training began.
        first_loss: of the first step, per image; None before it was read.
        setbacks: how often it went back to its last good state.
        best_loss, best_epoch: of validation so far, at the schedule's last β.
    """

    epoch: int = 0
    images: int = 0
    in_epoch: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    clipped: int = 0
    steps: int = 0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    all_steps: int = 0
    first_loss: float | None = None
    setbacks: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingState":
        """The state that `as_dict` gave.

        Raises:
            LatensError: names that are not a training's.
        """
        values = dict(values)
        old = values.get("sums")
        if isinstance(old, list) and len(old) == len(_TERMS_OF_0_1_0):
            values["sums"] = {name: of for name, of in zip(_TERMS_OF_0_1_0, old, strict=True) if of}
        strange = values.keys() - cls.__dataclass_fields__.keys()
        if strange:
            raise LatensError(f"not the state of a training: it has {sorted(strange)[0]}")
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise LatensError(f"not the state of a training: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Names and values, JSON-ready."""
        return asdict(self)

    def begin_epoch(self) -> None:
        """Forget what was summed over the last epoch."""
        self.in_epoch, self.sums = 0, {}
        self.clipped, self.steps, self.gradient_norm = 0, 0, 0.0

    def count_step(self, images: int, learning_rate: float) -> None:
        """A step has been made."""
        self.steps += 1
        self.all_steps += 1
        self.images += images
        self.in_epoch += images
        self.learning_rate = learning_rate

    def add(self, steps: Sequence[Mapping[str, float]], batch_size: int) -> None:
        """Add what steps gave, one by one: sums must not depend on when somebody read them."""
        if self.first_loss is None:
            self.first_loss = steps[0]["loss"] / min(batch_size, self.in_epoch)
        for step in steps:
            terms = {name: value for name, value in step.items() if name not in (NORM, LIMIT)}
            self.sums = {name: self.sums.get(name, 0.0) + v for name, v in terms.items()}
            self.gradient_norm += step[NORM]
            self.clipped += step[NORM] > step[LIMIT]

    def row(
        self, validation: Evaluation, labelled: float, moved: Mapping[str, float]
    ) -> dict[str, Any]:
        """A line of metrics.jsonl; losses and KL in nats per image.

        Args:
            validation: of this epoch, with the objective's terms.
            labelled: the share of training images with a label: the label's loss is their mean.
            moved: the objective's arguments that a schedule moves, now.
        """
        train = {name: value / self.in_epoch for name, value in self.sums.items()}
        if "label" in train:
            train["label"] /= labelled or 1.0
        measured = dict(validation.objective)
        losses = {name: measured.pop(name) for name in ("loss", "final_loss")}
        figures = measured | losses | _validation_figures(validation, "label" in train)
        return {
            "epoch": self.epoch,
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "train": train,
            "validation": figures,
            **moved,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm / self.steps,
            "clipped": self.clipped / self.steps,
        }


def _validation_figures(evaluation: Evaluation, classifies: bool) -> dict[str, Any]:
    names = ["elbo", "reconstruction", "kl", "kl_per_dim", "active_units"]
    names += ["posterior"] if evaluation.posterior != "encoder" else []
    names += ["kl_per_level"] if evaluation.kl_per_level is not None else []
    names += ["label", "accuracy"] if classifies else []
    return {name: getattr(evaluation, name) for name in names}
