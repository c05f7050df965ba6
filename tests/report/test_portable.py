"""Networks that a page runs: their recording and their weights, against the networks themselves."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from latens import LatensError
from latens.model.recipes import build
from latens.model.serialization import quantised
from latens.report.html import asset
from latens.report.portable import pack, portable, record, restored, run

RECIPES = {
    "mlp": {"network": "mlp"},
    "conv": {"network": "conv", "options": {"network": {"channels": 4, "features": 16}}},
    "unet": {"network": "unet", "options": {"network": {"channels": 4, "features": 16}}},
    "conditional": {"network": "mlp", "labels": 10},
}


def networks(recipe, shape=(1, 13, 18), latent_dim=2, likelihood="bernoulli"):
    """Decoder and encoder of a recipe with what they are given, each a batch of one."""
    torch.manual_seed(0)
    vae = build(recipe, shape, latent_dim, likelihood=likelihood, **RECIPES[recipe]).eval()
    y = (torch.tensor([3]),) if recipe == "conditional" else ()
    for parameter in vae.parameters():  # what starts at zero says nothing
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    decode = [(torch.randn(1, latent_dim), *y) for _ in range(8)]
    encode = [(torch.rand(1, *shape), *y) for _ in range(8)]
    yield lambda z, *y: vae.decode(z, *y).mean.clamp(0, 1), decode
    yield lambda x, *y: vae.encode(x, *y).mean, encode


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretised-logistic"])
def test_a_recording_computes_what_the_network_computes(recipe, likelihood):
    shape = (3, 13, 18) if likelihood == "discretised-logistic" else (1, 13, 18)
    for network, inputs in networks(recipe, shape, likelihood=likelihood):
        program = record(network, *inputs[0])
        for given in inputs:  # others than those that were recorded
            found = run(program, program.constants, given)
            torch.testing.assert_close(found, network(*given).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_fewest_bits_that_are_close_enough(recipe):
    for network, inputs in networks(recipe):
        program = portable(network, inputs, 1 / 255, 10_000_000)
        assert program.difference <= 1 / 255
        with torch.no_grad():
            full = torch.cat([network(*given) for given in inputs])
        rough = {n: restored(value, 8) for n, value in program.constants.items()}
        if program.bits > 8:
            found = torch.cat([run(program, rough, given) for given in inputs])
            assert (found - full).abs().max() > 1 / 255


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_script_of_the_page_computes_the_same(recipe, tmp_path):
    for network, inputs in networks(recipe):
        program = portable(network, inputs, 1 / 255, 10_000_000)
        given = {
            "program": program.as_json(),
            "inputs": [value.flatten().tolist() for value in inputs[0]],
            "shapes": [list(value.shape) for value in inputs[0]],
        }
        (tmp_path / "given.json").write_text(json.dumps(given))
        script = asset("network.js") + (
            "const given = JSON.parse(require('fs').readFileSync('given.json'));"
            "const out = network(given.program)(given.inputs, given.shapes);"
            "console.log(JSON.stringify(Array.from(out)));"
        )
        (tmp_path / "script.cjs").write_text(script.replace('"use strict";', "var onmessage;"))
        told = subprocess.run(
            ["node", "script.cjs"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        weights = {n: restored(value, program.bits) for n, value in program.constants.items()}
        expected = run(program, weights, inputs[0]).flatten()
        torch.testing.assert_close(
            torch.tensor(json.loads(told.stdout)), expected, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_packed_weights_are_within_half_a_step(bits):
    value = torch.randn(5, 7) * torch.tensor([1e-6, 0.1, 1, 10, 0])[:, None]
    whole, scale = quantised(value, bits)
    assert whole.abs().max() <= 2 ** (bits - 1) - 1
    assert ((restored(value, bits) - value).abs() <= 0.5001 * scale).all()
    content, told = pack(value, bits)
    assert (told, len(content)) == (bits, 5 * 4 + -(-35 * bits // 8) + (bits == 12))
    assert np.frombuffer(content[:20], "<f4") == pytest.approx(scale.flatten().numpy())
    vector, told = pack(value[1], bits)
    assert told == 32
    assert np.array_equal(np.frombuffer(vector, "<f4"), value[1].numpy())


def test_what_a_page_cannot_run_is_refused():
    with pytest.raises(LatensError, match="cannot run the operation max_pool2d"):
        record(nn.MaxPool2d(2), torch.rand(1, 1, 4, 4))
    with pytest.raises(LatensError, match="1x1 and 3x3"):
        record(nn.Conv2d(1, 1, 5), torch.rand(1, 1, 8, 8))
    layer = nn.Linear(4, 4)
    with pytest.raises(LatensError, match="too large to travel"):
        portable(layer, [(torch.rand(1, 4),)], 1.0, 10)


def test_layers_of_several_rows_are_refused():
    """The page's script computes one row: of four tokens it would show the first."""
    layer = nn.Linear(3, 5)
    with pytest.raises(LatensError, match="of one row at a time"):
        record(lambda z: layer(z.reshape(4, 3)), torch.randn(1, 12))
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    with pytest.raises(LatensError, match="of one row at a time"):
        record(lambda z: convolution(z.reshape(2, 1, 3, 2)), torch.randn(1, 12))


def test_a_recording_that_is_not_the_network_is_refused():
    """A branch is recorded as it was taken once."""

    def network(x):
        return x * 2 if float(x.numpy().sum()) > 0 else x * 3

    inputs = [(torch.ones(1, 4),), (-torch.ones(1, 4),)]
    with pytest.raises(LatensError, match="closely enough"):
        portable(network, inputs, 1 / 255, 10_000)


def test_steps_and_weights_that_nothing_needs_stay_behind():
    a, b = nn.Linear(3, 3), nn.Linear(3, 2)
    program = record(lambda x: (a(x), b(x))[1], torch.rand(1, 3))
    assert [step.name for step in program.steps] == ["linear"]
    assert program.products == 6
    text = json.dumps(program.as_json())
    assert len(base64.b64decode(json.loads(text)["weights"])) == 2 * 4 + 6 * 2 + 2 * 4
