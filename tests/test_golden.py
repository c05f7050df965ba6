"""Runs and models that latens 0.1.0 wrote are read, measured, shown and gone on with.

`golden/0.1.0` holds two run directories as that release left them: one finished, and one whose
training of six epochs stopped after three, beside the metrics of the same training undisturbed.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import latens
from latens.api import report
from latens.run.directory import Run, pretrained
from latens.run.recording import read_recording

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"


@pytest.fixture
def finished():
    return Run.open(GOLDEN / "finished")


def copied(name, folder):
    return Path(shutil.copytree(GOLDEN / name, folder / name))


def test_its_options_are_read(finished):
    config = finished.config
    assert config.model.recipe == "mlp"
    assert config.model.latent_dim == 3
    assert config.model.likelihood == "gaussian"
    assert dict(config.model.options) == {"scale": 0.3, "hidden": (24,)}
    assert dict(config.objective.options)["beta"] == 1.5
    assert config.objective.beta_warmup == 0.2
    assert (config.run.epochs, config.optimiser.batch_size) == (3, 256)
    assert finished.title == "digits, mlp, 3 dims, β 0 → 1.5"
    assert finished.latent_shape == (3,)
    assert [row["epoch"] for row in finished.metrics] == [1, 2, 3]


def test_its_model_is_loaded_and_measures_what_it_did(finished):
    model = latens.load(finished.path)
    assert model.latent_shape == (3,)
    assert model.image_shape == (1, 8, 8)
    assert model.likelihood.scale == 0.3
    found, told = latens.evaluate(finished.path), finished.figures
    assert (found.images, found.kind) == (told["images"], told["kind"])
    for figure in ("elbo", "reconstruction", "kl"):
        assert getattr(found, figure) == pytest.approx(told[figure], abs=1e-4), figure
    assert found.kl_per_dim == pytest.approx(told["kl_per_dim"], abs=1e-4)
    assert found.active_units == told["active_units"]


def test_its_film_is_read(finished):
    recording = read_recording(finished)
    assert list(recording.epochs) == [0, 3]
    assert recording.validation.shape[0] == 2
    assert recording.validation.shape[2:] == (1, 8, 8)
    assert recording.samples.shape[0] == 2
    assert recording.latents.shape == (2, 180, 3)
    last = recording.images("validation")[1]
    with torch.no_grad():
        x = latens.load_data("digits").validation.take(slice(0, len(last))).unit()
        again = finished.vae.reconstruct(x)
    assert (again - last).abs().max() < 1 / 255 + 1e-6


def test_its_report_is_written(tmp_path):
    run = copied("finished", tmp_path)
    page = report(run)
    assert page == run / "report.html"
    assert "digits, mlp, 3 dims, β 0 → 1.5" in page.read_text("utf-8")
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert {path.suffix for path in (run / "pictures").iterdir()} >= {".png", ".webp"}
    assert any("film" in name for name in pictures), pictures


def test_an_interrupted_training_ends_where_it_would_have(tmp_path):
    """Rel 1e-5: all the noise, the weights, AdamW's moments and the average are gone on with."""
    path = copied("interrupted", tmp_path)
    lines = (path / "expected.jsonl").read_text().splitlines()
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 3
    config = path / "config.yaml"
    config.write_text(
        config.read_text().replace("  film: false\n", "  film: false\n  report: false\n")
    )
    found = latens.resume(path).metrics
    expected = [json.loads(line) for line in lines]
    assert len(found) == len(expected) == 6
    for row, told in zip(found, expected, strict=True):
        assert row["epoch"] == told["epoch"]
        assert row["images"] == told["images"]
        for split in ("train", "validation"):
            assert row[split].keys() >= told[split].keys()
            for name, value in told[split].items():
                assert row[split][name] == pytest.approx(value, rel=1e-5, abs=1e-7), (split, name)
        assert row["beta"] == pytest.approx(told["beta"])
        assert row["learning_rate"] == pytest.approx(told["learning_rate"])
        # threads sum in another order
        assert row["gradient_norm"] == pytest.approx(told["gradient_norm"], rel=1e-4)
    assert not (path / "report.html").exists()


@pytest.mark.parametrize("name", pretrained())
def test_a_model_that_comes_with_latens_is_read(name):
    run, model = Run.open(name), latens.load(name)
    if run.config.model.recipe != "ladder":  # its levels have sizes of their own
        assert run.config.model.latent_dim == int(torch.tensor(model.latent_shape).prod())
    assert run.latent_shape == model.latent_shape
    assert model.image_shape == tuple(run.record["data"]["shape"])
    assert run.config.model.recipe in run.title
    assert run.config.command(run.name).startswith(f"latens train {run.name}")
    x = torch.rand(2, *model.image_shape)
    labels = model.label_embedding
    y = None if labels is None else labels.unknown(2)
    assert model.reconstruct(x, y).shape == x.shape


def test_all_six_models_come_with_latens():
    assert len(pretrained()) >= 6
