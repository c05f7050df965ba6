"""Projections: where images lie in latent space, and latents brought to a plane."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from latens.analysis.generation import likeliest_condition
from latens.data import Images
from latens.evaluation.labels import IMAGES_AT_ONCE
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng

SPREAD = "spread at random"
FULL_PCA = 512  # dimensions; of more, only the first components are computed
OVERSAMPLED, ITERATIONS = 10, 7  # of the randomised decomposition, as scikit-learn chooses them


@dataclass(frozen=True)
class Embedded:
    """Where images lie in latent space.

    Attributes:
        mean: of q(z|x), `[N, D]`.
        sample: one z ~ q(z|x) of each, `[N, D]`.
        labels: the class of each, −1 unknown; None where there are no classes.
        posteriors: q(z|x) of `IMAGES_AT_ONCE` images after the other, on the model's device.
    """

    mean: Float[Tensor, "N D"]
    sample: Float[Tensor, "N D"]
    labels: Int64[Tensor, " N"] | None
    posteriors: tuple[Distribution, ...] = ()


@torch.no_grad()
def embedded(vae: LatentModel, images: Images) -> Embedded:
    """The mean and one sample of q(z|x) for every image."""
    posteriors, samples = [], []
    for batch in images.batches(IMAGES_AT_ONCE):
        x = batch.unit().to(vae.device)
        y = likeliest_condition(vae, x) if batch.labels is None else batch.labels.to(vae.device)
        posteriors.append(vae.encode(x, y))
        samples.append(posteriors[-1].sample().flatten(1).cpu())
    means = [posterior.mean.flatten(1).cpu() for posterior in posteriors]
    labels = images.labels
    labels = labels.cpu() if labels is not None and labels.dim() == 1 else None
    return Embedded(torch.cat(means), torch.cat(samples), labels, tuple(posteriors))


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions along which latents vary most, in double precision.

    By torch: importing scikit-learn's takes as long as importing torch.

    Attributes:
        mean: of the latents, `[D]`.
        directions: of length 1, the first one first `[K, D]`; the largest entry of each is
            positive, as scikit-learn has it.
        shares: of the variance that lie along each `[K]`; 0 where there is none.
    """

    mean: Float[Tensor, " D"]
    directions: Float[Tensor, "K D"]
    shares: Float[Tensor, " K"]

    @classmethod
    def of(cls, z: Float[Tensor, "N D"], count: int) -> "PrincipalComponents":
        """The first `count`, at most the smaller of N and D.

        Of many dimensions by a randomised decomposition (Halko, Martinsson & Tropp 2011,
        "Finding structure with randomness").
        """
        mean = z.double().mean(0)
        centred = z.double() - mean
        if z.shape[1] <= FULL_PCA:
            directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count]
        else:
            with forked_rng(seed=0):
                rank = min(count + OVERSAMPLED, *z.shape)
                directions = torch.svd_lowrank(centred, rank, niter=ITERATIONS)[2][:, :count]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * largest.sign()
        variance = (centred @ directions).square().sum(0)
        return cls(mean, directions.T, (variance / centred.square().sum()).nan_to_num())


class Plane:
    """Two axes through latent space: z itself in two dimensions, principal components in more.

    A single latent dimension gets a second axis without meaning, along which points are spread.

    Args:
        z: `[N, D]`, to which the components are fitted.
        dims: how many axes, 2 or 3.
    """

    def __init__(self, z: Float[Tensor, "N D"], dims: int = 2):
        self.dims = dims
        self.latent_dim = z.shape[1]
        self.pca: PrincipalComponents | None = None
        if z.shape[1] > dims:
            self.pca = PrincipalComponents.of(z, min(dims, *z.shape))
        if self.pca is None:
            self.axes = tuple(f"z[{d}]" for d in range(z.shape[1]))
            self.axes += (SPREAD,) * (dims - z.shape[1])
        else:
            self.axes = tuple(
                f"principal component {i + 1} ({share:.0%} of the variance)"
                for i, share in enumerate(self.pca.shares.tolist())
            )
            self.axes += ("nothing",) * (dims - len(self.axes))
        self.short_axes = tuple(f"PC {i + 1}" if self.pca else self.axes[i] for i in range(dims))

    @property
    def prior(self) -> tuple[float, float]:
        """Where the centre of the prior, z = 0, lies on the first two axes."""
        if self.pca is None:
            return 0.0, 0.0
        x, y = self.of(torch.zeros(1, self.latent_dim))[0, :2].tolist()
        return x, y

    def of(self, z: Float[Tensor, "N D"]) -> Float[np.ndarray, "N dims"]:
        """The coordinates of latents."""
        points = z.double()
        if self.pca is not None:
            points = (points - self.pca.mean) @ self.pca.directions.T
        points = points.numpy()
        missing = self.dims - points.shape[1]
        spread = np.random.default_rng(0).uniform(-1, 1, (len(points), missing))
        return np.concatenate((points, spread if self.pca is None else 0 * spread), axis=1)
