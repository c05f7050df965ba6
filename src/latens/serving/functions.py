"""What the service computes: functions of a batch whose rows do not depend on one another."""

from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from latens.analysis.generation import Density, Samples, draw
from latens.data import Images
from latens.evaluation.scores import image_scores
from latens.features import given, mean_and_deviation
from latens.model.latent_model import LatentModel
from latens.model.noise import SeededNoise, forked_rng

SCORES = ("-elbo", "nll", "reconstruction", "displacement")  # others need training images, or long


@dataclass(frozen=True)
class Functions:
    """A model's answers to the images of a batch; the first axis of every output is images.

    Labels are class indices, −1 where unknown; they matter to a conditional model alone.
    """

    vae: LatentModel

    def _given(self, pixels: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Images as the model takes them; the likeliest label of those that have none."""
        x, guess = given(self.vae, Images(pixels))
        if y is None or guess is None:
            return x, guess
        y = y.to(guess.device)
        return x, torch.where(y < 0, guess, y)

    def embed(
        self, pixels: UInt8[Tensor, "N C H W"], y: Int64[Tensor, " N"] | None
    ) -> dict[str, Tensor]:
        """μ and σ of q(z|x), `[N, D]`."""
        found = mean_and_deviation(self.vae, *self._given(pixels, y))
        return {name: values.flatten(1) for name, values in found.items()}

    def reconstruct(
        self, pixels: UInt8[Tensor, "N C H W"], y: Int64[Tensor, " N"] | None
    ) -> dict[str, Tensor]:
        """Images, and the mean squared error of each."""
        x, y = self._given(pixels, y)
        images = self.vae.reconstruct(x, y)
        return {"images": images, "mean_squared_error": (images - x).square().flatten(1).mean(1)}

    def score(
        self,
        pixels: UInt8[Tensor, "N C H W"],
        y: Int64[Tensor, " N"] | None,
        names: tuple[str, ...],
        samples: int,
        seed: int,
    ) -> dict[str, Tensor]:
        """Scores as of `latens score`."""
        images = Images(pixels, self._given(pixels, y)[1])
        return image_scores(self.vae, images, names, importance_samples=samples, seed=seed)

    def interpolate(
        self,
        pairs: UInt8[Tensor, "N 2 C H W"],
        y: Int64[Tensor, "N 2"] | None,
        steps: int,
        spherical: bool,
    ) -> dict[str, Tensor]:
        """Images from the first to the second of each pair, `[N, steps, C, H, W]`."""
        ends = (self._given(pairs[:, i], None if y is None else y[:, i]) for i in range(2))
        (a, y_a), (b, y_b) = ends
        return {"images": self.vae.interpolate(a, b, steps, y_a, y_b, spherical)}

    def sample(
        self, seeds: Int64[Tensor, " N"], y: Int64[Tensor, "N *A"] | None, temperature: list[float]
    ) -> dict[str, Tensor]:
        """An image for each seed, as of the exported sampler; its label where it can be told."""
        rows = self.vae.rows_at_once
        labels = repeat(None) if y is None else y.split(rows)
        parts = [
            self._sample(some, of, temperature)
            for some, of in zip(seeds.split(rows), labels, strict=False)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _sample(
        self, seeds: Int64[Tensor, " N"], y: Int64[Tensor, "N *A"] | None, temperature: list[float]
    ) -> dict[str, Tensor]:
        with SeededNoise(seeds.to(self.vae.device)):
            if y is not None:
                return {"images": self.vae.sample(len(seeds), y.to(self.vae.device), temperature)}
            return _columns(draw(self.vae, len(seeds), temperature=temperature))

    def sample_of(
        self, number: int, label: str, temperature: list[float], density: Density, seed: int
    ) -> dict[str, Tensor]:
        """Images of one label, as of `latens sample --label`."""
        with forked_rng(self.vae.device, seed):
            return _columns(draw(self.vae, number, label, temperature, density))


def _columns(samples: Samples) -> dict[str, Tensor]:
    found: dict[str, Tensor | None] = {
        "images": samples.images,
        "labels": samples.labels,
        "probability": samples.probability,
    }
    return {name: values for name, values in found.items() if values is not None}
