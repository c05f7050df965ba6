"""Every command and snippet of the documentation runs, in the order in which it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.cli import main

REPOSITORY = Path(__file__).parent.parent
DOCS = ["architecture", "gallery", "performance", "pictures", "recipes", "results", "scaling"]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCS)]
# Its models are of MNIST and of CelebA's faces
NEEDS_DATA = pytest.param("docs/gallery.md", marks=pytest.mark.mnist)


def blocks(page, language):
    text = (REPOSITORY / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page):
    """Trainings on MNIST, which take minutes, are run for an epoch on the embedded digits."""
    lines = [line for block in blocks(page, "sh") for line in block.strip().splitlines()]
    return [
        re.sub(
            r"^latens (train|sweep) mnist (.*)--epochs \d+", r"latens \1 digits \2--epochs 1", line
        )
        for line in lines
    ]


@pytest.fixture
def folder(tmp_path):
    """A folder with the reader's own photographs in it."""
    folder = tmp_path / "reader"
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (folder / "my-photos" / kind).mkdir(parents=True)
        for i in range(80):
            pixels = rng.integers(0, 256, (40 + i % 7, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "my-photos" / kind / f"{i}.png")
    return folder


@pytest.mark.parametrize("page", [NEEDS_DATA if "gallery" in page else page for page in PAGES])
def test_commands(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        elif words[0] == "torchrun" or "--devices" in words:  # programs that start themselves anew
            words[0] = {"latens": "latens", "torchrun": "torch.distributed.run"}[words[0]]
            process = [sys.executable, "-m", *words]
            done = subprocess.run(process, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        else:
            assert words[0] == "latens", command
            try:
                main(words[1:])
            except SystemExit as stop:
                pytest.fail(f"{command}: status {stop.code}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_snippets(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (REPOSITORY / page).parent.joinpath(target).exists(), target


def test_the_demo_trains_and_shows(tmp_path):
    make = shutil.which("make")
    if make is None or not (REPOSITORY / ".venv" / "installed").exists():
        pytest.skip("needs make, and the environment that it makes")
    run = tmp_path / "demo"
    environment = {name: value for name, value in os.environ.items() if name != "LATENS_DATA"}
    done = subprocess.run(
        [make, "--no-print-directory", "demo", f"DEMO={run}"],
        cwd=REPOSITORY,
        env=environment | {"no_proxy": "", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(run)
    assert "nats per image" in done.stdout
    assert (run / "report.html").is_file()
