"""Classifiers: from z to p(y|z)."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent

from latens.errors import LatensError
from latens.model.networks.mlp import layers
from latens.model.parts import Classifier


class MLPClassifier(Classifier):
    """p(y|z) from fully connected layers over z.

    Trained beside the decoder it pulls the classes apart in latent space. Kingma et al. 2014,
    "Semi-supervised Learning with Deep Generative Models", train such a q(y|z) after the VAE
    (M1); here both learn at once.

    Args:
        latent_shape: Z.
        count: how many classes or attributes there are.
        exclusive: one of `count` classes, or `count` attributes of their own.
        hidden: the widths of the layers.

    Raises:
        LatensError: no classes or attributes at all.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        count: int,
        exclusive: bool = True,
        hidden: tuple[int, ...] = (128, 128),
    ):
        super().__init__()
        if count < 1:
            raise LatensError("there are no labels to learn: at least one class is needed")
        self.latent_shape = tuple(latent_shape)
        self.count = count
        self.exclusive = exclusive
        self.hidden = tuple(hidden)
        widths = (math.prod(self.latent_shape), *self.hidden)
        self.layers = layers(widths)
        self.output = nn.Linear(widths[-1], count)

    def forward(self, z: Float[Tensor, "..."]) -> Distribution:
        """p(y|z), batch `[*N]`: a categorical, or independent Bernoullis with event `[count]`."""
        lead = z.shape[: z.dim() - len(self.latent_shape)]
        logits = self.output(self.layers(z.reshape(*lead, -1))).float()
        if self.exclusive:
            return Categorical(logits=logits, validate_args=False)
        return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
