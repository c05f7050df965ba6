"""Where the labels lie in latent space: a density for each, and a direction towards each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from latens.data import Images
from latens.errors import LatensError, unknown
from latens.evaluation.densities import ClassDensity, rounded
from latens.model.latent_model import LatentModel

IMAGES_AT_ONCE = 1_000
SEED = 0  # of one z for each image


@dataclass(frozen=True)
class LabelStatistics:
    """Statistics of A labels in latent space: classes, or attributes that an image has or lacks.

    Attributes:
        names: of the labels.
        exclusive: they are classes; otherwise attributes.
        share: the share of labelled images with each, `A` numbers.
        mean, scale: of q(z) over the images with each label, `A` rows of D numbers: the mean, and
            the standard deviation of each dimension, posterior variance included.
        direction: how the mean z differs with a label, `A` rows of D: for classes from the mean of
            all images; for attributes with the attribute rather than without, all others equal
            (a linear regression of z on the attributes).
        mixture: p(z|y) of each class; None of attributes, of conditional models, and of models of
            latens 0.1.0.
    """

    names: tuple[str, ...]
    exclusive: bool
    share: list[float]
    mean: list[list[float]]
    scale: list[list[float]]
    direction: list[list[float]]
    mixture: tuple[ClassDensity, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Names and values, JSON-ready."""
        return asdict(self) | {"names": list(self.names)}

    @classmethod
    def of(cls, vae: LatentModel) -> "LabelStatistics":
        """Those that were measured after the training of this model.

        Raises:
            LatensError: there are none: its images had no labels, or it was stopped before its end.
        """
        known = vae.about.get("labels")
        if vae in _BUILT and _BUILT[vae][0] is known:
            return _BUILT[vae][1]
        built = cls._built(vae)
        _BUILT[vae] = known, built
        return built

    @classmethod
    def _built(cls, vae: LatentModel) -> "LabelStatistics":
        try:
            values: dict[str, Any] = dict(vae.about["labels"])
            values["names"] = tuple(values["names"])
            if values.get("mixture") is not None:
                values["mixture"] = tuple(ClassDensity(**value) for value in values["mixture"])
            return cls(**values)
        except (KeyError, TypeError, ValueError):
            if len(vae.level_shapes) > 1:
                raise LatensError(
                    "this model knows no labels: a ladder spreads what an image shows over its "
                    "levels, and no one z tells its class"
                ) from None
            raise LatensError(
                "this model knows no labels: its training images had none (put them into one "
                "sub-folder per class and train anew), or its training was stopped before its end "
                "(go on with it by --resume)"
            ) from None

    def index(self, name: str) -> int:
        """Which label that is.

        Raises:
            LatensError: none of that name; the message tells which there are.
        """
        if name in self.names:
            return self.names.index(name)
        lower = [known.lower() for known in self.names]
        if name.lower() in lower:
            return lower.index(name.lower())
        what = "label" if self.exclusive else "attribute"
        error = unknown(what, name, self.names)
        lists_all = "there are:" in str(error)
        raise error if lists_all else LatensError(f"{error} There are: {', '.join(self.names)}")

    @cached_property
    def gaussians(self) -> tuple[ClassDensity, ...]:
        """N(μ, diag σ²) of each label."""
        pairs = zip(self.mean, self.scale, strict=True)
        return tuple(ClassDensity.gaussian(mean, scale) for mean, scale in pairs)

    @property
    def densities(self) -> tuple[ClassDensity, ...]:
        """p(z|y) of each label: the mixtures, or where there are none the Gaussians."""
        return self.mixture or self.gaussians

    @cached_property
    def prototypes(self) -> Float[Tensor, "A D"]:
        """Of each class the mean of a Gaussian of its density: that with the largest p(y|z)."""
        means = [torch.tensor(density.mean) for density in self.densities]
        told = self.probability(torch.cat(means)).split([len(mean) for mean in means])
        likeliest = [p[:, index].argmax().reshape(1) for index, p in enumerate(told)]
        rows = [mean.index_select(0, k) for mean, k in zip(means, likeliest, strict=True)]
        return torch.cat(rows)

    def probability(self, z: Float[Tensor, "*N D"]) -> Float[Tensor, "*N A"]:
        """p(y|z) of each class by Bayes' rule: its density times its share, normalised."""
        log_p = torch.stack([density.log_prob(z) for density in self.densities], -1)
        return (log_p + torch.tensor(self.share).double().log()).softmax(-1).float()


# Of each model what was built from which lists, so that densities are whitened once
_BUILT: WeakKeyDictionary[LatentModel, tuple[Any, LabelStatistics]] = WeakKeyDictionary()


@torch.no_grad()
def embed_all(
    vae: LatentModel, images: Images
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """The mean and the variance of q(z|x) of every image, flattened."""
    rows = [
        (q.mean.flatten(1).cpu(), q.variance.flatten(1).cpu()) for q in posteriors_of(vae, images)
    ]
    means, variances = zip(*rows, strict=True)
    return torch.cat(means), torch.cat(variances)


@torch.no_grad()
def sample_all(vae: LatentModel, images: Images) -> Float[Tensor, "N D"]:
    """Z ~ q(z|x) of every image, flattened, of any q."""
    return torch.cat([q.sample().flatten(1).cpu() for q in posteriors_of(vae, images)])


def posteriors_of(vae: LatentModel, images: Images) -> Iterator[Distribution]:
    """q(z|x) of all images, batch by batch."""
    for batch in images.batches(IMAGES_AT_ONCE):
        y = None if batch.labels is None else batch.labels.to(vae.device)
        yield vae.encode(batch.unit().to(vae.device), y)


def label_statistics(
    vae: LatentModel, images: Images, names: Sequence[str], exclusive: bool
) -> LabelStatistics | None:
    """Where the labels of `images` lie in latent space; None if there are none.

    None of a hierarchy too: what tells a class may be at any level, so that a density of the
    topmost one would claim what the samples do not show.
    """
    if images.labels is None or not names or len(vae.level_shapes) > 1:
        return None
    mean, variance = embed_all(vae, images)
    y = images.labels
    known = (y >= 0).reshape(len(y), -1).all(1)
    if exclusive:
        has = torch.nn.functional.one_hot(y.clamp(min=0), len(names)).bool() & known[:, None]
    else:
        has = (y > 0) & known[:, None]
    if not known.any():
        return None
    rows = [_moments(mean[with_it], variance[with_it]) for with_it in has.T]
    means = torch.stack([row[0] for row in rows])
    if exclusive:
        direction = means - mean[known].mean(0)
    else:
        from sklearn.linear_model import LinearRegression

        fitted = LinearRegression().fit(has[known].double().numpy(), mean[known].numpy())
        direction = torch.from_numpy(fitted.coef_.T)
    has_densities = exclusive and not vae.decodes_labels  # else z is free of the class
    return LabelStatistics(
        names=tuple(names),
        exclusive=exclusive,
        share=rounded(has[known].double().mean(0)),
        mean=rounded(means),
        scale=rounded(torch.stack([row[1] for row in rows])),
        direction=rounded(direction),
        mixture=_mixtures(mean, variance, has.T, rows) if has_densities else None,
    )


def _moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the mixture of these Gaussians; N(0, I) of none."""
    if len(mean) == 0:
        return mean.new_zeros(mean.shape[1]), mean.new_ones(mean.shape[1])
    total = mean.var(0, correction=0) + variance.mean(0)
    return mean.mean(0), total.sqrt()


def _mixtures(
    mean: Float[Tensor, "N D"],
    variance: Float[Tensor, "N D"],
    has: Bool[Tensor, "A N"],
    moments: list[tuple[Tensor, Tensor]],
) -> tuple[ClassDensity, ...]:
    """The density of z ~ q(z|x) over the images of each class, q a Gaussian of its moments."""
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED))
    z = mean + variance.sqrt() * noise
    return tuple(
        ClassDensity.fit(z[with_it], len(has))
        if with_it.sum() > 1
        else ClassDensity.gaussian(*(rounded(value) for value in row))
        for with_it, row in zip(has, moments, strict=True)
    )


def neighbour_accuracy(vae: LatentModel, train: Images, test: Images, neighbours: int) -> float:
    """How well the labels of `train` tell those of `test` by the nearest mean z, in [0, 1].

    The share of test images whose class is the commonest among that of the `neighbours` nearest
    training images in latent space.

    Raises:
        LatensError: images without classes, fewer images than neighbours, or a model whose encoder
            is told the class.
    """
    if vae.encodes_labels:
        raise LatensError(
            "this model's encoder is told the class, so that its z would only tell it back: "
            "neighbours are for other models"
        )
    if train.labels is None or test.labels is None or train.labels.dim() > 1:
        raise LatensError("neighbours vote for classes, and these images have none")
    if not ((train.labels >= 0).any() and (test.labels >= 0).any()):
        raise LatensError("neighbours vote for classes, and no class of these images is known")
    known = train.labels >= 0
    voters = int(known.sum())
    if not 1 <= neighbours <= voters:
        raise LatensError(
            f"{neighbours} neighbours: 1 to {voters:,} can be asked, as many as training images "
            "have a class"
        )
    z, of = embed_all(vae, train)[0][known], train.labels[known]
    known = test.labels >= 0
    told = vote(z, of, embed_all(vae, test)[0][known], neighbours)
    return float((told == test.labels[known]).double().mean())


def vote(
    z: Float[Tensor, "N D"], labels: Int[Tensor, " N"], at: Float[Tensor, "M D"], neighbours: int
) -> Int[Tensor, " M"]:
    """The commonest class among the nearest of z, for each of M places; the smallest of several.

    In place of scikit-learn's classifier, whose import takes longer than the command's own work.
    """
    told = []
    for part in at.split(IMAGES_AT_ONCE):
        nearest = torch.cdist(part, z).topk(neighbours, largest=False).indices
        votes = torch.zeros(len(part), int(labels.max()) + 1)
        told.append(votes.scatter_add_(1, labels[nearest], torch.ones(nearest.shape)).argmax(1))
    return torch.cat(told)
