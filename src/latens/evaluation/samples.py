"""How samples compare with images: FID, KID, precision, recall, and copies of training images."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from latens.errors import LatensError
from latens.model.noise import forked_rng

LEAST_COMPARED = 10  # images, of either kind
KID_SUBSET = 1_000  # features of each of the subsets over which KID is averaged
BOOTSTRAPS = 20
NEIGHBOURS = 3  # k of precision and recall (Kynkäänniemi et al. 2019, section 3.1)
MANIFOLD = 5_000  # features at most that it is of: the cost is quadratic
NEAR_COPY = 0.01  # the share of test images that lie as near to a training image
DISTANCES_AT_ONCE = 2**24


@dataclass(frozen=True)
class SampleQuality:
    """Samples beside test images, by the features of a network that is named.

    Attributes:
        of: what was sampled.
        features: the network's name: figures of other features cannot be compared.
        fid: Fréchet distance of two Gaussians, biased upwards by few samples.
        kid: squared maximum mean discrepancy, unbiased, so 0 of equal distributions.
        precision: the share of samples within the manifold of test images.
        recall: the share of test images within the manifold of the samples.
        near_copies: the share of samples nearer to a training image than all but 1 % of test
            images are, in pixels: about 0.01 of new images, and more of samples without the noise
            that images have, such as means of p(x|z); None without such images.
        samples, images: how many of each.
        errors: standard errors by name: by a bootstrap of fid, over subsets of kid, binomial of
            the others.
    """

    of: str
    features: str
    fid: float
    kid: float
    precision: float
    recall: float
    near_copies: float | None
    samples: int
    images: int
    errors: dict[str, float] = field(default_factory=dict)


def sample_quality(
    of: str,
    features: str,
    real: Float[Tensor, "N F"],
    fake: Float[Tensor, "M F"],
    near_copies: float | None = None,
    seed: int = 0,
) -> SampleQuality:
    """All figures of samples' features beside those of test images.

    Args:
        of: what was sampled.
        features: the network's name.
        near_copies: what `near_copies` found.

    Raises:
        LatensError: fewer than ten of either.
    """
    if min(len(real), len(fake)) < LEAST_COMPARED:
        raise LatensError("samples are compared with images where there are ten or more of both")
    real, fake = real.double(), fake.double()
    with forked_rng(seed=seed):
        fids = [frechet_distance(_resampled(real), _resampled(fake)) for _ in range(BOOTSTRAPS)]
        kid, kid_error = kernel_distance(real, fake)
    precision, recall = precision_recall(real[:MANIFOLD], fake[:MANIFOLD])
    counts = {"precision": min(len(fake), MANIFOLD), "recall": min(len(real), MANIFOLD)}
    shares = {"precision": precision, "recall": recall}
    errors = {name: _binomial(share, counts[name]) for name, share in shares.items()}
    errors["fid"] = torch.tensor(fids).std().item()
    if kid_error is not None:
        errors["kid"] = kid_error
    if near_copies is not None:
        errors["near_copies"] = _binomial(near_copies, len(fake))
    return SampleQuality(
        of, features, frechet_distance(real, fake), kid, precision, recall, near_copies,
        len(fake), len(real), errors,
    )  # fmt: skip


def _resampled(values: Tensor) -> Tensor:
    return values[torch.randint(len(values), (len(values),))]


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def frechet_distance(a: Float[Tensor, "N F"], b: Float[Tensor, "M F"]) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½): of features of a network, the FID.

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", equation 6.
    """
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    # tr (Σ_a Σ_b)^½ is the trace of (Σ_a^½ Σ_b Σ_a^½)^½, which is symmetric
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return (difference @ difference + cov_a.trace() + cov_b.trace() - 2 * product).item()


def kernel_distance(
    a: Float[Tensor, "N F"], b: Float[Tensor, "M F"], subset: int = KID_SUBSET
) -> tuple[float, float | None]:
    """The KID, and its standard error: the mean over disjoint random subsets of equal size.

    The unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³ (Bińkowski et al.
    2018, "Demystifying MMD GANs", section 4). A single subset has no error.
    """
    size = min(len(a), len(b), subset)
    count = min(len(a), len(b)) // size
    a, b = (v[torch.randperm(len(v))[: count * size]] for v in (a, b))
    pairs = zip(a.split(size), b.split(size), strict=True)
    values = torch.stack([_polynomial_mmd(u, v) for u, v in pairs])
    error = values.std().item() / math.sqrt(count) if count > 1 else None
    return values.mean().item(), error


def _polynomial_mmd(a: Tensor, b: Tensor) -> Tensor:
    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    m = len(a)
    within = sum(k.sum() - k.diagonal().sum() for k in (kernel(a, a), kernel(b, b)))
    return within / (m * (m - 1)) - 2 * kernel(a, b).mean()


def precision_recall(
    real: Float[Tensor, "N F"], fake: Float[Tensor, "M F"], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """The shares of samples in the manifold of images, and of images in that of samples.

    A manifold is the union of balls around its points that reach to the k-th nearest of the others
    (Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
    Models", equations 1 and 2).
    """
    distance = torch.cdist(real, fake)
    radius_real, radius_fake = (
        torch.cdist(v, v).kthvalue(min(neighbours + 1, len(v))).values for v in (real, fake)
    )
    precision = (distance <= radius_real[:, None]).any(0).double().mean().item()
    recall = (distance <= radius_fake).any(1).double().mean().item()
    return precision, recall


def near_copies(
    samples: Float[Tensor, "M P"], train: Float[Tensor, "N P"], test: Float[Tensor, "L P"]
) -> float:
    """The share of samples that lie nearer to a training image than 99 % of test images do."""
    threshold = nearest_distance(test, train).quantile(NEAR_COPY)
    return (nearest_distance(samples, train) < threshold).double().mean().item()


def nearest_distance(of: Float[Tensor, "M P"], to: Float[Tensor, "N P"]) -> Float[Tensor, " M"]:
    """The Euclidean distance from each row to the nearest of others."""
    rows = max(1, DISTANCES_AT_ONCE // len(to))
    return torch.cat([torch.cdist(part, to).min(1).values for part in of.split(rows)])
