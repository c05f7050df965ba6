"""Callbacks, and trackers by the libraries themselves, offline."""

import csv
import json
import shutil
import time

import pytest

import latens
from latens import trackers
from latens.errors import LatensError

SMALL = {"recipe": "mlp", "latent_dim": 2, "hidden": "16", "epochs": 2, "film": False}


class Told(latens.Callback):
    def __init__(self, stop_at=None):
        self.epochs, self.ended, self.stop_at = [], 0, stop_at

    def on_epoch(self, run, row):
        assert run.metrics[-1] == row
        self.epochs.append(row["epoch"])
        if row["epoch"] == self.stop_at:
            raise KeyboardInterrupt

    def on_end(self, run):
        self.ended += 1
        self.has_report = (run.path / "report.html").is_file()


@pytest.mark.usefixtures("few_frames")
def test_a_callback_is_told_of_each_epoch_and_of_the_end_after_the_report(tmp_path):
    told = Told()
    latens.train("digits", out=tmp_path / "run", callbacks=[told], **SMALL)
    assert (told.epochs, told.ended, told.has_report) == ([1, 2], 1, True)


def test_a_training_that_was_stopped_goes_on_with_its_callbacks(tmp_path):
    told = Told(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        latens.train("digits", out=tmp_path / "run", callbacks=[told], report=False, **SMALL)
    assert (told.epochs, told.ended) == ([1], 1)
    again = Told()
    latens.resume(tmp_path / "run", callbacks=[again])
    assert again.epochs[-1] == 2
    assert again.ended == 1


@pytest.fixture
def logged(run_latens, tmp_path, monkeypatch):
    """A training with a tracker; returns its rows and its run directory."""

    def train(name, report=True):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setenv("WANDB_MODE", "offline")
        words = "train digits --recipe mlp --latent-dim 2 --hidden 16 --epochs 2 --out run"
        quiet = [] if report else ["--no-report"]
        result = run_latens(*words.split(), "--log", name, *quiet)
        assert result.returncode == 0, result.stderr
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], tmp_path / "run"

    return train


def test_csv(logged):
    rows, run = logged("csv", report=False)
    with (run / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [float(row["validation/elbo"]) for row in found] == [
        row["validation"]["elbo"] for row in rows
    ]
    assert [int(row["epoch"]) for row in found] == [1, 2]


@pytest.mark.usefixtures("few_frames")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows, run = logged("tensorboard")
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "images": 0}).Reload()
    found = events.Scalars("validation/elbo")
    assert [event.step for event in found] == [1, 2]
    expected = [row["validation"]["elbo"] for row in rows]
    assert [event.value for event in found] == pytest.approx(expected, rel=1e-6)
    figures = json.loads((run / "figures.json").read_text())
    assert events.Scalars("test/elbo")[0].value == pytest.approx(figures["elbo"], rel=1e-6)
    tags = events.Tags()["images"]
    assert {"samples", "curves", "film-samples"} <= set(tags)  # a film is a GIF
    assert events.Images("film-samples")[0].encoded_image_string.startswith(b"GIF8")
    assert events.Images("samples")[0].width > 100


@pytest.mark.usefixtures("few_frames")
@pytest.mark.filterwarnings("ignore")
def test_mlflow(logged, tmp_path):
    from mlflow import MlflowClient

    rows, _ = logged("mlflow")
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("latens")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["latent_dim"] == "2"
    history = client.get_metric_history(found.info.run_id, "validation/elbo")
    expected = [row["validation"]["elbo"] for row in rows]
    assert [metric.value for metric in history] == pytest.approx(expected)
    artifacts = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert artifacts == {"pictures", "report.html"}


@pytest.mark.filterwarnings("ignore")
def test_wandb(logged):
    """Offline it writes its own log, of plain JSON values, which `wandb sync` sends later."""
    rows, run = logged("wandb", report=False)
    (path,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    expected = {json.dumps(row["validation"]["elbo"]).encode() for row in rows}
    expected.add(b"validation/elbo")
    until = time.monotonic() + 60  # its own process writes it, perhaps after the run was closed
    while missing := {words for words in expected if words not in path.read_bytes()}:
        assert time.monotonic() < until, missing
        time.sleep(0.1)


class Failing(latens.Callback):
    """A tool that does not answer, or not for long."""

    def __init__(self, at):
        self.at = at

    def on_begin(self, run):
        if self.at == 0:
            raise OSError("no key")

    def on_epoch(self, run, row):
        if row["epoch"] >= self.at:
            raise OSError("the network is gone")


@pytest.mark.parametrize("at", [0, 1])
def test_a_tracker_must_answer_at_first_and_costs_no_training_later(at, tmp_path, capfd):
    tracker = trackers.Guarded("wandb", Failing(at))
    options = {"out": tmp_path / "run", "callbacks": [tracker], "report": False, **SMALL}
    if at == 0:
        with pytest.raises(LatensError, match="--log wandb: no key"):
            latens.train("digits", **options)
        assert not (tmp_path / "run").exists()
    else:
        assert latens.train("digits", **options).figures
        said = capfd.readouterr().err
        assert said.count("--log wandb failed, and the training goes on without") == 1


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_begins_again_is_logged_anew(digits_run, tmp_path):
    """As after a collapse, when the run directory was removed."""
    (log,) = trackers.trackers_of(["tensorboard"])
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    row = digits_run.metrics[0]
    log.on_begin(run)
    log.on_epoch(run, row)
    shutil.rmtree(run.path)
    run = latens.Run.create(tmp_path / "run", digits_run.record)
    log.on_begin(run)
    log.on_epoch(run, row)
    assert not log.has_failed
    log.tracker.writer.close()
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_missing_package_is_named(run_latens, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", _missing)
    result = run_latens("train", "digits", "--log", "tensorboard", "--out", "run")
    assert result.returncode == 2
    assert "pip install 'latens[tensorboard]'" in result.stderr
    assert not (tmp_path / "run").exists()


def _missing(name):
    raise ImportError(name)


def test_an_unknown_tracker(run_latens):
    with pytest.raises(LatensError, match="did you mean 'tensorboard'"):
        trackers.trackers_of(["tensorbord"])
    assert run_latens("train", "digits", "--log", "tensorbord").returncode == 2
    seeds = run_latens("train", "digits", "--log", "csv", "--seeds", "2")
    assert "leave out --seeds" in seeds.stderr


def test_a_tracker_that_is_gone_when_a_training_begins_again_costs_a_warning(digits_run, capfd):
    tracker = trackers.Guarded("wandb", Failing(1))
    tracker.on_begin(digits_run)
    tracker.tracker.at = 0
    tracker.on_begin(digits_run)
    assert "--log wandb failed, and the training goes on without" in capfd.readouterr().err

    calls = []
    tracker.tracker.on_epoch = lambda *about: calls.append(about)
    tracker.on_epoch(digits_run, {"epoch": 1})  # what is gone is not waited for again
    assert not calls
    tracker.tracker.at = 9
    tracker.on_begin(digits_run)
    tracker.on_epoch(digits_run, {"epoch": 1})
    assert calls
