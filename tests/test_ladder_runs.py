"""A ladder and a grid from the command line: what works for every model works for them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import latens
from latens.analysis.generation import at_temperature
from latens.data import load_data
from latens.errors import LatensError
from latens.report.contents import SECTIONS
from latens.report.context import ReportContext
from latens.report.html import draw_pictures
from latens.report.sections.films import _layer_names
from latens.run.data import data_of
from latens.training import trainer

OPTIONS = {"recipe": "ladder", "levels": "2x1,4x2", "channels": 8, "batch_size": 64}
WORDS = [w for name, v in OPTIONS.items() for w in (f"--{name.replace('_', '-')}", str(v))]


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """300 digits with their classes."""
    images = load_data("digits").train.take(slice(0, 300))
    path = tmp_path_factory.mktemp("digits") / "few.npz"
    np.savez(path, images=images.pixels[:, 0].numpy(), labels=images.labels.numpy())
    return path


@pytest.fixture(scope="session")
def ladder_run(few):
    return latens.train(few, epochs=2, out=few.parent / "run", report=False, film=True, **OPTIONS)


def test_a_run_of_a_ladder_has_its_levels_in_every_figure(ladder_run, tmp_path):
    last = ladder_run.metrics[-1]["validation"]
    assert len(last["kl_per_level"]) == 3
    assert sum(last["kl_per_level"]) == pytest.approx(last["kl"], rel=1e-5)
    assert ladder_run.latent_shape == (1, 2, 2)
    assert ladder_run.title == "few.npz, ladder, 3 levels, β 1"
    assert len(last["kl_per_dim"]) == 4
    assert ladder_run.config.run.compile is False
    names = ("Levels", "Samples", "Interpolations", "Films of the training")
    sections = [section for section in SECTIONS if section.name in names]
    context = ReportContext(ladder_run, data_of(ladder_run))
    chapters = draw_pictures(sections, context, tmp_path)
    drawn = {path.stem for path in tmp_path.iterdir()}
    assert {"levels", "kl-per-level", "samples", "interpolations", "film-samples"} <= drawn
    assert "samples-by-class" not in drawn  # no level is known to tell the class
    assert len(chapters) == len(names)
    layers = _layer_names(context.recording.features).values()
    assert {"encoder 1", "level 1 posterior 1", "level 3 prior 2", "output 1"} <= {*layers}


def test_pictures_from_the_command_line(ladder_run, run_latens, tmp_path):
    run = ladder_run.path
    for words in (
        ("sample", run, "-n", 4, "--temperature", "1,0.8,0.6"),
        ("sample", run, "-n", 4, "--temperature", 0.7),
        ("reconstruct", run, "-n", 4, "--levels", 1),
        ("interpolate", run, "-n", 2, "--spherical"),
    ):
        done = run_latens(*words, "--out", tmp_path / "picture.png")
        assert done.returncode == 0, done.stderr
    for words, reason in (
        (("sample", run, "--temperature", "1,0.8"), "2 temperatures for 3 levels of latents"),
        (("sample", run, "--temperature", "warm"), "temperature is warm: it must be a number"),
        (("sample", run, "--temperature", "0"), "it must be a number above 0"),
        (("reconstruct", run, "--levels", 4), "4 levels: this model has 3"),
        (("sample", run, "--label", 3), "knows no labels"),
    ):
        done = run_latens(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in " ".join(done.stderr.split())


def test_a_ladder_of_images_with_classes_generates_into_one_folder(
    ladder_run, run_latens, tmp_path
):
    done = run_latens("generate", ladder_run.path, "-n", 5, "--out", "made")
    assert done.returncode == 0, done.stderr
    assert "knows no classes of its samples" in " ".join(done.stderr.split())
    assert len(list((tmp_path / "made").glob("*.png"))) == 5
    done = run_latens("generate", ladder_run.path, "--label", "3", "--out", "threes")
    assert done.returncode == 2
    assert "a ladder spreads" in " ".join(done.stderr.split())


def test_evaluate_tells_each_level(ladder_run, run_latens):
    done = run_latens("evaluate", ladder_run.path, "--importance-samples", 20)
    assert done.returncode == 0, done.stderr
    rows = {line[:18].strip(): float(line[18:].split()[0]) for line in done.stdout.splitlines()[:7]}
    levels = [rows[f"kl of level {i}"] for i in (1, 2, 3)]
    assert sum(levels) == pytest.approx(rows["kl"], abs=0.01)
    assert rows["nll"] < rows["−elbo"]


def test_a_resumed_ladder_ends_with_the_same_bits(ladder_run, few, tmp_path, monkeypatch):
    heed = trainer.Trainer._heed

    def stop_after_an_epoch(self, interrupted):
        if self.state.epoch == 1:
            interrupted.set()
        return heed(self, interrupted)

    monkeypatch.setattr(trainer.Trainer, "_heed", stop_after_an_epoch)
    with pytest.raises((trainer.Interrupted, KeyboardInterrupt)):
        latens.train(few, epochs=2, out=tmp_path / "run", report=False, **OPTIONS)
    monkeypatch.undo()
    assert len(latens.Run.open(tmp_path / "run").metrics) == 1
    again = latens.resume(tmp_path / "run")
    assert [row["train"] for row in again.metrics] == [row["train"] for row in ladder_run.metrics]
    one, two = (load_file(run.path / "model.safetensors") for run in (ladder_run, again))
    assert all(torch.equal(one[name], value) for name, value in two.items())


def test_two_processes_learn_what_one_does(ladder_run, few, shell_latens, tmp_path):
    words = ("--epochs", 2, "--devices", 2, "--no-report", "--no-film", "--out", "two")
    done = shell_latens("train", few, *WORDS, *words)
    assert done.returncode == 0, done.stderr
    one, two = ladder_run.metrics, latens.Run.open(tmp_path / "two").metrics
    assert [row["images"] for row in two] == [row["images"] for row in one]
    for row, other in zip(one, two, strict=True):
        assert row["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=0.05)


def test_a_model_has_a_temperature_of_its_own(ladder_run, run_latens, tmp_path):
    done = run_latens(
        "export", ladder_run.path, "--out", "own", "--temperature", "1,0.5,1e-6", "--bits", 32
    )
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "own" / "README.md").read_text("utf-8")
    assert "temperature 1.0, 0.5, 1e-06, one for each level" in card
    own = latens.load(tmp_path / "own")
    images = []
    for given in (None, [1.0, 0.5, 1e-6], 1.0):
        torch.manual_seed(0)
        images.append(own.sample(5, temperature=given))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    done = run_latens("export", ladder_run.path, "--out", "none", "--temperature", "0")
    assert done.returncode == 2
    assert "it must be a number above 0" in done.stderr
    assert not (tmp_path / "none").exists()
    assert at_temperature(own) == ", temperatures 1 0.5 1e-06"
    assert at_temperature(own, 0.5) == ", temperature 0.5"
    assert at_temperature(own, 1.0) == ""


def test_levels_that_cannot_be_are_refused_before_anything_is_written(run_latens, tmp_path):
    for levels, reason in (
        ("3x2", "have levels of 4, or 2-4, or 1-2-4"),
        ("4", "written 7x4,14x4"),
    ):
        done = run_latens("train", "digits", "--recipe", "ladder", "--levels", levels)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_training_under_the_grid_and_figures_of_each_q(few, run_latens, tmp_path):
    options = ("--recipe", "mlp", "--latent-dim", 2, "--posterior", "grid", "--cells", 32)
    options += (
        "--epochs",
        8,
        "--no-report",
        "--no-film",
        "--hidden",
        64,
        "--likelihood",
        "bernoulli",
    )
    done = run_latens("train", few, *options, "--out", "run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["validation"]["elbo"] > rows[0]["validation"]["elbo"]
    assert "encoder" in rows[0]["train"]
    assert rows[0]["validation"]["posterior"] == "grid of 32² cells"
    assert "q grid of 32² cells" in " ".join(done.stderr.split())
    figures = {
        posterior: json.loads(
            run_latens("evaluate", run, "--posterior", posterior, "--json").stdout
        )
        for posterior in ("encoder", "grid")
    }
    assert figures["grid"]["elbo"] > figures["encoder"]["elbo"]
    assert figures["grid"]["posterior"] == "grid of 512² cells"
    assert latens.Run.open(run).figures["elbo"] == figures["encoder"]["elbo"]
    with pytest.raises(LatensError, match="up to 3 latents"):
        latens.train("digits", recipe="mlp", latent_dim=4, posterior="grid", out=tmp_path / "no")
