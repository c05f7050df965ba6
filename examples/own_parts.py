"""A prior, an objective and an encoder of one's own, in 50 lines: `own_parts.py [FOLDER]`."""

import math
import sys
from dataclasses import dataclass

import torch
from torch.distributions import Independent, StudentT

import latens


class HeavyTails(latens.Prior):  # p(z) = ∏ StudentT(z_d; ν)
    def __init__(self, event_shape: tuple[int, ...], freedom: float = 5.0):
        super().__init__()
        self.event_shape, self.freedom = tuple(event_shape), freedom

    def forward(self, posterior_of, y=None):
        freedom = torch.full(self.event_shape, self.freedom)
        return Independent(StudentT(freedom, validate_args=False), len(self.event_shape))


class LinearEncoder(latens.Encoder):  # pixels to features by one matrix
    def __init__(self, image_shape: tuple[int, int, int], features: int = 64):
        super().__init__()
        self.image_shape, self.features = image_shape, features
        self.matrix = torch.nn.Linear(math.prod(image_shape), features)

    def forward(self, x, y=None):
        return self.matrix(x.flatten(1))


@dataclass(frozen=True)
class Renyi(latens.Objective):  # log E[w^(1 − α)] / (1 − α): Li & Turner 2016, equation 5
    alpha: float = 0.5

    def loss(self, draw: latens.Draw) -> latens.Loss:
        power = 1 - self.alpha
        log_mean = (power * draw.log_weights).logsumexp(0) - math.log(self.samples)
        return latens.Loss(-log_mean / power)


if __name__ == "__main__":
    shape = (1, 8, 8)
    vae = latens.VAE(LinearEncoder(shape), latens.MLPDecoder(4, shape), prior=HeavyTails((4,)))
    out = sys.argv[1] if len(sys.argv) > 1 else None  # None: runs/digits-own-NUMBER
    try:
        run = latens.train("digits", model=vae, objective=Renyi(samples=4), epochs=30, out=out)
    except latens.LatensError as error:
        sys.exit(f"own_parts.py: {error}")
    print(latens.evaluate(run, importance_samples=50))
    print(latens.load(run.path).sample(4).shape, run.path / "report.html")
