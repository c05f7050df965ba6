"""Networks whose features measure samples: always named, because a figure is of its features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.judges import (
    IMAGES_AT_ONCE,
    ImageClassifier,
    shipped_for,
    shipped_network,
)
from latens.model.noise import forked_rng
from latens.run.directory import Run

LEARNED_FROM, LARGEST_SIDE = 5_000, 32  # images at most, and their side in pixels
STEPS, BATCH, LEARNING_RATE = 400, 64, 2e-3
COMPONENTS = 64  # principal ones, of images without classes
SEED = 0


@dataclass(frozen=True)
class FeatureNetwork:
    """Features of images.

    Attributes:
        name: what stands beside every figure that is of them.
        compute: `[N, C, H, W]` in [0, 1] -> `[N, F]`.
        learned_from: rows of the training images; None of a network that comes with latens.
    """

    name: str
    compute: Callable[[Tensor], Tensor]
    learned_from: Int64[Tensor, " n"] | None = None

    def some_unseen(self, train: Images, count: int) -> Images:
        """`count` training images that it was not learned from, where there are so many."""
        unseen = torch.ones(len(train), dtype=torch.bool)
        if self.learned_from is not None:
            unseen[self.learned_from] = False
        enough = int(unseen.sum()) >= count
        return (train.take(unseen.nonzero()[:, 0]) if enough else train).some(count)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N F"]:
        """The features of each image, float64."""
        parts = [self.compute(part) for part in images.cpu().split(IMAGES_AT_ONCE)]
        return torch.cat(parts).double()


def features_of(run: Run, data: DataSet) -> FeatureNetwork:
    """The features that the samples of a run are measured by.

    For MNIST those of the classifier that comes with latens; for other classes those of one that
    is trained on the run's training images at once; without classes principal components.
    """
    if name := shipped_for(run):
        return FeatureNetwork(f"{name}-judge, last hidden layer", _hidden(shipped_network(name)))
    labels = data.train.labels
    if labels is not None and labels.dim() == 1 and len(labels[labels >= 0].unique()) > 1:
        return classifier_features(data.train)
    return principal_components(data.train)


def classifier_features(train: Images) -> FeatureNetwork:
    """The last hidden layer of a small convolutional classifier, trained for a few seconds.

    Raises:
        LatensError: images without classes.
    """
    if train.labels is None or train.labels.dim() > 1:
        raise LatensError("a classifier's features need images with classes")
    rows = _some_of((train.labels >= 0).nonzero()[:, 0])
    few = train.take(rows)
    with forked_rng(seed=SEED):
        x, y = small(few.unit()), few.labels
        assert y is not None
        channels, height, width = x.shape[1:]
        network = ImageClassifier((channels, height, width), int(y.max()) + 1)
        _learn(network, x, y)
    compute = _hidden(network.eval())
    name = f"a classifier of {len(x):,} training images, last hidden layer"
    return FeatureNetwork(name, lambda images: compute(small(images)), rows)


def principal_components(train: Images) -> FeatureNetwork:
    """The first principal components of training images."""
    from sklearn.decomposition import PCA

    rows = _some_of(torch.arange(len(train)))
    with forked_rng(seed=SEED):
        x = small(train.take(rows).unit()).flatten(1)
    pca = PCA(min(COMPONENTS, *x.shape), random_state=SEED).fit(x.numpy())

    def compute(images: Tensor) -> Tensor:
        return torch.from_numpy(pca.transform(small(images).flatten(1).numpy()))

    name = f"{pca.n_components_} principal components of training images"
    return FeatureNetwork(name, compute, rows)


def _hidden(network: ImageClassifier) -> Callable[[Tensor], Tensor]:
    return network.layers[:-1]


def _some_of(rows: Int64[Tensor, " N"]) -> Int64[Tensor, " n"]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    return rows[order[:LEARNED_FROM]].sort().values


def small(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
    """Images averaged down to `LARGEST_SIDE` pixels a side, at most."""
    height, width = (min(LARGEST_SIDE, length) for length in images.shape[-2:])
    return F.adaptive_avg_pool2d(images, (height, width))


@torch.enable_grad()
def _learn(network: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (min(BATCH, len(x)),))
        loss = F.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
