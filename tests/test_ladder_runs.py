"""A ladder and a grid from the command line: what works for every model works for them."""

import json

import pytest
import torch
from safetensors.torch import load_file

import latens
from latens.errors import LatensError
from latens.training import trainer

OPTIONS = {"recipe": "ladder", "levels": "2x1,4x2", "channels": 8, "batch_size": 64}


@pytest.fixture(scope="module")
def ladder_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("ladder") / "run"
    return latens.train("digits", epochs=2, out=path, **OPTIONS)


def test_a_run_of_a_ladder_has_its_levels_in_every_figure(ladder_run):
    last = ladder_run.metrics[-1]["validation"]
    assert len(last["kl_per_level"]) == 3
    assert sum(last["kl_per_level"]) == pytest.approx(last["kl"], rel=1e-5)
    assert ladder_run.latent_shape == (1, 2, 2)
    assert len(last["kl_per_dim"]) == 4
    assert ladder_run.config.run.compile is False
    page = (ladder_run.path / "report.html").read_text("utf-8")
    assert "rebuilt from more and more levels" in page
    assert "level 3 posterior" in page
    pictures = {path.stem for path in (ladder_run.path / "pictures").iterdir()}
    assert {"levels", "kl-per-level", "samples", "interpolations", "film-samples"} <= pictures
    assert "samples-by-class" not in pictures  # no level is known to tell the class


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


def test_evaluate_tells_each_level(ladder_run, run_latens):
    done = run_latens("evaluate", ladder_run.path, "--importance-samples", 20)
    assert done.returncode == 0, done.stderr
    rows = {line[:18].strip(): float(line[18:].split()[0]) for line in done.stdout.splitlines()[:7]}
    levels = [rows[f"kl of level {i}"] for i in (1, 2, 3)]
    assert sum(levels) == pytest.approx(rows["kl"], abs=0.01)
    assert rows["nll"] < rows["−elbo"]


def test_a_resumed_ladder_ends_with_the_same_bits(ladder_run, tmp_path, monkeypatch):
    heed = trainer.Trainer._heed

    def stop_after_an_epoch(self, interrupted):
        if self.state.epoch == 1:
            interrupted.set()
        return heed(self, interrupted)

    monkeypatch.setattr(trainer.Trainer, "_heed", stop_after_an_epoch)
    with pytest.raises((trainer.Interrupted, KeyboardInterrupt)):
        latens.train("digits", epochs=2, out=tmp_path / "run", **OPTIONS)
    monkeypatch.undo()
    assert len(latens.Run.open(tmp_path / "run").metrics) == 1
    again = latens.resume(tmp_path / "run")
    assert [row["train"] for row in again.metrics] == [row["train"] for row in ladder_run.metrics]
    one, two = (load_file(run.path / "model.safetensors") for run in (ladder_run, again))
    assert all(torch.equal(one[name], value) for name, value in two.items())


def test_two_processes_learn_what_one_does(ladder_run, shell_latens, tmp_path):
    words = ("--recipe", "ladder", "--levels", "2x1,4x2", "--channels", 8, "--batch-size", 64)
    words += ("--epochs", 2, "--devices", 2, "--no-report", "--no-film", "--out", "two")
    done = shell_latens("train", "digits", *words)
    assert done.returncode == 0, done.stderr
    one, two = ladder_run.metrics, latens.Run.open(tmp_path / "two").metrics
    assert [row["images"] for row in two] == [row["images"] for row in one]
    for row, other in zip(one, two, strict=True):
        assert row["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=0.05)


def test_levels_that_cannot_be_are_refused_before_anything_is_written(run_latens, tmp_path):
    for levels, reason in (("3x2", "halved to 4, 2, 1"), ("4", "written 7x4,14x4")):
        done = run_latens("train", "digits", "--recipe", "ladder", "--levels", levels)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_training_under_the_grid_and_figures_of_each_q(run_latens, tmp_path):
    options = ("--recipe", "mlp", "--latent-dim", 2, "--posterior", "grid", "--cells", 32)
    options += ("--epochs", 8, "--no-report", "--no-film", "--hidden", 64)
    done = run_latens("train", "digits", *options, "--out", "run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["validation"]["elbo"] > rows[0]["validation"]["elbo"]
    assert "encoder" in rows[0]["train"]
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
