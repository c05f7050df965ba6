"""FID, KID, precision and recall against closed forms of Gaussians and counts by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from latens import LatensError
from latens.evaluation.samples import (
    frechet_distance,
    kernel_distance,
    near_copies,
    precision_recall,
    sample_quality,
)


def test_the_frechet_distance_is_that_of_two_gaussians():
    torch.manual_seed(0)
    a, b = (torch.randn(400, 5).double() @ torch.randn(5, 5).double() for _ in range(2))
    b = b + 1
    cov = [np.cov(v.T.numpy()) for v in (a, b)]
    root = linalg.sqrtm(cov[0] @ cov[1]).real
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = mean + np.trace(cov[0] + cov[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    # N(0, 1) and N(2, 9): 2² + (1 − 3)²
    x, y = torch.randn(200_000, 1).double(), 2 + 3 * torch.randn(200_000, 1).double()
    assert frechet_distance(x, y) == pytest.approx(8, abs=0.15)


def test_the_kernel_distance_is_unbiased_and_its_error_holds():
    torch.manual_seed(0)

    # E (x·y / F + 1)³ over independent x, y ~ N(μ, 1) in one dimension, by moments
    def moment(mean_x, mean_y):
        second = (1 + mean_x**2) * (1 + mean_y**2)
        third = (mean_x**3 + 3 * mean_x) * (mean_y**3 + 3 * mean_y)
        return third + 3 * second + 3 * mean_x * mean_y + 1

    expected = moment(0, 0) + moment(0.5, 0.5) - 2 * moment(0, 0.5)
    a, b = torch.randn(20_000, 1).double(), 0.5 + torch.randn(20_000, 1).double()
    found, error = kernel_distance(a, b)
    assert abs(found - expected) < 4 * error
    equal, error = kernel_distance(a, torch.randn(20_000, 1).double())
    assert abs(equal) < 4 * error
    assert kernel_distance(a[:50], b[:50])[1] is None


def test_precision_and_recall_by_hand():
    # Images at 0, 1, 2, 3 on a line; the nearest other is 1 away, so the manifold is [-1, 4]
    real = torch.tensor([0.0, 1, 2, 3])[:, None].double()
    fake = torch.tensor([-0.9, 1.5, 4.5, 9])[:, None].double()
    precision, recall = precision_recall(real, fake, neighbours=1)
    assert precision == 0.5
    # the nearest others of the samples are 2.4, 2.4, 3 and 4.5 away: [-3.3, 3.9], [1.5, 7.5] …
    assert recall == 1.0
    assert precision_recall(real, real + 100, neighbours=1) == (0.0, 0.0)
    assert precision_recall(real, real, neighbours=1) == (1.0, 1.0)


def test_copies_are_found_and_new_images_are_not():
    torch.manual_seed(0)
    train, test, new = (torch.rand(300, 20) for _ in range(3))
    copied = train[:100] + 0.01 * torch.randn(100, 20)
    assert near_copies(copied, train, test) == 1.0
    assert near_copies(new, train, test) < 0.05
    assert near_copies(torch.cat((copied, new)), train, test) == pytest.approx(0.25, abs=0.04)


def test_the_error_of_the_fid_is_the_spread_of_repeats():
    torch.manual_seed(0)
    found = [
        sample_quality("noise", "itself", torch.randn(300, 3), 0.5 + torch.randn(300, 3))
        for _ in range(30)
    ]
    spread = np.std([quality.fid for quality in found])
    assert np.mean([quality.errors["fid"] for quality in found]) == pytest.approx(spread, rel=0.4)
    assert found[0].near_copies is None
    assert "kid" not in found[0].errors
    assert math.isfinite(found[0].kid)


def test_too_few_are_refused():
    with pytest.raises(LatensError, match="ten or more"):
        sample_quality("noise", "itself", torch.randn(9, 2), torch.randn(20, 2))
