"""Nothing is imported before it is needed: a command's start is imports, above all."""

import subprocess
import sys

import numpy as np
import pytest

import latens

HEAVY = ("torch._dynamo", "sklearn", "scipy", "pandas", "matplotlib", "huggingface_hub", "jinja2")
LOADED = f"print(*(name for name in {HEAVY} if name in sys.modules))"
TO_THE_FIRST_STEP = f"""
import os, sys
from latens.training.learner import Learner
step = Learner.step
def first(*arguments):
    step(*arguments)
    {LOADED}
    sys.stdout.flush()
    os._exit(0)
Learner.step = first
from latens.cli import main
main("train images.npy --recipe RECIPE --no-compile".split())
"""
TO_THE_END = f"""
import sys
from latens.cli import main
main(sys.argv[1:])
{LOADED}
"""


def last_line(tmp_path, *words):
    done = subprocess.run(
        [sys.executable, "-c", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("recipe", ["mlp", "conv", "ladder"])
def test_the_first_step_needs_little(tmp_path, recipe):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 16, 16), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    assert last_line(tmp_path, TO_THE_FIRST_STEP.replace("RECIPE", recipe)) == ""


@pytest.mark.parametrize(
    "words", ["sample mnist-2d --out x.png", "generate celeba-200d -n 4 --out made"]
)
def test_pictures_of_a_model_need_little(tmp_path, words):
    assert last_line(tmp_path, TO_THE_END, *words.split()) == ""


def test_a_page_leaves_scikit_learn_to_a_process_of_its_own(tmp_path):
    """Where images have no classes: without a network for them it learns to tell them apart."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (200, 16, 16), np.uint8))
    options = {"recipe": "mlp", "latent_dim": 4, "epochs": 1, "film": False, "report": False}
    latens.train(tmp_path / "x.npy", out=tmp_path / "run", **options)
    loaded = last_line(tmp_path, TO_THE_END, "report", "run")
    assert "matplotlib" in loaded.split()
    assert "sklearn" not in loaded.split()
    assert "t-SNE" in (tmp_path / "run" / "report.html").read_text()
