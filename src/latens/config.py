"""What a training can be told, with units, defaults and checks. Imports nothing heavy."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from latens.errors import LatensError, unknown

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bf16"]
LikelihoodName = Literal["auto", "bernoulli", "gaussian", "own"]
Binarisation = Literal["none", "dynamic", "threshold", "static"]

# What is taken where the user names none: so many images are seen, in so many epochs.
AUTO_IMAGES = 300_000
AUTO_EPOCHS = (10, 500)
AUTO_BATCH = (8, 128)
AUTO_LEAST_PATIENCE = 10
LARGEST = 2**63


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of a training; each is a flag of `latens train` and a key of its YAML file."""

    recipe: str = "conv"
    """The model, by name: see `latens recipes`."""
    latent_dim: int = 20
    """D, how many latent dimensions z has."""
    likelihood: LikelihoodName = "auto"
    """p(x|z); auto: bernoulli for grey or binary images, gaussian with learned sigma for colour."""
    sigma: float | None = None
    """Sigma of the gaussian likelihood, for pixels in [0, 1]; none: learned."""
    beta: float = 1.0
    """Weight of the KL in the loss; no unit."""
    free_bits: float = 0.0
    """KL that costs nothing extra, in nats per latent dimension."""

    size: str | None = None
    """Pixels that a folder's images are brought to: 64, or HEIGHTxWIDTH; none: found out."""
    grey: bool = False
    """Read a folder's images as grey."""
    binarisation: Binarisation = "none"
    """Bits from grey levels: dynamic draws training bits afresh at each visit."""
    validation: int | None = None
    """Images held out of the training set; none: 5,000 of MNIST's, a tenth of one's own."""
    split_seed: int = 0
    """Decides which images are held out."""

    epochs: int | None = None
    """Passes over the training images; none: enough for 300,000 images, within 10 and 500."""
    minutes: float | None = None
    """Time budget in minutes; the learning rate follows the clock."""
    batch_size: int | None = None
    """Images per step; none: 128, or a tenth of the training images where they are few."""
    learning_rate: float = 2e-3
    """Peak step size of AdamW."""
    warmup: float = 0.03
    """Share of the training, in [0, 1), over which the learning rate rises; then it falls."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, per unit of learning rate."""
    clip: float | None = None
    """Largest norm of the gradient, in nats per unit of weight; none: four times the usual one."""
    ema: float = 0.999
    """Decay per step of the weight average that is evaluated and saved; 0: none."""
    early_stopping: int | None = None
    """Epochs without a better validation ELBO after which to stop; 0: never; none: a tenth of the
    epochs, at least 10, where --epochs and --minutes leave their number open."""

    seed: int = 0
    """Decides initial weights, order of images and noise."""
    device: Device = "auto"
    """Where to compute; auto: cuda, mps, cpu in this order."""
    precision: Precision = "auto"
    """Number format of the networks; auto: bf16 where the processor computes in it."""

    def __post_init__(self) -> None:
        if self.size is not None:
            height, width = _height_width(self.size)
            object.__setattr__(self, "size", f"{height}x{width}")
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        above_zero = ("latent_dim", "epochs", "minutes", "batch_size", "learning_rate", "clip")
        for name in (*above_zero, "sigma", "validation"):
            self._check_range(name, lambda value: value > 0, "above 0")
        for name in ("beta", "free_bits", "weight_decay", "early_stopping", "seed", "split_seed"):
            self._check_range(name, lambda value: value >= 0, "0 or more")
        for name in ("warmup", "ema"):
            self._check_range(name, lambda value: 0 <= value < 1, "in [0, 1)")

    def _check_range(self, name: str, holds: Callable[[float], bool], what: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise LatensError(f"{name} is {value}: it must be {what}")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`size` as (H, W)."""
        return _height_width(self.size) if self.size else None

    def _check(self, name: str, holds: Any, what: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, str | bool) or not holds(value):  # NaN holds nothing
            raise LatensError(f"{name} is {value}: it must be {what}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "TrainConfig":
        """A configuration from names and values.

        Raises:
            LatensError: an option that does not exist (with the nearest that does), or a value
                it cannot have.
        """
        cls.check_names(options)
        return cls(**options)

    @classmethod
    def check_names(cls, options: Iterable[str]) -> None:
        """Raise a LatensError for a name that is no option, with the nearest that is."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown("option", str(name), known)

    def command(self, data: str) -> str:
        """The command line that trains on `data` with these options."""
        words = ["latens", "train", data]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                flag = "--" + field.name.replace("_", "-")
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    def as_dict(self) -> dict[str, Any]:
        """Names and values, ready for YAML."""
        return asdict(self)


def check_seed(seed: int) -> None:
    """Raise a LatensError for a seed that no generator takes."""
    TrainConfig(seed=seed)


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Values come from YAML and from Python, where nothing else has looked at them yet."""
    options = get_args(annotation) or (annotation,)
    if get_origin(annotation) is Literal:
        if value not in options:
            raise unknown(name, str(value), options)
        return
    kinds = {int: (Integral, "a whole number"), float: (Real, "a number")}
    kinds |= {str: (str, "a text"), bool: (bool, "true or false")}
    if value is None and NoneType in options:
        return
    kind, what = next(kinds[option] for option in options if option in kinds)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise LatensError(f"{name} is {value!r}: it must be {what}")
    if isinstance(value, Real) and not -LARGEST < float(value) < LARGEST:  # nor NaN
        raise LatensError(f"{name} is {value}: it must be a number below 2 to the 63rd")


def _height_width(size: Any) -> tuple[int, int]:
    """(H, W) from 64, "64", "48x64" or (48, 64)."""
    parts = size if isinstance(size, list | tuple) else str(size).lower().split("x")
    try:
        height, width = (int(part) for part in (parts if len(parts) == 2 else [*parts, *parts]))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise LatensError(f"size is {size}: it must be a number of pixels, or HEIGHTxWIDTH")
    return height, width
