import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from latens import LatensError, load_data
from latens.data.decoding import Target, decode, read_image
from latens.data.files import find_images

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Twelve good images to put a bad one among."""
    for i in range(12):
        save(tmp_path / "images" / f"{i:02d}.png", noise(16, 16, 3))
    return tmp_path / "images"


# ---- folders ---------------------------------------------------------------------------------


def test_mixed_sizes_and_channels_are_brought_to_one(colour_folder):
    data = load_data(colour_folder)
    side = data.shape[1]
    assert data.shape == (3, side, side)
    assert data.classes == ("disc", "stripes")
    assert data.sizes() == {"train": 49, "validation": 5, "test": 6}
    assert data.name == colour_folder.name


def test_size_and_grey_are_followed(colour_folder):
    assert load_data(colour_folder, size=(24, 40)).shape == (3, 24, 40)
    assert load_data(colour_folder, grey=True).shape[0] == 1


def test_sub_folders_are_classes_and_names_of_splits_are_splits(tmp_path):
    for split, count in (("train", 12), ("val", 3), ("test", 4)):
        for i in range(count):
            kind = ("cat", "dog")[i % 2]
            save(
                tmp_path / split / kind / f"{i}.png",
                np.full((8, 8), 40 * (kind == "dog"), np.uint8),
            )
    data = load_data(tmp_path)
    assert data.sizes() == {"train": 12, "validation": 3, "test": 4}
    assert data.classes == ("cat", "dog")
    assert torch.equal(data.test.pixels[:, 0, 0, 0], 40 * data.test.labels.to(torch.uint8))


def test_images_of_one_small_size_stay_as_they_are(folder):
    pixels = torch.from_numpy(decode(find_images(folder), Target())[0])
    assert pixels.shape == (12, 3, 16, 16)
    first = torch.from_numpy(np.asarray(Image.open(folder / "00.png")).copy())
    assert torch.equal(pixels[0].permute(1, 2, 0), first)


def test_large_images_are_cut_at_the_centre(tmp_path):
    array = np.zeros((100, 300, 3), np.uint8)
    array[:, 100:200] = [255, 0, 0]
    save(tmp_path / "wide.png", array)
    image = read_image(tmp_path / "wide.png", Target((50, 50), 3))
    assert image.shape == (3, 50, 50)
    assert (image[0, :, 1:-1] > 250).all()
    assert (image[1, :, 1:-1] < 5).all()


def test_links_are_followed_inside_the_folder_and_loops_end(tmp_path, folder):
    (tmp_path / "other").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    assert len(find_images(tmp_path / "other")) == 12
    np.save(tmp_path / "blob123", noise(20, 8, 8))
    (tmp_path / "blob123.npy").rename(tmp_path / "blob123")
    (tmp_path / "x.NPY").symlink_to(tmp_path / "blob123")
    assert load_data(tmp_path / "x.NPY").source == str(tmp_path / "x.NPY")


def test_a_folder_beside_train_that_is_no_split_is_named(tmp_path):
    for split in ("train", "dev"):
        for i in range(12):
            save(tmp_path / split / f"{i}.png", noise(8, 8))
    expect_failure(tmp_path, "has train/ and beside it dev")


def test_a_name_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/bad\xff.npy"
    np.save(os.fsdecode(path), noise(20, 8, 8))
    expect_failure(os.fsdecode(path), "not valid UTF-8")


def test_hidden_files_and_others_are_passed_over(folder):
    (folder / ".hidden").mkdir()
    save(folder / ".hidden" / "a.png", noise(8, 8))
    (folder / "notes.txt").write_text("nothing")
    assert len(find_images(folder)) == 12


def test_an_image_is_turned_upright(tmp_path):
    array = np.zeros((10, 20), np.uint8)
    array[:, :10] = 255
    image = Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    upright = read_image(tmp_path / "turned.jpg", Target((20, 10), 1))
    assert upright[0, :9].min() > 240
    assert upright[0, 11:].max() < 15


# ---- every mode an image may have ------------------------------------------------------------


def test_sixteen_bit_is_scaled_to_eight(tmp_path):
    values = np.array([[0, 257, 65535, 128 * 257]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", Target((1, 4), 1)).tolist() == [[[0, 1, 255, 128]]]


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", Target((8, 8), 3))[:, 4, 4].tolist() == [
        10,
        200,
        30,
    ]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "print.jpg", Target((8, 8), 3))[:, 4, 4].astype(int)
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_laid_on_white(tmp_path, channels):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    image.save(tmp_path / "alpha.png")
    pixels = read_image(tmp_path / "alpha.png", Target((8, 8), channels))
    assert (pixels[:, :, :4] == 0).all()
    assert (pixels[:, :, 4:] == 255).all()


def test_conversions_are_noted(folder, capsys):
    Image.new("RGBA", (16, 16), (9, 9, 9, 128)).save(folder / "alpha.png")
    Image.new("CMYK", (16, 16)).save(folder / "print.jpg")
    load_data(folder)
    assert "1 CMYK, 1 with transparency" in " ".join(capsys.readouterr().err.split())


# ---- bad images ------------------------------------------------------------------------------


def expect_failure(path, words):
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as it is outside the tests
        with pytest.raises(LatensError, match=words) as failure:
            load_data(path)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    expect_failure(tmp_path, "no images in")


def test_a_truncated_jpeg_is_named(folder):
    save(folder / "cut.jpg", noise(64, 64, 3))
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert "cut.jpg" in expect_failure(folder, "is damaged")


def test_a_truncated_png_is_named(folder):
    content = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(content[: len(content) // 2])
    assert "03.png" in expect_failure(folder, "is damaged")


def test_one_unreadable_file_in_a_hundred_is_left_out(tmp_path, capsys):
    for i in range(199):
        save(tmp_path / f"{i:03d}.png", noise(8, 8))
    (tmp_path / "bad.png").write_text("I am no image")
    assert sum(load_data(tmp_path).sizes().values()) == 199
    told = " ".join(capsys.readouterr().err.split())
    assert "left out 1 of 200 images" in told
    assert "bad.png is not an image" in told
    with pytest.raises(LatensError, match="is not an image"):
        load_data(tmp_path, strict=True)
    for name in ("worse.png", "worst.png"):
        (tmp_path / name).write_text("nor I")
    with pytest.raises(LatensError, match="is not an image"):
        load_data(tmp_path)
    assert sum(load_data(tmp_path, skip_bad=True).sizes().values()) == 199


def test_an_image_far_smaller_than_most_does_not_decide_the_size(folder, capsys):
    save(folder / "dot.png", noise(1, 1, 3))
    data = load_data(folder)
    assert data.shape == (3, 16, 16)
    assert sum(data.sizes().values()) == 12
    assert "dot.png is 1x1, far smaller than most" in " ".join(capsys.readouterr().err.split())
    kept = load_data(folder, strict=True)
    assert kept.shape == (3, 16, 16)
    assert sum(kept.sizes().values()) == 13


def test_the_size_is_that_of_most_images(tmp_path):
    for i in range(20):
        save(tmp_path / f"{i:02d}.png", noise(24, 20) if i else noise(40, 50))
    assert load_data(tmp_path).shape == (1, 24, 20)
    for i in range(8):
        save(tmp_path / f"more-{i}.png", noise(30, 30 + i))
    assert load_data(tmp_path).shape == (1, 20, 20)  # half of the shorter sides are no longer


def test_a_text_file_called_png_is_named(folder):
    (folder / "text.png").write_text("I am no image")
    assert "text.png" in expect_failure(folder, "is not an image")


def test_an_empty_file_is_named(folder):
    (folder / "empty.png").touch()
    assert "empty.png" in expect_failure(folder, "is not an image")


def test_an_animation_is_named(folder):
    frames = [Image.fromarray(noise(16, 16)) for _ in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    assert "film.gif is animated" in expect_failure(
        folder, r"^\S*film.gif is animated \(3 frames\)"
    )


def test_the_first_picture_of_a_stereo_camera_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 10)]
    frames[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert decode([tmp_path / "phone.jpg"], Target())[0].min() > 190


@pytest.mark.parametrize("side", [9_600, 12_000, 60_000])
def test_a_decompression_bomb_is_not_opened(folder, side):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(png)
    assert "bomb.png" in expect_failure(folder, "more than 89,478,485 pixels")


def test_floating_point_images_are_refused(folder):
    Image.fromarray(np.ones((16, 16), np.float32)).save(folder / "float.tiff")
    assert "float.tiff" in expect_failure(folder, "floating-point")


def test_too_few_images(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", noise(8, 8))
    expect_failure(tmp_path, "at least 10")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder", "no such file or folder"),
        ("absent.npy", "no such file or folder"),
        ("minst", "did you mean 'mnist'"),
    ],
)
def test_what_does_not_exist(name, words):
    expect_failure(name, words)


def test_a_single_image_or_another_file(folder, tmp_path):
    expect_failure(folder / "00.png", "a single image")
    (tmp_path / "notes.txt").write_text("nothing")
    expect_failure(tmp_path / "notes.txt", "neither a folder of images nor")


# ---- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((20, 9, 8), (1, 9, 8)), ((20, 9, 8, 3), (3, 9, 8)), ((20, 3, 9, 8), (3, 9, 8))],
)
def test_arrays_of_any_layout(tmp_path, shape, expected):
    array = noise(*shape)
    np.save(tmp_path / "x.npy", array)
    data = load_data(tmp_path / "x.npy")
    assert data.shape == expected
    every = data.split("all").pixels.flatten(1).sort(0).values
    assert every.sum() == array.sum()


def test_an_npy_is_memory_mapped_and_never_written(tmp_path):
    array = noise(20, 8, 8)
    np.save(tmp_path / "x.npy", array)
    before = (tmp_path / "x.npy").read_bytes()
    data = load_data(tmp_path / "x.npy")
    data.train.array[0] = 0
    assert (tmp_path / "x.npy").read_bytes() == before


def test_floats_and_bools_become_grey_levels(tmp_path):
    np.save(tmp_path / "f.npy", np.linspace(0, 1, 20 * 64).reshape(20, 8, 8))
    pixels = load_data(tmp_path / "f.npy").split("all").pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.save(tmp_path / "b.npy", noise(20, 8, 8) > 128)
    assert load_data(tmp_path / "b.npy").binary


def test_npz_with_labels_and_test_split(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        x_train=noise(20, 8, 8),
        y_train=np.array(["b", "a"] * 10),
        x_test=noise(6, 8, 8),
        y_test=np.array(["a"] * 6),
    )
    data = load_data(tmp_path / "x.npz")
    assert data.sizes() == {"train": 18, "validation": 2, "test": 6}
    assert data.classes == ("a", "b")
    assert data.test.labels.tolist() == [0] * 6


def test_test_images_of_an_npz_without_labels_have_none_that_are_known(tmp_path):
    labels = np.array(["b", "a"] * 10)
    np.savez(tmp_path / "x.npz", x_train=noise(20, 8, 8), y_train=labels, x_test=noise(6, 8, 8))
    assert load_data(tmp_path / "x.npz").test.labels.tolist() == [-1] * 6


def test_minus_one_is_an_unknown_label(tmp_path):
    labels = np.array([-1, 3, 7, 3] * 5)
    np.savez(tmp_path / "x.npz", images=noise(20, 8, 8), labels=labels)
    data = load_data(tmp_path / "x.npz")
    assert data.classes == ("3", "7")
    assert sorted(data.split("all").labels.tolist()) == [-1] * 5 + [0] * 10 + [1] * 5


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(20, 64), "must be \\[N, H, W\\]"),
        (noise(20, 2, 8, 8, 3), "must be \\[N, H, W\\]"),
        (noise(20, 8, 9, 8), "which axis holds the channels cannot be told"),
        (np.full((20, 8, 8), 1.5), "floats from 1.5 to 1.5"),
        (np.full((20, 8, 8), -0.1), "scale them"),
        (np.full((20, 8, 8), np.nan), "NaN"),
        (np.full((20, 8, 8), 300), "integers from 300"),
        (np.zeros((0, 8, 8), np.uint8), "contains no images"),
        (np.full((20, 8, 8), "a"), "pixels must be"),
        (np.full((20, 8, 8), {}), "pickled Python objects"),
    ],
)
def test_bad_arrays(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    expect_failure(tmp_path / "x.npy", words)


def test_truncated_arrays(tmp_path):
    np.save(tmp_path / "x.npy", noise(20, 8, 8))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:500])
    expect_failure(tmp_path / "x.npy", "truncated or damaged")
    (tmp_path / "y.npz").write_bytes(b"PK nonsense")
    expect_failure(tmp_path / "y.npz", "is not a .npz file")
    np.savez(tmp_path / "z.npz", images=noise(20, 8, 8))
    content = (tmp_path / "z.npz").read_bytes()
    (tmp_path / "z.npz").write_bytes(content[:700])
    expect_failure(tmp_path / "z.npz", "is not a .npz file|truncated or damaged")


def test_labels_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "x.npz", images=noise(20, 8, 8), labels=np.arange(19))
    expect_failure(tmp_path / "x.npz", "20 images but labels of shape")
    np.savez(tmp_path / "n.npz", images=noise(20, 8, 8), labels=np.full(20, np.nan))
    expect_failure(tmp_path / "n.npz", "labels that are not classes")
    np.savez(tmp_path / "0.npz", images=np.array(3))
    expect_failure(tmp_path / "0.npz", "must be")
    np.savez(tmp_path / "t.npz", x_train=noise(20, 8, 8), x_test=noise(20, 9, 9))
    expect_failure(tmp_path / "t.npz", "in the test split")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    expect_failure(tmp_path / "z.npz", "other things than arrays")
    np.savez(tmp_path / "y.npz", a=noise(20, 8, 8), b=np.arange(19))
    expect_failure(tmp_path / "y.npz", "call the images")


def test_size_is_for_folders(tmp_path):
    with pytest.raises(LatensError, match="--size and --grey are for folders"):
        load_data("digits", size=(16, 16))
