"""Traversals: what z decodes to along axes, over planes and from class to class, as arrays."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from latens.errors import LatensError
from latens.evaluation.labels import LabelStatistics
from latens.model.latent_model import LatentModel

REACH = 4.0  # σ of the prior, from the middle of a latent plane to its edge


def lattice(side: int, quantiles: bool = False) -> Float[Tensor, "side side 2"]:
    """Points on a square of the latent plane: the first row is the top, the first column the left.

    Args:
        quantiles: at equal steps of the unit Gaussian's probability, not of z.
    """
    if quantiles:
        steps = Normal(0.0, 1.0).icdf((torch.arange(side) + 0.5) / side)
    else:
        steps = torch.linspace(-REACH, REACH, side)
    x, y = torch.meshgrid(steps, steps.flip(0), indexing="xy")
    return torch.stack((x, y), -1)


@torch.no_grad()
def manifold(
    vae: LatentModel,
    points: Float[Tensor, "rows columns 2"],
    dims: Sequence[int] = (0, 1),
    label: int | None = None,
) -> Float[Tensor, "rows columns C H W"]:
    """The images that points of a latent plane decode to; all other dimensions are 0.

    Args:
        points: such as a `lattice`.
        dims: the two latent dimensions that the plane lies along; of a single one only the first
            coordinate counts.
        label: the class that a conditional model is given.
    """
    rows, columns = points.shape[:2]
    z = torch.zeros(rows * columns, math.prod(vae.latent_shape), device=vae.device)
    for i, d in enumerate(dims[: z.shape[1]]):
        z[:, d] = points.reshape(-1, 2)[:, i].to(vae.device)
    y = labels_for(vae, label, len(z))
    return vae.decode_images(z.unflatten(1, vae.latent_shape), y).unflatten(0, (rows, columns))


def labels_for(vae: LatentModel, label: int | None, count: int) -> Tensor | None:
    """The labels of `count` images of a class, for a conditional model; None for any other."""
    embedding = vae.label_embedding
    if embedding is None:
        return None
    y = embedding.unknown(count)
    return y if label is None or not embedding.exclusive else torch.full_like(y, label)


@torch.no_grad()
def traversals(
    vae: LatentModel,
    start: Float[Tensor, " D"],
    dims: Sequence[int],
    steps: Float[Tensor, " S"],
    label: int | None = None,
) -> Float[Tensor, "T S C H W"]:
    """What each of T latent dimensions does: it alone takes the values `steps`, in units of z.

    Args:
        start: the other dimensions.
        dims: which to move.
        label: the class that a conditional model is given.
    """
    z = start.to(vae.device).repeat(len(dims), len(steps), 1)
    for row, d in enumerate(dims):
        z[row, :, d] = steps.to(vae.device)
    flat = z.flatten(0, 1)
    images = vae.decode_images(
        flat.unflatten(1, vae.latent_shape), labels_for(vae, label, len(flat))
    )
    return images.unflatten(0, (len(dims), len(steps)))


@torch.no_grad()
def through_classes(vae: LatentModel, steps: int) -> tuple[Float[Tensor, "N C H W"], list[str]]:
    """Images on the way from class to class, back to the first, on straight lines.

    Each class is at the centre of its density where it is the likeliest, not at its mean, which
    may lie among the images of another class.

    A conditional model, whose z is free of the class, is shown at z = 0 with each label in turn.

    Args:
        steps: from one class to the next.

    Returns:
        The images, and of which class to which each is.

    Raises:
        LatensError: a model that knows no classes.
    """
    statistics = LabelStatistics.of(vae)
    if not statistics.exclusive:
        raise LatensError("this model's images have attributes and no classes")
    names = statistics.names
    if vae.decodes_labels:
        z = torch.zeros(len(names), *vae.latent_shape, device=vae.device)
        return vae.decode_images(z, torch.arange(len(names), device=vae.device)), list(names)
    centres = statistics.prototypes.to(vae.device)
    t = torch.linspace(0, 1, steps + 1, device=vae.device)[:-1, None]
    z = torch.cat([torch.lerp(a, b, t) for a, b in zip(centres, centres.roll(-1, 0), strict=True)])
    words = [
        f"{a} → {b}" if i else a
        for a, b in zip(names, (*names[1:], names[0]), strict=True)
        for i in range(steps)
    ]
    return vae.decode_images(z.unflatten(1, vae.latent_shape)), words
