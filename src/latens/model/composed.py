"""`ComposedModel`: what a model has whose p(x|z) and p(z) are parts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from latens.model.flow_matching import FlowMatching
from latens.model.latent_model import LatentModel
from latens.model.parts import Prior
from latens.model.priors import StandardNormal


class ComposedModel(LatentModel):
    """p(z) by a `Prior`, and perhaps a second stage that samples are drawn from in its place.

    Attributes:
        prior: p(z); in a hierarchy of the topmost level.
        sampler: a second stage fitted to z ~ q(z|x), which `sample_prior` draws from in place of
            the prior; mostly None. Every figure is of the prior all the same.
        offset: parameters of p(x|z) that every image shares, `[P, H, W]`; the networks learn the
            difference from them.
    """

    prior: Prior
    sampler: FlowMatching | None
    offset: nn.Parameter

    def start_from(self, images: Float[Tensor, "N C H W"], mean: Float[Tensor, "C H W"]) -> None:
        """Begin at the mean image, instead of spending the first epoch on finding it."""
        with torch.no_grad():
            self.offset.copy_(self.likelihood.parameters_at(mean))
        super().start_from(images, mean)

    def prior_given(self, y: Int[Tensor, "B *A"] | None = None) -> Distribution:
        """p(z), batch `[]`; or p(z|y), batch `[B]`, of a prior that depends on labels."""
        return self.prior(self._posterior_of, y)

    def _posterior_of(self, x: Float[Tensor, "N C H W"]) -> Distribution:
        """q(z|x) of images without labels: a conditional encoder sees the label "unknown"."""
        labels = self.label_embedding
        return self.encode(x, None if labels is None else labels.unknown(len(x)))

    @property
    def has_unit_prior(self) -> bool:
        """Whether z is drawn from N(0, I)."""
        return isinstance(self.prior, StandardNormal) and self.sampler is None

    @torch.no_grad()
    def sample_prior(self, n: int, y: Int[Tensor, "n *A"] | None = None) -> Float[Tensor, "n *Z"]:
        """`n` times z ~ p(z), or one z ~ p(z|y) for each label.

        With a second stage z is a sample of that.
        """
        return self.draw_prior(n, y) if self.sampler is None else self.sampler.sample(n)

    @torch.no_grad()
    def draw_prior(self, n: int, y: Int[Tensor, "n *A"] | None = None) -> Float[Tensor, "n *Z"]:
        """The same, whatever second stage there is: z ~ p(z), which every figure is of.

        A prior that depends on labels and is given none is asked for images of unknown label.
        """
        labels = self.label_embedding
        if y is None and labels is not None:
            y = labels.unknown(n)
        prior = self.prior_given(y)
        return prior.sample() if prior.batch_shape else prior.sample(torch.Size((n,)))
