"""Images of more than 8 bits, between the ends of a range that the user states."""

import numpy as np
import pytest
from PIL import Image

import latens
from latens import LatensError
from latens.config import TrainConfig
from latens.data import load_data
from latens.data.decoding import levels_between

RNG = np.random.default_rng(0)
VALUES = RNG.uniform(-1000, 3000, (40, 8, 9)).astype(np.float32)
LOW, HIGH = -500.0, 2500.0
EXPECTED = np.rint(255 * ((VALUES - LOW) / (HIGH - LOW)).clip(0, 1)).astype(np.uint8)


def images_of(found):
    """In the order of what they were made of."""
    every = found.split("all").pixels[:, 0].numpy()
    return np.array(sorted(every.tolist())), np.array(sorted(EXPECTED.tolist()))


def test_arrays(tmp_path):
    np.save(tmp_path / "floats.npy", VALUES)
    np.testing.assert_array_equal(
        *images_of(load_data(tmp_path / "floats.npy", value_range=(LOW, HIGH)))
    )
    np.testing.assert_array_equal(*images_of(load_data(VALUES, value_range=(LOW, HIGH))))
    whole = (VALUES + 1000).astype(np.uint16)
    found = load_data((whole, list(range(2)) * 20), value_range=(500.0, 3500.0))
    assert np.abs(np.subtract(*images_of(found), dtype=int)).max() <= 1
    with pytest.raises(LatensError, match="--range LOW,HIGH"):
        load_data(VALUES)
    with pytest.raises(LatensError, match="--range LOW,HIGH"):
        load_data(whole)
    with pytest.raises(LatensError, match="NaN"):
        load_data(np.where(VALUES > 2900, np.nan, VALUES), value_range=(LOW, HIGH))


@pytest.mark.parametrize(("kind", "suffix"), [(np.float32, "tif"), (np.uint16, "png")])
def test_files(tmp_path, kind, suffix, run_latens):
    folder, shift = tmp_path / "scans", 1000 if kind is np.uint16 else 0
    folder.mkdir()
    for i, values in enumerate(VALUES):
        Image.fromarray((values + shift).astype(kind)).save(folder / f"{i:02d}.{suffix}")
    asked = f"--range={LOW + shift:g},{HIGH + shift:g}"
    train = "train scans --recipe mlp --hidden 16 --latent-dim 2 --epochs 1 --no-report --out run"
    done = run_latens(*train.split(), asked)
    assert done.returncode == 0, done.stderr
    found = load_data(folder, value_range=(LOW + shift, HIGH + shift))
    assert np.abs(np.subtract(*images_of(found), dtype=int)).max() <= 1
    # every other command converts images as the training did
    assert run_latens("embed", "run", "scans", "--out", "z.npz").returncode == 0
    run = latens.Run.open(tmp_path / "run")
    x = found.split("all").unit()
    every = np.load(tmp_path / "z.npz")["mu"]
    expected = run.vae.embed(x).numpy()
    np.testing.assert_allclose(sorted(every.tolist()), sorted(expected.tolist()), atol=1e-5)
    assert latens.evaluate(run, folder, split="all").images == 40
    scan = str(folder / f"00.{suffix}")
    assert run_latens("reconstruct", "run", scan, "--out", "pair.png").returncode == 0


def test_a_float_image_without_a_range_says_so(tmp_path):
    for i, values in enumerate(VALUES):
        Image.fromarray(values).save(tmp_path / f"{i}.tif")
    with pytest.raises(LatensError, match="floating-point pixels: give --range LOW,HIGH"):
        load_data(tmp_path)


@pytest.mark.parametrize("wrong", ["1", "a,b", "5,5", "9,1", "0,inf", "nan,1", "1,2,3"])
def test_a_range_is_two_numbers(wrong):
    with pytest.raises(LatensError, match="it must be LOW,HIGH"):
        TrainConfig.from_options(range=wrong)
    assert TrainConfig.from_options(range=(0, 4000)).data.value_range == (0.0, 4000.0)


def test_a_range_may_begin_below_zero_in_two_words(tmp_path, run_latens):
    np.save(tmp_path / "scans.npy", VALUES)
    train = "train scans.npy --range -500,2500 --recipe mlp --hidden 16 --latent-dim 2 --epochs 1"
    done = run_latens(*train.split(), "--no-report", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert latens.Run.open(tmp_path / "run").config.data.value_range == (-500.0, 2500.0)


def folder_of(folder, brightest):
    folder.mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, brightest, (8, 8)).astype(np.uint16)
        pixels[0, 0] = brightest
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_images_of_16_bits_that_use_little_of_them_are_told_of(tmp_path, capsys):
    """A camera of 12 bits: without a range its images are nearly black."""
    load_data(folder_of(tmp_path / "camera", 4_095))
    assert "values of at most 4,111, of 65,535" in " ".join(capsys.readouterr().err.split())
    load_data(tmp_path / "camera", value_range=(0.0, 4_095.0))
    assert "bits" not in capsys.readouterr().err
    load_data(folder_of(tmp_path / "full", 65_535))
    assert "at most" not in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_levels_far_from_0_are_kept(dtype):
    levels = levels_between(10**9 + np.arange(256, dtype=dtype), (1e9, 1e9 + 255))
    assert levels.tolist() == list(range(256))
