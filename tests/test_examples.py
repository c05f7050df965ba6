"""The examples run as they stand, and show what they promise."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import latens
from latens.data import find_images
from latens.model.serialization import read_model

EXAMPLES = Path(__file__).parent.parent / "examples"
PICTURES = 14  # in the tour


@pytest.fixture
def tour():
    return nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell, kind):
    return [output for output in cell.outputs if output.output_type == kind]


def drawing_cells(notebook):
    return [cell.id for cell in code_cells(notebook) if "latens.pictures." in cell.source]


def cells_with_pictures(notebook):
    return [
        cell.id
        for cell in code_cells(notebook)
        if any("image/png" in output.data for output in outputs(cell, "execute_result"))
    ]


def test_the_tour_is_stored_with_its_pictures(tour):
    """So that it shows them where it cannot be run; and nothing of the machine it ran on."""
    assert set(tour.metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in tour.cells)
    assert cells_with_pictures(tour) == drawing_cells(tour)
    assert "/" not in "".join(
        output.data.get("text/plain", "")
        for cell in code_cells(tour)
        for output in outputs(cell, "execute_result")
    )
    assert (EXAMPLES / "tour.ipynb").stat().st_size < 6e6


@pytest.mark.mnist
def test_the_tour_shows_its_pictures(tour, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(tour, timeout=300, kernel_name="python3", resources=where).execute()
    cells = code_cells(tour)
    assert not [cell.id for cell in cells if outputs(cell, "error") or outputs(cell, "stream")]
    shown = cells_with_pictures(tour)
    assert shown == drawing_cells(tour)
    assert len(shown) == PICTURES


def own_images(folder, cwd, *options):
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "own_images.py"), str(folder), *options],
        cwd=cwd,
        env=os.environ | {"LATENS_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_own_images_are_embedded_scored_and_sampled(colour_folder, tmp_path):
    done = own_images(colour_folder, tmp_path, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    *scores, features, samples, report = done.stdout.splitlines()
    run = (tmp_path / features).parent
    found = np.load(tmp_path / features)
    assert found.shape == (60, *latens.load(run).latent_shape)
    assert np.isfinite(found).all()
    with Image.open(tmp_path / samples) as image:
        image.load()
    assert (tmp_path / report).is_file()
    values = [float(line.split(" nats per image  ")[0]) for line in scores]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert all(Path(line.split(" nats per image  ")[1]).is_file() for line in scores)
    (tmp_path / "damaged.png").write_text("not an image")
    paths = [tmp_path / "damaged.png", *2 * find_images(colour_folder)]  # few are left out
    read = runpy.run_path(str(EXAMPLES / "own_images.py"))["read"]
    good, images = read(latens.load(run), paths)
    assert good == paths[1:]
    assert len(images) == 120


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_own_images_that_are_not_there(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    done = own_images(folder, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert folder in done.stderr


def test_parts_of_ones_own_are_trained_measured_and_loaded(tmp_path, monkeypatch, capsys):
    """For 3 epochs and not 30, without the report."""
    train = latens.train
    less = {"epochs": 3, "report": False, "film": False}
    monkeypatch.setattr(latens, "train", lambda *a, **k: train(*a, **(k | less)), raising=False)
    monkeypatch.setattr(sys, "argv", ["own_parts.py", str(tmp_path / "own")])
    defined = runpy.run_path(str(EXAMPLES / "own_parts.py"), run_name="__main__")
    run, (figures, shape) = defined["run"], capsys.readouterr().out.splitlines()
    assert figures.startswith("Evaluation(elbo=-")
    assert shape == f"torch.Size([4, 1, 8, 8]) {run.path / 'report.html'}"
    first, *_, last = run.metrics
    assert last["validation"]["loss"] < first["validation"]["loss"]
    assert type(latens.load(run.path).prior) is defined["HeavyTails"]
    # Rényi's bound at α = ½ lies between the ELBO and log p(x): Li & Turner 2016, theorem 1
    vae, x = latens.load(run.path), latens.load_data("digits").test.unit()
    with torch.no_grad():
        draw = vae.draw(x, samples=500)
        bound = -defined["Renyi"](samples=500)(draw).per_image.mean()
    assert draw.log_weights.mean() < bound < vae.log_prob(x, samples=500).mean()


@pytest.mark.mnist
def test_the_judge_is_trained_by_its_script(tmp_path, monkeypatch, capsys):
    """On a fifteenth of the images."""
    arguments = ["--out", str(tmp_path / "judge"), "--epochs", "3", "--images", "4000"]
    monkeypatch.setattr(sys, "argv", ["train_judge.py", *arguments])
    runpy.run_path(str(EXAMPLES / "train_judge.py"), run_name="__main__")
    accuracy = float(capsys.readouterr().out.splitlines()[-1].split("%")[0])
    assert accuracy > 70
    model, about = read_model(tmp_path / "judge")
    assert 100 * about["accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert f"{about['accuracy']:.2%}" in (tmp_path / "judge" / "README.md").read_text("utf-8")
