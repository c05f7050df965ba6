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
LikelihoodName = Literal["auto", "bernoulli", "gaussian", "discretised-logistic", "own"]
PriorName = Literal["normal", "mixture", "own"]
NetworkName = Literal["auto", "mlp", "conv", "unet"]
Binarisation = Literal["none", "dynamic", "threshold", "static"]

# What is taken where the user names none: so many images are seen, in so many epochs.
AUTO_IMAGES = 300_000
AUTO_EPOCHS = (10, 500)
AUTO_BATCH = (8, 128)
AUTO_LEAST_PATIENCE = 10
LARGEST = 2**63
ABOVE_ZERO = ("latent_dim", "epochs", "minutes", "batch_size", "learning_rate", "clip", "sigma")
ABOVE_ZERO += ("validation", "channels", "features", "depth", "beta_cycles", "labels", "devices")
ABOVE_ZERO += ("components",)
ZERO_OR_MORE = ("beta", "beta_step", "free_bits", "label_weight", "weight_decay", "blocks")
ZERO_OR_MORE += ("octaves", "input_noise", "jitter", "early_stopping", "seed", "split_seed")


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
    """Sigma of the gaussian likelihood, for pixels in [0, 1]; none: learned. 0.7071 is MSE."""

    prior: PriorName = "normal"
    """p(z): the unit Gaussian, or a mixture of Gaussians that is learned."""
    components: int | None = None
    """Gaussians in the mixture; none: 500."""

    network: NetworkName = "auto"
    """Encoder and decoder; auto: the recipe's, conv where it has none of its own."""
    decoder_network: NetworkName = "auto"
    """The decoder's; auto: as the encoder's."""
    hidden: str | None = None
    """Widths of the layers of mlp, from the pixels inwards, such as 512,256; none: 512,512."""
    dropout: float | None = None
    """Share of each layer's outputs in mlp that is left out at random in training; none: 0."""
    channels: int | None = None
    """Channels of conv and unet at their finest level, doubled at each coarser one; none: 32."""
    blocks: int | None = None
    """Residual blocks: at each level of conv (none: 1), at the bottleneck of unet (none: 2)."""
    features: int | None = None
    """Width of the layers between convolutions and z in conv and unet; none: 256."""
    depth: int | None = None
    """How many of these layers there are on each side; none: 1."""
    octaves: int | None = None
    """Waves of z that the decoder sees beside z; none: 2 for up to 3 latent dimensions, else 0."""

    input_noise: float = 0.0
    """Sigma of the noise on the images that the encoder learns from; against overfitting."""

    jitter: float = 0.0
    """Move training images by a random affine map, with this deviation in pixels."""

    beta: float | None = None
    """Weight of the KL in the loss; no unit; none: the recipe's, mostly 1."""
    beta_warmup: float | None = None
    """Share of the training, in [0, 1], over which beta rises from 0, linearly; none: the recipe's,
    mostly 0."""
    beta_cycles: int = 1
    """How often beta rises anew; its warm-up is then a share of each cycle."""
    beta_step: float = 0.0
    """Added to beta after each epoch."""
    free_bits: float = 0.0
    """KL that costs nothing extra, in nats per latent dimension."""
    label_weight: float | None = None
    """Weight of the classifier's loss in semi_supervised, a mean over labelled images; none: 20."""
    labels: int | None = None
    """How many training images keep their label, evenly over the classes; none: all."""

    size: str | None = None
    """Pixels that a folder's images are brought to: 64, or HEIGHTxWIDTH; none: found out."""
    grey: bool = False
    """Read a folder's images as grey."""
    skip_bad: bool = False
    """Leave out image files that cannot be read, and say which, instead of stopping."""
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

    film: bool | None = None
    """Record the training for films of it; none: unless --epochs is above 250."""

    seed: int = 0
    """Decides initial weights, order of images and noise."""
    device: Device = "auto"
    """Where to compute; auto: cuda, mps, cpu in this order."""
    precision: Precision = "auto"
    """Number format of the networks; auto: bf16 where the processor computes in it."""
    devices: int = 1
    """How many devices of this machine train together, each in a process of its own."""
    compile: bool | None = None
    """Compile the training step for this machine; none: where the training is long enough for it
    to pay."""

    def __post_init__(self) -> None:
        if self.size is not None:
            height, width = _height_width(self.size)
            object.__setattr__(self, "size", f"{height}x{width}")
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        for name in ABOVE_ZERO:
            self._check_range(name, lambda value: value > 0, "above 0")
        for name in ZERO_OR_MORE:
            self._check_range(name, lambda value: value >= 0, "0 or more")
        self._check_range("beta_warmup", lambda value: 0 <= value <= 1, "in [0, 1]")
        if self.hidden is not None:
            object.__setattr__(self, "hidden", ",".join(map(str, _widths(self.hidden))))
        if self.beta_cycles > 1 and not self.beta_warmup:
            raise LatensError(
                "beta_cycles needs beta_warmup: the share of each cycle that is a rise"
            )
        if self.beta_step and self.minutes and not self.epochs:
            raise LatensError("beta_step needs epochs: with minutes alone its last beta is unknown")
        for name in ("warmup", "ema", "dropout"):
            self._check_range(name, lambda value: 0 <= value < 1, "in [0, 1)")
        for field in fields(self):  # 1 is 1.0 in every record
            value = getattr(self, field.name)
            if isinstance(value, int) and float in (field.type, *get_args(field.type)):
                object.__setattr__(self, field.name, float(value))

    def _check_range(self, name: str, holds: Callable[[float], bool], what: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise LatensError(f"{name} is {value}: it must be {what}")

    @property
    def network_options(self) -> dict[str, Any]:
        """The options of the network that are not left to its defaults."""
        names = ("dropout", "channels", "blocks", "features", "depth")
        options = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return options | ({"hidden": _widths(self.hidden)} if self.hidden else {})

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`size` as (H, W)."""
        return _height_width(self.size) if self.size else None

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
                words += [f"--no-{flag[2:]}" if value is False else flag]
                words += [] if isinstance(value, bool) else [str(value)]
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


def _widths(hidden: Any) -> tuple[int, ...]:
    """(512, 256) from "512,256"."""
    try:
        widths = tuple(int(part) for part in hidden.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise LatensError(f"hidden is {hidden}: it must be widths above 0, such as 512,256")
    return widths
