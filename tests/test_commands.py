"""What commands make of a trained model."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import latens
from latens.commands import (
    edit_picture,
    folder_names,
    generate,
    interpolation_picture,
    reconstruction_picture,
    sample_picture,
)

NASTY = ["..", ".", "", "...", "a/b", "a-b", "A-B", "a\\b", "C:", " x ", "x", "con\n", "/etc"]
NASTY += ["CON", "nul.txt", "COM1", "x-2", "x.", "x" * 300]


@given(st.lists(st.text(max_size=12) | st.sampled_from(NASTY), max_size=12))
def test_a_folder_of_its_own_inside_out_for_every_class(labels):
    names = folder_names(labels)
    assert len({name.casefold() for name in names}) == len(labels)
    for name in names:
        assert len(name.encode()) < 255
        assert name.split(".")[0].strip().upper() not in ("CON", "NUL", "COM1")
        assert name.strip(" .")
        assert not re.search(r'[/\\:*?"<>|\n]', name)
        assert name == name.strip()


def test_letters_that_are_composed_in_two_ways_are_one():
    one, other = folder_names(["caf\u00e9", "cafe\u0301"])
    assert unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other)


def test_plain_names_stay():
    assert folder_names(["cats", "T-shirt", "日本", "3"]) == ["cats", "T-shirt", "日本", "3"]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A conditional run whose classes are called as given."""

    def make(classes):
        from dataclasses import replace

        digits = latens.load_data("digits")
        out = tmp_path_factory.mktemp("runs") / "run"
        options = {"recipe": "conditional", "network": "mlp", "hidden": "16", "epochs": 1}
        data = replace(digits, classes=tuple(classes))
        return latens.train(data, out=out, report=False, film=False, **options)

    return make


def test_classes_with_hostile_names_are_written_inside_out(run_of, tmp_path):
    names = ["..", "a/b", "a-b", "A-B", ".", "", "/etc", "x", "X ", "y"]
    run = run_of(names)
    (tmp_path / "folder").mkdir()
    out = generate(run.path, 20, tmp_path / "folder" / "out")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["out"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert len(folders) == 10
    assert all(len(list(folder.glob("*.png"))) == 2 for folder in folders)


def test_the_class_that_is_guessed_is_the_same_at_every_call(run_of, tmp_path, digits):
    run = run_of(digits.classes)
    shown = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(digits.test.pixels[i, 0].numpy()).save(path)
        shown.append(path)
    for make in (
        lambda out: reconstruction_picture(run.path, shown, 3, out),
        lambda out: edit_picture(run.path, shown, out, label="8"),
    ):
        first, second = (make(tmp_path / f"out-{i}.png").read_bytes() for i in range(2))
        assert first == second


@pytest.mark.parametrize("prior", ["vamp", "conditional", "flow"])
def test_every_command_works_with_any_prior(tmp_path, prior):
    options = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 1, "prior": prior}
    options |= {"components": 4} if prior == "vamp" else {}
    run = latens.train("digits", out=tmp_path / "run", report=False, film=False, **options)
    made = [
        sample_picture(run.path, 4, tmp_path / "samples.png"),
        sample_picture(run.path, 4, tmp_path / "threes.png", label="3"),
        reconstruction_picture(run.path, [], 4, tmp_path / "again.png"),
        interpolation_picture(run.path, [], tmp_path / "between.png", 2),
    ]
    image = next(generate(run.path, 10, tmp_path / "images").rglob("*.png"))
    made.append(edit_picture(run.path, [image], tmp_path / "edited.png", label="8"))
    for path in made:
        with Image.open(path) as picture:
            assert picture.getextrema() != ((255, 255),) * 3
