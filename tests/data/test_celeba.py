"""CelebA's layout, on faces that are none."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from latens import LatensError, load_data
from latens.data.celeba import ATTRIBUTES, CROP, IMAGES, PARTITION
from latens.data.decoding import Target, to_array

NAMES = ("Bald", "Male", "Smiling")
COUNT = 24


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "cache"))


def picture(i):
    """A grey level in the middle, another outside of the usual crop."""
    pixels = np.full((109, 89, 3), 255 - i, np.uint8)
    pixels[24:85, 14:75] = 4 * i
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """24 images in three splits, of which the last 6 are the test images."""
    folder = tmp_path / "faces"
    (folder / IMAGES).mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, COUNT + 1)]
    rows = ["-1" if (i >> bit) % 2 else "1" for i in range(COUNT) for bit in range(3)]
    lines = [" ".join([n, *rows[3 * i : 3 * i + 3]]) for i, n in enumerate(names)]
    for i, name in enumerate(names):
        picture(i).save(folder / IMAGES / name, quality=100)
    (folder / ATTRIBUTES).write_text("\n".join([str(COUNT), " ".join(NAMES) + " ", *lines, ""]))
    splits = [0] * 12 + [1] * 6 + [2] * 6
    text = "\n".join(f"{name} {split}" for name, split in zip(names, splits, strict=True))
    (folder / PARTITION).write_text(text)
    return folder


def pack(folder):
    """The images in a zip file, in place of the folder."""
    with zipfile.ZipFile(folder / f"{IMAGES}.zip", "w") as archive:
        for path in sorted((folder / IMAGES).iterdir()):
            archive.write(path, f"{IMAGES}/{path.name}")
    shutil.rmtree(folder / IMAGES)


def test_the_original_layout_is_read(folder):
    data = load_data(folder)
    assert data.sizes() == {"train": 12, "validation": 6, "test": 6}
    assert data.shape == (3, 64, 64)
    assert data.attributes == NAMES
    assert data.classes == ()
    expected = torch.tensor([[1 - (i >> bit) % 2 for bit in range(3)] for i in range(COUNT)])
    assert torch.equal(data.train.labels, expected[:12])
    assert torch.equal(data.test.labels, expected[18:])


def test_the_crop_is_the_usual_one_at_the_images_own_size(folder):
    """Of 89x109 pixels the central 70x70 remain: the border around the middle square of 61."""
    image = load_data(folder).train.pixels[5, 0].float()
    assert round(CROP * 89) == 70
    middle, border = image[8:-8, 8:-8], image[:2]
    assert (middle - 20).abs().max() < 12
    assert (border - 250).abs().max() < 12
    scale = 64 / 70
    dark = (image[32] < 135).sum().item()
    assert dark == pytest.approx(61 * scale, abs=1.5)


def test_a_zip_file_is_read_without_unpacking(folder):
    unpacked = load_data(folder)
    pack(folder)
    packed = load_data(folder)
    assert not (folder / IMAGES).exists()
    assert torch.equal(packed.train.pixels, unpacked.train.pixels)
    assert packed.fingerprint() == unpacked.fingerprint()


def test_the_name_finds_it_in_the_data_folder(folder, monkeypatch):
    folder.rename(folder.parent / "celeba")
    monkeypatch.setenv("LATENS_DATA", str(folder.parent))
    data = load_data("celeba", size=(16, 16), grey=True)
    assert (data.name, data.source, data.shape) == ("celeba", "celeba", (1, 16, 16))


def expect_error(folder, words):
    with pytest.raises(LatensError, match=words):
        load_data(folder)


def test_lists_and_images_that_disagree(folder):
    (folder / IMAGES / "000003.jpg").unlink()
    expect_error(folder, "1 images listed but not there .000003.jpg")
    picture(0).save(folder / IMAGES / "000003.jpg")
    picture(0).save(folder / IMAGES / "other.jpg")
    expect_error(folder, "1 there but not listed .other.jpg")


def test_a_list_that_announces_other_images_than_it_has(folder):
    text = (folder / ATTRIBUTES).read_text()
    (folder / ATTRIBUTES).write_text(text.replace("24", "25", 1))
    expect_error(folder, "announces 25 images and lists 24")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (ATTRIBUTES, "000002.jpg -1", "000002.jpg 2", "000002.jpg has other values"),
        (ATTRIBUTES, "000002.jpg -1", "000002.jpg", "000002.jpg has other values"),
        (ATTRIBUTES, "24", "many", "not a list of attributes"),
        (PARTITION, "000002.jpg 0", "000002.jpg 7", "not a partition"),
        (PARTITION, "000002.jpg 0", "000002.jpg -1", "not a partition"),
        (PARTITION, "000002.jpg 0", "000002.jpg", "not a partition"),
        (PARTITION, " 1", " 0", "leaves the validation split empty"),
    ],
)
def test_damaged_lists(folder, file, old, new, words):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    expect_error(folder, words)


@pytest.mark.parametrize("file", [ATTRIBUTES, PARTITION])
def test_a_list_that_is_missing(folder, file):
    (folder / file).unlink()
    expect_error(folder, f"lacks {file}")


def test_no_images(folder):
    shutil.rmtree(folder / IMAGES)
    expect_error(folder, "neither img_align_celeba.zip nor a folder")


def test_a_zip_file_that_is_cut_short(folder):
    pack(folder)
    path = folder / f"{IMAGES}.zip"
    path.write_bytes(path.read_bytes()[:-200])
    expect_error(folder, "not a complete zip file")


def test_a_corrupt_image_is_named_and_skipped_only_when_told(folder, capsys):
    path = folder / IMAGES / "000007.jpg"
    path.write_bytes(path.read_bytes()[:300])
    expect_error(folder, r"000007\.jpg (is damaged|cannot be read)")
    data = load_data(folder, skip_bad=True)
    assert data.sizes() == {"train": 11, "validation": 6, "test": 6}
    said = capsys.readouterr().err
    assert "left out 1 of 24 images" in said
    assert "000007.jpg" in said


def test_a_data_folder_without_celeba_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENS_DATA", str(tmp_path))
    expect_error("celeba", "mmlab.ie.cuhk.edu.hk")


@pytest.mark.parametrize("size", [(192, 108), (64, 48), (178, 218)])
def test_a_crop_stays_within_photographs_of_any_shape(size):
    """Beyond the border Pillow would fill in black."""
    white = Image.new("RGB", size, "white")
    assert to_array(white, Target(size=(64, 64), channels=3, crop=CROP)).min() == 255
