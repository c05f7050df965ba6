"""Ways of looking into a model: what to encode and decode, as arrays and not yet as pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import Normal

from latens.data import Images
from latens.errors import LatensError, unknown
from latens.evaluation.labels import IMAGES_AT_ONCE, LabelStatistics
from latens.model.networks.labels import embedding_of
from latens.analysis.generation import likeliest_condition
from latens.model.vae import VAE

SPREAD = "spread at random"
REACH = 4.0  # σ of the prior, from the middle of a latent plane to its edge
PROJECTIONS = ("pca", "tsne", "umap")
LEAST_PROJECTED = 4


@dataclass(frozen=True)
class Embedded:
    """Where images lie in latent space.

    Attributes:
        mean: of q(z|x), `[N, D]`.
        sample: one z ~ q(z|x) of each, `[N, D]`.
        labels: the class of each, −1 unknown; None where there are no classes.
    """

    mean: Float[Tensor, "N D"]
    sample: Float[Tensor, "N D"]
    labels: Int64[Tensor, " N"] | None


@torch.no_grad()
def embedded(vae: VAE, images: Images) -> Embedded:
    """The mean and one sample of q(z|x) for every image."""
    means, samples = [], []
    for batch in images.batches(IMAGES_AT_ONCE):
        x = batch.unit().to(vae.device)
        y = likeliest_condition(vae, x) if batch.labels is None else batch.labels.to(vae.device)
        posterior = vae.encode(x, y)
        means.append(posterior.mean.flatten(1).cpu())
        samples.append(posterior.sample().flatten(1).cpu())
    labels = images.labels
    labels = labels.cpu() if labels is not None and labels.dim() == 1 else None
    return Embedded(torch.cat(means), torch.cat(samples), labels)


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
                self.pca = PCA(components, svd_solver="full").fit(z.double().numpy())
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


def projected(z: Float[Tensor, "N D"], how: str) -> Float[np.ndarray, "N 2"]:
    """Latents brought to two dimensions that keep neighbours together: t-SNE or UMAP.

    Van der Maaten & Hinton 2008, "Visualizing Data using t-SNE"; McInnes et al. 2018, "UMAP".

    Args:
        how: "tsne" or "umap", which needs the package umap-learn.

    Raises:
        LatensError: another name, a package that is missing, or fewer than four latents.
    """
    method = projection_of(how)
    if len(z) < LEAST_PROJECTED:
        raise LatensError(f"{how} needs at least {LEAST_PROJECTED} images, and here are {len(z)}")
    own = {"tsne": {"perplexity": min(30.0, (len(z) - 1) / 3)}, "umap": {"n_jobs": 1}}
    return np.asarray(method(random_state=0, **own[how]).fit_transform(z.numpy()), dtype=np.float64)


def projection_of(how: str) -> Callable[..., Any]:
    """The estimator that `projected` fits, by its name.

    Raises:
        LatensError: another name, or a package that is missing.
    """
    if how == "tsne":
        from sklearn.manifold import TSNE

        return TSNE
    if how != "umap":
        raise unknown("projection", how, PROJECTIONS)
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LatensError(
            "the projection umap needs the package umap-learn: install it, or take tsne"
        ) from None
    return UMAP


# ---- over latent space -----------------------------------------------------------------------


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
    vae: VAE,
    points: Float[Tensor, "rows columns 2"],
    dims: Sequence[int] = (0, 1),
    label: int | None = None,
) -> Float[Tensor, "rows columns C H W"]:
    """The images that points of a latent plane decode to; all other dimensions are 0.

    Args:
        points: such as a `lattice`.
        dims: the two latent dimensions that the plane lies along; of a single one only the first
            coordinate counts.
        label: the class a conditional model is told.
    """
    rows, columns = points.shape[:2]
    z = torch.zeros(rows * columns, math.prod(vae.latent_shape))
    for i, d in enumerate(dims[: z.shape[1]]):
        z[:, d] = points.reshape(-1, 2)[:, i]
    y = _told(vae, label, len(z))
    return vae.picture(z.unflatten(1, vae.latent_shape), y).unflatten(0, (rows, columns))


def _told(vae: VAE, label: int | None, count: int) -> Tensor | None:
    """What a conditional model is told of `count` images of a class; None to any other."""
    embedding = embedding_of(vae)
    if embedding is None:
        return None
    if not embedding.exclusive:
        return torch.full((count, embedding.count), -1)
    return torch.full((count,), -1 if label is None else label)


@torch.no_grad()
def traversals(
    vae: VAE,
    start: Float[Tensor, " D"],
    dims: Sequence[int],
    steps: Float[Tensor, " S"],
    label: int | None = None,
) -> Float[Tensor, "T S C H W"]:
    """What each of T latent dimensions does: it alone takes the values `steps`, in units of z.

    Args:
        start: the other dimensions.
        dims: which to move.
        label: the class a conditional model is told.
    """
    z = start.repeat(len(dims), len(steps), 1)
    for row, d in enumerate(dims):
        z[row, :, d] = steps
    flat = z.flatten(0, 1)
    images = vae.picture(flat.unflatten(1, vae.latent_shape), _told(vae, label, len(flat)))
    return images.unflatten(0, (len(dims), len(steps)))


@torch.no_grad()
def through_classes(vae: VAE, steps: int) -> tuple[Float[Tensor, "N C H W"], list[str]]:
    """Images on the way from class to class, back to the first: straight lines between means.

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
    if embedding_of(vae) is not None:
        z = torch.zeros(len(names), *vae.latent_shape)
        return vae.picture(z, torch.arange(len(names))), list(names)
    means = torch.tensor(statistics.mean)
    t = torch.linspace(0, 1, steps + 1)[:-1, None]
    z = torch.cat([torch.lerp(a, b, t) for a, b in zip(means, means.roll(-1, 0), strict=True)])
    words = [
        f"{a} → {b}" if i else a
        for a, b in zip(names, (*names[1:], names[0]), strict=True)
        for i in range(steps)
    ]
    return vae.picture(z.unflatten(1, vae.latent_shape)), words


# ---- inside the networks ---------------------------------------------------------------------


@torch.no_grad()
def feature_maps(
    vae: VAE, x: Float[Tensor, "1 C H W"], y: Int64[Tensor, "1 *A"] | None = None
) -> dict[str, Float[Tensor, "channels h w"]]:
    """The output of every convolution of encoder and decoder for one image, from x to x̂.

    The names are those of the layers in the model, such as `encoder.levels.0.1`.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps[name] = output[0].float().cpu()

        return hook

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in vae.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    try:
        vae.reconstruct(x, y)
    finally:
        for hook in hooks:
            hook.remove()
    return maps
