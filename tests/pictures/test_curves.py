import numpy as np
import pytest
from PIL import Image

from latens.pictures import save_curves, save_kl_per_dim
from latens.pictures.style import TRAIN, VALIDATION


def rows(n, start=100.0):
    def part(epoch, shift):
        value = start / epoch + shift
        return {"loss": value, "reconstruction": value - 1, "kl": 1 + epoch / n}

    return [{"epoch": e, "train": part(e, 0), "validation": part(e, 5)} for e in range(1, n + 1)]


def colours(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        return {"#%02x%02x%02x" % tuple(c) for c in np.unique(pixels, axis=0)}, image.size  # noqa: UP031


@pytest.mark.parametrize("n", [1, 2, 10, 300])
def test_both_curves_are_drawn(tmp_path, n):
    save_curves(tmp_path / "c.png", rows(n), "a title")
    found, size = colours(tmp_path / "c.png")
    assert {TRAIN, VALIDATION} <= found
    assert size[0] > 1000


def test_curves_tell_the_numbers_apart(tmp_path):
    save_curves(tmp_path / "a.png", rows(10))
    save_curves(tmp_path / "b.png", rows(10, start=50))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("dims", [1, 20, 300])
def test_bars_for_any_number_of_dimensions(tmp_path, dims):
    save_kl_per_dim(tmp_path / "k.png", [1.0 / (d + 1) for d in range(dims)], "a title")
    _, size = colours(tmp_path / "k.png")
    assert size[0] <= 1600
