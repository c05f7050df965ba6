"""New images and edited ones, with labels: what to decode, and what it is called."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Categorical

from latens.errors import LatensError
from latens.evaluation.labels import LabelStatistics
from latens.evaluation.metrics import likeliest
from latens.model.latent_model import LatentModel

GUESS_SEED = 0  # of the noise by which the class of an image is guessed


@dataclass(frozen=True)
class Samples:
    """New images.

    Attributes:
        images: `[N, C, H, W]` in [0, 1].
        labels: the class of each `[N]`: the one asked for, or the classifier's; None where there
            is none to tell.
        confidence: the classifier's probability of it `[N]`; None without a classifier.
    """

    images: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"] | None = None
    confidence: Float[Tensor, " N"] | None = None


@torch.no_grad()
def draw(
    vae: LatentModel, number: int, label: str | int | None = None, temperature: float = 1.0
) -> Samples:
    """`number` new images, of one label or of any.

    A conditional model is given the label: one asked for, else each class in turn, or attributes
    as common as in training. Other models draw z from p(z), or, with a label, from the Gaussian
    of its training images in latent space.

    Args:
        label: a class or an attribute, by name or by its index.
        temperature: z (its deviation from the label's mean) is multiplied by it.

    Raises:
        LatensError: a label that does not exist, or a model that knows none.
    """
    if vae.label_embedding is not None:
        statistics = LabelStatistics.of(vae)
        index = None if label is None else _index(statistics, label)
        y = _labels_like_training(statistics, number, index).to(vae.device)
        return Samples(vae.sample(number, y, temperature), y if statistics.exclusive else None)
    if label is None:
        return _classified(vae, temperature * vae.sample_prior(number))
    statistics = LabelStatistics.of(vae)
    index = _index(statistics, label)
    z = statistics.draw(index, number, temperature).to(vae.device)
    samples = _classified(vae, z.unflatten(1, vae.latent_shape))
    if samples.labels is not None or not statistics.exclusive:
        return samples
    return Samples(samples.images, torch.full((number,), index, device=vae.device))


def _index(statistics: LabelStatistics, label: str | int) -> int:
    return label if isinstance(label, int) else statistics.index(label)


def _classified(vae: LatentModel, z: Float[Tensor, "N *Z"]) -> Samples:
    """Images of these latents, with the class that the model's classifier finds, if it has one."""
    images = vae.decode_images(z)
    p = None if vae.classifier is None else vae.classify(z)
    if not isinstance(p, Categorical):
        return Samples(images)
    labels = likeliest(vae, z)
    return Samples(images, labels, p.log_prob(labels).exp())


def _labels_like_training(
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


@torch.no_grad()
def towards_class(
    vae: LatentModel, x: Float[Tensor, "B C H W"], label: str, steps: int
) -> Float[Tensor, "B steps C H W"]:
    """Images on the way from what they are to another class, what else they are kept.

    z moves by the difference of the two classes' means; a conditional model, whose z is free of
    the class, is shown with each label in turn instead: its own, then the other.

    Raises:
        LatensError: a class that does not exist, or a model that knows none.
    """
    statistics = LabelStatistics.of(vae)
    if not statistics.exclusive:
        raise LatensError("this model's images have attributes and no classes: use --attribute")
    index = statistics.index(label)
    x = x.to(vae.device)
    own = likeliest_condition(vae, x)
    if own is not None and vae.decodes_labels:
        z = vae.embed(x, own)
        ends = [vae.decode_images(z, own), vae.decode_images(z, torch.full_like(own, index))]
        return torch.stack(ends, 1)
    means = torch.tensor(statistics.mean, device=vae.device)
    z = vae.embed(x, own).flatten(1)
    towards = means[index] - means[_own_class(vae, z, statistics)]  # [B, D]
    t = torch.linspace(0, 1, steps, device=vae.device)[:, None, None]
    return vae.decode_images((z + t * towards).unflatten(2, vae.latent_shape)).transpose(0, 1)


def _own_class(vae: LatentModel, z: Float[Tensor, "B D"], statistics: LabelStatistics) -> Tensor:
    """The class of each z `[B]`: the classifier's, or that of the likeliest class Gaussian."""
    if vae.classifier is not None:
        return likeliest(vae, z.unflatten(1, vae.latent_shape))
    of_class = torch.distributions.Normal(
        torch.tensor(statistics.mean, device=vae.device),
        torch.tensor(statistics.scale, device=vae.device),
    )
    return of_class.log_prob(z[:, None]).sum(-1).argmax(-1)


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
    with torch.random.fork_rng(devices=[vae.device] if vae.device.type == "cuda" else []):
        for label in range(embedding.count):
            torch.manual_seed(GUESS_SEED)  # the same noise for each class
            draw = vae.draw(x, torch.full_like(unknown, label))
            elbos.append(draw.log_px_z[0] - draw.kl)
    return torch.stack(elbos).argmax(0)
