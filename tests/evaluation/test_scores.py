"""Scores of single images against closed forms."""

import math

import numpy as np
import pytest
import torch
from tests.evaluation.ppca import SIGMA, exact_log_prob, model

from latens import LatensError
from latens.evaluation.scores import SCORES, displacement, image_scores


def test_each_score_is_what_its_formula_says():
    vae, x = model(shift=0.1, stretch=1.5), torch.rand(30, 1, 3, 4)
    found = image_scores(vae, x, typical=-3.0, importance_samples=2000, steps=150)
    assert tuple(found) == SCORES
    exact = exact_log_prob(vae, x)
    np.testing.assert_allclose(found["nll"], -exact, atol=0.15)
    np.testing.assert_allclose(found["typicality"], (found["-elbo"] + 3).abs())
    # the encoder's q is off by the same KL for every image, and the refined one is exact
    scale = (SIGMA / ((vae.decoder.weight**2).sum(0) + SIGMA**2).sqrt()).detach().double()
    gap = (0.5 * (1.5**2 + 0.1**2 / scale**2 - 1) - math.log(1.5)).sum().item()
    assert found["regret"].mean().item() == pytest.approx(gap, abs=0.3)


def test_an_image_unlike_the_others_stands_out():
    vae = model(stretch=1.2)
    usual = vae.decode(torch.randn(20, 2)).mean.detach()
    unusual = 1.0 - usual + torch.rand(20, 1, 3, 4)
    scores = [
        image_scores(vae, x, ("-elbo", "nll"), importance_samples=50) for x in (usual, unusual)
    ]
    for name in ("-elbo", "nll"):
        assert scores[0][name].max() < scores[1][name].min()


def test_scores_that_cannot_be():
    vae, x = model(), torch.rand(2, 1, 3, 4)
    with pytest.raises(LatensError, match="unknown score"):
        image_scores(vae, x, ("likelihood",))
    with pytest.raises(LatensError, match="typicality needs"):
        image_scores(vae, x, ("typicality",))


def test_random_numbers_are_left_alone():
    vae, x = model(), torch.rand(3, 1, 3, 4)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    one = image_scores(vae, x, ("-elbo",), seed=2)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one["-elbo"], image_scores(vae, x, ("-elbo",), seed=2)["-elbo"])


def test_displacement_is_how_far_a_blob_has_moved():
    """Of a round blob, whose gradient has no direction of its own, moved by a known distance."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")

    def blob(row, column, colour=1.0):
        squares = (rows - row) ** 2 + (columns - column) ** 2
        return (colour * torch.exp(-squares / 50))[None].expand(3, -1, -1)

    x = torch.stack([blob(20, 20), blob(20, 20), blob(20, 20, 0.3), torch.zeros(3, 40, 40)])
    again = torch.stack([blob(20.3, 20.4), blob(20, 20), blob(20, 20.2, 0.3), blob(20, 20)])
    found = displacement(x, again)
    np.testing.assert_allclose(found[:3], [0.5, 0, 0.2], atol=0.01)
    assert found[3] > 1_000  # of no image without edges


def test_a_score_does_not_depend_on_what_is_scored_beside_it(monkeypatch):
    monkeypatch.setattr("latens.model.latent_model.VALUES_AT_ONCE", 600 * 12)
    vae, x = model(stretch=1.5), torch.rand(150, 1, 3, 4)
    few, many = (image_scores(vae, v, ("nll",), importance_samples=60) for v in (x[:3], x))
    torch.testing.assert_close(few["nll"], many["nll"][:3], rtol=1e-6, atol=1e-6)
