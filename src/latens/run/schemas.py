"""What the files of a run must hold for the rest of the package to rely on.

Names and types, checked by msgspec as files are read; what else they hold is kept.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from latens import limits
from latens.errors import LatensError

Count = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(gt=0)]


class DataRecord(msgspec.Struct):
    """`data` of config.yaml."""

    name: str
    source: str
    shape: tuple[Size, Size, Size]
    splits: dict[str, Count]
    classes: list[str]
    attributes: list[str]
    binary: bool
    fingerprint: str
    crop: float | None = None


class Record(msgspec.Struct):
    """config.yaml."""

    command: str
    options: dict[str, Any]
    data: DataRecord
    parameters: Count
    versions: dict[str, str]
    objective: dict[str, Any] | None = None
    latent_shape: list[Size] | None = None
    level_shapes: list[list[Size]] | None = None
    frozen: list[str] | None = None
    machine: str | None = None


class Terms(msgspec.Struct):
    """`train` of a row, in nats per image."""

    loss: float
    reconstruction: float
    kl: float
    label: float | None = None


class Validation(Terms, kw_only=True):
    """`validation` of a row, in nats per image."""

    final_loss: float
    elbo: float
    active_units: Count
    kl_per_dim: list[float] | None = None
    kl_per_level: list[float] | None = None
    accuracy: float | None = None
    posterior: str = "encoder"


class Row(msgspec.Struct):
    """A line of metrics.jsonl."""

    epoch: Size
    images: Count
    seconds: float
    train: Terms
    validation: Validation
    clipped: float
    learning_rate: float | None = None
    gradient_norm: float | None = None
    beta: float | None = None


class Figures(msgspec.Struct):
    """figures.json, in nats per image."""

    elbo: float
    reconstruction: float
    kl: float
    kind: str
    images: Size
    split: str
    active_units: Count
    kl_per_dim: list[float] | None = None
    kl_per_level: list[float] | None = None
    nll: float | None = None
    nll_stderr: float | None = None
    importance_samples: int | None = None
    bits_per_dim: float | None = None
    mse: float | None = None
    label: float | None = None
    accuracy: float | None = None
    neighbour_accuracy: float | None = None
    seconds: float | None = None
    posterior: str = "encoder"
    errors: dict[str, dict[str, float | None]] = {}


def check(content: Any, kind: type[msgspec.Struct], path: Path) -> None:
    """Raise a LatensError where what was read from `path` is not of a kind."""
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise LatensError(f"{path} is damaged or not latens's: {error}") from error


def check_record(record: Any, path: Path) -> None:
    """Raise a LatensError where this is no config.yaml's content."""
    check(record, Record, path)
    for name in (*record["data"]["classes"], *record["data"]["attributes"]):
        limits.check("name_length", len(name), f"the name of a class in {path} has")
