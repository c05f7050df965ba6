"""Random numbers: a seed for a while, and noise of each image's own.

What is drawn for an image does then not depend on its batch.
"""

import math
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the generators of the processor and of this device.

    `torch.manual_seed` seeds every accelerator that there is, and takes longer than the forward
    pass of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


@contextmanager
def forked_rng(device: torch.device | str = "cpu", seed: int | None = None) -> Iterator[None]:
    """Torch's random state is afterwards as it was before.

    By itself `torch.random.fork_rng` copies the state of every GPU, and warns of more than one.

    Args:
        device: whose state is kept, beside that of the processor.
        seed: what is drawn inside begins with; None: as it would have gone on.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            seed_noise(seed, device)
        yield


WORD = 2**31  # so that the product of two words is an int64
MULTIPLIERS, WEYL, ROUNDS = (0x7FEB352D, 0x2C1B3C6D), 0x1E3779B9, 6


def words(
    counter: Int64[Tensor, " n"], seed: Int64[Tensor, " N"]
) -> tuple[Int64[Tensor, "N n"], Int64[Tensor, "N n"]]:
    """Two random numbers below 2³¹ for each seed and each counter, by what ONNX can do.

    A Feistel network of the counter whose key is the seed, with a hash as its round function: four
    rounds of a random function are a random permutation (Luby & Rackoff 1988, "How to Construct
    Pseudorandom Permutations from Pseudorandom Functions").
    """
    seed = seed.remainder(WORD**2)[:, None]
    key, right = _mixed(seed % WORD), (seed // WORD).expand(-1, counter.shape[0])
    left = counter.expand_as(right)
    for _ in range(ROUNDS):
        left, right = right, (left + _mixed((right + key) % WORD)) % WORD
        key = (key + WEYL) % WORD
    return left, right


def _mixed(word: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """A hash of 31 bits: products carry upwards, and shifts downwards, what tells words apart."""
    for multiplier in MULTIPLIERS:
        word = (word ^ word // 2**15) * multiplier % WORD
    return word ^ word // 2**16


BLOCK = 16  # numbers that torch's generators of normal numbers on a processor fill at a time


class NoiseOfImages(TorchFunctionMode):
    """Inside, what torch draws at random comes from `normal` and `uniform`, image by image."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.normal:
            mean, scale = torch.broadcast_tensors(*args[:2])
            return mean + scale * self.normal(mean.shape)
        if function is torch.Tensor.normal_:
            return self.normal(args[0].shape)
        if function in (torch.randn, torch.rand):
            shape = args if isinstance(args[0], int | torch.SymInt) else args[0]
            return self.normal(shape) if function is torch.randn else self.uniform(shape)
        return function(*args, **(kwargs or {}))

    @abstractmethod
    def normal(self, shape: Any) -> Tensor:
        """N(0, 1) of any shape."""

    @abstractmethod
    def uniform(self, shape: Any) -> Tensor:
        """Numbers between 0 and 1 of any shape."""


class SeededNoise(NoiseOfImages):
    """Noise of a hash of each image's seed, by operations that ONNX has; images are the first axis
    of their number.

    Args:
        seed: of each image.
        expected: so many numbers of each image are hashed together, at the first that is drawn: a
            program holds the operations of a hash once. More than these are hashed as they come,
            and all are the same for any `expected`.

    Attributes:
        drawn: numbers of each image so far.
    """

    def __init__(self, seed: Int64[Tensor, " N"], expected: int = 0):
        super().__init__()
        self.seed, self.expected, self.drawn = seed, expected, 0
        self._hashed: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.multinomial and args[0].dim() == 2 and len(args[0]) == 1:
            below = (args[0][0] / args[0].sum()).cumsum(0)[:-1]  # of one mixture, as a prior is
            return torch.searchsorted(below, self.uniform((args[1],)), right=True)[None]
        return super().__torch_function__(function, types, args, kwargs)

    def normal(self, shape: Any) -> Tensor:
        """N(0, 1) of any shape, by Box & Muller 1958."""
        a, b = self._pairs(shape)
        return (-2 * a.log()).sqrt() * torch.cos(2 * math.pi * b)

    def uniform(self, shape: Any) -> Tensor:
        """Numbers in (0, 1] of any shape."""
        return self._pairs(shape)[0]

    def _pairs(self, shape: Any) -> tuple[Tensor, Tensor]:
        """Two numbers in (0, 1] for each place; the images are the first axis of their number."""
        n = self.seed.shape[0]
        leads = [
            i
            for i, size in enumerate(shape)
            if not isinstance(size, int) or (isinstance(n, int) and size == n)
        ]
        assert leads, f"{tuple(shape)} has no axis of {n} images"
        lead = leads[0]
        rest = [int(size) for size in shape[lead + 1 :]]
        place = (*[1] * lead, -1, *rest)
        a, b = (word.reshape(place).float() for word in self._next(math.prod(rest)))
        return (a + 0.5) / WORD, (b + 0.5) / WORD

    def _next(self, count: int) -> tuple[Tensor, Tensor]:
        """The next words `[N, count]` of each image."""
        start, self.drawn = self.drawn, self.drawn + count
        if self.drawn > self.expected:
            return words(torch.arange(start, self.drawn, device=self.seed.device), self.seed)
        if self._hashed is None:
            self._hashed = words(torch.arange(self.expected, device=self.seed.device), self.seed)
        left, right = self._hashed
        return left[:, start : self.drawn], right[:, start : self.drawn]


class OwnNoise(NoiseOfImages):
    """Noise of a generator for each image, thirty times as fast; images are the second axis, after
    their samples, as in `LatentModel.draw`.

    Args:
        seeds: of each image.
        device: where the noise is wanted; it is drawn by the processor, the same for all devices.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        super().__init__()
        self.device = device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Any) -> Tensor:
        """N(0, 1) of the shape `[K, N, ...]`."""
        return self._each(torch.randn, shape)

    def uniform(self, shape: Any) -> Tensor:
        """Numbers in [0, 1) of the shape `[K, N, ...]`."""
        return self._each(torch.rand, shape)

    def _each(self, draw: Any, shape: Any) -> Tensor:
        samples, images, *rest = shape
        assert images == len(self.generators), f"{tuple(shape)} is not [K, N, ...]"
        count = math.prod(rest)
        # Torch fills whole blocks in another order than what is left over, so that without these
        # the numbers would depend on how many samples are drawn at a time
        padded = math.ceil(count / BLOCK) * BLOCK
        parts = [draw(samples, padded, generator=generator) for generator in self.generators]
        return torch.stack(parts, dim=1)[..., :count].reshape(shape).to(self.device)


def seeds_of(x: Float[Tensor, "N C H W"], seed: int) -> list[int]:
    """A seed for each image from its pixels and a seed of the user's."""
    start = zlib.crc32(str(seed).encode())
    return [zlib.crc32(image.tobytes(), start) for image in x.cpu().contiguous().numpy()]
