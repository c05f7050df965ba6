"""Every command and snippet of the documentation runs, in the order in which it stands there."""

import ast
import functools
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latens
import latens.report.run_report
from in_process import InProcess
from latens.cli import main
from latens.evaluation.metrics import evaluate_each

REPOSITORY = Path(__file__).parent.parent
TUTORIALS = ["inspection", "photos", "prior", "service"]
DOCS = [
    "architecture",
    "data",
    "deployment",
    "doctor",
    "evaluation",
    "features",
    "gallery",
    "performance",
    "pictures",
    "recipes",
    "tracking",
]
DOCS += ["reliability", "results", "scaling", *(f"tutorials/{n}" for n in TUTORIALS)]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCS)]
# Its models are of MNIST and of CelebA's faces
NEEDS_DATA = pytest.param("docs/gallery.md", marks=pytest.mark.mnist)


# Constants behind the pictures: see `quick`
LESS = {
    "report.context.POINTS": 300,
    "report.context.COST_SAMPLES": 1,
    "report.explorer.POINTS": 60,
    "report.explorer.TRIED": 4,
    "report.sections.manifolds.MANIFOLD_SIDES": (5,),
    "report.sections.reconstructions.SHOWN": 8,
    "report.sections.samples.SAMPLES": 16,
    "report.sections.transitions.CLASS_STEPS": 2,
    "report.sections.traversals.FILM_STEPS": 4,
    "report.sections.traversals.TRAVERSAL_STEPS": 5,
    "evaluation.baselines.IMAGES": 50,
    "evaluation.doctor.IMAGES": 100,
    "evaluation.doctor.REFINED": 16,
    "evaluation.doctor.STEPS": 3,
    "evaluation.doctor.GRID_CELLS": 16,
    "evaluation.features.STEPS": 20,
    "evaluation.full.TRAIN": 100,
    "evaluation.full.PROBED": 300,
    "evaluation.full.SAMPLED": 100,
    "evaluation.full.VALUES": 16,
    "evaluation.full.TEMPERATURES": 5,
    "evaluation.full.REFINED": 16,
    "evaluation.full.REFINING_STEPS": 3,
}


def blocks(page, language):
    text = (REPOSITORY / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page):
    return [line for block in blocks(page, "sh") for line in block.strip().splitlines()]


def cheaper(command):
    """The same command over less work: what it shows stays, and how well it learns does not.

    A sweep has two values of β. A training takes one epoch or 0.6 seconds, of the embedded digits
    in place of MNIST, and writes a report or a film only where the command asks for it: `latens
    report` is a command of its own.
    """
    command = re.sub(r"\blatens (train|sweep) mnist\b", r"latens \1 digits", command)
    command = re.sub(r"--epochs \d+", "--epochs 1", command)
    command = re.sub(r"--minutes [\d.]+", "--minutes 0.01", command)
    if re.search(r"\blatens sweep ", command):
        command = re.sub(r"( --beta(?: [\d.]+){2})(?: [\d.]+)+", r"\1", command)
    if re.search(r"\blatens (train|sweep) ", command) and "--resume" not in command:
        for option in ("report", "film"):
            if not re.search(rf"--(no-)?{option}\b", command):
                command += f" --no-{option}"
    return command


def of_few_images(vae, images, *arguments, **options):
    """In place of `evaluate_each` of all of them."""
    return evaluate_each(vae, images.take(slice(0, 200)), *arguments, **options)


def drawing_in_turn():
    """A page draws a third of its sections, the next one the next third."""
    turns = itertools.cycle(range(3))
    real = latens.report.run_report.draw_pictures

    def draw(sections, context, folder):
        return real(sections[next(turns) :: 3], context, folder)

    return draw


class InTurn:
    """In place of a pool of threads."""

    def __init__(self, jobs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def shutdown(self, **_):
        pass

    map = staticmethod(map)


@pytest.fixture
def quick(monkeypatch):
    """Less work behind the commands.

    A report draws a third of its sections (all are drawn in tests/report) and embeds 300 test
    images, not 5,000, its films and traversals have few steps, models are compared on 200 images,
    and a sweep trains here and not in processes of its own (see tests/test_sweeps.py for those).
    """
    monkeypatch.setattr("latens.run.comparison.evaluate_each", of_few_images)
    monkeypatch.setattr("latens.report.run_report.draw_pictures", drawing_in_turn())
    for name, value in LESS.items():
        monkeypatch.setattr(f"latens.{name}", value)
    turning = functools.partial(latens.pictures.turning, frames=4)
    monkeypatch.setattr(latens.pictures, "turning", turning)
    monkeypatch.setattr("latens.sweeps.ThreadPoolExecutor", InTurn)
    known = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE")}
    in_turn = types.SimpleNamespace(Popen=InProcess, **known)  # `subprocess` itself is everybody's
    monkeypatch.setattr("latens.sweeps.subprocess", in_turn)


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


@pytest.mark.parametrize(
    "page", [NEEDS_DATA if "gallery" in page else page for page in PAGES if commands(page)]
)
@pytest.mark.usefixtures("quick")
def test_commands(page, folder, monkeypatch, capsys):
    """Each page's commands, one after another in one folder, each made cheaper."""
    monkeypatch.chdir(folder)
    for command in map(cheaper, commands(page)):
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


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_snippets(page, tmp_path, monkeypatch):
    """Each page's snippets as one program, in this process, with trainings of one epoch.

    They write neither report nor film, convolutions are narrow, and scores draw few samples.
    Warnings are errors, as in all tests.
    """
    monkeypatch.chdir(tmp_path)
    train = latens.train

    def quick(*given, **options):
        narrow = {"channels": 8} if options.get("recipe") == "conv" else {}
        return train(*given, **{"report": False, "film": False} | narrow | options)

    monkeypatch.setattr(latens, "train", quick, raising=False)
    for name in ("anomaly", "score"):
        scored = functools.partial(getattr(latens, name), importance_samples=2)
        monkeypatch.setattr(latens, name, scored, raising=False)
    code = re.sub(r'\bepochs(=|": )\d+', r"epochs\g<1>1", "\n".join(blocks(page, "python")))
    exec(compile(code, page, "exec"), {"__name__": page})


@pytest.mark.parametrize("page", [page for page in PAGES if "tutorials" not in page])
def test_a_snippet_imports_what_it_uses(page):
    """It may go on with what those before it made, but is copied with its imports."""
    known = set()
    for block in blocks(page, "python"):
        nodes = [*ast.walk(ast.parse(block))]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        own = {(each.asname or each.name).split(".")[0] for node in imports for each in node.names}
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not used & (known - own), block
        known |= own


def test_the_example_is_a_page_of_its_own():
    """It can be put on any host: nothing is asked for, and its decoder is in it."""
    text = (REPOSITORY / "docs" / "example.html").read_text("utf-8")
    assert len(text) < 5_000_000
    assert set(re.findall(r"https?://[^\"\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert all(word in text for word in ('id="explorer-data"', 'data-player="training"', "weights"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (REPOSITORY / page).parent.joinpath(target).exists(), target


def test_the_demo_trains_and_shows(tmp_path):
    """What `make demo` runs, for one epoch and not about 200, without a network or data."""
    make = shutil.which("make")
    if make is None or not (REPOSITORY / ".venv" / "installed").exists():
        pytest.skip("needs make, and the environment that it makes")
    run = tmp_path / "demo"
    plan = subprocess.run(
        [make, "--no-print-directory", "--dry-run", "demo", f"DEMO={run}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(plan.stdout.splitlines()[-1])
    assert words[1:] == ["train", "digits", "--likelihood", "gaussian", "--out", str(run)]
    environment = {name: value for name, value in os.environ.items() if name != "LATENS_DATA"}
    done = subprocess.run(
        [*words, "--epochs", "1"],
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
