"""A step by each of several processes, and what they measure together: to the file named."""

import sys

import torch
from learning import learner
from torch.distributions import Normal

import latens
from latens import TrainConfig
from latens.api import resolve
from latens.evaluation.metrics import evaluate
from latens.training.trainer import _gathered, launch

Normal.rsample = lambda self, shape=(): self.loc.expand(shape + self.loc.shape)  # no noise
digits = latens.load_data("digits")
fabric = launch(resolve(TrainConfig.of({"device": "cpu", "precision": "float32"}), digits))
rank, world = fabric.global_rank, fabric.world_size
t = learner(digits, fabric)
batch = digits.train.take(slice(rank, 33, world))
terms = fabric.all_reduce(t.step(batch, 33, 0.5, 0.0, 1e-3, rank)[:4], reduce_op="sum")
share = digits.test.take(slice(rank, None, world))
figures = evaluate(t.averaged, share, gather=_gathered if world > 1 else None)
if fabric.is_global_zero:
    found = {"world": world, "terms": terms, "tensors": t.tensors(), "figures": figures.as_dict()}
    torch.save(found, sys.argv[1])
