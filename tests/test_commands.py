"""What commands make of a trained model."""

import csv
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import latens
from latens import LatensError
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


@pytest.fixture(scope="session")
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


def rows_of(folder):
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_generated_images_are_listed_with_their_labels(digits_run, tmp_path, capsys):
    out = generate(digits_run.path, 25, tmp_path / "out", confidence=0.5)
    rows = rows_of(out)
    assert [row["label"] for row in rows] == [str(k) for k in range(5) for _ in range(3)] + [
        str(k) for k in range(5, 10) for _ in range(2)
    ]
    assert {row["file"] for row in rows} == {
        path.relative_to(out).as_posix() for path in out.rglob("*.png")
    }
    assert all(row["file"].split("/")[0] == row["label"] for row in rows)
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    right = sum(row["judged"] == row["label"] for row in rows)
    told = " ".join(capsys.readouterr().err.split())
    assert f"{right} of 25 images" in told
    assert "according to an SVM on 1,438 training images" in told
    assert latens.load_data(out, size=(8, 8), grey=True).classes == tuple(map(str, range(10)))


def test_one_class_is_generated_and_judged_by_nobody(digits_run, tmp_path, capsys):
    options = {"label": "7", "judge": "none", "confidence": 0.0, "temperature": 0.5}
    out = generate(digits_run.path, 6, tmp_path / "out", **options)
    assert {(row["label"], row["judged"]) for row in rows_of(out)} == {("7", "")}
    assert "according to" not in capsys.readouterr().err


def test_images_without_classes_are_listed_too(tmp_path, digits):
    options = {"recipe": "mlp", "hidden": "16", "epochs": 1, "report": False, "film": False}
    run = latens.train(digits.train.pixels.numpy(), out=tmp_path / "run", **options)
    out = generate(run.path, 12, tmp_path / "out")
    assert [row["file"] for row in rows_of(out)] == [f"{i:02d}.png" for i in range(12)]
    assert {row["label"] + row["probability"] + row["judged"] for row in rows_of(out)} == {""}


def test_what_a_picture_claims_is_judged(digits_run, tmp_path, capsys):
    sample_picture(digits_run.path, 10, tmp_path / "out.png", label="0")
    assert "of 10 images" in capsys.readouterr().err
    sample_picture(digits_run.path, 10, tmp_path / "out.png", with_labels=True)
    assert "of 10 images" in capsys.readouterr().err
    sample_picture(digits_run.path, 10, tmp_path / "out.png", label="0", judge="none")
    sample_picture(digits_run.path, 10, tmp_path / "out.png")
    assert capsys.readouterr().err == ""
    sample_picture(digits_run.path, 10, tmp_path / "out.png", label="8", confidence=1.0)
    assert "less sure to be 8 than asked for" in capsys.readouterr().err


def test_amounts_are_of_an_attribute(digits_run, tmp_path):
    out = tmp_path / "edited.png"
    with pytest.raises(LatensError, match="leave them out with --label"):
        edit_picture(digits_run.path, [out], out, label="8", bounds=(None, 1.0))


def test_generate_refuses_before_it_writes(digits_run, tmp_path):
    for options in ({"label": "11"}, {"temperature": 0.0}, {"confidence": 2.0}, {"judge": "x"}):
        with pytest.raises(latens.LatensError):
            generate(digits_run.path, 5, tmp_path / "out", **options)
        assert not list(tmp_path.iterdir())


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
            width, height = picture.size
            middle = picture.convert("L").crop((width // 4, height // 3, width, height))  # no title
            darkest, brightest = middle.getextrema()
            assert darkest < 100 < 150 < brightest
