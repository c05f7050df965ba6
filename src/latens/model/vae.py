"""The variational autoencoder: five parts around one level of latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from latens.errors import LatensError
from latens.model.composed import ComposedModel
from latens.model.flow_matching import FlowMatching
from latens.model.latent_model import label_rows
from latens.model.latents import Draw, Latent
from latens.model.likelihoods import Bernoulli
from latens.model.networks.labels import LabelEmbedding
from latens.model.networks.mlp import kaiming_init
from latens.model.parts import Classifier, Decoder, Encoder, Likelihood, Posterior, Prior
from latens.model.posteriors import default_posterior
from latens.model.priors import StandardNormal

FEW_IMAGES = 128  # whose features a narrow posterior starts at


class VAE(ComposedModel):
    """p(x, z) = p(x|z) p(z) with the approximate posterior q(z|x), composed of parts.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes".

    Args:
        encoder: `[B, C, H, W] -> [B, *F]`; knows `image_shape` and `features`.
        decoder: `[N, *Z] -> [N, P, H, W]`; knows `image_shape`, `out_channels` and `latent_shape`.
        likelihood: `[N, P, H, W] -> p(x|z)`; Bernoulli unless given.
        prior: p(z); N(0, I) unless given.
        posterior: `[B, *F] -> q(z|x)`; a diagonal Gaussian unless given.
        classifier: `[*N, *Z] -> p(y|z)`, of a model that learns to tell labels; mostly none.
        sampler: a second stage fitted to z ~ q(z|x), which `sample_prior` draws from in place of
            the prior; mostly none. Every figure is of the prior all the same.

    Raises:
        LatensError: parts that do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
        posterior: Posterior | None = None,
        classifier: Classifier | None = None,
        sampler: FlowMatching | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood or Bernoulli()
        self.prior = prior or StandardNormal(decoder.latent_shape)
        self.posterior = posterior or default_posterior(encoder, decoder.latent_shape)
        self.classifier = classifier
        self.sampler = sampler
        channels, height, width = encoder.image_shape
        self.image_shape = (channels, height, width)
        self.latent_shape = tuple(decoder.latent_shape)
        self.offset = nn.Parameter(torch.zeros(decoder.out_channels, *self.image_shape[1:]))
        self._check_fit()

    def _check_fit(self) -> None:
        channels = self.likelihood.decoder_channels(self.image_shape[0])
        checks = [
            ("image_shape", "encoder", self.image_shape, "decoder", self.decoder.image_shape),
            ("latent shape", "prior", self.prior.event_shape, "decoder", self.latent_shape),
            ("latent shape", "posterior", self.posterior.event_shape, "decoder", self.latent_shape),
            ("out_channels", "likelihood", channels, "decoder", self.decoder.out_channels),
        ]
        if self.classifier is not None:
            shape = self.classifier.latent_shape
            checks.append(("latent shape", "classifier", shape, "decoder", self.latent_shape))
        for what, one, value, other, found in checks:
            if _tuple(value) != _tuple(found):
                raise LatensError(f"{what} of {one} and {other} differ: {value} and {found}")

    @torch.no_grad()
    def prevent_collapse(self, images: Float[Tensor, "N C H W"], quiet: bool) -> None:
        """Start against collapse: a narrow posterior, and a decoder that is no noise.

        The means of the posterior tell some of the images apart. By torch's own first weights
        features hardly differ from image to image, and magnified so far a first step moves all of
        them together, until no ReLU tells any apart: hence the encoder's. A decoder whose first
        outputs vary at random with z may learn to silence them, and then does without z.

        Args:
            quiet: start the decoder so; where there is no danger, that costs a short training.
        """
        labels, few = (
            self.label_embedding,
            images[:: max(1, len(images) // FEW_IMAGES)][:FEW_IMAGES],
        )
        if not quiet:
            zero = [p for p in self.encoder.parameters() if not p.any()]
            kaiming_init(self.encoder)
            for parameter in zero:  # of blocks that start as the identity
                parameter.zero_()
        y = None if labels is None else labels.unknown(len(few))
        self.posterior.start_narrow(self.encoder(few, y))
        for part in self.decoder.modules():
            if quiet and isinstance(part, Decoder):
                part.start_quiet()

    # ---- drawing -----------------------------------------------------------------------------

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 1,
    ) -> Draw:
        """What a training learns from: `draw`, under the q(z|x) that the posterior proposes."""
        proposal = self.posterior.proposal(self, x, y)
        draw = self.draw(x, y, samples, proposal)
        if proposal is None:
            return draw
        return replace(draw, extras={**draw.extras, "encoder_elbo": self._elbo_of_encoder(x, y)})

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
        latent = Latent.sample(posterior or self.encode(x, y), self.prior_given(y), samples)
        extras = {}
        if self.classifier is not None:
            extras["log_py_z"] = self._log_py_z(latent.z, y)
            # What an objective does to gradients through its z is not done to the classifier's
            latent = replace(latent, z=latent.z.view_as(latent.z))
        return Draw((latent,), self.decode(latent.z, y).log_prob(x), extras)

    def _elbo_of_encoder(self, x: Tensor, y: Tensor | None) -> Float[Tensor, " B"]:
        """The ELBO under the encoder's q(z|x), whose gradient is the encoder's alone."""
        q, prior = self.encode(x, y), self.prior_given(y)
        z = q.rsample()
        with _constant(self.decoder, self.likelihood, self.prior):
            log_w = self.decode(z, y).log_prob(x) + prior.log_prob(z)
        return log_w - q.log_prob(z)

    def _log_py_z(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Log p(y|z) `[K, B]`, summed over the labels that are known."""
        if y is None or self.classifier is None:
            return z.new_zeros(z.shape[:2])
        p = self.classifier(z)
        if y.dim() != 1 + isinstance(p, Independent):
            told, asked = ("classes", "attributes") if y.dim() == 1 else ("attributes", "classes")
            raise LatensError(f"the labels are {told}, and the model was trained with {asked}")
        if isinstance(p, Independent):  # of attributes, whose Bernoullis take floats
            return (p.base_dist.log_prob(y.clamp(min=0).to(z.dtype)) * (y >= 0)).sum(-1)
        return p.log_prob(y.clamp(min=0)) * (y >= 0)

    def encode(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Distribution:
        """q(z|x), batch `[B]`, event `[*Z]`."""
        return self.posterior(self.encoder(x, y))

    def decode(self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None) -> Distribution:
        """p(x|z) for z `[*N, *Z]`, batch `[*N]`, event `[C, H, W]`; its mean is what is shown."""
        lead = z.shape[: z.dim() - len(self.latent_shape)]
        output = self.decoder(z.reshape(-1, *self.latent_shape), label_rows(y, lead))
        return self.likelihood((output + self.offset).reshape(*lead, *output.shape[1:]))

    @property
    def decodes_labels(self) -> bool:
        """Whether the decoder sees a label; a prior or an encoder may see one without it."""
        return any(isinstance(part, LabelEmbedding) for part in self.decoder.modules())

    @property
    def encodes_labels(self) -> bool:
        """Whether the encoder sees a label."""
        return any(isinstance(part, LabelEmbedding) for part in self.encoder.modules())


@contextmanager
def _constant(*parts: nn.Module) -> Iterator[None]:
    """Gradients flow through these parts, but none comes to their parameters."""
    parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _tuple(value: Any) -> Any:
    """A shape may come as a list."""
    return tuple(value) if isinstance(value, list) else value
