"""A U-Net without skip connections: all information about the image passes through z.

Input projection; ConvBlocks and Downsamples; ResidualBlocks at the coarsest resolution; the mirror
of it with Upsamples; output projection. Ronneberger et al. 2015, "U-Net: Convolutional Networks for
Biomedical Image Segmentation", without the skip connections that would let an image bypass z.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from latens.model.networks.conv import Geometry, ResidualBlock, scale_down
from latens.model.networks.mlp import OUTPUT_GAIN, check_sizes, kaiming_init, layers
from latens.model.parts import Decoder, Encoder


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each followed by a ReLU (Ronneberger et al. 2015, section 2)."""

    def __init__(self, channels: int):
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )


class Downsample(nn.Sequential):
    """Half the resolution: four neighbours become channels, and a convolution mixes them."""

    def __init__(self, incoming: int, outgoing: int):
        super().__init__(nn.PixelUnshuffle(2), nn.Conv2d(4 * incoming, outgoing, 1))


class Upsample(nn.Sequential):
    """Twice the resolution: a convolution makes four neighbours of each position."""

    def __init__(self, incoming: int, outgoing: int):
        super().__init__(nn.Conv2d(incoming, 4 * outgoing, 1), nn.PixelShuffle(2))


def _start(network: nn.Module) -> None:
    """Kaiming initialisation, as in U-Net (section 3); residual blocks keep their zeros."""
    kaiming_init(network)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)


class UNetEncoder(Encoder, name="unet"):
    """The contracting path of a U-Net, without skip connections.

    Args:
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: channels of the finest level; each coarser level has twice as many, up to 256.
        blocks: residual blocks at the bottleneck.
        features: F, the width of the dense layers between convolutions and posterior.
        depth: how many of these dense layers there are, on each side.

    Raises:
        LatensError: an image smaller than 8x8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        blocks: int = 2,
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
        self._geometry = Geometry(height, width, channels)
        levels = self._geometry.channels
        self.input_projection = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * image_channels, levels[0], 3, padding=1)
        )
        self.path = nn.Sequential()
        for incoming, outgoing in pairwise(levels):
            self.path.append(ConvBlock(incoming))
            self.path.append(Downsample(incoming, outgoing))
        self.path.append(ConvBlock(levels[-1]))
        self.bottleneck = nn.Sequential(*(ResidualBlock(levels[-1]) for _ in range(blocks)))
        self.output = nn.Linear(levels[-1] * math.prod(self._geometry.coarse), features)
        self.dense = layers([features] * depth)
        _start(self)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        h = self.input_projection(self._geometry.pad(x) - 0.5)  # pixels centred on zero
        h = self.bottleneck(self.path(h))
        return self.dense(F.relu(self.output(F.relu(h).flatten(1))))


class UNetDecoder(Decoder, name="unet"):
    """The expanding path, the mirror of `UNetEncoder`.

    Args:
        latent_dim: D.
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        channels: of the finest level, as in `UNetEncoder`.
        blocks: residual blocks at the bottleneck.
        features: the width of the layers between z and the bottleneck.
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
        blocks: int = 2,
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
        levels = geometry.channels[::-1]
        self._coarse = (levels[0], *geometry.coarse)
        self.input = layers((latent_dim, *[features] * depth, math.prod(self._coarse)))
        self.bottleneck = nn.Sequential(*(ResidualBlock(levels[0]) for _ in range(blocks)))
        self.path = nn.Sequential(ConvBlock(levels[0]))
        for incoming, outgoing in pairwise(levels):
            self.path.append(Upsample(incoming, outgoing))
            self.path.append(ConvBlock(outgoing))
        last = nn.Conv2d(levels[-1], 4 * self.out_channels, 3, padding=1)
        self.output_projection = nn.Sequential(last, nn.PixelShuffle(2))
        _start(self)
        last.weight.data.mul_(OUTPUT_GAIN)

    def start_quiet(self) -> None:
        """Scale the last convolution down."""
        scale_down(self.output_projection)

    def forward(
        self, z: Float[Tensor, "N D"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z)."""
        h = self.bottleneck(self.input(z).unflatten(1, self._coarse))
        h = self.output_projection(self.path(h))
        return h[..., : self.image_shape[1], : self.image_shape[2]]  # without the padding
