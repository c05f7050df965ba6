import copy
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch
import yaml

import latens
from latens import LatensError, Run, TrainConfig
from latens.data.images import keep_labels
from latens.evaluation.metrics import evaluate
from latens.model.serialization import read_tensors, write_tensors
from latens.training.devices import resolve_device, resolve_precision
from latens.training.learner import TrainingLoss
from latens.training.processes import Processes
from latens.training.progress import comment
from latens.training.setup import prepare, reopen, resolve
from latens.training.trainer import Diverged, Interrupted, Trainer, learner_of

SMALL = {"recipe": "mlp", "latent_dim": 3, "epochs": 3, "film": False}


def trainer(tmp_path, digits, **options):
    tmp_path.mkdir(exist_ok=True)
    setup = prepare(digits, TrainConfig.from_options(**SMALL | options))
    return Trainer(Run.create(tmp_path / "run", setup.record()), setup, here())


def here():
    """This process alone."""
    return Processes.launch("cpu", 1)


# ---- it learns -------------------------------------------------------------------------------


def test_the_loss_falls_and_the_run_is_complete(digits_run):
    rows = digits_run.metrics
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"] - 0.5
    assert rows[-1]["validation"]["elbo"] > rows[0]["validation"]["elbo"]
    names = {path.name for path in digits_run.path.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "config.yaml",
        "figures.json",
        "film",
        "metrics.jsonl",
        "model.safetensors",
    }
    assert len(list((digits_run.path / "checkpoints").glob("*.safetensors"))) <= 2


def test_a_row_holds_every_term_in_nats_per_image(digits_run):
    row = digits_run.metrics[-1]
    train, validation = row["train"], row["validation"]
    assert train["loss"] == pytest.approx(train["reconstruction"] + train["kl"], rel=1e-4)
    assert validation["elbo"] == pytest.approx(-validation["reconstruction"] - validation["kl"])
    assert sum(validation["kl_per_dim"]) == pytest.approx(validation["kl"], rel=1e-4)
    assert row["images"] == 8 * 1438
    assert row["gradient_norm"] > 0
    assert 0 <= row["clipped"] <= 1


def test_what_is_saved_is_what_was_measured(digits_run, digits):
    figures = evaluate(latens.load(digits_run.path), digits.validation)
    assert figures.elbo == pytest.approx(digits_run.metrics[-1]["validation"]["elbo"], abs=1e-4)
    assert latens.evaluate(digits_run).elbo == pytest.approx(digits_run.figures["elbo"], abs=1e-4)


def test_validation_images_are_never_trained_on(digits, tmp_path, monkeypatch):
    seen = set()
    forward = TrainingLoss.forward

    def spy(self, pixels, y, images):
        seen.update(bytes(image.flatten().tolist()) for image in pixels)
        return forward(self, pixels, y, images)

    monkeypatch.setattr(TrainingLoss, "forward", spy)
    trainer(tmp_path, digits, epochs=1).fit()
    train = {bytes(image.flatten().tolist()) for image in digits.train.pixels}
    assert seen == train


def test_beta_weighs_the_training_loss_and_the_validation_loss_alike(digits, tmp_path):
    t = trainer(tmp_path, digits, beta=3.0)
    t.fit()
    row = t.run.metrics[-1]
    for part in (row["train"], row["validation"]):
        assert part["loss"] == pytest.approx(part["reconstruction"] + 3 * part["kl"], rel=1e-3)


# ---- the pieces of the loop ------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_to_zero(digits, tmp_path):
    t = trainer(tmp_path, digits, epochs=10, learning_rate=1e-3, warmup=0.1)
    rates = [t.setup.learning_rate(share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([1e-6, 5e-4, 1e-3, 5e-4, 0], abs=1e-9)


def test_without_averaging_the_last_weights_are_saved(digits, tmp_path):
    t = trainer(tmp_path, digits, ema=0.0)
    t.fit()
    saved, _ = read_tensors(t.run.path / "model.safetensors")
    for name, value in t.setup.model.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_every_epoch_visits_every_image_once_in_a_new_order(digits, tmp_path):
    t = trainer(tmp_path, digits)
    orders = []
    for epoch in range(2):
        t.state.epoch, t.state.in_epoch = epoch, 0
        orders.append(torch.cat([batch.pixels for batch, *_ in t.rest_of_epoch()]))
    assert not torch.equal(orders[0], orders[1])
    for order in orders:
        assert torch.equal(
            order.sum(0, dtype=torch.long), digits.train.pixels.sum(0, dtype=torch.long)
        )


def test_time_is_a_budget(digits, tmp_path):
    t = trainer(tmp_path, digits, epochs=None, minutes=0.05)
    t.fit()
    rows = t.run.metrics
    assert rows[-1]["seconds"] >= 3
    assert rows[-1]["learning_rate"] < 1e-5
    assert t.share() == 1


def test_early_stopping_keeps_the_best(digits, tmp_path):
    few = latens.data.DataSet(
        "few", "few", digits.train.take(slice(0, 40)), digits.validation, digits.test
    )
    t = trainer(
        tmp_path, few, epochs=500, early_stopping=3, batch_size=40, learning_rate=0.01, ema=0.0
    )
    t.fit()
    elbos = [row["validation"]["elbo"] for row in t.run.metrics]
    assert len(elbos) < 500
    assert elbos.index(max(elbos)) == len(elbos) - 4
    best = evaluate(latens.load(t.run.path), digits.validation)
    assert best.elbo == pytest.approx(max(elbos), abs=1e-4)
    assert best.elbo > elbos[-1]


def test_the_best_epoch_is_kept_without_early_stopping_too(digits, tmp_path):
    few = latens.data.DataSet(
        "few", "few", digits.train.take(slice(0, 40)), digits.validation, digits.test
    )
    options = {"epochs": 150, "batch_size": 40, "learning_rate": 0.003, "likelihood": "gaussian"}
    t = trainer(tmp_path, few, ema=0.0, **options)
    t.fit()
    elbos = [row["validation"]["elbo"] for row in t.run.metrics]
    assert len(elbos) == 150
    assert max(elbos) > elbos[-1] + 1
    kept = evaluate(latens.load(t.run.path), digits.validation)
    assert kept.elbo == pytest.approx(max(elbos), abs=1e-4)


def test_what_went_wrong_is_said_with_its_remedy(digits, tmp_path, capsys):
    t = trainer(tmp_path, digits, latent_dim=10, beta=100.0)
    evaluation = t.fit()
    losses = {1: 1.0, 2: 2.0, 3: 3.0, 7: 7.0}
    rows = [
        {
            "epoch": epoch,
            "clipped": 0.9,
            "learning_rate": 1e-3,
            "train": {"loss": loss},
            "validation": {"final_loss": loss},
        }
        for epoch, loss in losses.items()
    ]
    capsys.readouterr()
    comment(rows, evaluation, TrainConfig(), 10)
    said = " ".join(capsys.readouterr().err.split())
    assert "posterior collapse: 0 of 10 latent dimensions" in said
    assert "6.0 nats better after epoch 1, whose weights were kept" in said
    assert "90% of the steps were clipped" in said
    assert "learning rate too high: the training loss rose in 3 of 3 epochs" in said
    comment(rows, evaluation, TrainConfig.from_options(early_stopping=3), 10)
    assert "overfitting" not in capsys.readouterr().err


def test_free_bits_weigh_the_training_loss_and_the_validation_loss_alike(digits, tmp_path):
    t = trainer(tmp_path, digits, free_bits=2.0)
    t.fit()
    row = t.run.metrics[-1]
    validation = row["validation"]
    charged = sum(max(2.0, kl) for kl in validation["kl_per_dim"])
    assert validation["loss"] == pytest.approx(validation["reconstruction"] + charged)
    assert row["train"]["loss"] - row["train"]["reconstruction"] == pytest.approx(charged, rel=0.1)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(digits, tmp_path):
    t = trainer(tmp_path, digits)
    step = t.step

    def poisoned(batch, images, seed):
        if t.state.images >= 300:
            with torch.no_grad():
                t.setup.model.decoder.decoder.output.bias.fill_(math.nan)
        step(batch, images, seed)

    t.step = poisoned
    with pytest.raises(Diverged, match="smaller --learning-rate"):
        t.fit()
    assert torch.isfinite(latens.load(t.run.path).sample(3)).all()


def test_a_training_goes_back_from_a_loss_that_is_no_number_and_on_at_a_smaller_rate(
    digits, tmp_path, capsys
):
    t = trainer(tmp_path, digits, film=True)
    step, shown = t.step, []

    def poisoned_once(batch, images, seed):
        if t.state.images >= 2_000 and not shown:
            shown.append(batch.pixels.clone())
            with torch.no_grad():
                t.setup.model.decoder.decoder.output.bias.fill_(math.inf)
        step(batch, images, seed)

    t.step = poisoned_once
    t.fit()
    said = capsys.readouterr().err
    assert said.count("going back to the state after") == 1
    assert "on with 0.25 of the learning rate" in said
    rows = t.run.metrics
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"]
    about = json.loads((t.run.path / "diverged/step.json").read_text())
    assert about["epoch"] == 2
    assert torch.equal(digits.train.take(torch.tensor(about["images"])).pixels, shown[0])
    assert "inf" in about["found"].values() or "nan" in about["found"].values()
    tensors, _ = read_tensors(t.run.path / "diverged/state.safetensors")
    assert tensors.keys() == t.learner.tensors().keys()
    assert t.run.last_checkpoint()[1]["setbacks"] == 1
    assert sorted(t.run.frames) == [0, 1, 2, 3]


def test_a_model_of_an_epoch_that_is_gone_is_not_kept(digits, tmp_path):
    t = trainer(tmp_path, digits)
    t.fit()
    t.state.best_epoch += 5  # as of epochs since the last checkpoint
    (t.run.path / "model.safetensors").unlink()
    t._go_back(Diverged("the loss is nan"))
    kept = latens.load(t.run.path).state_dict()
    for name, value in t.averaged.state_dict().items():
        assert torch.equal(kept[name], value), name


def test_a_loss_that_only_rises_ends_the_run(digits, tmp_path, capsys):
    with pytest.raises(Diverged, match=r"rose from .* and so it did 3 times before"):
        trainer(tmp_path, digits, learning_rate=1e3).fit()
    assert capsys.readouterr().err.count("going back") == 3


def test_binarised_bits_are_drawn_at_each_visit(tmp_path):
    data = latens.load_data("digits", binarisation="dynamic")
    t = trainer(tmp_path, data)
    assert t.learner.loss.stochastic_binarize
    t.fit()
    assert t.evaluation.kind == "binary"


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(5, 5, 500), (49, 8, 500), (1438, 128, 209), (1000, 100, 300)],
)
def test_batch_and_epochs_fit_the_data(digits, images, batch_size, epochs):
    few = latens.data.DataSet(
        "few", "few", digits.train.take(slice(0, images)), digits.validation, digits.test
    )
    config = resolve(TrainConfig(), few)
    assert (config.optimiser.batch_size, config.run.epochs) == (batch_size, epochs)
    assert config.run.early_stopping == epochs // 10
    for option in ({"epochs": 5}, {"early_stopping": 0}):
        assert resolve(TrainConfig.from_options(**option), few).run.early_stopping == 0


def test_auto_takes_what_is_here():
    assert resolve_device("cpu") == "cpu"
    capabilities = torch.cpu.get_capabilities()
    bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert resolve_precision("auto", "cpu") == ("bf16" if bf16 else "float32")
    assert resolve_precision("float32", "cpu") == "float32"
    if not torch.cuda.is_available():
        assert resolve_device("auto") in ("cpu", "mps")
        with pytest.raises(LatensError, match="device cuda is not available here"):
            resolve_device("cuda")


# ---- stopped and resumed ---------------------------------------------------------------------

CODE = """
import sys, latens
from latens.training import trainer
trainer.CHECKPOINT_SECONDS = 0.2
path = sys.argv[1]
if sys.argv[2] == "train":
    latens.train("digits", out=path, recipe="conv", latent_dim=4, epochs=12, seed=7, channels=8,
                 features=32, binarisation="dynamic", input_noise=0.1, report=False)
else:
    latens.resume(path)
"""


def start(path, what):
    arguments = [sys.executable, "-c", CODE, str(path), what]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_killed_at_any_step_and_resumed_it_ends_with_the_same_bits(tmp_path):
    finish(start(tmp_path / "whole", "train"))
    killed = start(tmp_path / "killed", "train")
    for rows in (1, 5):
        wait_for_rows(tmp_path / "killed", rows, killed)
        time.sleep(random.random() * 0.4)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL, "killed before its end"
        killed = start(tmp_path / "killed", "resume")
    finish(killed)
    for name in ("model.safetensors", "checkpoints/000000017256.safetensors"):
        one, _ = read_tensors(tmp_path / "whole" / name)
        two, _ = read_tensors(tmp_path / "killed" / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    one, two = (Run.open(tmp_path / name).metrics for name in ("whole", "killed"))
    assert [row["epoch"] for row in two] == list(range(1, 13))
    assert [row["train"] for row in one] == [row["train"] for row in two]
    assert [row["validation"] for row in one] == [row["validation"] for row in two]


def wait_for_rows(path, count, process):
    while process.poll() is None:
        metrics = path / "metrics.jsonl"
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} epochs: {process.stderr.read() if process.poll() else ''}")


def test_ctrl_c_leaves_a_run_that_loads_and_goes_on(tmp_path):
    arguments = ["train", "digits", "--recipe", "mlp", "--epochs", "2000", "--out", "run"]
    arguments.append("--no-compile")
    process = subprocess.Popen(
        [sys.executable, "-m", "latens", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_rows(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out.splitlines()[-1] == "run"
    assert "latens train --resume run" in err
    assert "Traceback" not in err
    assert latens.load(tmp_path / "run").sample(2).shape == (2, 1, 8, 8)
    state = Run.open(tmp_path / "run").last_checkpoint()[1]
    assert state["images"] >= 3 * 1438


def test_resuming_a_finished_run_changes_no_weight(digits_run):
    before = (digits_run.path / "model.safetensors").read_bytes()
    again = latens.resume(digits_run.path)
    assert torch.equal(again.vae.offset, latens.load(digits_run.path).offset)
    assert (digits_run.path / "model.safetensors").read_bytes() == before
    assert len(again.metrics) == 8


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(digits, tmp_path):
    t = trainer(tmp_path, digits)
    t.fit()
    newest = sorted((t.run.path / "checkpoints").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert t.run.last_checkpoint()[1]["images"] == 0


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "foreign", "another", "state"])
def test_without_a_checkpoint_to_go_on_from_nothing_is_lost(digits_run, tmp_path, how):
    copy = tmp_path / "copy"
    shutil.copytree(digits_run.path, copy)
    for path in (copy / "checkpoints").glob("*.safetensors"):
        tensors, metadata = read_tensors(path)
        if how == "truncated":
            path.write_bytes(path.read_bytes()[:500])
        elif how == "foreign":
            path.write_bytes(b"something else")
        elif how == "another":
            write_tensors(path, {"model.x": torch.zeros(3)}, metadata)
        elif how == "state":
            write_tensors(path, tensors, {"state": '{"images": 5, "speed": 3}'})
        else:
            path.unlink()
    if how == "missing":
        shutil.rmtree(copy / "checkpoints")
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    with pytest.raises(LatensError, match="checkpoint"):
        latens.resume(copy)
    assert {path: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


def test_a_time_budget_that_ran_out_within_an_epoch_ends_that_epoch(digits, tmp_path):
    t = trainer(tmp_path, digits, epochs=None, minutes=100.0)
    t._save()
    for batch in list(t.rest_of_epoch())[:3]:
        t.step(*batch)
    t.began -= 6001.0
    t._save()
    again = Trainer(t.run, t.setup, here(), t.run.last_checkpoint())
    again.fit()
    assert [row["images"] for row in t.run.metrics] == [384]


def test_killed_between_the_last_step_and_the_end_of_an_epoch(digits, tmp_path):
    t = trainer(tmp_path, digits)
    for batch in t.rest_of_epoch():
        t.step(*batch)
    t._save()
    again = Trainer(t.run, t.setup, here(), t.run.last_checkpoint())
    again.fit()
    assert [row["images"] for row in t.run.metrics] == [1438, 2876, 4314]


def test_ones_own_model_is_trained_and_resumed(digits, tmp_path):
    vae = latens.VAE(
        latens.ConvEncoder((1, 8, 8), channels=8),
        latens.MLPDecoder(3, (1, 8, 8)),
        latens.Gaussian(),
    )
    run = latens.train("digits", model=vae, epochs=2, out=tmp_path / "run", report=False)
    assert run.config.model.recipe == "own"
    assert latens.evaluate(run).kind == "density"
    assert latens.evaluate(vae, digits.test).images == 179
    before = (run.path / "model.safetensors").read_bytes()
    latens.resume(run.path)
    assert (run.path / "model.safetensors").read_bytes() == before
    with pytest.raises(LatensError, match="latent_dim is decided by what is given"):
        latens.train("digits", model=vae, latent_dim=3)
    with pytest.raises(LatensError, match="reads images of"):
        latens.train(
            "digits",
            model=latens.VAE(latens.MLPEncoder((1, 9, 9)), latens.MLPDecoder(3, (1, 9, 9))),
        )


def test_the_users_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    latens.train("digits", out=tmp_path / "run", report=False, **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_changed_data_are_noticed(digits_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits_run.path, copy)
    record = yaml.safe_load((copy / "config.yaml").read_text())
    record["data"]["fingerprint"] = "0" * 64
    (copy / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(LatensError, match="have changed since"):
        latens.resume(copy)


def test_two_trainings_of_one_seed_are_one(tmp_path):
    runs = []
    for i, seed in enumerate((1, 1, 2)):
        torch.manual_seed(100 + i)  # what was drawn before must not matter
        out = tmp_path / str(i)
        runs.append(latens.train("digits", out=out, **SMALL, seed=seed, report=False))
    weights = [(run.path / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]


def stop_after(epoch, monkeypatch):
    """Ctrl-C at the end of an epoch."""
    heed = Trainer._heed

    def interrupted(self, event):
        if self.state.epoch == epoch and not self.state.in_epoch:
            event.set()
        return heed(self, event)

    monkeypatch.setattr(Trainer, "_heed", interrupted)


NOISY = [
    {"hidden": "32", "dropout": 0.4},
    {"hidden": "32", "input_noise": 0.3, "jitter": 0.5},
    {"hidden": "32", "objective": "iwae", "samples": 3, "prior": "mixture", "components": 7},
    {"hidden": "32", "objective": "beta-tc", "beta_warmup": 0.5},
]


@pytest.mark.parametrize("options", NOISY, ids=lambda options: list(options)[1])
def test_a_resumed_training_is_the_unbroken_one(tmp_path, monkeypatch, options):
    """Dropout and noise are on again after resuming, and the objective is the same."""
    options = SMALL | options | {"report": False, "film": False}
    whole = latens.train("digits", out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Interrupted):
            latens.train("digits", out=tmp_path / "broken", **options)
    broken = latens.resume(tmp_path / "broken")
    for name, value in whole.vae.state_dict().items():
        assert torch.equal(value, broken.vae.state_dict()[name]), name
    assert len(whole.metrics) == 3
    for one, two in zip(whole.metrics, broken.metrics, strict=True):
        assert (one["train"], one["validation"]) == (two["train"], two["validation"])
        assert one["learning_rate"] == two["learning_rate"]


def test_a_loaded_model_is_trained_in_training_mode(digits_run, digits):
    setup = prepare(digits, TrainConfig.from_options(epochs=1), model=latens.load(digits_run.path))
    assert not setup.model.training
    assert learner_of(setup, here()).model.training


def test_a_run_of_a_device_that_is_not_here_goes_on_elsewhere(digits, tmp_path, capsys):
    t = trainer(tmp_path, digits)
    t.fit()
    record = yaml.safe_load((t.run.path / "config.yaml").read_text())
    record["options"]["run"]["device"] = "mps" if resolve_device("auto") == "cuda" else "cuda"
    (t.run.path / "config.yaml").write_text(yaml.safe_dump(record))
    setup = reopen(Run.open(t.run.path), digits)
    assert setup.config.run.device == resolve_device("auto")
    assert "is not available here: going on with" in capsys.readouterr().err


def test_frozen_parameters_stay_frozen_after_resuming(digits, tmp_path, monkeypatch):
    vae = latens.VAE(latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(3, (1, 8, 8), (16,)))
    vae.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in vae.encoder.state_dict().items()}
    options = {"model": vae, "epochs": 3, "report": False, "film": False}
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Interrupted):
            latens.train("digits", out=tmp_path / "run", **options)
    run = latens.resume(tmp_path / "run")
    assert len(run.metrics) == 3
    for name, value in run.vae.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


# ---- objectives ------------------------------------------------------------------------------


@dataclass(frozen=True)
class HalfTheKL(latens.Objective):
    """An objective of one's own."""

    weight: float = 0.5

    def loss(self, draw):
        return latens.Loss(-draw.log_px_z.mean(0) + self.weight * draw.kl)


def test_an_objective_of_ones_own_is_trained_recorded_and_resumed(tmp_path, monkeypatch):
    options = SMALL | {"hidden": "16", "report": False, "film": False}
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Interrupted):
            latens.train(
                "digits", out=tmp_path / "own", objective=HalfTheKL(weight=0.25), **options
            )
    own = latens.resume(tmp_path / "own")
    same = latens.train("digits", out=tmp_path / "same", beta=0.25, **options)
    for name, value in own.vae.state_dict().items():
        assert torch.equal(value, same.vae.state_dict()[name]), name
    assert own.record["objective"]["part"] == "HalfTheKL"
    assert [r["validation"]["loss"] for r in own.metrics] == [
        r["validation"]["loss"] for r in same.metrics
    ]
    with pytest.raises(LatensError, match="beta is decided by what is given"):
        latens.train("digits", objective=HalfTheKL(), beta=2.0)


def test_validation_measures_the_objective_and_chooses_by_it(digits, tmp_path):
    t = trainer(tmp_path, digits, objective="iwae", samples=16, latent_dim=4, ema=0.0)
    t.fit()
    rows = t.run.metrics
    assert "beta" not in rows[0]
    for row in rows:
        terms = row["validation"]
        assert terms["loss"] == terms["final_loss"]
        assert terms["loss"] < -terms["elbo"], "the bound of 16 samples is tighter"
    best = min(rows, key=lambda row: row["validation"]["loss"])
    kept = evaluate(latens.load(t.run.path), digits.validation, importance_samples=16)
    assert kept.nll == pytest.approx(best["validation"]["loss"], abs=0.05)


def test_a_term_of_an_objective_is_logged_for_training_and_validation(digits, tmp_path):
    t = trainer(tmp_path, digits, objective="info-vae", mmd_weight=50.0)
    t.fit()
    row = t.run.metrics[-1]
    for part in (row["train"], row["validation"]):
        expected = part["reconstruction"] + 50 * part["mmd"]
        assert part["loss"] == pytest.approx(expected, rel=1e-4)


def test_metrics_are_json_lines(digits_run):
    for line in (digits_run.path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["epoch"] > 0


# ---- schedules and labels --------------------------------------------------------------------


def test_beta_moves_as_told_and_is_logged(digits, tmp_path):
    t = trainer(tmp_path, digits, epochs=3, beta=1.0, beta_step=0.5)
    t.fit()
    assert [row["beta"] for row in t.run.metrics] == pytest.approx([1.0, 1.5, 2.0])
    t = trainer(tmp_path / "warm", digits, epochs=4, beta=2.0, beta_warmup=0.5)
    t.fit()
    assert [row["beta"] for row in t.run.metrics] == pytest.approx([1.0, 2.0, 2.0, 2.0], abs=0.02)


def test_the_weights_kept_have_the_least_loss_at_the_last_beta(digits, tmp_path):
    """The ELBO is best at first, while β is small; the loss of the last β is not."""
    t = trainer(tmp_path, digits, epochs=6, beta=0.1, beta_step=4.0, ema=0.0)
    t.fit()
    rows = t.run.metrics
    for row in rows:
        terms = row["validation"]
        assert terms["final_loss"] == pytest.approx(terms["reconstruction"] + 20.1 * terms["kl"])
        expected = terms["reconstruction"] + row["beta"] * terms["kl"]
        assert terms["loss"] == pytest.approx(expected)
    best = min(rows, key=lambda row: row["validation"]["final_loss"])
    kept = evaluate(latens.load(t.run.path), digits.validation)
    assert kept.elbo == pytest.approx(best["validation"]["elbo"], abs=1e-4)


def test_the_label_term_is_a_mean_over_labelled_images(digits, tmp_path):
    few = replace(digits, train=keep_labels(digits.train, 100, seed=0))
    t = trainer(tmp_path, few, recipe="semi_supervised", label_weight=3.0, epochs=2)
    share = 100 / len(digits.train)
    assert t.labelled == pytest.approx(share)
    assert t.learner.training_loss.objective.label_weight == pytest.approx(3 / share)
    assert t.setup.objective.label_weight == 3
    t.fit()
    row = t.run.metrics[-1]
    assert 0 < row["train"]["label"] < 2 * math.log(10)
    assert 0 <= row["validation"]["accuracy"] <= 1
    terms = row["validation"]
    assert terms["loss"] == pytest.approx(-terms["elbo"] + 3 * terms["label"])


def test_images_without_a_label_teach_the_classifier_nothing(digits, tmp_path):
    unknown = replace(digits.train, labels=torch.full((len(digits.train),), -1))
    t = trainer(tmp_path, replace(digits, train=unknown), recipe="semi_supervised", epochs=1)
    before = copy.deepcopy(t.setup.model.classifier.state_dict())
    t.fit()
    for name, value in t.setup.model.classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.whole
def test_a_classifier_learns_from_few_labels(digits, tmp_path):
    few = replace(digits, train=keep_labels(digits.train, 200, seed=0))
    t = trainer(
        tmp_path,
        few,
        recipe="semi_supervised",
        latent_dim=8,
        epochs=60,
        network="mlp",
        hidden="128",
        label_weight=20.0,
    )
    t.fit()
    found = evaluate(latens.load(t.run.path), digits.test)
    assert found.accuracy is not None
    assert found.accuracy > 0.85
    right = latens.load(t.run.path)
    x, y = digits.test.unit(), digits.test.labels
    by_hand = (right.classify(right.embed(x)).probs.argmax(1) == y).double().mean().item()
    assert found.accuracy == pytest.approx(by_hand)


def test_a_learned_prior_follows_the_images_and_is_saved(tmp_path):
    options = {"recipe": "mlp", "latent_dim": 3, "hidden": "64", "epochs": 40, "film": False}
    options |= {"report": False}
    run = latens.train(
        "digits", out=tmp_path / "mixture", prior="mixture", components=20, **options
    )
    assert run.figures["kl_per_dim"] is None
    prior = latens.load(run.path).prior
    assert prior.components == 20
    assert torch.equal(prior.mean, run.vae.prior.mean)
    # Images are likelier under it than under the unit Gaussian that it began near
    z = run.vae.embed(latens.load_data("digits").test.unit())
    unit = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert run.vae.prior_given().log_prob(z).mean() > unit.mean()
