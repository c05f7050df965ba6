"""`LatentModel`: what every model of images with latents can do, whatever it is composed of."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from latens.errors import LatensError
from latens.files import write_bytes
from latens.hub import hub_errors, upload
from latens.model.latents import Draw
from latens.model.networks.labels import LabelEmbedding
from latens.model.parts import Classifier, Likelihood, Part
from latens.model.serialization import CONFIG, WEIGHTS, model_card, read_model, write_model

LEAST_SINE = 1e-4  # below it two latents lie on one line through the origin
# So many values (images times samples times pixels) leave the decoder at once where many are
# asked for: memory is bounded whatever their size.
VALUES_AT_ONCE = 2**22


class LatentModel(Part, ABC):
    """p(x, z) with an approximate posterior q(z|x), of one level of latents or of several.

    A subclass says how to draw, encode, decode and sample its prior; everything else follows, and
    evaluation, pictures, recordings and reports use nothing more. Images are `[B, C, H, W]` floats
    in [0, 1]; every log-density and KL is in nats per image. A label y is a class `[B]`, or a row
    of attributes `[B, A]`; −1 is unknown.

    What `embed`, `decode` and `sample_prior` call z is one level: of a hierarchy the one that
    stands for the image, mostly the topmost, from which the others follow. A hierarchy overrides
    `sample_given`, `reconstruct` and `interpolate`, which see to the other levels.

    Attributes:
        image_shape: (C, H, W).
        latent_shape: Z, the shape of z: `(D,)` for a vector, `(D, h, w)` for a map.
        likelihood: p(x|z).
        classifier: p(y|z), of a model that learns to tell labels; mostly None.
        about: what is saved with the model: its training and its figures.
        is_fresh: no training has begun at this model, so one may still set its first weights.
    """

    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    likelihood: Likelihood
    classifier: Classifier | None
    about: dict[str, Any]
    is_fresh: bool

    def __init__(self) -> None:
        super().__init__()
        self.classifier = None
        self.about = {}
        self.is_fresh = True

    def start_from(self, images: Float[Tensor, "N C H W"], mean: Float[Tensor, "C H W"]) -> None:
        """Let every part begin at the data."""
        for part in self.modules():
            if isinstance(part, Part) and part is not self:
                part.start_from(images, mean)
        self.is_fresh = False

    # ---- what a model defines ----------------------------------------------------------------

    @abstractmethod
    def draw(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 1,
        posterior: Distribution | None = None,
    ) -> Draw:
        """Z ~ q(z|x), `samples` times for each image, and all that follows from it.

        Args:
            posterior: a q(z|x) to draw z from in place of the encoder's.
        """

    @abstractmethod
    def encode(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Distribution:
        """q(z|x), batch `[B]`, event `[*Z]`."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None) -> Distribution:
        """p(x|z) for z `[*N, *Z]`, batch `[*N]`, event `[C, H, W]`; its mean is what is shown."""

    @abstractmethod
    def sample_prior(self, n: int, y: Int[Tensor, "n *A"] | None = None) -> Float[Tensor, "n *Z"]:
        """`n` times z ~ p(z), or one z ~ p(z|y) for each label."""

    def prevent_collapse(self, images: Float[Tensor, "N C H W"], quiet: bool) -> None:
        """Start where z is of use at once, with a q(z|x) that tells these images apart.

        Started near N(0, I), z is mostly noise in a decoder's first steps, which may learn to do
        without it and stay so. Called once, before a training. Does nothing unless defined.

        Args:
            quiet: the decoder too starts with outputs that hardly depend on z.
        """

    # ---- using a trained model ---------------------------------------------------------------

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 1,
    ) -> Draw:
        """What a training learns from: `draw`, unless the model learns under another q(z|x)."""
        return self.draw(x, y, samples)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def level_shapes(self) -> list[tuple[int, ...]]:
        """Z of each level of latents, the topmost first."""
        return [self.latent_shape]

    @property
    def has_unit_prior(self) -> bool:
        """Whether p(z) is N(0, I), so that noise of any model of so many dimensions serves."""
        return False

    @property
    def label_embedding(self) -> LabelEmbedding | None:
        """Where labels enter a conditional model; None in any other."""
        return next((part for part in self.modules() if isinstance(part, LabelEmbedding)), None)

    @property
    def decodes_labels(self) -> bool:
        """Whether p(x|z) depends on a label; of a conditional model mostly, but not always."""
        return self.label_embedding is not None

    @property
    def encodes_labels(self) -> bool:
        """Whether q(z|x) depends on a label: then z of a labelled image tells what it was told."""
        return self.label_embedding is not None

    @torch.no_grad()
    def embed(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B *Z"]:
        """The mean of q(z|x): the same features at every call."""
        return self.encode(x, y).mean

    @torch.no_grad()
    def classify(self, z: Float[Tensor, "..."]) -> Distribution:
        """p(y|z) for z `[*N, *Z]`, batch `[*N]`; `classify(embed(x))` for images.

        Raises:
            LatensError: a model without a classifier.
        """
        if self.classifier is None:
            raise LatensError("this model has no classifier: the recipe semi_supervised has one")
        return self.classifier(z)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Int[Tensor, "n *A"] | None = None,
        temperature: float | Sequence[float] | None = None,
    ) -> Float[Tensor, "n C H W"]:
        """`n` new images: the mean of p(x|z), clipped to [0, 1], for z ~ p(z) or p(z|y).

        Args:
            y: a label for each image, for a model that depends on labels.
            temperature: z is multiplied by it; below 1 gives more typical images; None: the
                model's own, see `api.export`, which is mostly 1. In a hierarchy
                one for all levels, or one for each; below the topmost, and those that a second
                stage gives, it is the deviation of z from the mean of its p that is multiplied.

        Raises:
            LatensError: another number of labels than images, or of temperatures than levels.
        """
        if y is not None and len(y) != n:
            raise LatensError(f"{n} images and {len(y)} labels: give one label for each image")
        temperatures = self.temperatures(temperature)
        return self.sample_given(
            self._tempered(self.sample_prior(n, y), temperatures), y, temperatures
        )

    def _tempered(self, z: Float[Tensor, "n *Z"], temperatures: list[float]) -> Tensor:
        """What `sample_prior` gives, times its temperature."""
        return temperatures[0] * z

    def temperatures(self, temperature: float | Sequence[float] | None) -> list[float]:
        """One for each level; None: the model's own.

        Raises:
            LatensError: neither one for all levels nor one for each, or one below 0.
        """
        levels = len(self.level_shapes)
        asked = self.about.get("temperature", 1.0) if temperature is None else temperature
        try:
            given = [
                float(value) for value in ([asked] if isinstance(asked, int | float) else asked)
            ]
        except (TypeError, ValueError):
            raise LatensError(f"temperature is {asked}: it must be a number") from None
        if len(given) not in (1, levels):
            raise LatensError(
                f"{len(given)} temperatures for {levels} levels of latents: give one for all, or "
                "one for each"
            )
        if not all(0 <= value < math.inf for value in given):
            raise LatensError(f"temperature is {asked}: it must be 0 or more")
        return given * levels if len(given) == 1 else given

    @torch.no_grad()
    def sample_given(
        self,
        z: Float[Tensor, "n *Z"],
        y: Int[Tensor, "n *A"] | None = None,
        temperature: float | Sequence[float] = 1.0,
    ) -> Float[Tensor, "n C H W"]:
        """Images of given z: `decode_images`; in a hierarchy with the other levels sampled."""
        return self.decode_images(z, y)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        levels: int | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The mean of p(x|z) at the mean z of q(z|x), clipped to [0, 1].

        Args:
            levels: how many levels, from the topmost on, keep the image's z; the others are
                sampled. None: all.

        Raises:
            LatensError: more levels than there are.
        """
        self._check_levels(levels)
        if levels == 0:
            return self.sample(len(x), y, 1.0)
        return self.decode_images(self.embed(x, y), y)

    def _check_levels(self, levels: int | None) -> None:
        count = len(self.level_shapes)
        if levels is not None and not 0 <= levels <= count:
            raise LatensError(f"{levels} levels: this model has {count}")

    @torch.no_grad()
    def interpolate(
        self,
        a: Float[Tensor, "B C H W"],
        b: Float[Tensor, "B C H W"],
        steps: int = 8,
        y: Int[Tensor, "B *A"] | None = None,
        y_b: Int[Tensor, "B *A"] | None = None,
        spherical: bool = False,
    ) -> Float[Tensor, "B steps C H W"]:
        """Images decoded on the way from a's mean z to b's, both ends included.

        Args:
            y: the labels of a, and of b too where it has none of its own.
            y_b: the labels of b; from the middle on they are those that are decoded with.
            spherical: along a great circle, which keeps to the norms that the prior gives z in
                many dimensions (White 2016, "Sampling Generative Networks", section 2.1), and not
                along the straight line.
        """
        t = torch.linspace(0, 1, steps, device=a.device)[:, None, None]
        y_b = y if y_b is None else y_b
        za, zb = self.embed(a, y).flatten(1), self.embed(b, y_b).flatten(1)
        path = slerp(za, zb, t) if spherical else torch.lerp(za, zb, t)  # [steps, B, D]
        halves = path.unflatten(2, self.latent_shape).split((steps + 1) // 2)
        parts = [self.decode_images(z, of) for z, of in zip(halves, (y, y_b), strict=False)]
        return torch.cat(parts).transpose(0, 1)

    def log_prob(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None, samples: int = 100
    ) -> Float[Tensor, " B"]:
        """Log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): an estimate of log p(x) in nats.

        Its expectation is a lower bound that rises with K (Burda et al. 2016, theorem 1).
        """
        return self.log_weights(x, y, samples).logsumexp(0) - math.log(samples)

    @torch.no_grad()
    def log_weights(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 100,
        posterior: Distribution | None = None,
    ) -> Float[Tensor, "K B"]:
        """K importance weights for each image, as logarithms.

        Args:
            posterior: a q(z|x) of these images to draw z from in place of the encoder's.

        Raises:
            LatensError: fewer than one sample.
        """
        if samples < 1:
            raise LatensError(f"{samples} importance samples: 1 or more are needed")
        rows = self.rows_at_once
        if posterior is None and len(x) > rows:
            parts = zip(x.split(rows), repeat(None) if y is None else y.split(rows), strict=False)
            return torch.cat([self.log_weights(part, of, samples) for part, of in parts], dim=1)
        return torch.cat(list(self.log_weights_in_parts(x, y, samples, posterior)))

    def log_weights_in_parts(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 100,
        posterior: Distribution | None = None,
    ) -> Iterator[Float[Tensor, "k B"]]:
        """`log_weights` a few samples at a time, so that memory is bounded whatever K is."""
        at_once = max(1, self.rows_at_once // max(1, len(x)))
        for done in range(0, samples, at_once):
            with torch.no_grad():
                part = self.draw(x, y, min(at_once, samples - done), posterior).log_weights
            yield part

    @property
    def rows_at_once(self) -> int:
        """How many images are decoded at a time, so that memory is bounded."""
        return max(1, VALUES_AT_ONCE // math.prod(self.image_shape))

    @torch.no_grad()
    def decode_images(
        self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "..."]:
        """The mean of p(x|z), clipped to [0, 1], for z `[*N, *Z]`: images `[*N, C, H, W]`."""
        lead = z.shape[: z.dim() - len(self.latent_shape)]
        rows = z.reshape(-1, *self.latent_shape).split(self.rows_at_once)
        y = label_rows(y, lead)
        ys = (None,) * len(rows) if y is None else y.split(self.rows_at_once)
        parts = [self.decode(part, of).mean.clamp(0, 1) for part, of in zip(rows, ys, strict=True)]
        return torch.cat(parts).reshape(*lead, *self.image_shape)

    # ---- saving and sharing ------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and its card: `config.json`, `model.safetensors`, `README.md`.

        Raises:
            LatensError: a part that cannot be written down.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder, self, self.about)
        write_bytes(folder / "README.md", self.card().encode())

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "LatentModel":
        """The model in a folder, or on the Hub as USER/NAME.

        Args:
            name: of the folder, or on the Hub.
            **options: of `huggingface_hub.snapshot_download`, such as `revision` and `token`.

        Raises:
            LatensError: files that are missing, damaged, foreign, or do not fit together, no such
                name on the Hub, or no connection.
        """
        folder = Path(name)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            with hub_errors(str(name), "no connection to the Hub, and not in its cache here"):
                found = snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS], **options)
            folder = Path(found)
        return load_model(folder)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, token: str | None = None
    ) -> str:
        """Put what `save_pretrained` writes on the Hub as USER/NAME; returns its address.

        `latens push` does it for a run, with its figures and pictures.

        Args:
            name: what does not exist is created.
            private: only its owner can see it; None: as the account has it.
            token: in place of that of `hf auth login`.

        Raises:
            LatensError: no right to write, a Hub that refuses or fails, or no connection.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), name, private, token)

    def card(self) -> str:
        """The model card, in Markdown: architecture, what it was trained on, and its figures."""
        return model_card(self, self.about)


def load_model(folder: Path) -> LatentModel:
    """The model in a folder with `config.json` and `model.safetensors`, in evaluation mode.

    Raises:
        LatensError: files that are missing, damaged, foreign, or do not fit together.
    """
    from latens.model import recipes  # noqa: F401 - so that every part of latens is known

    model, about = read_model(folder)
    if not isinstance(model, LatentModel):
        raise LatensError(f"{folder} holds a {type(model).__name__}, not a VAE")
    model.about = about
    model.is_fresh = False
    return model


def slerp(
    a: Float[Tensor, "B D"], b: Float[Tensor, "B D"], t: Float[Tensor, "..."]
) -> Float[Tensor, "... B D"]:
    """From a (t = 0) to b (t = 1) at a constant angular speed about the origin (Shoemake 1985).

    Where no circle is given (they point the same or the opposite way, or one is 0), along the line.
    """
    cosine = torch.cosine_similarity(a, b, dim=-1)[:, None].clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    on_circle = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / sine
    no_circle = (sine.abs() < LEAST_SINE) | (a.norm(dim=-1) * b.norm(dim=-1) == 0)[:, None]
    return torch.where(no_circle, torch.lerp(a, b, t), on_circle)


def label_rows(y: Tensor | None, lead: torch.Size) -> Tensor | None:
    """The labels of B images `[B, *A]` for each of `[*N, B]` samples, in one row `[N, *A]`."""
    if y is None:
        return None
    return y.expand(*lead, *y.shape[1:]).flatten(0, len(lead) - 1) if len(lead) > 1 else y
