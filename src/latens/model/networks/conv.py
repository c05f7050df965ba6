"""Residual convolutional networks that never work at full resolution.

Images enter by pixel-unshuffle and leave by pixel-shuffle (Shi et al. 2016, "Real-Time Single
Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network"): a
convolution over few channels at full resolution costs far more time than its arithmetic, and a
transposed one leaves checkerboards.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from latens.errors import LatensError
from latens.model.networks.mlp import check_sizes, layers
from latens.model.parts import Decoder, Encoder

LEAST_SIDE = 8  # pixels; below it nothing is left to convolve after one halving
COARSEST_SIDE = 7  # the resolution at which the networks aim to become vectors
MOST_CHANNELS = 256
QUIET = 0.01  # of the first outputs of a decoder that must not start as noise


class Geometry:
    """How an image of any size passes through a number of halvings.

    Attributes:
        levels: how often the resolution is halved.
        padded: (H, W) rounded up to what can be halved so often.
        coarse: (h, w) after the last halving.
        channels: how many channels each level has, from fine to coarse.
    """

    def __init__(self, height: int, width: int, channels: int):
        if min(height, width) < LEAST_SIDE:
            raise LatensError(
                f"images of {height}x{width} pixels are too small for a convolutional network: it "
                f"needs {LEAST_SIDE}x{LEAST_SIDE}; enlarge them (--size {LEAST_SIDE}) or use the "
                "network mlp"
            )
        self.levels = max(1, round(math.log2(min(height, width) / COARSEST_SIDE)))
        factor = 2**self.levels
        self.padded = tuple(math.ceil(side / factor) * factor for side in (height, width))
        self.coarse = tuple(side // factor for side in self.padded)
        self.channels = [min(channels * 2**level, MOST_CHANNELS) for level in range(self.levels)]
        self._margins = (0, self.padded[1] - width, 0, self.padded[0] - height)

    def pad(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Images with their border repeated until they can be halved."""
        return F.pad(x, self._margins, mode="replicate") if any(self._margins) else x


class ResidualBlock(nn.Module):
    """x + f(x) with two 3x3 convolutions; starts as the identity, so depth costs no stability.

    He et al. 2016, "Identity Mappings in Deep Residual Networks"; the last convolution starts at
    zero as in Zhang et al. 2019, "Fixup Initialization", in place of normalisation.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """X + f(x)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def down_levels(geometry: Geometry, image_channels: int, blocks: int) -> nn.ModuleList:
    """Levels from fine to coarse: halve the resolution, convolve, refine."""
    widths = [image_channels, *geometry.channels]
    return nn.ModuleList(
        nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * incoming, outgoing, 3, padding=1),
            *(ResidualBlock(outgoing) for _ in range(blocks)),
        )
        for incoming, outgoing in pairwise(widths)
    )


def up_levels(geometry: Geometry, out_channels: int, blocks: int) -> nn.ModuleList:
    """The mirror of `down_levels`, from coarse to fine."""
    widths = [*geometry.channels[::-1], out_channels]
    return nn.ModuleList(
        nn.Sequential(
            *(ResidualBlock(incoming) for _ in range(blocks)),
            nn.Conv2d(incoming, 4 * outgoing, 3, padding=1),
            nn.PixelShuffle(2),
        )
        for incoming, outgoing in pairwise(widths)
    )


def scale_down(layers: nn.Module) -> None:
    """Scale the output of the last convolution among these layers by `QUIET`."""
    last = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)][-1]
    for parameter in last.parameters():
        parameter.data.mul_(QUIET)


class ConvEncoder(Encoder, name="conv"):
    """Residual convolutions at half resolution and below, then dense layers.

    Args:
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: channels of the finest level; each coarser level has twice as many, up to 256.
        blocks: residual blocks in each level.
        features: F, the width of the dense layers between convolutions and posterior.
        depth: how many of these dense layers there are, on each side.

    Raises:
        LatensError: an image smaller than 8x8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        blocks: int = 1,
        features: int = 256,
        depth: int = 1,
    ):
        super().__init__()
        check_sizes(channels=channels, features=features, depth=depth)
        self.image_shape = image_shape
        self.channels = channels
        self.blocks = blocks
        self.features = features
        self.depth = depth
        image_channels, height, width = self.image_shape
        self._geometry = geometry = Geometry(height, width, channels)
        self.levels = down_levels(geometry, image_channels, blocks)
        self.output = nn.Linear(geometry.channels[-1] * math.prod(geometry.coarse), features)
        self.dense = layers([features] * depth)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        h = self._geometry.pad(x) - 0.5  # pixels centred on zero
        for level in self.levels:
            h = level(h)
        return self.dense(F.relu(self.output(F.relu(h).flatten(1))))


class ConvDecoder(Decoder, name="conv"):
    """The mirror of `ConvEncoder`.

    Args:
        latent_dim: D.
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: of the finest level, as in `ConvEncoder`.
        blocks: residual blocks in each level.
        features: the width of the dense layers between z and the coarsest level.
        depth: how many of them there are.
        out_channels: P, what the likelihood needs; C unless given.

    Raises:
        LatensError: an image smaller than 8x8.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        blocks: int = 1,
        features: int = 256,
        depth: int = 1,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.latent_shape = (latent_dim,)
        self.image_shape = image_shape
        self.channels = channels
        self.blocks = blocks
        self.features = features
        self.depth = depth
        self.out_channels = out_channels or self.image_shape[0]
        geometry = Geometry(*self.image_shape[1:], channels)
        coarsest = geometry.channels[-1]
        self._coarse = (coarsest, *geometry.coarse)
        self.input = layers((latent_dim, *[features] * depth, math.prod(self._coarse)))
        self.levels = up_levels(geometry, self.out_channels, blocks)

    def start_quiet(self) -> None:
        """Scale the last convolution down."""
        scale_down(self.levels[-1])

    def forward(
        self, z: Float[Tensor, "N D"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z)."""
        h = self.input(z).unflatten(1, self._coarse)
        for level in self.levels:
            h = level(h)
        return h[..., : self.image_shape[1], : self.image_shape[2]]  # without the padding


class ConvMapEncoder(Encoder):
    """`ConvEncoder` without its layers of features: a map of them at the coarsest resolution.

    Args:
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: of the finest level; each further level has twice as many, up to 256.
        blocks: residual blocks in each level.

    Raises:
        LatensError: an image smaller than 8x8.
    """

    def __init__(self, image_shape: tuple[int, int, int], channels: int = 32, blocks: int = 1):
        super().__init__()
        self.image_shape = image_shape
        self.channels = channels
        self.blocks = blocks
        image_channels, height, width = image_shape
        self._geometry = Geometry(height, width, channels)
        self.features = self._geometry.channels[-1]
        height, width = self._geometry.coarse
        self.feature_map = (height, width)
        self.levels = down_levels(self._geometry, image_channels, blocks)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F h w"]:
        """A map of features of images in [0, 1]."""
        h = self._geometry.pad(x) - 0.5  # pixels centred on zero
        for level in self.levels:
            h = level(h)
        return F.relu(h)


class ConvMapDecoder(Decoder):
    """The mirror of `ConvMapEncoder`.

    Args:
        latent_shape: (D, h, w), of which (h, w) is the coarsest resolution of `image_shape`.
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: of the finest level, as in `ConvMapEncoder`.
        blocks: residual blocks in each level.
        out_channels: P, what the likelihood needs; C unless given.

    Raises:
        LatensError: an image smaller than 8x8, or latents of another resolution.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        channels: int = 32,
        blocks: int = 1,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.image_shape = image_shape
        self.channels = channels
        self.blocks = blocks
        self.out_channels = out_channels or self.image_shape[0]
        geometry = Geometry(*self.image_shape[1:], channels)
        if self.latent_shape[1:] != geometry.coarse:
            raise LatensError(
                f"latents of shape {self.latent_shape} are no map of "
                f"{geometry.coarse[0]}x{geometry.coarse[1]}, which is the network's resolution"
            )
        self.input = nn.Conv2d(self.latent_shape[0], geometry.channels[-1], 3, padding=1)
        self.levels = up_levels(geometry, self.out_channels, blocks)

    def start_quiet(self) -> None:
        """Scale the last convolution down."""
        scale_down(self.levels[-1])

    def forward(
        self, z: Float[Tensor, "N D h w"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z)."""
        h = F.relu(self.input(z))
        for level in self.levels:
            h = level(h)
        return h[..., : self.image_shape[1], : self.image_shape[2]]  # without the padding
