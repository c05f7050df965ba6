"""Parts: the modules a model is composed of, which can be written as JSON and built again.

A part follows scikit-learn's convention: each constructor argument is kept as an attribute of
the same name. That is all it takes for `to_config` and `from_config` to save and rebuild any
composition, one's own parts included, without pickle.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_parameter_registration_hook

from latens import limits
from latens.catalogue import argument_names
from latens.errors import LatensError, unknown

Kind = Literal["grey cross-entropy", "binary", "8-bit", "density"]

_CLASSES: dict[str, type["Configurable"]] = {}
# Arguments that had another name in a model saved by latens 0.1.0
_RENAMED = {"planes": "out_channels"}


class Configurable:
    """What can be rebuilt from its constructor arguments, and is found by its class's name.

    The arguments must be numbers, strings, booleans, None, tuples of those, or Configurables.

    Args of the class statement:
        name: what the command line calls it, such as `class VampPrior(Prior, name="vamp")`;
            the arguments that have a default are then options there (see `latens.catalogue`).

    Raises:
        LatensError: when a class is defined that has the name of another one.
    """

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(base.__name__ == cls.__name__ for base in cls.__mro__[1:]):
            return  # torch.export gives modules such a class of their own while it traces them
        namesake = _CLASSES.get(cls.__name__)
        # The same class again is a notebook's cell, or a decorator that makes a new one
        if namesake and (namesake.__module__, namesake.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise LatensError(
                f"{cls.__module__} and {namesake.__module__} both have a part called "
                f"{cls.__name__}: choose another name for one's own"
            )
        _CLASSES[cls.__name__] = cls


class Part(Configurable, nn.Module):
    """An `nn.Module` that can be rebuilt from its constructor arguments."""

    def start_from(self, images: Float[Tensor, "N C H W"], mean: Float[Tensor, "C H W"]) -> None:
        """Set the first weights by the data, once before a training; does nothing unless defined.

        Args:
            images: training images in [0, 1], drawn at random.
            mean: of all training images.
        """


class Encoder(Part):
    """`(x: [B, C, H, W], y) -> [B, *F]`.

    A label y is a class `[B]` or a row of attributes `[B, A]`, each 0 or 1; −1 is unknown, and
    None stands for no labels at all.

    Attributes:
        image_shape: (C, H, W).
        features: F, the length of a vector of features, or the channels of a map of them.
        feature_map: (h, w) of a map of features; None where they are a vector.
    """

    image_shape: tuple[int, int, int]
    features: int
    feature_map: tuple[int, int] | None = None


class Posterior(Part):
    """`[B, *F] -> q(z|x)`, batch `[B]`, event `[*Z]`.

    Attributes:
        event_shape: Z, `(D,)` for a vector of latents or `(D, h, w)` for a map of them.
    """

    event_shape: tuple[int, ...]

    def start_narrow(self, features: Float[Tensor, "N *F"]) -> None:
        """Start with narrow posteriors that tell these images' features apart; see `VAE`.

        Does nothing unless defined.
        """

    def proposal(self, vae: Any, x: Tensor, y: Tensor | None) -> Distribution | None:
        """A q(z|x) `vae` is to learn under in place of what `forward` gives; mostly None."""
        return None


class Prior(Part):
    """`(posterior_of: x -> q(z|x), y) -> p(z)`, batch `[]` or of each label `[B]`, event `[*Z]`.

    Attributes:
        event_shape: Z.
    """

    event_shape: tuple[int, ...]

    def __call__(
        self, posterior_of: Callable[[Tensor], Distribution], y: Tensor | None = None
    ) -> Distribution:
        """p(z), or p(z|y) for each label.

        Args:
            posterior_of: q(z|x) of any images `[N, C, H, W]`, for a prior made of posteriors.
            y: labels `[B]` or `[B, A]`, for a prior that depends on them.
        """
        return super().__call__(posterior_of, y)


class Decoder(Part):
    """`(z: [N, *Z], y) -> [N, P, H, W]`, the parameters of p(x|z).

    Attributes:
        latent_shape: Z.
        image_shape: (C, H, W).
        out_channels: P.
    """

    latent_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    out_channels: int

    def start_quiet(self) -> None:
        """Start with outputs near zero, whatever z is; see `VAE`. Does nothing unless defined."""


class Likelihood(Part, ABC):
    """`[*N, P, H, W] -> p(x|z)`, batch `[*N]`, event `[C, H, W]`."""

    @abstractmethod
    def decoder_channels(self, channels: int) -> int:
        """P, how many channels the decoder must give for images of C channels."""

    @abstractmethod
    def parameters_at(self, mean: Tensor) -> Tensor:
        """Parameters `[P, H, W]` of a p(x|z) with the mean `[C, H, W]`: where training starts."""

    @abstractmethod
    def kind(self, binary_pixels: bool) -> Kind:
        """What −log p(x|z) is, for pixels that are all 0 or 1, or that are not."""


class Classifier(Part):
    """`z: [*N, *Z] -> p(y|z)`, batch `[*N]`: a label is read off the latents.

    Attributes:
        latent_shape: Z.
    """

    latent_shape: tuple[int, ...]


def to_config(part: Configurable) -> dict[str, Any]:
    """`part` as JSON-ready nested dictionaries: `{"part": class name, argument: value, ...}`."""
    values = {name: getattr(part, name) for name in argument_names(type(part))}
    return {"part": type(part).__name__} | {
        name: to_config(value) if isinstance(value, Configurable) else value
        for name, value in values.items()
    }


@contextmanager
def counted(check: Callable[[int], None] | None = None) -> Iterator[None]:
    """Inside, no more tensors of weights can be made than `latens.limits` allows.

    Args:
        check: is told how many weights there are, each time that a tensor was set aside for some
            and before they get their values; raises a LatensError where there are too many.

    Raises:
        LatensError: in the block, by the first one too many.
    """
    tensors = weights = 0

    def registered(_: nn.Module, __: str, parameter: nn.Parameter) -> None:
        nonlocal tensors, weights
        tensors, weights = tensors + 1, weights + parameter.numel()
        limits.check("tensors", tensors, "the model has")
        if check is not None:
            check(weights)

    with register_module_parameter_registration_hook(registered):
        yield


def from_config(config: Any) -> Configurable:
    """The part that `to_config` wrote down, with fresh weights.

    Raises:
        LatensError: a part or an argument that is not known, or a value the part refuses.
    """
    if not isinstance(config, dict) or not isinstance(config.get("part"), str):
        raise LatensError("not the description of a part: there is no 'part' name in it")
    name = str(config["part"])
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, _CLASSES, n=1, cutoff=0.8)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise LatensError(
            f"unknown part '{name}': {hint}One of your own must be imported before "
            "it is loaded, in Python: the command knows only those of latens"
        )
    known = argument_names(_CLASSES[name])
    arguments = {str(key): _value(value) for key, value in config.items() if key != "part"}
    arguments = {
        key if key in known else _RENAMED.get(key, key): value for key, value in arguments.items()
    }
    for key in arguments:
        if key not in known:
            raise unknown(f"argument of {name}", key, known)
    try:
        return _CLASSES[name](**arguments)
    except LatensError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise LatensError(f"{name} cannot be built as described: {error}") from error


def _value(value: Any) -> Any:
    match value:
        case {"part": _}:
            return from_config(value)
        case list():  # JSON has no tuples
            return tuple(_value(item) for item in value)
        case _:
            return value
