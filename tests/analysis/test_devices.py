"""Analysis of a model on an accelerator: nothing is computed beside it on the CPU.

Torch's fake tensors stand for the accelerator: they have its device and shapes and no values, and
an operation on tensors of two devices raises as it does there.
"""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Distribution

from latens import analysis
from latens.data import Images
from latens.evaluation.baselines import mean_image_cost
from latens.model.likelihoods import Gaussian
from latens.model.recipes import build

COUNT = 5
MODELS = {
    "mlp": {},
    "conditional": {},
    "semi_supervised": {},
    "a prior made of posteriors": {"prior": "vamp", "options": {"prior": {"components": 4}}},
    "a prior for each label": {"prior": "conditional"},
}


@pytest.fixture
def accelerator(monkeypatch):
    """Tensors of another device than the CPU, which need not be there."""
    monkeypatch.setattr(Distribution, "_validate_args", False)  # it would look at values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which it does not know
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("meta")


def moved(vae, device):
    """The model there. `Module.to` does not take fake tensors."""
    for module in vae.modules():
        for name, value in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(torch.empty_like(value, device=device))
        for name, value in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty_like(value, device=device)
    return vae


def model_on(device, name, exclusive=True):
    """A small model of three labels with statistics of them, as after a training."""
    recipe = name if name in ("conditional", "semi_supervised") else "mlp"
    options = {"labels": 3, "exclusive": exclusive, "network": "mlp"} | MODELS[name]
    vae = moved(build(recipe, (1, 8, 8), 2, **options), device).eval()
    rows = np.random.default_rng(0).random((3, 2)).tolist()
    vae.about["labels"] = {"names": ["a", "b", "c"], "exclusive": exclusive}
    vae.about["labels"] |= {"share": [0.2, 0.3, 0.5], "mean": rows, "scale": rows}
    vae.about["labels"]["direction"] = rows
    return vae


@pytest.mark.parametrize("name", MODELS)
def test_an_analysis_stays_on_the_device_of_its_model(accelerator, name):
    vae = model_on(accelerator, name)
    x = torch.rand(COUNT, 1, 8, 8)  # images come from the CPU
    lattice = analysis.lattice(3)
    shown = {
        "samples": analysis.draw(vae, COUNT).images,
        "samples of a class": analysis.draw(vae, COUNT, "b", confidence=0.0).images,
        "edited": analysis.towards_class(vae, x, "c", 4).images,
        "manifold": analysis.manifold(vae, lattice, label=1),
        "traversals": analysis.traversals(vae, torch.zeros(2), [0, 1], torch.ones(3), 2),
        "between classes": analysis.through_classes(vae, 2)[0],
    }
    assert {images.device for images in shown.values()} == {accelerator}
    labels = [
        analysis.draw(vae, COUNT, "b", confidence=0.0).labels,
        analysis.likeliest_condition(vae, x),
    ]
    assert {y.device for y in labels if y is not None} <= {accelerator}
    found = analysis.embedded(vae, Images(torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)))
    assert found.mean.device.type == found.sample.device.type == "cpu"


@pytest.mark.parametrize("name", ["mlp", "conditional"])
def test_attributes_stay_on_the_device_of_their_model(accelerator, name):
    vae = model_on(accelerator, name, exclusive=False)
    x = torch.rand(COUNT, 1, 8, 8)
    assert analysis.along_attribute(vae, x, "b", torch.ones(3)).device == accelerator
    assert analysis.draw(vae, COUNT, "b").images.device == accelerator


def test_the_cost_of_the_mean_image_is_computed_beside_the_images(monkeypatch):
    """By SciPy, on a likelihood that lies elsewhere."""
    likelihood = Gaussian()
    moves = []
    monkeypatch.setattr(Gaussian, "cpu", lambda self: moves.append(self) or self)
    images = Images(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8))
    assert math.isfinite(mean_image_cost(likelihood, images, images))
    assert len(moves) == 1
    assert moves[0] is not likelihood, "the model stays where it is"


def test_feature_maps_come_to_the_cpu(accelerator):
    options = {"network": {"channels": 4, "features": 8}}
    vae = moved(build("conv", (1, 8, 8), 2, options=options), accelerator).eval()
    maps = analysis.feature_maps(vae, torch.rand(1, 1, 8, 8))
    assert {values.device.type for values in maps.values()} == {"cpu"}
