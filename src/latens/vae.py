"""The variational autoencoder: five parts, and the one place where they are sampled."""

import math
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from latens.distributions import kl
from latens.errors import LatensError
from latens.likelihoods import Bernoulli
from latens.parts import Classifier, Decoder, Encoder, Likelihood, Part, Posterior, Prior
from latens.posteriors import DiagonalGaussian
from latens.priors import StandardNormal
from latens.storage import CONFIG, WEIGHTS, read_model, write_model

LEAST_SINE = 1e-4  # below it two latents lie on one line through the origin
# So many values (images times samples times pixels) leave the decoder at once where many are
# asked for: memory is bounded whatever their size.
VALUES_AT_ONCE = 2**22
# Data whose terms also bind what is learned from them, as a model's card says.
RESTRICTED = {
    "celeba": "CelebA is for non-commercial research, and so is what was learned from it."
}


@dataclass(frozen=True)
class Draw:
    """Everything drawn from a VAE for B images and K samples of z each, in nats per image.

    Z is the shape of one latent, `(D,)` for a vector.

    Attributes:
        posterior: q(z|x), batch `[B]`, event `[*Z]`.
        prior: p(z), batch `[]` or `[B]`, event `[*Z]`.
        z: the samples, `[K, B, *Z]`.
        log_px_z: log p(x|z), `[K, B]`.
        kl: KL(q(z|x) ‖ p(z)) for each latent dimension, `[B, *Z]`; None without a closed form.
        extras: what further parts add: "log_py_z", log p(y|z) `[K, B]`, of a classifier; it is 0
            for an image without a label.
    """

    posterior: Distribution
    prior: Distribution
    z: Float[Tensor, "K B *Z"]
    log_px_z: Float[Tensor, "K B"]
    kl: Float[Tensor, "B *Z"] | None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_pz(self) -> Float[Tensor, "K B"]:
        """Log p(z)."""
        return self.prior.log_prob(self.z)

    @property
    def log_qz_x(self) -> Float[Tensor, "K B"]:
        """Log q(z|x)."""
        return self.posterior.log_prob(self.z)

    @property
    def kl_per_image(self) -> Float[Tensor, " B"]:
        """KL(q(z|x) ‖ p(z)): closed form where there is one, else its Monte Carlo estimate."""
        if self.kl is not None:
            return self.kl.flatten(1).sum(1)
        return (self.log_qz_x - self.log_pz).mean(0)

    @property
    def log_weights(self) -> Float[Tensor, "K B"]:
        """Log w = log p(x|z) + log p(z) − log q(z|x); the mean of w over z ~ q is p(x)."""
        return self.log_px_z + self.log_pz - self.log_qz_x


class VAE(Part, ModelHubMixin, library_name="latens"):
    """p(x, z) = p(x|z) p(z) with the approximate posterior q(z|x), composed of parts.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes". Images are `[B, C, H, W]` floats in
    [0, 1]; every log-density and KL is in nats per image.

    Args:
        encoder: `[B, C, H, W] -> [B, F]`; knows `image_shape` and `features`.
        decoder: `[N, *Z] -> [N, P, H, W]`; knows `image_shape`, `planes` and `latent_shape`.
        likelihood: `[N, P, H, W] -> p(x|z)`; Bernoulli unless given.
        prior: p(z); N(0, I) unless given.
        posterior: `[B, F] -> q(z|x)`; a diagonal Gaussian unless given.
        classifier: `[*N, *Z] -> p(y|z)`, of a model that learns to tell labels; mostly none.

    A label y is a class `[B]`, or a row of attributes `[B, A]`; −1 is unknown.

    Raises:
        LatensError: parts that do not fit together.
    """

    about: dict[str, Any]

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
        posterior: Posterior | None = None,
        classifier: Classifier | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood or Bernoulli()
        self.prior = prior or StandardNormal(decoder.latent_shape)
        self.posterior = posterior or DiagonalGaussian(
            encoder.features, math.prod(decoder.latent_shape)
        )
        self.classifier = classifier
        channels, height, width = encoder.image_shape
        self.image_shape = (channels, height, width)
        self.latent_shape = tuple(decoder.latent_shape)
        # Planes that every image shares; the decoder learns the difference from them.
        self.offset = nn.Parameter(torch.zeros(decoder.planes, *self.image_shape[1:]))
        self.about = {}  # saved with the model: its training and its figures
        self._check_fit()

    def _check_fit(self) -> None:
        planes = self.likelihood.planes(self.image_shape[0])
        checks = [
            ("image_shape", "encoder", self.image_shape, "decoder", self.decoder.image_shape),
            ("latent shape", "prior", self.prior.event_shape, "decoder", self.latent_shape),
            ("latent shape", "posterior", self.posterior.event_shape, "decoder", self.latent_shape),
            ("planes", "likelihood", planes, "decoder", self.decoder.planes),
        ]
        if self.classifier is not None:
            shape = self.classifier.latent_shape
            checks.append(("latent shape", "classifier", shape, "decoder", self.latent_shape))
        for what, one, value, other, found in checks:
            if _plain(value) != _plain(found):
                raise LatensError(f"{what} of {one} and {other} differ: {value} and {found}")

    def start_from(self, mean: Float[Tensor, "C H W"]) -> None:
        """Begin training at a mean image, instead of spending its first epoch on finding it."""
        with torch.no_grad():
            self.offset.copy_(self.likelihood.planes_of(mean))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    # ---- drawing -----------------------------------------------------------------------------

    def draw(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 1,
        posterior: Distribution | None = None,
    ) -> Draw:
        """Z ~ q(z|x), `samples` times for each image, and all that follows from it.

        Gradients flow through z by reparametrisation where the posterior offers it.

        Args:
            posterior: a q(z|x) to draw from in place of the encoder's.
        """
        posterior = self.encode(x, y) if posterior is None else posterior
        prior = self.prior(self.encode, y)
        z = posterior.rsample(torch.Size((samples,)))  # [K, B, *Z]
        return Draw(
            posterior=posterior,
            prior=prior,
            z=z,
            log_px_z=self.decode(z, y).log_prob(x),
            kl=kl(posterior, prior),
            extras={} if self.classifier is None else {"log_py_z": self._log_py_z(z, y)},
        )

    def _log_py_z(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Log p(y|z) `[K, B]`, summed over the labels that are known."""
        if y is None or self.classifier is None:
            return z.new_zeros(z.shape[:2])
        p = self.classifier(z)
        log_p = (p.base_dist if isinstance(p, Independent) else p).log_prob(y.clamp(min=0))
        return (log_p * (y >= 0)).flatten(2).sum(2) if y.dim() > 1 else log_p * (y >= 0)

    forward = draw

    def encode(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Distribution:
        """q(z|x), batch `[B]`, event `[*Z]`."""
        return self.posterior(self.encoder(x, y))

    def decode(self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None) -> Distribution:
        """p(x|z) for z `[*N, *Z]`, batch `[*N]`, event `[C, H, W]`; its mean is what is shown."""
        lead = z.shape[: z.dim() - len(self.latent_shape)]
        planes = self.decoder(z.reshape(-1, *self.latent_shape), _for_each(y, lead))  # [N, P, H, W]
        return self.likelihood((planes + self.offset).reshape(*lead, *planes.shape[1:]))

    # ---- using a trained model ---------------------------------------------------------------

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
        self, n: int, y: Int[Tensor, "B *A"] | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "n C H W"]:
        """`n` new images: the mean of p(x|z), clipped to [0, 1], for z ~ p(z).

        Args:
            temperature: z is multiplied by it; below 1 gives more typical images.
        """
        z = self.prior(self.encode, y).sample((n,))
        return self.picture(temperature * z, y)

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """The mean of p(x|z) at the mean z of q(z|x), clipped to [0, 1]."""
        return self.picture(self.embed(x, y), y)

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
        parts = [self.picture(z, of) for z, of in zip(halves, (y, y_b), strict=False)]
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
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None, samples: int = 100
    ) -> Float[Tensor, "K B"]:
        """K importance weights for each image, as logarithms.

        Raises:
            LatensError: fewer than one sample.
        """
        if samples < 1:
            raise LatensError(f"{samples} importance samples: 1 or more are needed")
        rows = self._rows_at_once
        if len(x) > rows:
            parts = zip(x.split(rows), repeat(None) if y is None else y.split(rows), strict=False)
            return torch.cat([self.log_weights(part, of, samples) for part, of in parts], dim=1)
        at_once = max(1, rows // max(1, len(x)))
        counts = [min(at_once, samples - done) for done in range(0, samples, at_once)]
        posterior = self.encode(x, y)
        draws = (self.draw(x, y, count, posterior) for count in counts)
        return torch.cat([draw.log_weights for draw in draws])

    @property
    def _rows_at_once(self) -> int:
        return max(1, VALUES_AT_ONCE // math.prod(self.image_shape))

    @torch.no_grad()
    def picture(
        self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "..."]:
        """The mean of p(x|z), clipped to [0, 1], for z `[*N, *Z]`: images `[*N, C, H, W]`."""
        lead = z.shape[: z.dim() - len(self.latent_shape)]
        rows = z.reshape(-1, *self.latent_shape).split(self._rows_at_once)
        y = _for_each(y, lead)
        ys = (None,) * len(rows) if y is None else y.split(self._rows_at_once)
        parts = [self.decode(part, of).mean.clamp(0, 1) for part, of in zip(rows, ys, strict=True)]
        return torch.cat(parts).reshape(*lead, *self.image_shape)

    # ---- saving and sharing ------------------------------------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        write_model(save_directory, self, self.about)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **kwargs: Any) -> "VAE":
        folder = Path(model_id)
        if not folder.is_dir():
            options = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            folder = Path(
                snapshot_download(
                    model_id,
                    allow_patterns=[CONFIG, WEIGHTS],
                    **{name: kwargs[name] for name in options if name in kwargs},
                )
            )
        return load_vae(folder)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card: the architecture, what it was trained on, and its figures."""
        learned_from = self.about.get("training", {}).get("data", {}).get("name")
        data = ModelCardData(
            library_name="latens",
            license="other" if learned_from in RESTRICTED else "mit",
            tags=["vae", "image-generation"],
        )
        template = files("latens").joinpath("templates/card.md.j2").read_text("utf-8")
        return ModelCard.from_template(
            data,
            template_str=template,
            about=self.about,
            model=self,
            terms=RESTRICTED.get(learned_from),
            **kwargs,
        )


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


def _for_each(y: Tensor | None, lead: torch.Size) -> Tensor | None:
    """The labels of B images `[B, *A]` for each of `[*N, B]` samples, in one row `[N, *A]`."""
    if y is None:
        return None
    return y.expand(*lead, *y.shape[1:]).flatten(0, len(lead) - 1) if len(lead) > 1 else y


def _plain(value: Any) -> Any:
    """A shape may come as a list."""
    return tuple(value) if isinstance(value, list) else value


def load_vae(folder: Path) -> VAE:
    """The VAE in a folder with `config.json` and `model.safetensors`, in evaluation mode.

    Raises:
        LatensError: files that are missing, damaged, foreign, or do not fit together.
    """
    model, about = read_model(folder)
    if not isinstance(model, VAE):
        raise LatensError(f"{folder} holds a {type(model).__name__}, not a VAE")
    model.about = about
    return model
