"""New images and edited ones, with labels: what to decode, and what it is called."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Categorical

from latens.errors import LatensError
from latens.evaluation.labels import LabelStatistics
from latens.model.latent_model import LatentModel
from latens.model.noise import OwnNoise

Density = Literal["mixture", "gaussian"]

GUESS_SEED = 0  # of the noise by which the class of an image is guessed
CONFIDENCE = 0.8  # p(y|z), at least, of the samples of a class
PROPOSALS, LEAST_PROPOSALS = 50, 500  # z that are tried for each image; at a time
# p(y|z) where a class counts as reached, and where a walk to it stops: an independent classifier
# finds the class in 97 to 100 % of such images, and in 83 to 95 % of those at 0.8
REACHED, ENOUGH = 0.96, 0.98
LEAST_SHARE = 0.02  # of a class in a Gaussian of its density: one of fewer images holds outliers
PATH_STEPS = 21  # on each of the two straight lines to a class


@dataclass(frozen=True)
class Samples:
    """New images.

    Attributes:
        images: `[N, C, H, W]` in [0, 1].
        labels: the class of each `[N]`: the one asked for, or the likeliest given z; None where
            there is none to tell.
        probability: p(y|z) of it `[N]`, by the model's classifier, else by the densities of the
            classes; None for a conditional model, whose z knows no class.
        unsure: how many of them fall short of the confidence asked for.
    """

    images: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"] | None = None
    probability: Float[Tensor, " N"] | None = None
    unsure: int = 0


@torch.no_grad()
def draw(
    vae: LatentModel,
    number: int,
    label: str | int | None = None,
    temperature: float | Sequence[float] | None = None,
    density: Density = "mixture",
    confidence: float | None = None,
) -> Samples:
    """`number` new images, of one label or of any.

    A conditional model is given the label: one asked for, else each class in turn, or attributes
    as common as in training. Other models draw z from p(z), or, with a label, from the density of
    its training images in latent space, where that class is the likely one.

    Args:
        label: a class or an attribute, by name or by its index.
        temperature: z (its deviation from the mean of its Gaussian) is multiplied by it; one for
            all levels of a hierarchy, or one for each; None: the model's own, mostly 1.
        density: of a class: a mixture of Gaussians, or N(μ, diag σ²). Of an attribute always the
            latter.
        confidence: the least p(y|z), from 0 to 1; z that fall short are drawn anew. None is 0.8
            for a class that is asked for with the density mixture, and 0 otherwise.

    Raises:
        LatensError: a label that does not exist, a model that knows none, or a confidence that
            has no meaning for it.
    """
    if confidence is not None and not 0 <= confidence <= 1:
        raise LatensError(f"confidence is {confidence}: a probability, from 0 to 1")
    if label is None and density == "gaussian":
        raise LatensError("the density gaussian is of a class: name one, or leave out --density")
    if vae.label_embedding is not None:
        if density == "gaussian":
            raise LatensError("a conditional model has no density of a class: leave out --density")
        return _conditional(vae, number, label, temperature, confidence)
    temperatures = vae.temperatures(temperature)
    top = temperatures[0]

    def images_of(z: Tensor) -> Tensor:
        return vae.sample_given(z, None, temperatures)

    if label is None:
        return _confident(
            vae, number, lambda n: top * vae.sample_prior(n), images_of, None, confidence or 0.0
        )
    statistics = LabelStatistics.of(vae)
    index = _index(statistics, label)
    densities = statistics.gaussians if density == "gaussian" else statistics.densities

    def propose(n: int) -> Tensor:
        z = densities[index].sample(n, top)
        return z.to(vae.device).unflatten(1, vae.latent_shape)

    if not statistics.exclusive:
        if confidence:
            raise LatensError("attributes overlap, so there is no confidence in one of them")
        return Samples(images_of(propose(number)))
    default = CONFIDENCE if density == "mixture" else 0.0
    confidence = default if confidence is None else confidence
    return _confident(vae, number, propose, images_of, index, confidence)


def _conditional(
    vae: LatentModel,
    number: int,
    label: str | int | None,
    temperature: float | Sequence[float] | None,
    confidence: float | None,
) -> Samples:
    """Images of a conditional model, by labels that it is given."""
    if confidence:
        raise LatensError(
            "a conditional model is given the class, and its z knows none: leave out --confidence"
        )
    statistics = LabelStatistics.of(vae)
    index = None if label is None else _index(statistics, label)
    y = labels_like_training(statistics, number, index).to(vae.device)
    return Samples(vae.sample(number, y, temperature), y if statistics.exclusive else None)


def temperatures_of(temperature: float | str | Sequence[float] | None) -> list[float] | None:
    """One, or one for each level of a hierarchy, from 0.7, "1,0.8" or [1, 0.8].

    Raises:
        LatensError: not numbers above 0.
    """
    if temperature is None:
        return None
    given = temperature.split(",") if isinstance(temperature, str) else temperature
    try:
        values = [float(value) for value in ([given] if isinstance(given, int | float) else given)]
    except (TypeError, ValueError, OverflowError):
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise LatensError(f"temperature is {temperature}: it must be a number above 0")
    return values


def at_temperature(vae: LatentModel, temperature: float | Sequence[float] | None = None) -> str:
    """What a title says of it; nothing of 1."""
    values = vae.temperatures(temperature)
    if set(values) == {1.0}:
        return ""
    if len(set(values)) == 1:
        return f", temperature {values[0]:g}"
    return f", temperatures {' '.join(f'{value:g}' for value in values)}"


def _index(statistics: LabelStatistics, label: str | int) -> int:
    if not isinstance(label, int):
        return statistics.index(label)
    if not 0 <= label < len(statistics.names):
        raise LatensError(f"label {label}: there are 0 to {len(statistics.names) - 1}")
    return label


def tells_classes(vae: LatentModel) -> bool:
    """Whether the class of an image follows from its z, so that `class_probability` knows it."""
    if vae.classifier is not None:
        return isinstance(
            vae.classify(torch.zeros(vae.latent_shape, device=vae.device)), Categorical
        )
    labels = vae.about.get("labels") or {}
    return bool(labels.get("exclusive")) and not vae.decodes_labels


def class_probability(vae: LatentModel, z: Float[Tensor, "N *Z"]) -> Float[Tensor, "N A"]:
    """p(y|z) of each class, by the model's classifier, else by the densities of the classes.

    Raises:
        LatensError: a model that knows no classes.
    """
    if vae.classifier is not None:
        p = vae.classify(z)
        if isinstance(p, Categorical):
            return p.probs
    return LabelStatistics.of(vae).probability(z.flatten(1)).to(z.device)


def _confident(
    vae: LatentModel,
    number: int,
    propose: Callable[[int], Tensor],
    images_of: Callable[[Tensor], Tensor],
    index: int | None,
    confidence: float,
) -> Samples:
    """Images of proposed z whose class has at least this probability.

    Where so many cannot be found among `PROPOSALS` for each, the likeliest of the others follow.

    Args:
        index: the class asked for; None takes the likeliest of each z.
    """
    z = propose(number)
    if not tells_classes(vae):
        if confidence:
            raise LatensError(
                "this model cannot tell the class of a sample: leave out --confidence"
            )
        return Samples(images_of(z))
    p = class_probability(vae, z)
    while confidence and len(z) < PROPOSALS * number and _sure(p, index, confidence) < number:
        more = propose(max(number, LEAST_PROPOSALS))
        z, p = torch.cat((z, more)), torch.cat((p, class_probability(vae, more)))
    label = p.argmax(1) if index is None else torch.full((len(p),), index, device=p.device)
    own = p.gather(1, label[:, None])[:, 0]
    if not confidence:
        return Samples(images_of(z), label, own)
    # Those that are sure enough in the order they came, then the others from the surest on
    order = torch.where(own >= confidence, 2.0, own).argsort(descending=True, stable=True)
    chosen = order[:number]
    unsure = int((own[chosen] < confidence).sum())
    return Samples(images_of(z[chosen]), label[chosen], own[chosen], unsure)


def _sure(p: Float[Tensor, "N A"], index: int | None, confidence: float) -> int:
    """How many z have the class asked for, or any, with that probability."""
    return int(((p.amax(1) if index is None else p[:, index]) >= confidence).sum())


def labels_like_training(
    statistics: LabelStatistics, number: int, index: int | None
) -> Int64[Tensor, "N *A"]:
    """Labels for a conditional model: of one class, or of all in turn; or rows of attributes."""
    count = len(statistics.names)
    if statistics.exclusive:
        in_turn = torch.arange(number) * count // max(1, number)
        return in_turn if index is None else torch.full((number,), index)
    y = torch.bernoulli(torch.tensor(statistics.share).expand(number, count)).long()
    if index is not None:
        y[:, index] = 1
    return y


@torch.no_grad()
def along_attribute(
    vae: LatentModel, x: Float[Tensor, "B C H W"], attribute: str, amounts: Float[Tensor, " steps"]
) -> Float[Tensor, "B steps C H W"]:
    """Images with more or less of an attribute: z moved along its direction.

    Larsen et al. 2016, "Autoencoding beyond Pixels Using a Learned Similarity Metric", section
    4.3; the direction here is what the attribute adds with all others equal.

    Args:
        amounts: 0 is the reconstruction; 1 adds the attribute's mean difference to z.

    Raises:
        LatensError: an attribute that does not exist, or a model that knows none.
    """
    statistics = LabelStatistics.of(vae)
    if statistics.exclusive:
        raise LatensError("this model's images have classes and no attributes: use --label")
    direction = torch.tensor(statistics.direction[statistics.index(attribute)], device=vae.device)
    x = x.to(vae.device)
    y = likeliest_condition(vae, x)
    z = vae.embed(x, y).flatten(1)  # [B, D]
    moved = z + amounts.to(vae.device)[:, None, None] * direction  # [steps, B, D]
    return vae.decode_images(moved.unflatten(2, vae.latent_shape), y).transpose(0, 1)


@dataclass(frozen=True)
class Edit:
    """Images on the way to another class.

    Attributes:
        images: `[B, steps, C, H, W]`; the first is the reconstruction.
        reached: whether the last is of that class by the model's own account, `[B]`.
    """

    images: Float[Tensor, "B steps C H W"]
    reached: Bool[Tensor, " B"]


@torch.no_grad()
def towards_class(
    vae: LatentModel,
    x: Float[Tensor, "B C H W"],
    label: str,
    steps: int,
    y: Int64[Tensor, " B"] | None = None,
) -> Edit:
    """Images on the way from what they are to another class, until it is reached.

    z moves by the difference of the two classes' means, which keeps what else an image is, and
    then towards the nearest Gaussian of the class's density; it stops where p(y|z) is `ENOUGH`, or
    largest if that is nowhere, and has reached the class if that is `REACHED` or more. A
    conditional model, whose z is free of the class, is shown with each label in turn instead: its
    own, then the other.

    Args:
        y: the class of each image, where it is known; a conditional model finds it otherwise.

    Raises:
        LatensError: a class that does not exist, or a model that knows none.
    """
    statistics = LabelStatistics.of(vae)
    if not statistics.exclusive:
        raise LatensError("this model's images have attributes and no classes: use --attribute")
    index = statistics.index(label)
    x = x.to(vae.device)
    own = likeliest_condition(vae, x) if y is None else y.to(vae.device)
    if own is not None and vae.decodes_labels:
        z = vae.embed(x, own)
        target = torch.full_like(own, index)
        ends = [vae.decode_images(z, own), vae.decode_images(z, target)]
        return Edit(torch.stack(ends, 1), likeliest_condition(vae, ends[1]) == target)
    path, p = _path_to_class(vae, vae.embed(x, own), statistics, index)
    enough = p >= ENOUGH
    stop = torch.where(enough.any(0), enough.int().argmax(0), p.argmax(0))  # [B]
    share = torch.linspace(0, 1, steps, device=vae.device)[:, None]
    at = (share * stop).round().long()  # [steps, B]
    z = path[at, torch.arange(len(x), device=vae.device)]
    return Edit(vae.decode_images(z).transpose(0, 1), p.amax(0) >= REACHED)


def _path_to_class(
    vae: LatentModel, z: Float[Tensor, "B *Z"], statistics: LabelStatistics, index: int
) -> tuple[Float[Tensor, "S B *Z"], Float[Tensor, "S B"]]:
    """Latents from z to a class by way of its mean's difference, and p(y|z) of it at each."""
    own = class_probability(vae, z).argmax(1)
    means = torch.tensor(statistics.mean, device=z.device).unflatten(1, vae.latent_shape)
    moved = z + means[index] - means[own]
    density = statistics.densities[index]
    centres = torch.tensor(density.mean, device=z.device)
    p = class_probability(vae, centres.unflatten(1, vae.latent_shape))[:, index]
    share = torch.tensor(density.weight, device=z.device)
    p = torch.where(share < min(LEAST_SHARE, max(density.weight)), 0.0, p)
    of_class = p >= torch.minimum(p.max(), p.new_tensor(ENOUGH))
    distance = torch.cdist(moved.flatten(1), centres).masked_fill(~of_class, math.inf)
    nearest = centres[distance.argmin(1)].view_as(z)
    t = torch.linspace(0, 1, PATH_STEPS, device=z.device).reshape(-1, *[1] * z.dim())
    path = torch.cat([torch.lerp(z, moved, t), torch.lerp(moved, nearest, t)[1:]])
    p = class_probability(vae, path.flatten(0, 1))[:, index]
    return path, p.unflatten(0, path.shape[:2])


@torch.no_grad()
def likeliest_condition(
    vae: LatentModel, x: Float[Tensor, "B C H W"]
) -> Int64[Tensor, "B *A"] | None:
    """The label to give a conditional model with images of which none is known; else None.

    The class under which the image has the largest ELBO, with the same noise for all; attributes
    stay unknown.
    """
    embedding = vae.label_embedding
    if embedding is None:
        return None
    if not embedding.exclusive:
        return embedding.unknown(len(x))
    x, unknown, elbos = x.to(vae.device), embedding.unknown(len(x)), []
    seeds = [GUESS_SEED] * len(x)
    for label in range(embedding.count):
        with OwnNoise(seeds, x.device):  # the same for each image and class
            draw = vae.draw(x, torch.full_like(unknown, label))
        elbos.append(draw.log_px_z[0] - draw.kl)
    return torch.stack(elbos).argmax(0)
