"""Weights that are better left in 16 bits."""

import copy

import torch

import latens
from latens.evaluation import rounding
from latens.evaluation.metrics import evaluate
from latens.model.serialization import BLOCK, rounded


def test_a_layer_that_8_bits_cost_too_much_has_16(digits, digits_run):
    """Units that are never on have large weights, by whose size those of the others are rounded."""
    vae = latens.load(digits_run.path)
    assert rounding.sensitive_weights(vae, digits.train) == []
    with torch.no_grad():
        vae.decoder.layers[-2].weight[::BLOCK] = 0
        vae.decoder.layers[-2].bias[::BLOCK] = -100
        vae.decoder.output.weight[:, ::BLOCK] = 300
    exact = evaluate(vae, digits.train, seed=0).elbo
    assert rounding.sensitive_weights(vae, digits.train) == ["decoder.output.weight"]
    for bits in (8, 16):
        coarse = copy.deepcopy(vae)
        coarse.decoder.output.weight.data = rounded(vae.decoder.output.weight, bits)
        lost = exact - evaluate(coarse, digits.train, seed=0).elbo
        assert (lost > 1) == (bits == 8)


def test_what_is_read_again_is_what_was_rounded(tmp_path, digits_run):
    vae = latens.load(digits_run.path)
    exported = latens.api.export(digits_run.path, tmp_path / "small", bits=8)
    kept = set(rounding.sensitive_weights(vae, latens.load_data("digits").train))
    for name, weight in latens.load(exported.path).named_parameters():
        bits = 16 if name in kept or weight.dim() < 2 else 8
        assert torch.equal(weight, rounded(vae.get_parameter(name), bits)), name
