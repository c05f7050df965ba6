"""Images of any number of channels, such as those of a multi-spectral camera."""

import json

import numpy as np
import pytest
import torch

import latens
from latens.data.arrays import as_pixels
from latens.pictures import in_rgb


@pytest.fixture(scope="session")
def bands():
    """Five channels `[N, 5, 12, 10]` that depend on each other."""
    generator = np.random.default_rng(0)
    place = generator.uniform(2, 8, (120, 1, 1, 1))
    rows = np.arange(12.0).reshape(1, 1, 12, 1)
    level = np.exp(-((rows - place) ** 2) / 4) * np.linspace(0.3, 1, 5).reshape(1, 5, 1, 1)
    return (255 * np.broadcast_to(level, (120, 5, 12, 10))).round().astype(np.uint8)


def test_channels_may_come_first_or_last(bands):
    assert as_pixels(bands, "bands").shape == (120, 5, 12, 10)
    last = np.ascontiguousarray(bands.transpose(0, 2, 3, 1))
    assert (as_pixels(last, "bands") == torch.from_numpy(bands)).all()
    assert as_pixels(np.zeros((4, 3, 9, 5), np.uint8), "rgb").shape == (4, 3, 9, 5)
    assert as_pixels(np.zeros((4, 9, 5, 3), np.uint8), "rgb").shape == (4, 3, 9, 5)


def test_pictures_show_three_of_them():
    five = torch.rand(2, 5, 4, 4)
    assert (in_rgb(five) == five[:, :3]).all()
    two = in_rgb(five[:, :2])
    assert (two[:, :2] == five[:, :2]).all()
    assert not two[:, 2].any()
    assert (in_rgb(five[:, :1]) == five[:, :1]).all()


@pytest.mark.usefixtures("few_frames")
def test_a_multispectral_array_trains_and_reports(bands, run_latens, tmp_path, monkeypatch):
    monkeypatch.setattr("latens.training.recorder.EVERY", 1)  # a film of five epochs
    monkeypatch.setattr("latens.training.recorder.LATER", 4.0)
    np.save(tmp_path / "bands.npy", bands)
    options = ["--recipe", "mlp", "--latent-dim", "2", "--epochs", "60", "--out", "run"]
    result = run_latens("train", "bands.npy", *options)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "12×10 pixels in 5 channels" in page
    assert "first three channels as red, green and blue" in page
    assert "its 5 channels are more than a picture has" in page
    run = latens.Run.open(tmp_path / "run")
    x = torch.from_numpy(bands[:20]).float() / 255
    assert (run.vae.reconstruct(x) - x).abs().mean() < 0.5 * (x.mean(0) - x).abs().mean()
    assert run_latens("embed", "run", "bands.npy", "--out", "z.csv").returncode == 0
    figures = run_latens("evaluate", "run", "--data", "bands.npy", "--json")
    assert json.loads(figures.stdout)["images"] == 12  # the test split of its own data
    for words in (["generate", "run", "--out", "new"], ["reconstruct", "run", "a.png"]):
        refused = run_latens(*words)
        assert refused.returncode == 2
        assert "5 channels, and image files are grey or RGB" in refused.stderr
