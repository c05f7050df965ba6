"""Annotations of shape and type are checked while the tests of parts run."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of two workers on the same cores wait in turns
    os.environ["OMP_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

import latens.config  # before the hook: it checks itself what comes from outside

install_import_hook("latens", "beartype.beartype")

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import audit
import latens.api
from latens.cli import main
from latens.data import load_data
from latens.data.sources import SOURCES

# Read once: each training would read its 117,000 numbers as text again
DIGITS = SOURCES["digits"]
SOURCES["digits"] = dataclasses.replace(DIGITS, read=functools.cache(DIGITS.read))

jaxtyping.config.update("jaxtyping_disable", True)  # but in tests of parts: see `_annotations`
settings.register_profile("latens", deadline=None, max_examples=50)  # machines are noisy
settings.load_profile("latens")

REPOSITORY = Path(__file__).parent.parent


def pytest_collection_modifyitems(config, items):
    """Tests on MNIST run where MNIST is: LATENS_DATA says so in continuous integration."""
    if not os.environ.get("LATENS_DATA"):
        skip = pytest.mark.skip(reason="needs MNIST: set LATENS_DATA to a folder that holds mnist/")
        for item in items:
            if "mnist" in item.keywords:
                item.add_marker(skip)


os.environ[audit.NOTES] = f"{tempfile.mkdtemp()}/notes"
watched = [str(REPOSITORY / "tests" / "watched"), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, watched))  # for what the tests start
audit.watch()


@pytest.fixture(autouse=True)
def _nothing_forbidden():
    """No test may make latens unpickle, evaluate text, start a shell or call another machine."""
    yield
    assert not (noted := audit.found()), noted


@pytest.fixture(autouse=True)
def _annotations(request):
    """Annotations are checked in tests of parts, those in folders here, and not in those of wholes.

    Whole commands and trainings take up to a third longer with it, over calls that the others
    check: those in shared fixtures, and those marked whole. And while a program is traced for ONNX
    sizes are symbols, where annotations say int.
    """
    in_parts = request.path.parent != Path(__file__).parent
    checked = in_parts and request.node.get_closest_marker("whole") is None
    jaxtyping.config.update("jaxtyping_disable", not checked)
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def shell_latens(tmp_path):
    """Run the command in a process of its own; returns the finished process."""

    def run(*arguments, env=None, **options):
        return subprocess.run(
            [sys.executable, "-m", "latens", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return run


@pytest.fixture
def run_latens(tmp_path, monkeypatch, capsys):
    """Run the command in this process, which spares it the start; looks like `shell_latens`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = 0
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code or 0
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


@pytest.fixture
def few_frames(monkeypatch):
    """Films on a page are short: for tests of what a page says."""
    from latens.pictures.planes import turning

    less = {
        "explorer.POINTS": 60,
        "explorer.TRIED": 4,
        "sections.transitions.CLASS_STEPS": 2,
        "sections.transitions.MOST_CLASS_FRAMES": 40,
        "sections.traversals.FILM_STEPS": 4,
    }
    for name, value in less.items():
        monkeypatch.setattr(f"latens.report.{name}", value)
    monkeypatch.setattr("latens.pictures.turning", functools.partial(turning, frames=4))


@pytest.fixture
def small_figures(monkeypatch):
    """`evaluate --all` takes few steps: for tests of which figures there are, and of what."""
    less = {"full.IMPORTANCE_SAMPLES": 10, "full.REFINED": 16, "full.REFINING_STEPS": 3}
    less |= {"full.TEMPERATURES": 5, "features.STEPS": 20}
    for name, value in less.items():
        monkeypatch.setattr(f"latens.evaluation.{name}", value)


@pytest.fixture(scope="session")
def digits():
    """The embedded data set."""
    return load_data("digits")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A finished run, with a film and without a report."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    options = {"recipe": "mlp", "latent_dim": 4, "epochs": 8, "report": False}
    return latens.train("digits", out=path, **options)


@pytest.fixture(scope="session")
def digits_report(digits_run, tmp_path_factory):
    """The same run with its report."""
    path = tmp_path_factory.mktemp("reported") / "digits"
    shutil.copytree(digits_run.path, path)
    latens.api.report(path)
    return latens.Run.open(path)


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """Colour images of mixed sizes in two class folders: discs and stripes of random colours."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for i in range(60):
        height, width = rng.integers(20, 50, 2)
        rows, columns = np.mgrid[:height, :width]
        if i % 2:
            inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2
        else:
            inside = columns // 5 % 2 == 0
        pixels = np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
        kind = folder / ("disc" if i % 2 else "stripes")
        kind.mkdir(exist_ok=True)
        suffix = "png" if i % 3 else "jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(kind / f"{i:02d}.{suffix}")
    return folder
