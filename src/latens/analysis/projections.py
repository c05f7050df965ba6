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

SPREAD = "spread at random"
FULL_PCA = 512  # dimensions; of more, only the first components are computed


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
        self.pca = None
        if z.shape[1] > dims:
            components = min(dims, *z.shape)
            with np.errstate(invalid="ignore"):  # a single point has no variance
                from sklearn.decomposition import PCA

                solver = "full" if z.shape[1] <= FULL_PCA else "randomized"
                pca = PCA(components, svd_solver=solver, random_state=0)
                self.pca = pca.fit(z.double().numpy())
        if self.pca is None:
            self.axes = tuple(f"z[{d}]" for d in range(z.shape[1]))
            self.axes += (SPREAD,) * (dims - z.shape[1])
        else:
            self.axes = tuple(
                f"principal component {i + 1} ({share:.0%} of the variance)"
                for i, share in enumerate(np.nan_to_num(self.pca.explained_variance_ratio_))
            )
            self.axes += ("nothing",) * (dims - len(self.axes))

    @property
    def prior(self) -> tuple[float, float]:
        """Where the centre of the prior, z = 0, lies on the first two axes."""
        if self.pca is None:
            return 0.0, 0.0
        x, y = self.of(torch.zeros(1, self.latent_dim))[0, :2].tolist()
        return x, y

    def of(self, z: Float[Tensor, "N D"]) -> Float[np.ndarray, "N dims"]:
        """The coordinates of latents."""
        points = z.double().numpy()
        if self.pca is not None:
            points = self.pca.transform(points)
        missing = self.dims - points.shape[1]
        spread = np.random.default_rng(0).uniform(-1, 1, (len(points), missing))
        return np.concatenate((points, spread if self.pca is None else 0 * spread), axis=1)
