"""The ladder: a hierarchy of latent maps, inferred and sampled on one way down."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from latens.errors import LatensError
from latens.model.composed import ComposedModel
from latens.model.distributions import diagonal_normal
from latens.model.flow_matching import FlowMatching
from latens.model.latent_model import slerp
from latens.model.latents import Draw, Latent
from latens.model.likelihoods import Bernoulli
from latens.model.networks.ladder import ConvBlock, LadderEncoder, Level, ResidualConvBlock
from latens.model.parts import Likelihood, Prior
from latens.model.priors import StandardNormal

LEAST_SCALE = 1e-3  # of q and p
UNIT = math.log(math.e - 1)  # softplus of it is 1

# From the number of a level, its p and its q, where there is one, to what is drawn there
Choose = Callable[[int, Distribution, Distribution | None], Latent]


class Ladder(ComposedModel):
    """p(x, z) = p(x|z) ∏_l p(z_l|z_<l) with q(z|x) = ∏_l q(z_l|x, z_<l), from coarse to fine.

    Sønderby et al. 2016, "Ladder Variational Autoencoders"; blocks after Child 2021, "Very Deep
    VAEs Generalize Autoregressive Models and Can Outperform Them on Images", figure 3. The topmost
    level stands for the image in `encode`, `embed` and `decode`.

    Args:
        encoder: the bottom-up path, which knows the levels.
        likelihood: `[N, P, H, W] -> p(x|z)`; Bernoulli unless given.
        prior: of the topmost level; N(0, I) unless given.
        sampler: a second stage fitted to the topmost level, or to the first ones; mostly none.

    Raises:
        LatensError: a prior for latents of another shape.
    """

    def __init__(
        self,
        encoder: LadderEncoder,
        likelihood: Likelihood | None = None,
        prior: Prior | None = None,
        sampler: FlowMatching | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        levels = encoder.plan.all
        self.image_shape = encoder.image_shape
        self.latent_shape = levels[0].shape
        self.likelihood = likelihood or Bernoulli()
        self.prior = prior or StandardNormal(self.latent_shape)
        self.sampler = sampler
        if tuple(self.prior.event_shape) != self.latent_shape:
            raise LatensError(
                f"the prior is for latents of shape {self.prior.event_shape}, and the topmost "
                f"level has {self.latent_shape}"
            )
        out = self.likelihood.decoder_channels(self.image_shape[0])
        halvings = [level.halvings for level in levels]
        self.start = nn.Parameter(
            torch.zeros(1, encoder.width(halvings[0]), *self.latent_shape[1:])
        )
        self.levels = nn.ModuleList(
            LadderLevel(level, self._upsample(above, level.halvings), len(levels), is_top=not i)
            for i, (level, above) in enumerate(
                zip(levels, [halvings[0], *halvings[:-1]], strict=True)
            )
        )
        finest = encoder.width(halvings[-1])
        self.output = nn.Sequential(
            *(ResidualConvBlock(finest, len(levels)) for _ in range(encoder.blocks)),
            self._upsample(halvings[-1], 1),
            nn.SiLU(),
            nn.Conv2d(encoder.width(1), 4 * out, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.offset = nn.Parameter(torch.zeros(out, *self.image_shape[1:]))

    def _upsample(self, above: int, below: int) -> "Upsample":
        """From features after `above` halvings to those after `below`."""
        width = self.encoder.width
        return Upsample(above - below, width(above), width(below))

    @property
    def level_shapes(self) -> list[tuple[int, ...]]:
        """Z of each level, the topmost first."""
        return [level.shape for level in self.encoder.plan.all]

    @property
    def _each_level(self) -> "list[LadderLevel]":
        return [cast("LadderLevel", level) for level in self.levels]

    # ---- the way down ------------------------------------------------------------------------

    def descend(
        self, features: Sequence[Tensor | None], choose: Choose
    ) -> tuple[list[Latent], Float[Tensor, "N P H W"]]:
        """From the topmost level to the parameters of p(x|z), for inference and sampling alike.

        Args:
            features: of the images for each level, `[B, F, h, w]`; None where there are no images.
            choose: what is drawn at a level, z `[K, B, *Z]`.
        """
        h, latents = self.start, []
        for latent, h in self._down(features, choose):  # noqa: B007 - the last one is decoded
            latents.append(latent)
        output = self.output(h)[..., : self.image_shape[1], : self.image_shape[2]]
        return latents, output.float() + self.offset

    def _down(
        self, features: Sequence[Tensor | None], choose: Choose
    ) -> Iterator[tuple[Latent, Float[Tensor, "N F h w"]]]:
        """Each level's latents, the topmost first, with the features that they lead to."""
        h, lead = self.start, None
        for i, (level, e) in enumerate(zip(self._each_level, features, strict=True)):
            h = level.upsample(h)
            if lead is None:
                p, delta = self.prior_given(), 0
            else:
                p, delta = level.prior_at(h, lead)
            q = None if e is None else level.posterior_at(h, e, lead)
            latent = choose(i, p, q)
            lead = latent.z.shape[:2]
            h = level(h + delta, latent.z.flatten(0, 1))
            yield latent, h

    def draw(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        samples: int = 1,
        posterior: Distribution | None = None,
    ) -> Draw:
        """Z ~ q(z|x) at each level, `samples` times for each image.

        Args:
            posterior: a q of the topmost level, in place of the model's.
        """

        def choose(i: int, p: Distribution, q: Distribution | None) -> Latent:
            if i == 0:
                return Latent.sample(posterior or q or p, p, samples)
            return Latent.sample(q or p, p)

        latents, output = self.descend(self.encoder(x), choose)
        p = self.likelihood(output.unflatten(0, (samples, len(x))))
        return Draw(tuple(latents), p.log_prob(x))

    def encode(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Distribution:
        """The q of the topmost level, batch `[B]`, event `[D, h, w]`."""
        return self._each_level[0].posterior_at(self.start, self.encoder(x)[0], None)

    def decode(self, z: Float[Tensor, "..."], y: Int[Tensor, "B *A"] | None = None) -> Distribution:
        """p(x|z) for z of the topmost level, with the others at the mean that p gives them."""
        lead = z.shape[: z.dim() - 3]
        top = z.reshape(1, -1, *self.latent_shape)
        output = self._parameters_at([top])
        return self.likelihood(output.reshape(*lead, *output.shape[1:]))

    # ---- a second stage ----------------------------------------------------------------------

    @torch.no_grad()
    def first_levels(
        self, levels: int, count: int, x: Float[Tensor, "B C H W"] | None = None
    ) -> Float[Tensor, "count B *P"]:
        """Z of the first levels as one map: `count` z ~ q(z|x) of each image, or z ~ p(z), B = 1.

        Maps finer than the topmost one are folded to its resolution, into more channels.
        """

        def choose(i: int, p: Distribution, q: Distribution | None) -> Latent:
            if i == 0 and q is None:
                return Latent(p, p, self.draw_prior(count)[:, None])
            return Latent.sample(q or p, p, None if i else count)

        features = [None] * len(self.levels) if x is None else self.encoder(x)
        down = self._down(features, choose)
        drawn = [latent.z for latent, _ in islice(down, levels)]
        packed = torch.cat(
            [
                F.pixel_unshuffle(z.flatten(0, 1), side)
                for z, side in zip(drawn, self._foldings, strict=False)
            ],
            dim=1,
        )
        return packed.unflatten(0, drawn[0].shape[:2])

    def packed_shape(self, levels: int) -> tuple[int, ...]:
        """Of one z of `first_levels`."""
        return (sum(self._packed_channels[:levels]), *self.latent_shape[1:])

    def unpacked(self, z: Float[Tensor, "n P h w"]) -> list[Float[Tensor, "n D H W"]]:
        """Z of each of the first levels; of the topmost one alone where that is all there is."""
        parts = self._split(z)
        foldings = self._foldings[: len(parts)]
        return [F.pixel_shuffle(part, side) for part, side in zip(parts, foldings, strict=True)]

    def _split(self, z: Float[Tensor, "n P h w"]) -> tuple[Tensor, ...]:
        """The channels of each of the first levels, as many as z has."""
        ends = list(itertools.accumulate(self._packed_channels))
        return z.split(self._packed_channels[: ends.index(z.shape[1]) + 1], dim=1)

    def _tempered(self, z: Float[Tensor, "n P h w"], temperatures: list[float]) -> Tensor:
        """Each of the levels that a second stage gives has its own temperature."""
        parts = self._split(z)
        return torch.cat([t * part for t, part in zip(temperatures, parts, strict=False)], dim=1)

    @property
    def _foldings(self) -> list[int]:
        """How many times as fine as the topmost level each one is."""
        levels = self.encoder.plan.all
        return [2 ** (levels[0].halvings - level.halvings) for level in levels]

    @property
    def _packed_channels(self) -> list[int]:
        shapes = zip(self.level_shapes, self._foldings, strict=True)
        return [shape[0] * side**2 for shape, side in shapes]

    # ---- pictures ----------------------------------------------------------------------------

    @torch.no_grad()
    def sample_given(
        self,
        z: Float[Tensor, "n *Z"],
        y: Int[Tensor, "n *A"] | None = None,
        temperature: float | Sequence[float] = 1.0,
    ) -> Float[Tensor, "n C H W"]:
        """Images of given z of the topmost level, or of the first ones as of `first_levels`.

        The other levels are sampled.
        """
        temperatures = self.temperatures(temperature)
        parts = [
            self.images_at([level[None] for level in self.unpacked(part)], temperatures)
            for part in z.split(self.rows_at_once)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def latents(self, x: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "1 B *Z"]]:
        """The mean of q(z|x) at each level, given the means above."""
        drawn, _ = self.descend(
            self.encoder(x), lambda _i, p, q: Latent(q or p, p, _one(q or p).mean)
        )
        return [latent.z for latent in drawn]

    @torch.no_grad()
    def embed(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        levels: int | None = None,
    ) -> Float[Tensor, "B *Z"]:
        """The mean of q(z|x) of the topmost level, or `[B, D]` of the first `levels` in a row.

        Raises:
            LatensError: no levels, or more than there are.
        """
        if levels is None:
            return self.encode(x, y).mean
        self._check_levels(levels)
        if levels == 0:
            raise LatensError("levels is 0: features are of 1 or more")
        return torch.cat([z[0].flatten(1) for z in self.latents(x)[:levels]], 1)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Float[Tensor, "B C H W"],
        y: Int[Tensor, "B *A"] | None = None,
        levels: int | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The mean of p(x|z) at the mean z of q, clipped to [0, 1].

        Args:
            levels: how many levels, from the topmost on, keep the image's z; the others are
                sampled, so that the picture shows what the kept ones hold. None: all.

        Raises:
            LatensError: more levels than there are.
        """
        self._check_levels(levels)
        if levels == 0:
            return self.sample(len(x), temperature=1.0)  # as the levels that are sampled below
        return torch.cat(
            [
                self.images_at(self.latents(part)[:levels], self.temperatures(1.0))
                for part in x.split(self.rows_at_once)
            ]
        )

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
        """Images on the way from a's z to b's at all levels, both ends included.

        Args:
            spherical: along a great circle at each level, and not the straight line.
        """
        t = torch.linspace(0, 1, steps, device=a.device)[:, None, None]
        path = slerp if spherical else torch.lerp
        between = [
            path(za[0].flatten(1), zb[0].flatten(1), t).reshape(1, -1, *za.shape[2:])
            for za, zb in zip(self.latents(a), self.latents(b), strict=True)
        ]
        parts = zip(*(z.split(self.rows_at_once, dim=1) for z in between), strict=True)
        images = torch.cat([self.images_at(part) for part in parts])
        return images.unflatten(0, (steps, len(a))).transpose(0, 1)

    def images_at(
        self, given: Sequence[Tensor], temperatures: Sequence[float] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """The mean of p(x|z), clipped to [0, 1], where z of the first levels is given."""
        return self.likelihood(self._parameters_at(given, temperatures)).mean.clamp(0, 1)

    def _parameters_at(
        self, given: Sequence[Tensor], temperatures: Sequence[float] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z) where z of the first levels is given, `[1, N, *Z]`.

        Args:
            temperatures: of all levels: z of the others deviates from the mean of its p so many
                times as far as a sample; 0 unless given.
        """

        def choose(i: int, p: Distribution, _q: Distribution | None) -> Latent:
            if i < len(given):
                return Latent(p, p, given[i])
            temperature = temperatures[i] if temperatures else 0.0
            z = p.mean if temperature == 0 else torch.lerp(p.mean, p.sample(), temperature)
            return Latent(p, p, z)

        return self.descend([None] * len(self.levels), choose)[1]


class LadderLevel(nn.Module):
    """p and q of one level given the levels above, and what its z adds to the way down.

    Args:
        level: its shape.
        upsample: from the features of the level above.
        depth: L, the number of levels.
        is_top: its prior is the model's.
    """

    def __init__(self, level: Level, upsample: "Upsample", depth: int, is_top: bool):
        super().__init__()
        channels, width = level.shape[0], upsample.outgoing
        self.channels = channels
        self.upsample = upsample
        self.posterior = ConvBlock(2 * width, 2 * channels, width)
        self.prior = None if is_top else ConvBlock(width, 2 * channels + width, width, last=0.1)
        self.embed = nn.Conv2d(channels, width, 1)
        self.embed.weight.data.mul_(depth**-0.5)
        self.residual = ResidualConvBlock(width, depth)

    def prior_at(self, h: Tensor, lead: torch.Size) -> tuple[Independent, Tensor]:
        """p(z_l|z_<l), batch `lead`, and δ, which p's features add to the way down."""
        assert self.prior is not None, "the topmost level's prior is the model's"
        parameters, delta = self.prior(h).split((2 * self.channels, h.shape[1]), dim=1)
        return gaussian(parameters.unflatten(0, lead)), delta

    def posterior_at(self, h: Tensor, e: Tensor, lead: torch.Size | None) -> Independent:
        """q(z_l|x, z_<l), batch `lead`, or [B] at the top."""
        if lead is None:
            return gaussian(self.posterior(torch.cat((h.expand_as(e), e), 1)))
        e = e.repeat(lead[0], 1, 1, 1)
        return gaussian(self.posterior(torch.cat((h, e), 1)).unflatten(0, lead))

    def forward(
        self, h: Float[Tensor, "#N F h w"], z: Float[Tensor, "N D h w"]
    ) -> Float[Tensor, "N F h w"]:
        """The way down with z in it."""
        return self.residual(h + self.embed(z))


class Upsample(nn.Module):
    """Each feature repeated, so that the resolution doubles `doublings` times.

    Args:
        incoming, outgoing: channels; where they differ, a 1x1 convolution comes first.
    """

    def __init__(self, doublings: int, incoming: int, outgoing: int):
        super().__init__()
        self.doublings = doublings
        self.outgoing = outgoing
        self.project = nn.Conv2d(incoming, outgoing, 1) if incoming != outgoing else nn.Identity()

    def forward(self, h: Float[Tensor, "N E h w"]) -> Float[Tensor, "N F H W"]:
        """H as it is where nothing doubles and the channels are the same."""
        h = self.project(h)
        return F.interpolate(h, scale_factor=2**self.doublings) if self.doublings else h


def _one(q: Distribution) -> Distribution:
    """With a batch of one sample in front, `[1, B]`, where it has none."""
    return q if len(q.batch_shape) > 1 else q.expand(torch.Size((1, *q.batch_shape)))


def gaussian(parameters: Float[Tensor, "*N E h w"]) -> Independent:
    """N(μ, σ² I) of a map, from μ and what a softplus makes σ of; in float32."""
    mean, raw = parameters.float().chunk(2, dim=-3)
    return diagonal_normal(mean, LEAST_SCALE + F.softplus(raw + UNIT), event_dims=3)
