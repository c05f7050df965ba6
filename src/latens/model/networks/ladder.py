"""Levels of latent maps from coarse to fine, and the bottom-up network of their features."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from latens import limits
from latens.errors import LatensError
from latens.model.networks.conv import COARSEST_SIDE, LEAST_SIDE
from latens.model.networks.mlp import check_sizes
from latens.model.parts import Encoder

PER_RESOLUTION = 4  # levels, where none are named


@dataclass(frozen=True)
class Level:
    """One level of latents: a map.

    Attributes:
        halvings: of the image's resolution.
        shape: (D, h, w).
    """

    halvings: int
    shape: tuple[int, int, int]


class Levels:
    """What `--levels 7x4,14x4x2` means for images of a size: a sequence of levels, coarse to fine.

    `7x4` is four levels whose shorter side is 7, with one channel; `14x4x2` four with two channels.

    Args:
        text: None: four levels at each resolution from about 7 to half of the image's.
        height, width: of the images.

    Attributes:
        all: the levels, the topmost first.
        padded: (H, W) rounded up to what can be halved often enough.

    Raises:
        LatensError: levels that are not written so, or whose resolution no halving gives.
    """

    def __init__(self, text: str | None, height: int, width: int):
        side = min(height, width)
        if side < LEAST_SIDE:
            raise LatensError(
                f"images of {height}x{width} pixels are too small for a ladder: it needs "
                f"{LEAST_SIDE}x{LEAST_SIDE}; enlarge them (--size {LEAST_SIDE})"
            )
        if text is None:
            halvings = max(1, round(math.log2(side / COARSEST_SIDE)))
            coarsest = math.ceil(side / 2**halvings)
            wanted = [(coarsest * 2**k, PER_RESOLUTION, 1) for k in range(halvings)]
        else:
            wanted = [_numbers(text, part) for part in text.split(",")]
        limits.check("tensors", sum(count for _, count, _ in wanted), f"levels of {text} have")
        sides = [side for side, _, _ in wanted]
        if any(coarse >= fine for coarse, fine in pairwise(sides)):
            raise LatensError(f"levels are {text}: from coarse to fine, each resolution once")
        deepest = self._deepest(sides, height, width)
        factor = 2**deepest
        self.padded = tuple(math.ceil(side / factor) * factor for side in (height, width))
        self.all: list[Level] = []
        for side, count, channels in wanted:
            halvings = round(math.log2(min(self.padded) / side))
            h, w = (padded // 2**halvings for padded in self.padded)
            self.all += count * [Level(halvings, (channels, h, w))]
        self._margins = (0, self.padded[1] - width, 0, self.padded[0] - height)

    @staticmethod
    def _deepest(sides: list[int], height: int, width: int) -> int:
        """How many halvings give all these sides."""
        side, known = min(height, width), []
        for halvings in range(1, math.ceil(math.log2(side)) + 1):
            coarsest = math.ceil(side / 2**halvings)
            given = [coarsest * 2**k for k in range(halvings)]
            if sides[0] == coarsest and set(sides) <= set(given):
                return halvings
            known.append("-".join(map(str, given)))
        raise LatensError(
            f"levels of {', '.join(map(str, sides))} pixels: images of {height}x{width} have "
            f"levels of {', or '.join(known)}; name the first of one of these and any that follow"
        )

    def pad(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Images with their border repeated until they can be halved."""
        return F.pad(x, self._margins, mode="replicate") if any(self._margins) else x


def _numbers(text: str, part: str) -> tuple[int, int, int]:
    try:
        side, count, channels = (*map(int, part.lower().split("x")), 1)[:3]
    except ValueError:
        side = count = channels = 0
    if min(side, count, channels) < 1 or part.count("x") > 2:
        raise LatensError(
            f"levels are {text}: written 7x4,14x4 (four maps 7 pixels wide, then four of 14), or "
            "7x4x2 for maps of two channels"
        )
    return side, count, channels


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each after a SiLU."""

    def __init__(self, incoming: int, outgoing: int, width: int, last: float = 1.0):
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, outgoing, 3, padding=1)
        self.conv2.weight.data.mul_(last)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """F(x)."""
        return self.conv2(F.silu(self.conv1(F.silu(x))))


class ResidualConvBlock(ConvBlock):
    """x + f(x), f scaled at first by 1/√L, so that L of them do not let x grow (Child 2021)."""

    def __init__(self, channels: int, depth: int):
        super().__init__(channels, channels, channels, last=depth**-0.5)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """X + f(x)."""
        return x + super().forward(x)


class LadderEncoder(Encoder, name="ladder"):
    """The bottom-up path of a ladder: features at the resolution of each level.

    Sønderby et al. 2016, "Ladder Variational Autoencoders"; Child 2021, "Very Deep VAEs Generalize
    Autoregressive Models and Can Outperform Them on Images", section 3.2.

    Args:
        image_shape: (C, H, W), 8x8 or larger, odd and non-square too.
        levels: such as 7x4,14x4: four maps of latents 7 pixels wide, then four of 14; 7x4x2 for
            maps of two channels. None: four at each resolution from about 7 to half the image's.
        channels: channels of the features at half the image's resolution.
        blocks: residual blocks at each resolution.
        coarse_channels: with each further halving the channels double, up to so many: coarse maps
            cost little, and hold what ties an image together. None: `channels` everywhere.

    Raises:
        LatensError: an image smaller than 8x8, levels that cannot be, or `coarse_channels` below
            `channels`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: str | None = None,
        channels: int = 32,
        blocks: int = 1,
        coarse_channels: int | None = None,
    ):
        super().__init__()
        check_sizes(channels=channels, blocks=blocks)
        if coarse_channels is not None and coarse_channels < channels:
            raise LatensError(
                f"coarse_channels is {coarse_channels}: it must be at least channels, which is "
                f"{channels}"
            )
        self.image_shape = image_shape
        self.levels = levels
        self.channels = channels
        self.blocks = blocks
        self.coarse_channels = coarse_channels
        self.plan = Levels(levels, *image_shape[1:])
        deepest = self.plan.all[0].halvings
        self.features = self.width(deepest)
        incoming, self.halvings = image_shape[0], nn.ModuleList()
        for halvings in range(1, deepest + 1):
            width = self.width(halvings)
            self.halvings.append(
                nn.Sequential(
                    nn.PixelUnshuffle(2),
                    nn.Conv2d(4 * incoming, width, 3, padding=1),
                    *(ResidualConvBlock(width, deepest * blocks) for _ in range(blocks)),
                )
            )
            incoming = width

    def width(self, halvings: int) -> int:
        """Channels of the features after so many halvings of the resolution, 1 or more."""
        return min(self.channels << (halvings - 1), self.coarse_channels or self.channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> list[Float[Tensor, "B F h w"]]:
        """Features for each level, the topmost first; levels of one resolution share them."""
        h, features = self.plan.pad(x) - 0.5, []  # pixels centred on zero
        for halving in self.halvings:
            h = halving(h)
            features.append(h)
        return [features[level.halvings - 1] for level in self.plan.all]
