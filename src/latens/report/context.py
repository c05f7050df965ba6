"""What the pictures of a run are: a name, frames, and words; and what all are drawn from."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from latens import pictures
from latens.analysis.generation import labels_like_training
from latens.analysis.projections import Embedded, Plane, embedded
from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.baselines import mean_image_cost
from latens.evaluation.judges import Judge, judge_of
from latens.evaluation.labels import IMAGES_AT_ONCE, LabelStatistics
from latens.model.composed import ComposedModel
from latens.model.flow_matching import FlowMatching
from latens.model.noise import forked_rng
from latens.model.vae import VAE
from latens.neighbour_maps import neighbour_map, projection_of
from latens.pictures.films import HOLD
from latens.pictures.style import Prior
from latens.run.directory import Run, best_row
from latens.run.recording import Recording, read_recording

SEED = 0  # of what is shown
POINTS = 5_000  # test images on the latent plane
LABELS = 1_000  # over which a prior of labels is averaged
# Values of all images that are decoded for the cost of each, and z for one of them at most
COST_VALUES, COST_SAMPLES = 2**24, 4


@dataclass(frozen=True)
class Picture:
    """A still picture, or a film of several frames.

    Attributes:
        name: of its file in the run's `pictures/`, without suffix: it never changes.
        frames: one image, or those of a film.
        alt: what it shows, for those who cannot see it.
        caption: what it shows, for those who can.
        seconds: each frame of a film is shown.
        endless: a film whose last frame leads to its first, so that it need not stop there.
        detail: one of many of its kind, which a page may fold away.
        group: films of one name have the same frames, and a page moves them together.
        steps: a few words on each frame of a film.
        classes: the class of each item or row of a sheet; −1 is unknown.
        about: what a page's script needs of it; see `templates/films.js`.
        on_page: a page shows it; otherwise it shows the same in another way.
    """

    name: str
    frames: Sequence[Image.Image]
    alt: str
    caption: str
    seconds: float = 0.5
    endless: bool = False
    detail: bool = False
    group: str = ""
    steps: Sequence[str] = ()
    classes: Sequence[int] = ()
    about: Mapping[str, Any] | None = None
    on_page: bool = True

    @property
    def is_film(self) -> bool:
        """Whether it moves."""
        return len(self.frames) > 1

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.png, or NAME.gif and NAME.webp; returns their paths."""
        if self.is_film:
            hold = self.seconds if self.endless else HOLD
            return pictures.save_film(folder / self.name, self.frames, self.seconds, hold)
        pictures.save(folder / f"{self.name}.png", self.frames[0])
        return [folder / f"{self.name}.png"]


@dataclass(frozen=True)
class Section:
    """Pictures of one kind.

    Attributes:
        name: its heading.
        advice: what to look for, and what a bad one looks like.
        draw: the pictures, of whatever all sections of a page are about.
        finding: what was found here, in a sentence with a number; empty where nothing is known.
    """

    name: str
    advice: str
    draw: Callable[[Any], Iterator[Picture]]
    finding: Callable[[Any], str] = lambda _: ""

    @property
    def anchor(self) -> str:
        """Its name in an address."""
        return self.name.lower().replace(" ", "-")


class ReportContext:
    """What all pictures of a run are drawn from.

    Args:
        run: with a trained model.
        data: what it was trained on.
        projection: of the latent plane of more than two dimensions: pca, tsne or umap.
        attribute: what the latent plane is coloured by, where images have attributes.
        plane: the two latent dimensions along which a plane is decoded; None: of the largest KL.

    Raises:
        LatensError: a projection, attribute or latent dimensions that there are not.
    """

    def __init__(
        self,
        run: Run,
        data: DataSet,
        projection: str = "pca",
        attribute: str | None = None,
        plane: tuple[int, int] | None = None,
    ):
        self.run, self.data = run, data
        self.vae = run.vae.cpu()
        self.rows = run.metrics
        self.what = run.title
        self.projection = projection
        self.attribute = attribute
        self.dims = math.prod(self.vae.latent_shape)
        self.conditional = self.vae.decodes_labels
        if projection != "pca":
            projection_of(projection)
            if self.dims <= 2:
                raise LatensError(f"{projection} is for more than two latent dimensions")
        if attribute is not None:
            if not data.attributes:
                raise LatensError(f"the images of {data.name} have no attributes to colour by")
            LabelStatistics.of(self.vae).index(attribute)
        if plane is not None and self.dims == 1:
            raise LatensError("one latent dimension spans no plane: leave out --plane")
        if plane is not None and not (plane[0] != plane[1] and {*plane} <= {*range(self.dims)}):
            raise LatensError(
                f"no plane lies along the dimensions {plane[0]} and {plane[1]}: give two of 0 to "
                f"{self.dims - 1}"
            )
        self._decoded = plane

    def title(self, what: str) -> str:
        """Of a picture: what it shows, and of which run."""
        return f"{what} · {self.what}"

    @cached_property
    def statistics(self) -> LabelStatistics | None:
        """Where labels lie in latent space; None where there are none."""
        return LabelStatistics.of(self.vae) if self.vae.about.get("labels") else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where there are none."""
        return tuple(self.data.classes)

    @cached_property
    def judge(self) -> Judge | None:
        """A classifier independent of the model; None where there are no classes."""
        return judge_of(self.run, data=self.data)

    @property
    def cost_samples(self) -> int:
        """How many z the cost of one image is averaged over, fewer of large images.

        A hierarchy computes all its levels anew for each, so there it is one.
        """
        if len(self.vae.level_shapes) > 1:
            return 1
        values = len(self.test) * math.prod(self.vae.image_shape)
        return max(1, min(COST_SAMPLES, COST_VALUES // max(1, values)))

    @cached_property
    def costs(self) -> Float[Tensor, " N"]:
        """−ELBO of each of `test` by `cost_samples` z ~ q(z|x), in nats; always of the same z."""
        parts = []
        with torch.no_grad(), forked_rng(self.vae.device, SEED):
            batches = self.test.batches(IMAGES_AT_ONCE)
            for batch, encoded in zip(batches, self.latents.posteriors, strict=True):
                x, y = batch.unit(), batch.labels
                q = encoded if isinstance(self.vae, VAE) else None  # a hierarchy draws all levels
                draw = self.vae.draw(x, y, self.cost_samples, q)
                parts.append((draw.kl - draw.log_px_z).mean(0))
        return torch.cat(parts)

    @cached_property
    def baseline(self) -> float | None:
        """The cost of the mean image; None of a model whose likelihood is not known."""
        known = getattr(self.vae, "likelihood", None)
        if known is None:
            return None
        return mean_image_cost(known, self.data.train, self.test)

    @property
    def baselines(self) -> dict[str, str]:
        """What to compare each headline figure with, in words, by its name."""
        words = {}
        if self.baseline is not None:
            image = f"{self.baseline:,.2f} by the mean image alone".replace("-", "−")
            bits = self.baseline / (math.prod(self.vae.image_shape) * math.log(2))
            words |= {"elbo": image, "reconstruction": image}
            words["bits"] = f"{bits:.4f} by the mean image alone"
        labels = self.test.labels
        if self.classes and labels is not None and labels.dim() == 1 and (labels >= 0).any():
            most = labels[labels >= 0].bincount().max() / (labels >= 0).sum()
            words["accuracy"] = f"{most:.1%} by the largest class"
        return words

    @cached_property
    def kl_per_dim(self) -> list[float] | None:
        """The KL of each dimension of z on validation images; None without a closed form."""
        per_dim = best_row(self.rows)["validation"]["kl_per_dim"]
        if self.prior_was_replaced:
            return None
        return per_dim[: self.dims] if per_dim else None  # of a hierarchy z comes first

    @cached_property
    def ranked_dims(self) -> list[int]:
        """The latent dimensions in the order of `ranked_by`, the largest first."""
        values = self.kl_per_dim or self.latents.mean.var(0, correction=0).tolist()
        return sorted(range(self.dims), key=lambda d: -values[d])

    @property
    def ranked_by(self) -> str:
        """By what latent dimensions are ranked."""
        return "KL" if self.kl_per_dim else "variance of the mean z"

    @cached_property
    def dim_names(self) -> list[str]:
        """The name of each latent dimension: z[3], or z[0,2,5] of a map."""
        places = np.ndindex(*self.vae.latent_shape)
        return [f"z[{','.join(map(str, place))}]" for place in places]

    @property
    def unit_prior(self) -> bool:
        """Samples are of z ~ N(0, I)."""
        return self.vae.has_unit_prior

    @property
    def prior_was_replaced(self) -> bool:
        """Whether p(z) was fitted after the training, whose curves are of another one."""
        fitted = self.vae.about.get("second_stage", {})
        return fitted.get("replaces_prior", fitted.get("prior") == "mixture")

    @property
    def second_stage(self) -> FlowMatching | None:
        """What z is drawn from in place of p(z)."""
        return self.vae.sampler if isinstance(self.vae, ComposedModel) else None

    def sample_of_prior(self, count: int) -> Float[Tensor, "N *Z"]:
        """Samples of p(z), of a model with a second stage too; of p(z|y) for y as in training."""
        vae = self.vae
        if not isinstance(vae, ComposedModel):
            return vae.sample_prior(count)
        return vae.draw_prior(count, self._labels(count))

    def log_prior(self, z: Float[Tensor, "N *Z"]) -> Float[Tensor, " N"]:
        """Log p(z), of a prior of labels their mean over labels as in training."""
        vae = self.vae
        if not isinstance(vae, ComposedModel):
            return vae.draw(self.data.test.take(slice(0, 1)).unit()).latents[0].p.log_prob(z)
        p = vae.prior_given(self._labels(LABELS))
        if not p.batch_shape:
            return p.log_prob(z)
        return p.log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(LABELS)

    def _labels(self, count: int) -> Int64[Tensor, "N *A"] | None:
        """Labels as in training; unknown ones of a run that has not ended."""
        embedding = self.vae.label_embedding
        if embedding is None:
            return None
        if self.statistics is None:
            return embedding.unknown(count)
        return labels_like_training(self.statistics, count, None).to(self.vae.device)

    @property
    def dims_shown(self) -> tuple[int, int]:
        """The two latent dimensions that a plane of decoded images lies along."""
        if self._decoded is not None:
            return self._decoded
        return (self.ranked_dims[0], self.ranked_dims[1]) if self.dims > 2 else (0, 1)

    @cached_property
    def test(self) -> Images:
        """The test images on the latent plane."""
        return self.data.test.some(POINTS)

    @cached_property
    def latents(self) -> Embedded:
        """Where the test images lie."""
        return embedded(self.vae, self.test)

    @cached_property
    def colours(self) -> tuple[np.ndarray | None, Sequence[str], str]:
        """Labels of the test images, the names of the labels, and what they are."""
        if self.latents.labels is not None and self.classes:
            return self.latents.labels.numpy(), self.classes, "class"
        labels, statistics = self.test.labels, self.statistics
        if labels is None or statistics is None or statistics.exclusive:
            return None, (), ""
        index = statistics.index(self.attribute) if self.attribute else _widest(statistics)
        name = statistics.names[index]
        return labels[:, index].cpu().numpy(), (f"not {name}", name), name

    @cached_property
    def plane(self) -> tuple[np.ndarray, tuple[str, str], Prior | None]:
        """The test images' coordinates on the plane shown, its axes, and the prior on it."""
        mean = self.latents.mean
        if self.projection != "pca" and self.dims > 2:
            names = f"{self.projection} 1", f"{self.projection} 2"
            return neighbour_map(mean.numpy(), self.projection), names, None
        plane = Plane(mean)
        prior = plane.prior if self.dims > 1 and self.unit_prior else self._density
        return plane.of(mean), (plane.axes[0], plane.axes[1]), prior

    @property
    def _density(self) -> Prior | None:
        """Log p of points `[N, 2]`, where z has two dimensions and is drawn from one known p(z)."""
        vae = self.vae
        if self.dims != 2 or not isinstance(vae, VAE):
            return None
        if vae.label_embedding is not None or vae.sampler is not None:
            return None
        prior = vae.prior_given()

        @torch.no_grad()
        def log_prob(z: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(z).float().unflatten(1, vae.latent_shape)
            return prior.log_prob(points.to(vae.device)).double().cpu().numpy()

        return log_prob

    @cached_property
    def recording(self) -> Recording:
        """What the training recorded of itself.

        Raises:
            LatensError: nothing was recorded, or it is damaged.
        """
        return read_recording(self.run)


def _widest(statistics: LabelStatistics) -> int:
    """The attribute whose images lie farthest from those without it, in units of their spread."""
    direction, scale = torch.tensor(statistics.direction), torch.tensor(statistics.scale)
    share = torch.tensor(statistics.share)
    common = (share > 0.1) & (share < 0.9)  # hats are far off, and few
    return int(((direction / scale.clamp(min=1e-6)).norm(dim=1) * (common + 1e-3)).argmax())


def floats(values: Any) -> str:
    """Numbers as the bytes of little-endian float32, in base64, as a page's script reads them."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()
