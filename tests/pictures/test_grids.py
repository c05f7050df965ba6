import numpy as np
import pytest
import torch

from latens.pictures import error_map, framed, grid, in_colours, pairs, save, table, tile
from latens.pictures.grids import GAP, LEAST_SIDE, MARGIN


def content(image):
    """The pixels inside the margins: where `info["box"]` says the sheet is."""
    left, top, right, bottom = image.info["box"]
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    return pixels[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ]


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


def test_without_gaps_images_touch():
    images = torch.rand(2, 3, 3, 6, 5)
    sheet = tile(images, least_side=1, gap=0)
    assert sheet.shape == (12, 15, 3)
    expected = (images[1, 2] * 255).round().byte().numpy().transpose(1, 2, 0)
    assert (sheet[6:, 10:] == expected).all()


def test_grey_has_three_equal_channels():
    sheet = tile(torch.rand(2, 2, 1, 8, 8))
    assert (sheet[..., 0] == sheet[..., 1]).all()
    assert (sheet[..., 0] == sheet[..., 2]).all()


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (5, 2, 3), (64, 8, 8), (3, 2, 2)])
def test_a_grid_is_the_array_pixel_by_pixel(n, rows, columns):
    images = torch.rand(n, 3, 60, 60)
    padded = torch.ones(rows * columns, 3, 60, 60)
    padded[:n] = images
    sheet = tile(padded.unflatten(0, (rows, columns)))
    image = grid(images)
    assert (content(image) == sheet).all()
    assert image.size == (sheet.shape[1] + 2 * MARGIN, sheet.shape[0] + 2 * MARGIN)


@pytest.mark.parametrize("title", ["", "samples", "samples · of a run"])
@pytest.mark.parametrize("rows", [(), ("a", "a long name")])
@pytest.mark.parametrize("columns", [(), ("x", "", "z")])
def test_titles_and_names_leave_the_pixels_alone(title, rows, columns):
    images = torch.rand(2, 3, 3, 60, 60)
    image = table(images, title, columns, rows)
    assert (content(image) == tile(images)).all()


def test_a_title_is_drawn_above_and_fits():
    image = grid(torch.zeros(1, 1, 8, 8), "a rather long title, with β and dims · and its run")
    pixels = np.asarray(image)
    ink = (pixels[: MARGIN + 20] < 128).all(-1)
    assert ink.any()
    assert not ink[:, -4:].any(), "the title ends inside"


def test_names_stand_beside_their_rows_and_above_their_columns():
    blank = torch.ones(3, 4, 1, 60, 60)
    step = 60 + GAP
    for row in range(3):
        names = ["", "", ""]
        names[row] = "name"
        pixels = np.asarray(table(blank, rows=names)).min(-1)
        inked = np.flatnonzero((pixels < 128).any(1))
        assert MARGIN + row * step <= inked.min() <= inked.max() <= MARGIN + row * step + 60
    for column in range(4):
        names = ["", "", "", ""]
        names[column] = "name"
        pixels = np.asarray(table(blank, columns=names)).min(-1)
        inked = np.flatnonzero((pixels < 128).any(0))
        assert MARGIN + column * step <= inked.min() <= inked.max() <= MARGIN + column * step + 60


def test_captions_stand_below_their_images():
    pixels = np.asarray(grid(torch.ones(4, 1, 60, 60), captions=["", "", "", "word"])).min(-1)
    y, x = np.nonzero(pixels < 128)
    assert x.min() > MARGIN + 60 + GAP
    assert y.min() > MARGIN + 2 * 60 + GAP


def test_outputs_are_right_below_their_inputs():
    inputs = torch.stack([torch.full((1, 60, 60), i / 10) for i in range(5)])
    pixels = content(pairs(inputs, 1 - inputs, columns=3))
    step = 60 + GAP
    for i in range(5):
        row, column = divmod(i, 3)
        x, y = column * step + 30, 2 * row * step + 30
        assert abs(int(pixels[y, x, 0]) - round(25.5 * i)) <= 1
        assert abs(int(pixels[y + step, x, 0]) - round(255 - 25.5 * i)) <= 1
    assert (pixels[2 * step :, 2 * step :] == 255).all(), "nothing after the fifth"


def test_numbers_about_zero_are_white_at_it_red_above_and_blue_below():
    blue, white, red = in_colours(torch.tensor([[-1.0, 0.0, 1.0]]), diverging=True)[:, 0].T
    assert white.min() > 0.95
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]


def test_errors_are_black_where_there_is_none_and_stand_below():
    x = torch.rand(2, 3, 60, 60)
    again = x.clone()
    again[0, :, :30] = 1 - x[0, :, :30]
    errors = error_map(x, again)
    assert errors.shape == (2, 3, 60, 60)
    assert torch.equal(errors[1], in_colours(torch.zeros(60, 60)))
    assert torch.equal(errors[0, :, 30:], in_colours(torch.zeros(30, 60)))
    assert errors[1].max() < 0.05
    pixels = content(pairs(x, again, errors=True))
    assert pixels.shape[0] == 3 * 60 + 2 * GAP
    expected = (errors[0] * 255).round().byte().numpy().transpose(1, 2, 0)
    assert (pixels[2 * (60 + GAP) :, :60] == expected).all()


def test_larger_errors_are_brighter():
    x = torch.zeros(1, 1, 1, 11)
    y = torch.linspace(0, 1, 11).reshape(1, 1, 1, 11)
    brightness = error_map(x, y)[0].sum(0).flatten()
    assert (brightness.diff() > 0).all()


def test_a_file_holds_the_picture(tmp_path):
    from PIL import Image

    image = framed(tile(torch.rand(2, 2, 3, 60, 60)), "a title · a run")
    save(tmp_path / "p.png", image)
    with Image.open(tmp_path / "p.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(image))
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
