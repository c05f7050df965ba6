"""The configuration of a training, with units, defaults and checks. Imports nothing heavy.

The configuration is nested (data, model, objective, optimiser, run); on the command line, in
Python and in a YAML file of one's own its names stand side by side. Options that belong to a part,
such as the number of components of a prior, are found in the part's class by `latens.catalogue`.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from latens import catalogue
from latens.errors import LatensError, unknown

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bf16"]
Binarisation = Literal["none", "dynamic", "threshold", "static"]
FittedPrior = Literal["flow-matching", "mixture"]

LARGEST = 2**63
LATENT_DIM = 20  # where none is given
OWN = "own"  # a model or an objective that Python gives, in place of a name
AUTO = "auto"
# Options that had another name in latens 0.1.0
RENAMED = {"sigma": "scale"}


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A group of options. Types and ranges are checked, for values come from YAML and Python."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "options":
                _check_type(item.name, value, item.type)
            is_float = float in (item.type, *get_args(item.type))
            object.__setattr__(self, item.name, _as_python(value, is_float))

    def _check(self, names: str, holds: Callable[[float], bool], what: str) -> None:
        for name in names.split():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise LatensError(f"{name} is {value}: it must be {what}")

    def _check_above_zero(self, names: str) -> None:
        self._check(names, lambda value: value > 0, "above 0")

    def _check_not_negative(self, names: str) -> None:
        self._check(names, lambda value: value >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Section):
    """Which images, and what is made of them."""

    size: str | None = None
    """Pixels that a folder's images are brought to: 64, or HEIGHTxWIDTH; none: found out."""
    grey: bool = False
    """Read a folder's images as grey."""
    skip_bad: bool = False
    """Leave out image files that cannot be read, however many, and say which; otherwise up to one
    in a hundred."""
    strict: bool = False
    """Leave out no image: stop at a file that cannot be read, keep those far smaller than most."""
    range: str | None = None
    """LOW,HIGH: values of black and of white, of arrays and of images in 16 bits or floats; none: 0
    and 255 of whole numbers in arrays, 65,535 of 16-bit image files, 0 and 1 of floats."""
    binarisation: Binarisation = "none"
    """Bits from grey levels: dynamic draws training bits afresh at each visit."""
    validation: int | None = None
    """Images held out of the training set; none: 5,000 of MNIST's, a tenth of one's own."""
    split_seed: int = 0
    """Decides which images are held out."""
    labels: int | None = None
    """How many training images keep their label, evenly over the classes; none: all."""
    jitter: float = 0.0
    """Augment training images by a random affine map, with this standard deviation in pixels."""
    mirror: bool = False
    """Augment training images by showing half of them, at random, from right to left."""

    def __post_init__(self) -> None:
        if self.size is not None:
            height, width = _height_width(self.size)
            object.__setattr__(self, "size", f"{height}x{width}")
        if self.range is not None:
            low, high = _low_high(self.range)
            object.__setattr__(self, "range", f"{short(low)},{short(high)}")
        super().__post_init__()
        self._check_above_zero("validation labels")
        self._check_not_negative("split_seed jitter")
        if self.strict and self.skip_bad:
            raise LatensError("strict leaves out no image, and skip_bad does: choose one of them")

    @property
    def value_range(self) -> tuple[float, float] | None:
        """`range` as two numbers."""
        return _low_high(self.range) if self.range else None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`size` as (H, W)."""
        return _height_width(self.size) if self.size else None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Section):
    """The parts that the model is composed of."""

    init_from: str | None = None
    """Begin at the weights of this model, whose parts are kept: a run, a pretrained model by name,
    or hf://USER/NAME; none: at random ones."""
    recipe: str = "conv"
    """The model, by name: see `latens recipes`."""
    latent_dim: int | None = None
    """D, how many latent dimensions z has; none: 20."""
    latent_map: int | None = None
    """Latents as a map of so many channels at the coarsest resolution of the network conv, in place
    of a vector of latent_dim; none: a vector."""
    likelihood: str = AUTO
    """p(x|z); auto: bernoulli for the named grey data sets and for pixels mostly black or white,
    for other photographs discretised-logistic, of a ladder logistic-mixture."""
    prior: str = "normal"
    """p(z)."""
    posterior: str = "gaussian"
    """q(z|x)."""
    network: str = AUTO
    """Encoder and decoder; auto: the recipe's, conv where it has none of its own."""
    decoder_network: str = AUTO
    """The decoder's network; auto: as the encoder's."""
    octaves: int | None = None
    """Octaves of Fourier features of z that the decoder sees beside z; none: 2 for up to 3 latent
    dimensions, else 0."""
    input_noise: float = 0.0
    """Sigma of Gaussian noise on the images that the encoder learns from; against overfitting."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the parts chosen, such as components of a mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_above_zero("latent_dim latent_map")
        self._check_not_negative("octaves input_noise")
        for kind in ("likelihood", "prior", "posterior"):
            _check_name(kind, getattr(self, kind))
        for kind in ("network", "decoder_network"):
            _check_name("network", getattr(self, kind))
        object.__setattr__(self, "options", _checked_options(self.options))

    @property
    def has_fixed_scale(self) -> bool:
        """Whether the likelihood's scale is given, and not learned."""
        return self.likelihood == "mse" or self.options.get("scale") is not None

    def options_of(self, kind: str) -> dict[str, Any]:
        """The options given that belong to a kind of part: network, likelihood, prior, posterior.

        Raises:
            LatensError: one that the part chosen does not have.
        """
        given = {k: v for k, v in self.options.items() if catalogue.kind_of_option(k) == kind}
        if kind != "network":  # an encoder and a decoder of two networks: see ModelSpec
            _check_belongs(kind, getattr(self, kind), given)
        return given


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(_Section):
    """What is minimised, and how its beta moves over the training."""

    name: str = "elbo"
    """What is minimised."""
    beta_warmup: float | None = None
    """Share of the training, in [0, 1], over which beta rises from 0, linearly; none: the recipe's,
    mostly 0, and 0.3 where the scale of the likelihood is fixed."""
    beta_cycles: int = 1
    """How often beta rises anew; its warm-up is then a share of each cycle."""
    beta_step: float = 0.0
    """Added to beta after each epoch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the objective chosen, such as beta."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name("objective", self.name)
        self._check("beta_warmup", lambda value: 0 <= value <= 1, "in [0, 1]")
        self._check_above_zero("beta_cycles")
        self._check_not_negative("beta_step")
        if self.beta_cycles > 1 and not self.beta_warmup:
            raise LatensError(
                "beta_cycles needs beta_warmup: the share of each cycle that is a rise"
            )
        object.__setattr__(self, "options", _checked_options(self.options))
        _check_belongs("objective", self.name, self.options)
        if (self.beta_warmup or self.beta_step) and not self.has_beta:
            raise LatensError(
                f"beta_warmup and beta_step move beta, and the objective {self.name} has none: "
                "leave them out"
            )

    @property
    def has_beta(self) -> bool:
        """Whether the objective has a β that a schedule can move."""
        return self.name == OWN or "beta" in catalogue.find("objective", self.name).options


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(_Section):
    """AdamW, its learning rate and the average of the weights."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_above_zero("batch_size learning_rate clip")
        self._check_not_negative("weight_decay")
        self._check("warmup ema", lambda value: 0 <= value < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Section):
    """How long, where, and what is left behind."""

    epochs: int | None = None
    """Passes over the training images; none: up to 300,000 images, within 10 and 500."""
    minutes: float | None = None
    """Time budget in minutes; the learning rate follows the clock."""
    early_stopping: int | None = None
    """Epochs without a better validation loss after which to stop; 0: never; none: a tenth of the
    epochs, at least 10, where --epochs and --minutes leave their number open."""
    film: bool | None = None
    """Record the training for films of it; none: unless there are more than
    250 epochs."""
    report: bool = True
    """Write report.html and its pictures at the end."""
    seed: int = 0
    """Decides initial weights, order of images and noise."""
    device: Device = AUTO
    """Where to compute; auto: cuda, mps, cpu in this order."""
    precision: Precision = AUTO
    """Number format of the networks; auto: bf16 where the processor computes in it."""
    devices: int = 1
    """How many devices of this machine train together, each in a process of its own."""
    compile: bool | None = None
    """Compile the training step for this machine; none: where the training is long enough for it
    to pay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_above_zero("epochs minutes devices")
        self._check_not_negative("early_stopping seed")


SECTIONS: dict[str, type[_Section]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "optimiser": OptimiserConfig,
    "run": RunConfig,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of a training, in five sections.

    `TrainConfig.from_options(prior="vamp", components=300)` makes one of names side by side.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.objective.beta_step and self.run.minutes and not self.run.epochs:
            raise LatensError("beta_step needs epochs: with minutes alone its last beta is unknown")
        for kind in ("likelihood", "prior", "posterior"):
            self.model.options_of(kind)

    @classmethod
    def from_options(cls, **options: Any) -> "TrainConfig":
        """A configuration from names and values side by side, as the command line has them.

        Raises:
            LatensError: an option that does not exist (with the nearest that does), or a value
                it cannot have.
        """
        check_names(options)
        nested: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for given, value in options.items():
            name = RENAMED.get(given, given)
            if name in section_of:
                section, own_name = section_of[name]
                nested[section][own_name] = value
            elif value is not None:
                section = "objective" if catalogue.kind_of_option(name) == "objective" else "model"
                nested[section].setdefault("options", {})[name] = value
        sections: dict[str, Any] = {name: SECTIONS[name](**v) for name, v in nested.items()}
        return cls(**sections)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TrainConfig":
        """The configuration that a config.yaml holds, nested, or flat as of latens 0.1.0.

        Raises:
            LatensError: names or values that are not latens's.
        """
        if not set(record) <= SECTIONS.keys():
            known = {str(n): None if value == AUTO else value for n, value in record.items()}
            return cls.from_options(**{k: v for k, v in known.items() if v is not None})
        for section, values in record.items():
            if not isinstance(values, Mapping):
                raise LatensError(f"the section {section} holds no names and values")
        flat = {
            flat_name(section, str(name)): value
            for section, values in record.items()
            for name, value in values.items()
            if name != "options"
        }
        for section, values in record.items():
            options = values.get("options", {})
            if not isinstance(options, Mapping):
                raise LatensError(f"the options of {section} are no names and values")
            flat |= {str(name): value for name, value in options.items()}
        return cls.from_options(**flat)

    def options(self) -> dict[str, Any]:
        """Names and values side by side; options of parts where they are given."""
        flat = {
            flat_name(section, item.name): getattr(getattr(self, section), item.name)
            for section in SECTIONS
            for item in fields(SECTIONS[section])
            if item.name != "options"
        }
        return flat | dict(self.model.options) | dict(self.objective.options)

    def as_dict(self) -> dict[str, Any]:
        """Nested names and values, ready for YAML."""
        return _plain(asdict(self))

    def command(self, data: str) -> str:
        """The command line that trains on `data` with these options."""
        words = ["latens", "train", data]
        defaults = TrainConfig().options()
        for name, value in self.options().items():
            if value != defaults.get(name):
                flag = "--" + name.replace("_", "-")
                words += [f"--no-{flag[2:]}" if value is False else flag]
                words += [] if isinstance(value, bool) else [word(value)]
        return shlex.join(words)

    def with_prior(self, prior: str, options: Mapping[str, Any]) -> "TrainConfig":
        """The same with another prior and its options."""
        kept = {
            k: v for k, v in self.model.options.items() if catalogue.kind_of_option(k) != "prior"
        }
        return replaced(self, model={"prior": prior, "options": {**kept, **options}})

    def with_options(self, **options: Any) -> "TrainConfig":
        """The same with other values of some options."""
        return type(self).from_options(**(self.options() | options))


def flat_name(section: str, name: str) -> str:
    """An option as it is named beside those of other sections."""
    return "objective" if (section, name) == ("objective", "name") else name


# Where each option is that belongs to no part: its section, and its name there
section_of: dict[str, tuple[str, str]] = {
    flat_name(section, item.name): (section, item.name)
    for section, cls in SECTIONS.items()
    for item in fields(cls)
    if item.name != "options"
}


def option_names() -> list[str]:
    """Every name that `TrainConfig.from_options` takes."""
    return [*section_of, *catalogue.part_options()]


def check_names(options: Iterable[str]) -> None:
    """Raise a LatensError for a name that is no option, with the nearest that is."""
    known = option_names()
    for name in options:
        if RENAMED.get(name, name) not in known:
            raise unknown("option", str(name), known)


def check_seed(seed: int) -> None:
    """Raise a LatensError for a seed that no generator takes."""
    RunConfig(seed=seed)


# ---- checks ----------------------------------------------------------------------------------


def _check_name(kind: str, name: str) -> None:
    if name not in (AUTO, OWN):
        catalogue.find(kind, name)


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of parts, each of its type."""
    checked = {}
    known = catalogue.part_options()
    for name, value in options.items():
        option_type = known[name][0][1].type
        if get_origin(option_type) is tuple:
            checked[name] = _widths(name, value)
            continue
        _check_type(name, value, option_type)
        checked[name] = _as_python(value, option_type is float)
    return checked


def _as_python(value: Any, is_float: bool) -> Any:
    """Numbers, NumPy's too, as Python's, which YAML can write; 1 is 1.0 in every record."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) and not is_float else float(value)


def _check_belongs(kind: str, name: str, options: Iterable[str]) -> None:
    """Raise a LatensError for an option that belongs to another choice of its kind."""
    if name in (AUTO, OWN):
        return
    for option in options:
        if option not in catalogue.find(kind, name).options:
            owners = [choice.name for choice, _ in catalogue.part_options()[option]]
            raise LatensError(
                f"{option} is an option of the {kind} {' or '.join(owners)}, and this one is "
                f"{name}: add --{kind} {owners[0]}, or leave it out"
            )


def _check_type(name: str, value: Any, annotation: Any) -> None:
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
    number = _as_python(value, False)
    if isinstance(number, int | float) and not -LARGEST < number < LARGEST:  # nor NaN
        shown = number if isinstance(number, float) else "too large"  # for its digits to be shown
        raise LatensError(f"{name} is {shown}: it must be a number below 2 to the 63rd")


def short(value: Any) -> str:
    """A value as short as tells it from all others."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def word(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _height_width(size: Any) -> tuple[int, int]:
    """(H, W) from 64, "64", "48x64" or (48, 64)."""
    parts = size if isinstance(size, list | tuple) else str(size).lower().split("x")
    try:
        height, width = (int(part) for part in (parts if len(parts) == 2 else [*parts, *parts]))
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if min(height, width) < 1:
        raise LatensError(f"size is {size}: it must be a number of pixels, or HEIGHTxWIDTH")
    return height, width


def _low_high(given: Any) -> tuple[float, float]:
    """(0.0, 4000.0) from "0,4000" or (0, 4000)."""
    parts = given if isinstance(given, list | tuple) else str(given).split(",")
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise LatensError(f"range is {given}: it must be LOW,HIGH, two numbers, the lower first")
    return low, high


def _widths(name: str, value: Any) -> tuple[int, ...]:
    """(512, 256) from "512,256", 512 or [512, 256]."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        widths = tuple(int(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        widths = (0,)
    if min(widths, default=0) < 1:
        raise LatensError(f"{name} is {value}: it must be widths above 0, such as 512,256")
    return widths


def _plain(value: Any) -> Any:
    """Mappings, lists and scalars alone, as YAML has them."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def replaced(config: TrainConfig, **sections: Mapping[str, Any]) -> TrainConfig:
    """A configuration with some values of some sections replaced."""
    new = {name: replace(getattr(config, name), **values) for name, values in sections.items()}
    return replace(config, **new)
