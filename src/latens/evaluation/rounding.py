"""What it costs to round the weights of a model, and which of them are better left as they are."""

import copy
import math
from collections.abc import Collection

import torch

from latens.data import Images
from latens.evaluation.metrics import evaluate
from latens.model.latent_model import LatentModel
from latens.model.serialization import rounded

IMAGES, VALUES = 2_000, 2**24  # at most, and pixels of all of them
LEAST_SHARE = 0.05  # of a model's weights: fewer make no file smaller
NATS, SHARE = 0.03, 2.5e-4  # of −ELBO: so much, or such a share of it, is not worth half a layer
SEED = 0


def sensitive_weights(model: LatentModel, images: Images) -> list[str]:
    """The names of weights that 8 bits cost too much, and that are to have 16.

    None where all weights in 8 bits cost less than 0.03 nats per image and 0.025 % of −ELBO;
    otherwise each layer that does so alone. Measured with the same noise, on images of training.
    """
    few = images.some(max(1, min(IMAGES, VALUES // math.prod(images.shape))))
    exact = evaluate(model, few, seed=SEED).elbo
    most = max(NATS, SHARE * abs(exact))
    weights = {n: w for n, w in model.named_parameters() if w.dim() > 1}

    def cost(names: Collection[str]) -> float:
        coarse = copy.deepcopy(model)
        with torch.no_grad():
            for name in names:
                coarse.get_parameter(name).copy_(rounded(weights[name], 8))
        return exact - evaluate(coarse, few, seed=SEED).elbo

    if cost(weights) <= most:
        return []
    least = LEAST_SHARE * sum(w.numel() for w in weights.values())
    return [name for name, w in weights.items() if w.numel() >= least and cost([name]) > most]
