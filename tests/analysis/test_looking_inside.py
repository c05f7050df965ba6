import math
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

import latens
from latens import LatensError
from latens.analysis import (
    Plane,
    embedded,
    feature_maps,
    lattice,
    manifold,
    through_classes,
    traversals,
)
from latens.analysis.projections import PrincipalComponents
from latens.evaluation.labels import LabelStatistics
from latens.neighbour_maps import neighbour_map, neighbour_maps_apart


@pytest.fixture(scope="session")
def vae(digits_run):
    return digits_run.vae


@pytest.fixture(scope="session")
def conditional(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "conditional"
    options = {
        "recipe": "conditional",
        "network": "mlp",
        "hidden": "64",
        "film": False,
        "report": False,
    }
    return latens.train("digits", out=out, latent_dim=2, epochs=30, **options).vae


# ---- planes ----------------------------------------------------------------------------------


def test_two_dimensions_are_shown_as_they_are():
    z = torch.randn(20, 2)
    plane = Plane(z)
    assert np.allclose(plane.of(z), z)
    assert plane.axes == ("z[0]", "z[1]")
    assert plane.prior == (0, 0)


@pytest.mark.parametrize("dims", [5, 600])
def test_more_dimensions_lie_along_their_principal_components(dims):
    """The oracle: eigenvectors of the covariance."""
    scale = torch.full((dims,), 0.1)
    scale[[1, 3, 4]] = torch.tensor([3.0, 2.0, 1.0])
    z = torch.randn(500, dims).double() * scale + 7
    z = z.float()
    plane = Plane(z, 3)
    values, vectors = np.linalg.eigh(np.cov(z.double().numpy().T))
    expected = (z.double().numpy() - z.double().numpy().mean(0)) @ vectors[:, ::-1][:, :3]
    assert np.allclose(np.abs(plane.of(z)), np.abs(expected), atol=1e-4)
    assert f"{values[-1] / values.sum():.0%}" in plane.axes[0]
    centre = -z.double().numpy().mean(0) @ vectors[:, ::-1][:, :2]
    assert np.allclose(np.abs(plane.prior), np.abs(centre), atol=1e-4)


def test_one_dimension_is_spread_along_an_axis_without_meaning():
    z = torch.randn(10, 1)
    plane = Plane(z)
    points = plane.of(z)
    assert np.allclose(points[:, 0], z[:, 0])
    assert len(set(points[:, 1])) == 10
    assert plane.axes[1] == "spread at random"


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_points_than_axes(count):
    z = torch.randn(count, 7)
    assert Plane(z, 3).of(z).shape == (count, 3)
    assert np.isfinite(Plane(z, 3).of(z)).all()


def test_tsne_keeps_neighbours_together():
    z = torch.cat((torch.randn(30, 6), torch.randn(30, 6) + 20))
    points = neighbour_map(z.numpy(), "tsne")
    assert points.shape == (60, 2)
    nearest = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(nearest, math.inf)
    assert ((nearest.argmin(1) < 30) == (np.arange(60) < 30)).all()


@pytest.mark.parametrize("starts", [True, False])
def test_a_process_of_its_own_makes_the_same_map(starts, monkeypatch, capsys):
    z = torch.randn(40, 5).numpy()
    expected = neighbour_map(z, "tsne")
    monkeypatch.delitem(sys.modules, "sklearn")  # or no process is started
    if starts:
        monkeypatch.setattr("latens.neighbour_maps.neighbour_map", None)  # not here
    else:
        monkeypatch.setattr(sys, "executable", "/no/python")
    np.testing.assert_array_equal(neighbour_maps_apart(z, ["tsne"])["tsne"], expected)
    assert ("process of its own is not available" in capsys.readouterr().err) != starts


@pytest.mark.parametrize("dims", [5, 600])
def test_principal_components_are_those_of_scikit_learn(dims):
    z = torch.randn(300, dims) * 0.8 ** torch.arange(dims) + 7
    expected = PCA(3, svd_solver="full").fit(z.double().numpy())
    found = PrincipalComponents.of(z, 3)
    np.testing.assert_allclose(found.mean, expected.mean_)
    np.testing.assert_allclose(found.directions, expected.components_, atol=1e-5)
    np.testing.assert_allclose(found.shares, expected.explained_variance_ratio_, rtol=1e-6)


def test_projections_that_cannot_be():
    with pytest.raises(LatensError, match="did you mean 'tsne'"):
        neighbour_map(np.zeros((9, 3)), "tsn")
    with pytest.raises(LatensError, match="needs at least 4 images"):
        neighbour_map(np.zeros((3, 3)), "tsne")
    with pytest.raises(LatensError, match="umap-learn: install it, or take tsne"):
        neighbour_map(np.zeros((9, 3)), "umap")


def test_every_image_is_embedded(vae, digits):
    found = embedded(vae, digits.test)
    assert torch.allclose(found.mean, vae.embed(digits.test.unit()), atol=1e-6)
    assert torch.equal(found.labels, digits.test.labels)
    scale = vae.encode(digits.test.unit()).stddev.detach()
    assert ((found.sample - found.mean) / scale).std() == pytest.approx(1, abs=0.15)


# ---- over latent space -----------------------------------------------------------------------


def test_a_lattice_begins_at_the_upper_left():
    points = lattice(9)
    assert points[0, 0].tolist() == [-4, 4]
    assert points[0, -1].tolist() == [4, 4]
    assert points[-1, 0].tolist() == [-4, -4]
    assert points[4, 4].tolist() == [0, 0]


def test_quantiles_are_equally_likely():
    steps = lattice(16, quantiles=True)[0, :, 0]
    probability = torch.distributions.Normal(0.0, 1.0).cdf(steps)
    assert torch.allclose(probability.diff(), torch.full((15,), 1 / 16), atol=1e-6)


def test_a_manifold_decodes_each_place(vae):
    points = lattice(9)
    images = manifold(vae, points, (3, 1))
    z = torch.zeros(1, 4)
    z[0, 3], z[0, 1] = points[2, 7]
    assert torch.allclose(images[2, 7], vae.decode_images(z)[0], atol=1e-6)


def test_a_manifold_of_a_class(conditional):
    points = lattice(9)
    images = manifold(conditional, points, label=4)
    expected = conditional.decode_images(points[1, 2][None], torch.tensor([4]))[0]
    assert torch.allclose(images[1, 2], expected, atol=1e-6)
    assert not torch.allclose(images, manifold(conditional, points, label=7), atol=1e-2)


def test_a_traversal_moves_one_dimension_alone(vae):
    start, steps = torch.randn(4), torch.tensor([-1.0, 0.5])
    images = traversals(vae, start, [2, 0], steps)
    z = start.clone()
    z[0] = 0.5
    assert torch.allclose(images[1, 1], vae.decode_images(z[None])[0], atol=1e-6)


def test_the_way_through_all_classes_stops_at_the_centre_of_each(vae):
    images, words = through_classes(vae, 4)
    means = LabelStatistics.of(vae).prototypes
    assert len(images) == len(words) == 40
    assert torch.allclose(images[::4], vae.decode_images(means), atol=1e-5)
    assert words[:5] == ["0", "0 → 1", "0 → 1", "0 → 1", "1"]
    middle = vae.decode_images((means[3:4] + means[4:5]) / 2)[0]
    assert torch.allclose(images[3 * 4 + 2], middle, atol=1e-5)


def test_a_conditional_model_changes_its_label(conditional):
    images, words = through_classes(conditional, 4)
    expected = conditional.decode_images(torch.zeros(10, 2), torch.arange(10))
    assert torch.allclose(images, expected, atol=1e-6)
    assert words == [str(digit) for digit in range(10)]


def test_a_circle_keeps_the_norm_and_both_ends():
    from latens.model.latent_model import slerp

    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    path = slerp(a, b, torch.linspace(0, 1, 7)[:, None, None])
    assert torch.allclose(path.norm(dim=-1), torch.full((7, 1), 3.0), atol=1e-5)
    angle = torch.atan2(path[:, 0, 1], path[:, 0, 0])
    assert torch.allclose(angle, torch.linspace(0, math.pi / 2, 7), atol=1e-5)
    for other in (a, -a, torch.zeros(1, 2)):  # no circle is given: the straight line
        line = slerp(a, other, torch.tensor(0.5))
        assert torch.allclose(line, (a + other) / 2, atol=1e-5)


def test_between_two_classes_each_half_has_the_label_of_its_end(conditional, digits):
    x, y = digits.test.unit()[:2], digits.test.labels[:2]
    images = conditional.interpolate(x[:1], x[1:], 4, y[:1], y[1:])
    za, zb = conditional.embed(x[:1], y[:1]), conditional.embed(x[1:], y[1:])
    for i, label in enumerate((y[:1], y[:1], y[1:], y[1:])):
        expected = conditional.decode_images(torch.lerp(za, zb, i / 3), label)
        assert torch.allclose(images[:, i], expected, atol=1e-5)


# ---- inside the networks ---------------------------------------------------------------------


def test_every_convolution_is_seen_as_it_is(digits):
    """The oracle: the encoder's first layer called by hand."""
    torch.manual_seed(1)
    vae = latens.VAE(
        latens.ConvEncoder((1, 28, 28), channels=4, features=8),
        latens.ConvDecoder(3, (1, 28, 28), channels=4, features=8),
    ).eval()
    x = torch.rand(1, 1, 28, 28)
    maps = feature_maps(vae, x)
    convolutions = [name for name, part in vae.named_modules() if isinstance(part, nn.Conv2d)]
    assert sorted(maps) == sorted(convolutions)
    first = vae.encoder.levels[0][1](vae.encoder.levels[0][0](x - 0.5))[0]
    assert torch.equal(maps["encoder.levels.0.1"], first)
    # Of the last one what its pixel-shuffle makes of it: the image but for the offset, and sigmoid
    assert maps["decoder.levels.1.1"].shape == (1, 28, 28)
    logits = maps["decoder.levels.1.1"] + vae.offset
    assert torch.allclose(logits.sigmoid(), vae.reconstruct(x)[0], atol=1e-6)
    assert not any(part._forward_hooks for part in vae.modules())


def test_three_dimensions_are_called_what_they_are():
    assert Plane(torch.randn(20, 3), 3).short_axes == ("z[0]", "z[1]", "z[2]")
    assert Plane(torch.randn(20, 5), 3).short_axes == ("PC 1", "PC 2", "PC 3")
