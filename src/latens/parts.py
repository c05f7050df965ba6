"""Parts: the modules a VAE is composed of, which can be written down as JSON and built again.

A part follows scikit-learn's convention: each constructor argument is kept as an attribute of
the same name. That is all it takes for `to_config` and `from_config` to save and rebuild any
composition, one's own parts included, without pickle.
"""

import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from latens.errors import LatensError, unknown

Kind = Literal["grey cross-entropy", "binary", "8-bit", "density"]

_PARTS: dict[str, type["Part"]] = {}


class Part(nn.Module):
    """An `nn.Module` that can be rebuilt from its constructor arguments.

    A subclass is known by its class name as soon as it is defined. Its arguments must be
    numbers, strings, booleans, None, tuples of those, or other parts.

    Raises:
        LatensError: when a class is defined that has the name of one of latens's own parts.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        namesake = _PARTS.get(cls.__name__)
        if namesake and namesake.__module__.startswith("latens.") and namesake is not cls:
            raise LatensError(f"latens has a part called {cls.__name__}: choose another name")
        _PARTS[cls.__name__] = cls


class Encoder(Part):
    """`(x: [B, C, H, W], y) -> [B, F]`.

    A label y is a class `[B]` or a row of attributes `[B, A]`, each 0 or 1; −1 is unknown, and
    None stands for no labels at all.

    Attributes:
        image_shape: (C, H, W).
        features: F.
    """

    image_shape: tuple[int, int, int]
    features: int


class Posterior(Part):
    """`[B, F] -> q(z|x)`, batch `[B]`, event `[*Z]`.

    Attributes:
        event_shape: Z.
    """

    event_shape: tuple[int, ...]


class Prior(Part):
    """`(posterior_of: x -> q(z|x), y) -> p(z)`, event `[*Z]`.

    Attributes:
        event_shape: Z.
    """

    event_shape: tuple[int, ...]


class Decoder(Part):
    """`(z: [N, *Z], y) -> [N, P, H, W]`.

    Attributes:
        latent_shape: Z.
        image_shape: (C, H, W).
        planes: P.
    """

    latent_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    planes: int


class Likelihood(Part, ABC):
    """`[*N, P, H, W] -> p(x|z)`, batch `[*N]`, event `[C, H, W]`."""

    @abstractmethod
    def planes(self, channels: int) -> int:
        """P, how many planes the decoder must give for images of C channels."""

    @abstractmethod
    def planes_of(self, mean: Tensor) -> Tensor:
        """The planes `[P, H, W]` whose p(x|z) has this mean `[C, H, W]`: where training starts."""

    @abstractmethod
    def kind(self, binary_pixels: bool) -> Kind:
        """What −log p(x|z) is, for pixels that are all 0 or 1, or that are not."""


class Classifier(Part):
    """`z: [*N, *Z] -> p(y|z)`, batch `[*N]`: a label is read off the latents.

    Attributes:
        latent_shape: Z.
    """

    latent_shape: tuple[int, ...]


def _argument_names(part: type[Part]) -> list[str]:
    parameters = list(inspect.signature(part.__init__).parameters.values())[1:]  # without self
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]


def to_config(part: Part) -> dict[str, Any]:
    """`part` as JSON-ready nested dictionaries: `{"part": class name, argument: value, ...}`."""
    values = {name: getattr(part, name) for name in _argument_names(type(part))}
    return {"part": type(part).__name__} | {
        name: to_config(value) if isinstance(value, Part) else value
        for name, value in values.items()
    }


def from_config(config: Any) -> Part:
    """The part that `to_config` wrote down, with fresh weights.

    Raises:
        LatensError: a part or an argument that is not known, or a value the part refuses.
    """
    if not isinstance(config, dict) or not isinstance(config.get("part"), str):
        raise LatensError("not the description of a part: there is no 'part' name in it")
    name = config["part"]
    if name not in _PARTS:
        raise unknown("part (one of your own must be imported before it is loaded)", name, _PARTS)
    known = _argument_names(_PARTS[name])
    arguments = {key: _value(value) for key, value in config.items() if key != "part"}
    for key in arguments:
        if key not in known:
            raise unknown(f"argument of {name}", key, known)
    try:
        return _PARTS[name](**arguments)
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
