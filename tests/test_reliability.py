"""What a stranger's file, a signal or a damaged disk must not do."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import latens
from latens import LatensError
from latens.console import LONGEST_LINE, in_one_line
from latens.data import load_data
from latens.data.cache import cache_folder
from latens.model import serialization
from latens.model.serialization import CHECKSUM, read_tensors, write_tensors
from latens.neighbour_maps import neighbour_map, neighbour_maps_apart
from latens.run.directory import read_yaml

SMALL = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "film": False, "report": False}


def images_in(folder, count=20):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def refused(words, function, *arguments):
    with pytest.raises(LatensError, match=words) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


# ---- processes of our own --------------------------------------------------------------------


def test_nothing_is_imported_from_the_folder_in_which_a_command_is_called(tmp_path, monkeypatch):
    """`python -m` would: a sweep of a stranger's folder, called inside it, ran its torch.py."""
    for name in ("numpy", "sklearn", "torch"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    z = np.random.default_rng(0).normal(size=(9, 3))
    expected = neighbour_map(z, "tsne")
    monkeypatch.delitem(sys.modules, "sklearn")  # or no process is started
    monkeypatch.setattr("latens.neighbour_maps.neighbour_map", None)  # not in this one
    np.testing.assert_array_equal(neighbour_maps_apart(z, ["tsne"])["tsne"], expected)
    latens.sweep("digits", beta=[1], epochs=1, **SMALL)
    assert not (tmp_path / "executed").exists()


# ---- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_training_that_is_told_to_end_saves_and_can_go_on(tmp_path, end):
    words = "train digits --recipe mlp --hidden 16 --epochs 100000 --no-compile --out run"
    words += " --no-film --no-report"
    command = [sys.executable, "-m", "latens", *words.split()]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(end, signal.SIG_DFL),  # noqa: PLW1509 - nohup may run us
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(end)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: latens train --resume run" in err
    rows = len(metrics.read_text().splitlines())
    _, state = latens.Run.open(tmp_path / "run").last_checkpoint()
    assert rows in (state["epoch"], state["epoch"] + 1)
    assert out.strip() == "run"


def trainings(folder, *options, count=2):
    """Several at once; each one's status and words."""
    words = "--recipe mlp --hidden 16 --no-film --no-report"
    command = [sys.executable, "-m", "latens", "train", *options, *words.split()]
    begun = [
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    told = [process.communicate(timeout=120) for process in begun]
    return [(p.returncode, *words) for p, words in zip(begun, told, strict=True)]


def test_trainings_that_begin_at_once_have_runs_of_their_own(tmp_path):
    ended = trainings(tmp_path, "digits", "--epochs", "1", count=3)
    assert [status for status, *_ in ended] == [0, 0, 0], ended
    runs = {out.splitlines()[-1] for _, out, _ in ended}
    assert runs == {f"runs/digits-mlp-{i}" for i in (1, 2, 3)}
    assert all(len(latens.Run.open(tmp_path / run).metrics) == 1 for run in runs)
    assert not list((tmp_path / "runs").glob(".*"))


def test_two_trainings_into_one_folder(tmp_path):
    """One wins, and the other says so."""
    ended = trainings(tmp_path, "digits", "--epochs", "1", "--out", "run")
    assert sorted(status for status, *_ in ended) == [0, 2], ended
    assert any("latens: error: run exists already" in err for *_, err in ended)
    assert len(latens.Run.open(tmp_path / "run").metrics) == 1


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    run = latens.train("digits", out=tmp_path / "run", epochs=1, **SMALL)
    with run.held():
        refused("is being trained by another process", latens.resume, run.path)
    latens.resume(run.path)  # the lock is gone, though its file is not
    assert len(run.metrics) == 1


def test_decoded_images_are_their_owners_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "cache"))
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_command_that_is_told_to_end_clears_up(tmp_path):
    """Half of what was asked for is not left behind."""
    command = [sys.executable, "-m", "latens", "generate", "mnist-2d", "-n", "1000000"]
    process = subprocess.Popen(
        [*command, "--out", "some"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(".some.partial-*/*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.endswith("latens: error: stopped\n")
    assert not list(tmp_path.iterdir())


# ---- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("reliability") / "run"
    return latens.train("digits", out=out, epochs=2, **SMALL)


def test_every_flipped_byte_is_found(tmp_path):
    tensors = {"a": torch.randn(7, 3), "b": torch.arange(5), "c": torch.tensor(2.0).half()}
    write_tensors(tmp_path / "x.safetensors", tensors, {"state": "{}"})
    whole = (tmp_path / "x.safetensors").read_bytes()
    for name, value in read_tensors(tmp_path / "x.safetensors")[0].items():
        assert torch.equal(value, tensors[name])
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        (tmp_path / "x.safetensors").write_bytes(flipped)
        try:
            found, metadata = read_tensors(tmp_path / "x.safetensors")
        except LatensError:
            continue
        else:  # of JSON that says the same, or of the name of the checksum
            assert all(torch.equal(found[name], value) for name, value in tensors.items()), place
            assert CHECKSUM not in metadata or place < len(whole) - 80


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, run, capsys):
    shutil.copytree(run.path, tmp_path / "run")
    copy = latens.Run.open(tmp_path / "run")
    first, last = sorted((copy.path / "checkpoints").glob("*.safetensors"))
    damaged = bytearray(last.read_bytes())
    damaged[-40] ^= 4
    last.write_bytes(damaged)
    _, state = copy.last_checkpoint()
    assert state["images"] == int(first.stem)
    assert f"{last.name} is damaged: going on from the checkpoint before it" in " ".join(
        capsys.readouterr().err.split()
    )


def test_weights_that_are_no_numbers_are_not_loaded(tmp_path, run):
    shutil.copytree(run.path, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    safetensors.torch.save_file(tensors, path)
    refused("NaN or infinite", latens.load, tmp_path / "run")
    refused("NaN or infinite", latens.evaluate, tmp_path / "run")


# ---- hostile files ---------------------------------------------------------------------------


def test_no_program_is_started_for_an_image(tmp_path):
    folder = images_in(tmp_path / "some")
    marker = tmp_path / "was-here"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({marker}) (w) file closefile\n"
    (folder / "99.png").write_text(program)
    refused("99.png is not an image", load_data, folder)
    assert len(load_data(folder, skip_bad=True).split("all")) == 20
    assert not marker.exists()


def test_pipes_and_links_out_of_the_folder_are_left_out(tmp_path, capsys):
    folder = images_in(tmp_path / "some")
    os.mkfifo(folder / "pipe.png")
    refused("pipe.png is no regular file", load_data, folder)
    (folder / "pipe.png").unlink()
    (folder / "all").symlink_to("/usr")
    (folder / "again").symlink_to(folder)
    assert len(load_data(folder).split("all")) == 20
    assert "all is a link out of" in " ".join(capsys.readouterr().err.split())


def test_yaml_that_grows_is_not_read(tmp_path):
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(bomb))
    refused("aliases", read_yaml, tmp_path / "bomb.yaml")
    (tmp_path / "large.yaml").write_text("x: " + "y" * 2**21)
    refused("more than 1,048,576 bytes", read_yaml, tmp_path / "large.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    refused("no such file", read_yaml, tmp_path / "pipe.yaml")


def test_names_do_not_control_the_terminal(run_latens):
    assert (
        in_one_line("a\x1b[2Jb\nc\u202e")
        == "a\N{REPLACEMENT CHARACTER}[2Jb c\N{REPLACEMENT CHARACTER}"
    )
    assert len(in_one_line("x" * 10**6)) < LONGEST_LINE + 5
    done = run_latens("evaluate", "\x1b]0;title\x07" + "x" * 100_000)
    assert done.returncode == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stderr)
    assert len(done.stderr) < 2_000


def test_figures_are_json(run, run_latens):
    figures = run_latens("evaluate", run.path, "--json").stdout

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(figures, parse_constant=refuse)["images"]


# ---- two at once -----------------------------------------------------------------------------


def test_a_run_is_read_while_it_is_trained(tmp_path):
    """Figures and doctor of whatever epoch it is at."""
    words = "train digits --recipe mlp --hidden 16 --epochs 100000 --no-compile --out run"
    words += " --no-film --no-report"
    training = subprocess.Popen(
        [sys.executable, "-m", "latens", *words.split()], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") > 1):
            assert training.poll() is None
            time.sleep(0.05)
        for _ in range(5):
            assert latens.evaluate(tmp_path / "run").images == 179
            assert latens.Run.open(tmp_path / "run").metrics
        latens.doctor(tmp_path / "run")
        assert training.poll() is None
    finally:
        training.kill()
        training.wait()


def test_weights_that_are_replaced_while_they_are_read_are_those_of_one_file(tmp_path, monkeypatch):
    """safetensors opens a file once for its header and once for its values."""
    path, opened = tmp_path / "model.safetensors", []

    def opening(name, framework):
        file = safe_open(name, framework)
        if not opened:
            write_tensors(tmp_path / "new", {"w": torch.ones(1000)}, {})
            (tmp_path / "new").replace(path)
        opened.append(name)
        return file

    write_tensors(path, {"w": torch.zeros(1000)}, {})
    monkeypatch.setattr(serialization, "safe_open", opening)
    assert (serialization.read_tensors(path)[0]["w"] == 1).all()
    assert len(opened) == 2


def at_once(*programs, **environment):
    """Python programs that run at the same time; what each printed."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in programs
    ]
    ended = [process.communicate(timeout=200) for process in begun]
    assert [p.returncode for p in begun] == [0] * len(begun), ended
    return [out for out, _ in ended]


def test_two_build_one_cache(tmp_path):
    folder = images_in(tmp_path / "some", 1_000)
    program = f"import latens; print(latens.load_data({str(folder)!r}).fingerprint())"
    cache = tmp_path / "cache"
    one, two = at_once(program, program, LATENS_CACHE=str(cache))
    assert one == two
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_two_reports_of_one_run(tmp_path, run):
    shutil.copytree(run.path, tmp_path / "run")
    program = f"from latens.api import report; print(report({str(tmp_path / 'run')!r}))"
    assert len(set(at_once(program, program))) == 1
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name != ".gitignore"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_the_trainings_of_a_sweep_end_with_it(tmp_path):
    """Whether it is told to end or killed."""

    def trainings_here():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found += [path] if f"{tmp_path}/sweep".encode() in path.read_bytes() else []
        return found

    words = ["digits", "--recipe", "mlp", "--beta", "1", "2", "--epochs", "100000", "--jobs", "1"]
    words += ["--no-compile"]
    command = [sys.executable, "-m", "latens", "sweep", *words, "--out", f"{tmp_path}/sweep"]
    for end in (signal.SIGTERM, signal.SIGKILL):
        sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(trainings_here()) < 2 or not list(tmp_path.glob("sweep/*/metrics.jsonl")):
            assert sweep.poll() is None, sweep.stderr.read()
            time.sleep(0.1)
        sweep.send_signal(end)
        sweep.communicate(timeout=60)
        while trainings_here():
            time.sleep(0.1)
