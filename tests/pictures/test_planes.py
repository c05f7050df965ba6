import numpy as np
import pytest
from matplotlib.figure import Figure

from latens.pictures import histograms, latent_plane, plane_limits, turning
from latens.pictures.planes import (
    SIGMAS,
    TURN_FRAMES,
    _outside,
    colour_of,
    contour_lines,
    density_levels,
    held_by,
    marker_of,
)
from latens.pictures.style import TRAIN


def where(image, colour, tolerance=60):
    """The centre of the pixels of about a colour, as shares of the image's width and height."""
    pixels = np.asarray(image).astype(int)
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    y, x = np.nonzero(np.abs(pixels - rgb).sum(-1) < tolerance)
    return x.mean() / pixels.shape[1], y.mean() / pixels.shape[0]


@pytest.mark.parametrize("point", [(0.5, 0.5), (-2.5, 1.0), (2.0, -3.0)])
def test_a_point_is_where_its_coordinates_and_the_box_say(point):
    """The page finds a point's image by the same box and limits."""
    z = np.full((400, 2), point)
    image = latent_plane(z, prior=None, limits=(-4.0, 4.0, -4.0, 4.0))
    left, right, bottom, top = image.info["limits"]
    x0, y0, x1, y1 = image.info["box"]
    x, y = where(image, TRAIN)
    assert x == pytest.approx(x0 + (point[0] - left) / (right - left) * (x1 - x0), abs=0.004)
    assert y == pytest.approx(y1 - (point[1] - bottom) / (top - bottom) * (y1 - y0), abs=0.004)


def test_classes_have_colours_and_markers_of_their_own():
    looks = [(colour_of(label), marker_of(label)) for label in range(100)]
    assert len(set(looks)) == 100
    assert len({look[0] for look in looks[:10]}) == len({look[1] for look in looks[:10]}) == 10


@pytest.mark.parametrize("count", [1, 2, 10, 200])
def test_any_number_of_classes(count):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, count, 500)
    image = latent_plane(
        rng.standard_normal((500, 2)), labels, [f"class {i}" for i in range(count)]
    )
    assert image.width < 1200


def test_regions_of_a_density_hold_what_they_say():
    """Against circles of a Gaussian of σ 2: at 1, 2 and 3 σ, log p is that of the level."""
    edges = np.linspace(-9, 9, 400)
    x = (edges[1:] + edges[:-1]) / 2
    square = np.add.outer(x**2, x**2) / 4
    log_p = -0.5 * square - np.log(2 * np.pi * 4)
    shares = [held_by(sigma) for sigma in SIGMAS]
    assert shares == pytest.approx([0.3935, 0.8647, 0.9889], abs=1e-4)
    for sigma, level in zip(SIGMAS, density_levels(log_p, (x[1] - x[0]) ** 2, shares), strict=True):
        assert level == pytest.approx(-0.5 * sigma**2 - np.log(8 * np.pi), abs=0.02)
    assert density_levels(log_p[:50, :50], 1e-9, [0.5]) == [], "the grid does not hold so much"


def test_a_plane_shows_the_contours_of_a_density():
    z, limits = np.zeros((1, 2)), (-4.0, 4.0, -4.0, 4.0)

    def unit(z):
        return -0.5 * (z**2).sum(1) - np.log(2 * np.pi)

    none, circles, contours = (
        latent_plane(z, prior=prior, limits=limits) for prior in (None, (0.0, 0.0), unit)
    )
    ink = [(np.asarray(image).sum(-1) < 300).sum() for image in (none, circles, contours)]
    assert ink[0] < ink[2]
    assert ink[2] - ink[0] == pytest.approx(ink[1] - ink[0], rel=0.5)


def test_one_image_is_a_point():
    assert latent_plane(np.zeros((1, 2)), np.zeros(1, dtype=int), ["a"]).size[0] > 300
    assert len(turning(np.zeros((1, 3)))) == TURN_FRAMES


def test_a_few_far_points_leave_room_for_the_others_and_are_told():
    z = np.random.default_rng(0).standard_normal((5000, 2))
    z[0] = 1000.0
    left, right, bottom, top = plane_limits(z)
    count = sum(not (left <= x <= right and bottom <= y <= top) for x, y in z)
    assert 0 < count < 25
    assert max(-left, right, -bottom, top) < 6
    assert min(-left, right, -bottom, top) > 3
    ax = Figure().add_subplot()
    (told,) = _outside(ax, z, (left, right, bottom, top))
    assert told.get_text() == f"{count:,} of 5,000 points are outside"
    assert _outside(ax, z, (-2000.0, 2000.0, -2000.0, 2000.0)) == []
    assert (
        latent_plane(z).tobytes() != latent_plane(z, limits=(left, right, bottom, 2000.0)).tobytes()
    )


def test_a_turn_comes_back_to_where_it_began():
    z = np.random.default_rng(0).standard_normal((50, 3))
    frames = [np.asarray(frame).astype(int) for frame in turning(z, frames=12)]
    steps = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert min(steps) > 0
    assert steps[-1] < 1.3 * np.median(steps), "the last frame is one step before the first"


@pytest.mark.parametrize("dims", [1, 2, 7, 300])
def test_histograms_of_any_number_of_dimensions(dims):
    z = np.random.default_rng(0).standard_normal((200, dims))
    image = histograms(z, range(dims), "a title")
    assert image.width < 1700
    assert image.height < 2400


def test_a_histogram_shows_the_numbers():
    rng = np.random.default_rng(0)
    narrow, wide = 0.1 * rng.standard_normal((1000, 1)), rng.standard_normal((1000, 1))
    assert histograms(narrow, [0]).tobytes() != histograms(wide, [0]).tobytes()
    left = np.concatenate((narrow - 3, narrow), 1)
    assert histograms(left, [0, 1]).tobytes() != histograms(left, [1, 0]).tobytes()


def test_a_plane_is_wide_enough_for_the_prior():
    def unit(z):
        return -0.5 * (z**2).sum(1) - np.log(2 * np.pi)

    z = np.random.default_rng(0).normal(1, 0.01, (200, 2))
    left, right, bottom, top = latent_plane(z, prior=unit).info["limits"]
    x, y = np.random.default_rng(1).standard_normal((2, 50_000))
    assert np.mean((x > left) & (x < right) & (y > bottom) & (y < top)) > 0.985
    assert max(-left, -bottom, right, top) < 7


def test_contour_lines_lie_where_the_density_is_that_of_the_level():
    def unit(z):
        return -0.5 * (z**2).sum(1) - np.log(2 * np.pi)

    lines = contour_lines(unit, (-5.0, 5.0, -5.0, 5.0))
    radii = [np.linalg.norm(line, axis=1) for line in lines]
    assert [radius.mean() for radius in radii] == pytest.approx([1, 2, 3], rel=0.02)
    assert all(radius.std() < 0.01 for radius in radii)
