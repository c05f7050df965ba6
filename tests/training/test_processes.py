"""Several processes learn as one would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import latens
from latens import LatensError, Run
from latens.cli import main
from latens.training.devices import resolve_devices
from latens.training.processes import Processes
from latens.training.setup import prepare

PROGRAMS = Path(__file__).parent.parent / "programs"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["train", "digits", "--recipe", "mlp", "--device", "cpu", "--epochs", "2", "--seed", "3"]
TRAIN += ["--batch-size", "100", "--precision", "float32", "--no-report", "--no-film"]


def done(command):
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return process


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """A training in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    main([*TRAIN, "--out", str(out)])
    return Run.open(out)


def test_two_processes_have_the_gradient_of_one_with_the_joint_batch(tmp_path):
    """33 images, so that one process has more of them than the other; and one, so that one has
    none. Free bits, total correlation and MMD are statistics over the joint batch."""
    found = {}
    for count, command in {1: [sys.executable], 2: TORCHRUN}.items():
        done([*command, PROGRAMS / "two_processes.py", tmp_path / f"{count}.pt"])
        found[count] = torch.load(tmp_path / f"{count}.pt")
        assert found[count]["count"] == count
    for objective in ("elbo", "free-bits", "beta-tc", "info-vae"):
        one, two = (found[count][objective] for count in (1, 2))
        assert one["terms"].keys() == two["terms"].keys()
        for name, value in one["terms"].items():
            torch.testing.assert_close(value, two["terms"][name], msg=f"{objective} {name}")
        gradients = [name for name in one["tensors"] if name.endswith(".exp_avg")]
        assert len(gradients) > 5
        for name in gradients:
            torch.testing.assert_close(
                one["tensors"][name], two["tensors"][name], msg=f"{objective} {name}"
            )
        assert any(one["tensors"][name].abs().max() > 1e-3 for name in gradients)
    assert all(value.isfinite().all() for value in found[2]["jitter"]["tensors"].values())
    one, two = found[1]["figures"], found[2]["figures"]
    for name in ("elbo", "reconstruction", "kl", "images", "active_units", "loss"):
        assert one[name] == pytest.approx(two[name], rel=1e-6), name


def learned(run):
    """By how much a training has moved each weight."""
    with torch.random.fork_rng():
        first = prepare("digits", run.config.with_options(devices=1)).model.state_dict()
    last = run.vae.state_dict()
    return torch.cat([(last[n] - w).flatten() for n, w in first.items() if w.is_floating_point()])


@pytest.mark.parametrize("how", ["--devices", "torchrun"])
def test_two_processes_leave_one_run(tmp_path, alone, how):
    out = tmp_path / "run"
    if how == "torchrun":
        process = done([*TORCHRUN, "-m", "latens", *TRAIN, "--out", out])
    else:
        command = [sys.executable, "-m", "latens", *TRAIN, "--devices", "2", "--out", out]
        process = done(command)
    assert process.stdout.splitlines()[-1] == str(out)
    assert process.stdout.count("test: ") == 1, "only one process speaks"
    assert process.stderr.count("latent dimensions, ") == 1
    run = Run.open(out)
    assert run.config.run.devices == 2
    assert [row["images"] for row in run.metrics] == [row["images"] for row in alone.metrics]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    for row, other in zip(run.metrics, alone.metrics, strict=True):
        assert row["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=0.02)
        assert row["validation"]["elbo"] == pytest.approx(other["validation"]["elbo"], rel=0.02)
    one, two = learned(alone), learned(run)
    assert two.norm().item() == pytest.approx(one.norm().item(), rel=0.1)
    assert torch.cosine_similarity(one, two, 0) > 0.2, "the noise differs, and little else"
    again = latens.evaluate(out)
    assert run.figures["elbo"] == pytest.approx(again.elbo)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1


def test_ctrl_c_stops_all_processes_and_the_run_goes_on(tmp_path):
    """Epochs of a few steps, so that none comes to a look of its own."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "latens", *TRAIN, "--devices", "2", "--out", out]
    command[command.index("--epochs") + 1] = "100000"
    command.append("--no-compile")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = out / "metrics.jsonl"  # empty until the first epoch has ended
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr[-2000:]
    assert stdout.splitlines()[-1] == str(out)
    assert stderr.count("latens train --resume") == 1
    assert Run.open(out).last_checkpoint()[1]["images"] > 0


def test_a_mistake_is_told_once(tmp_path):
    command = [*TORCHRUN, "-m", "latens", "train", tmp_path / "nothing.npy"]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode != 0
    assert process.stderr.count("latens: error: ") == 1


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is abc"),
        ({"WORLD_SIZE": "2"}, "and RANK is not: unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "one"}, "LOCAL_RANK is one"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "and MASTER_ADDR is not"),
    ],
)
def test_half_an_environment_of_a_launcher_is_refused(monkeypatch, environment, reason):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LatensError, match=reason):
        Processes.launch("cpu", 1)


def test_where_a_folder_cannot_be_made_one_line_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    words = [*TRAIN, "--devices", "2", "--out", tmp_path / "file" / "run"]
    command = [sys.executable, "-m", "latens", *words]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("latens: error: cannot read or write")
    assert process.stderr.count("\n") == 1, process.stderr


def test_a_process_that_is_killed_ends_the_others_in_one_line(tmp_path):
    out = tmp_path / "run"
    words = [*TRAIN, "--devices", "2", "--no-compile", "--out", out]
    words[words.index("--epochs") + 1] = "100000"
    command = [sys.executable, "-m", "latens", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    [other] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 2, stderr[-2000:]
    assert stderr.splitlines()[-1].startswith("latens: error: another process of this training")
    assert "Traceback" not in stderr


def test_a_launcher_decides_how_many_devices_there_are(monkeypatch):
    for environment, expected in (
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 2),
        ({"WORLD_SIZE": "2"}, 2),
        ({"LOCAL_WORLD_SIZE": "7"}, 2),
    ):
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert resolve_devices(2, "cpu") == expected, environment


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(LatensError, match="of cpu there are"):
        resolve_devices(10_000, "cpu")
    with pytest.raises(LatensError, match="of mps there are 1"):
        resolve_devices(2, "mps")
