import numpy as np
import pytest
import torch
from PIL import Image

from latens.pictures import save_grid, save_pairs
from latens.pictures.grids import GAP, LEAST_SIDE, MARGIN, tile


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_pixel_lands_where_it_belongs():
    images = torch.zeros(2, 3, 1, 4, 5)
    images[1, 2, 0, 3, 4] = 1  # last row, last column, last pixel
    images[0, 1, 0, 0, 0] = 0.2
    sheet = tile(images)
    scale = -(-LEAST_SIDE // 5)
    height, width = 4 * scale, 5 * scale
    assert sheet.shape == (2 * height + GAP, 3 * width + 2 * GAP, 3)
    assert (sheet[-scale:, -scale:] == 255).all()
    assert (sheet[-scale - 1, -scale:] == 0).all()
    left = width + GAP
    assert (sheet[:scale, left : left + scale] == 51).all()
    assert (sheet[:scale, left + scale : left + width] == 0).all()
    assert (sheet[height : height + GAP] == 255).all()  # white between the images


def test_scaling_repeats_pixels_and_blurs_nothing():
    image = torch.rand(1, 1, 3, 10, 10)
    sheet = tile(image)
    scale = sheet.shape[0] // 10
    expected = (image[0, 0] * 255).round().byte().numpy().transpose(1, 2, 0)
    assert (sheet[scale // 2 :: scale, scale // 2 :: scale] == expected).all()
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) <= 100


def test_large_images_keep_their_size():
    assert tile(torch.rand(1, 2, 3, 80, 70)).shape == (80, 140 + GAP, 3)


def test_grey_has_three_equal_channels():
    sheet = tile(torch.rand(2, 2, 1, 8, 8))
    assert (sheet[..., 0] == sheet[..., 1]).all()
    assert (sheet[..., 0] == sheet[..., 2]).all()


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (64, 8, 8), (3, 2, 2)])
def test_a_grid_on_disk_is_the_array_pixel_by_pixel(tmp_path, n, rows, columns):
    images = torch.rand(n, 3, 60, 60)
    save_grid(tmp_path / "g.png", images)
    pixels = read(tmp_path / "g.png")
    padded = torch.ones(rows * columns, 3, 60, 60)
    padded[:n] = images
    sheet = tile(padded.unflatten(0, (rows, columns)))
    height, width = sheet.shape[:2]
    assert (pixels[MARGIN : MARGIN + height, MARGIN : MARGIN + width] == sheet).all()
    assert pixels.shape == (height + 2 * MARGIN, width + 2 * MARGIN, 3)


def test_a_title_is_drawn_above_and_fits(tmp_path):
    save_grid(tmp_path / "g.png", torch.zeros(1, 1, 8, 8), "a rather long title, with β and dims")
    pixels = read(tmp_path / "g.png")
    ink = (pixels[: MARGIN + 20] < 128).all(-1)
    assert ink.any()
    assert not ink[:, -4:].any(), "the title ends inside"


def test_outputs_are_right_below_their_inputs(tmp_path):
    inputs = torch.stack([torch.full((1, 60, 60), i / 10) for i in range(5)])
    save_pairs(tmp_path / "p.png", inputs, 1 - inputs, columns=3)
    pixels = read(tmp_path / "p.png")
    left, step = pixels.shape[1] - MARGIN - 3 * 60 - 2 * GAP, 60 + GAP
    for i in range(5):
        row, column = divmod(i, 3)
        x = left + column * step + 30
        y = MARGIN + 2 * row * step + 30
        assert abs(int(pixels[y, x, 0]) - round(25.5 * i)) <= 1
        assert abs(int(pixels[y + step, x, 0]) - round(255 - 25.5 * i)) <= 1
    assert (pixels[MARGIN + 2 * step :, left + 2 * step :] == 255).all(), "nothing after the fifth"
