"""Judges: classifiers independent of a model, which say whether its images show what they claim."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.metrics import likeliest
from latens.model.latent_model import load_model
from latens.model.networks.mlp import check_sizes
from latens.model.parts import Part
from latens.model.serialization import read_model
from latens.run.data import data_of
from latens.run.directory import Run

SHIPPED = {"mnist": "mnist", "binarized-mnist": "mnist"}  # the data of a run, and which judge
DIGITS = tuple("0123456789")
FOLDER = Path(__file__).parent.parent / "judges"
LEARNED_FROM = 3_000  # images, at most, of a classifier that is trained on the spot
LARGEST_SIDE = 28  # in pixels, to which it scales images down
COMPONENTS = 50  # principal ones that it sees
IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class Judge:
    """A classifier of images.

    Attributes:
        name: what it is called where it is quoted.
        accuracy: the share of real test images whose class it tells right, in [0, 1].
        classify: `[N, C, H, W]` in [0, 1] -> classes `[N]`.
    """

    name: str
    accuracy: float
    classify: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "N C H W"]) -> Int64[Tensor, " N"]:
        """The class of each image."""
        return torch.cat([self.classify(part) for part in images.cpu().split(IMAGES_AT_ONCE)])


@dataclass(frozen=True)
class Verdict:
    """How many images show the class that they claim.

    Attributes:
        right, count: of the images.
        judge: who says so.
    """

    right: int
    count: int
    judge: Judge

    @classmethod
    def on(
        cls, judge: Judge, images: Float[Tensor, "N C H W"], labels: Int64[Tensor, " N"]
    ) -> "Verdict":
        """What a judge says of images that claim to be of these classes."""
        return cls(int((judge(images) == labels.cpu()).sum()), len(images), judge)

    @property
    def share(self) -> float:
        """Right ones, in [0, 1]."""
        return self.right / self.count

    def __str__(self) -> str:
        accuracy = self.judge.accuracy
        known = "" if math.isnan(accuracy) else f" ({accuracy:.1%} right on real test images)"
        return (
            f"{self.right} of {self.count} images ({self.share:.1%}) show the class they claim, "
            f"according to {self.judge.name}{known}"
        )


class ImageClassifier(Part):
    """Images to logits: convolutions with batch norm, halved twice, averaged over the image.

    Args:
        image_shape: (C, H, W).
        classes: how many.
        channels: at each of the three resolutions.

    Raises:
        LatensError: a size below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        channels: tuple[int, int, int] = (16, 48, 64),
    ):
        super().__init__()
        check_sizes(classes=classes, channels=min(channels))
        self.image_shape, self.classes, self.channels = tuple(image_shape), classes, tuple(channels)
        first, second, third = channels
        self.layers = nn.Sequential(
            *_convolution(image_shape[0], first),
            *_convolution(first, 2 * first, stride=2),
            *_convolution(2 * first, second),
            *_convolution(second, third, stride=2),
            *_convolution(third, third),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(third, classes),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logits of the classes."""
        return self.layers(x)


def _convolution(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


def judge_of(run: Run, choice: str = "auto", data: DataSet | None = None) -> Judge | None:
    """The judge of a run's images.

    Args:
        data: the run's; None reads them where they are needed.
        choice: auto takes the one that ships with latens for these data, else one that is trained
            on the run's data at once, if they can be read; data always the latter; none no judge;
            anything else is a run with a classifier.

    Returns:
        None where none is available: no classes, or no data.

    Raises:
        LatensError: a judge asked for that cannot be used.
    """
    record = run.record["data"]
    classes = tuple(record["classes"])
    if choice == "none" or (choice == "auto" and not classes):
        return None
    if not classes:
        raise LatensError(f"{run.home} knows no classes that a judge could tell")
    if choice not in ("auto", "data"):
        return _of_run(Path(choice), classes, tuple(record["shape"]))
    if choice == "auto" and (name := shipped_for(run)):
        return shipped(name)
    try:
        data = data_of(run) if data is None else data
        return trained_on(data.train, data.test)
    except LatensError:
        if choice == "auto":
            return None
        raise


def shipped_for(run: Run) -> str | None:
    """The judge that comes with latens for a run's data; not of a folder of the same name."""
    data = run.record["data"]
    is_that = tuple(data["classes"]) == DIGITS and tuple(data["shape"]) == (1, 28, 28)
    return SHIPPED.get(data["source"]) if is_that else None


def shipped(name: str) -> Judge:
    """A judge that comes with latens."""
    model, about = read_model(FOLDER / name)
    return Judge(f"{name}-judge", about["accuracy"], lambda x: model(x).argmax(1))


def shipped_network(name: str) -> ImageClassifier:
    """The network of a judge that comes with latens."""
    model, _ = read_model(FOLDER / name)
    assert isinstance(model, ImageClassifier)
    return model


def _of_run(path: Path, classes: Sequence[str], shape: tuple[int, ...]) -> Judge:
    run = Run.open(path)
    model = load_model(run.path)
    if model.classifier is None or not run.record["data"]["classes"]:
        raise LatensError(f"{path} has no classifier: train a judge by --recipe semi_supervised")
    own = run.record["data"]["classes"]
    if list(own) != list(classes) or model.image_shape != shape:
        raise LatensError(
            f"{path} cannot judge: it tells {', '.join(own)} of {model.image_shape}, and these "
            f"are {', '.join(classes)} of {shape}"
        )
    accuracy = (run.figures or {}).get("accuracy") or math.nan
    return Judge(run.path.name, accuracy, lambda x: likeliest(model, model.embed(x)))


def trained_on(train: Images, test: Images) -> Judge:
    """A support-vector machine on the principal components of a few thousand training images.

    Raises:
        LatensError: labels that are not classes, or all of one class.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    if train.labels is None or train.labels.dim() > 1:
        raise LatensError("a judge needs images with classes")
    known = (train.labels >= 0).nonzero()[:, 0]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    few = train.take(known[order[:LEARNED_FROM]].sort().values)
    x, y = _small(few.unit()), few.labels
    if y is None or len(y.unique()) < 2:
        raise LatensError("a judge needs images of two classes or more")
    machine = make_pipeline(PCA(min(COMPONENTS, *x.shape), random_state=0), SVC(C=10))
    machine.fit(x.numpy(), y.numpy())

    def classify(images: Tensor) -> Tensor:
        return torch.from_numpy(machine.predict(_small(images).numpy()))

    accuracy = math.nan
    if test.labels is not None:
        seen = test.take((test.labels >= 0).nonzero()[:, 0]).some(LEARNED_FROM)
        if len(seen):
            accuracy = (classify(seen.unit()) == seen.labels).double().mean().item()
    return Judge(f"an SVM on {len(y):,} training images", accuracy, classify)


def _small(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N P"]:
    """Pixels in a row, of images whose sides are `LARGEST_SIDE` at most."""
    height, width = (min(LARGEST_SIDE, length) for length in images.shape[-2:])
    return nn.functional.adaptive_avg_pool2d(images, (height, width)).flatten(1)
