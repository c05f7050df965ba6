"""What latents tell of classes: a linear probe, neighbours, and clusters."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from latens.errors import LatensError

NEIGHBOURS = 10
STARTS = 5  # of k-means
ITERATIONS = 1_000  # of the probe, at most
SEED = 0

Codes = Float[np.ndarray, "N D"]
Classes = Int[np.ndarray, " N"]


@dataclass(frozen=True)
class Clustering:
    """Clusters beside classes.

    Attributes:
        accuracy: the share of images in the class of their cluster: each cluster is one class and
            each class one cluster, matched for the largest share, where there are as many of both;
            otherwise a cluster is the class of most of its images.
        nmi: normalised mutual information, arithmetic mean, in [0, 1].
        ari: adjusted Rand index; 0 is chance.
        clusters: how many hold an image.
        method: what made them.
    """

    accuracy: float
    nmi: float
    ari: float
    clusters: int
    method: str


@dataclass(frozen=True)
class LatentQuality:
    """What the mean z of images tells of their classes, on test images.

    Attributes:
        probe: the accuracy of logistic regression on standardised z, C = 1, fitted to training
            images.
        neighbours: the accuracy of the 10 nearest training images in latent space.
        clustering: of the test images, without their classes.
        train, test: how many images.
        errors: binomial standard errors by name.
    """

    probe: float
    neighbours: float
    clustering: Clustering
    train: int
    test: int
    errors: dict[str, float]


def latent_quality(
    train: tuple[Codes, Classes],
    test: tuple[Float[np.ndarray, "M D"], Int[np.ndarray, " M"]],
    clusters: Int[np.ndarray, " M"] | None = None,
) -> LatentQuality:
    """All figures from codes and classes of training and of test images.

    Args:
        clusters: of the test images, as the model's own mixture tells; None: by k-means with as
            many clusters as classes.

    Raises:
        LatensError: training images of fewer than two classes, or fewer than ten of them.
    """
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (z, y), (z_test, y_test) = train, test
    if len(z) < NEIGHBOURS or len(np.unique(y)) < 2:
        raise LatensError("a probe needs ten training images or more, of two classes or more")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS)).fit(z, y)
    nearest = KNeighborsClassifier(NEIGHBOURS).fit(z, y)
    scores = {"probe": probe.score(z_test, y_test), "neighbours": nearest.score(z_test, y_test)}
    n, count = len(z_test), len(np.unique(y))
    if clusters is None:
        means = KMeans(count, n_init=STARTS, random_state=SEED).fit(z)  # pyright: ignore[reportArgumentType]
        agreement = clustering(
            np.asarray(means.predict(z_test)), y_test, f"k-means, {count} clusters"
        )
    else:
        agreement = clustering(clusters, y_test, "the mixture of the prior")
    return LatentQuality(
        **{name: float(score) for name, score in scores.items()},
        clustering=agreement,
        train=len(z),
        test=n,
        errors={name: float((p * (1 - p) / n) ** 0.5) for name, p in scores.items()},
    )


def clustering(clusters: Classes, classes: Classes, method: str) -> Clustering:
    """How clusters agree with classes."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return Clustering(
        accuracy=cluster_accuracy(clusters, classes),
        nmi=float(normalized_mutual_info_score(classes, clusters)),
        ari=float(adjusted_rand_score(classes, clusters)),
        clusters=len(np.unique(clusters)),
        method=method,
    )


def cluster_accuracy(clusters: Classes, classes: Classes) -> float:
    """See `Clustering.accuracy`."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = np.asarray(contingency_matrix(clusters, classes))
    if table.shape[0] != table.shape[1]:
        return float(table.max(1).sum() / len(clusters))
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(clusters))
