"""What the programs and the tests beside them build alike."""

import torch
from lightning_fabric import Fabric

from latens import TrainConfig
from latens.api import _build, resolve
from latens.data import DataSet
from latens.training.learner import Learner
from latens.training.trainer import launch

SMALL = {"recipe": "mlp", "hidden": "32", "latent_dim": 3, "epochs": 3, "precision": "float32"}


def learner(digits: DataSet, fabric: Fabric | None = None, **options) -> Learner:
    """A small one on a processor, whose weights are always the same at first."""
    config = resolve(TrainConfig.of(SMALL | {"device": "cpu"} | options), digits)
    torch.manual_seed(0)
    vae = _build(config, digits)
    return Learner(fabric or launch(config), vae, False, config)
