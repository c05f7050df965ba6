"""Data that a model was not trained on are read as its training images were."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens import LatensError
from latens.data import load_alike, load_data, load_split
from latens.deployment import export_onnx
from latens.evaluation.features import features_of
from latens.evaluation.judges import judge_of, shipped_for
from latens.model import recipes
from latens.run.data import data_of

SMALL = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 2, "device": "cpu"}
SMALL |= {"report": False, "film": False}


def save(folder, images):
    """Images `[N, H, W]` as PNG files 00.png, 01.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02d}.png")


@pytest.fixture(scope="module")
def animals():
    """Twenty images of each of three classes that can be told apart, 8x8."""
    rng = np.random.default_rng(0)
    found = {}
    for k, name in enumerate(("cats", "dogs", "rats")):
        images = rng.integers(0, 60, (20, 8, 8), np.uint8)
        images[:, :, 2 * k : 2 * k + 3] += 150
        found[name] = images
    return found


@pytest.fixture(scope="module")
def three(animals, tmp_path_factory):
    """A folder of them, and a conditional run of it."""
    folder = tmp_path_factory.mktemp("three")
    for name, images in animals.items():
        save(folder / "data" / name, images)
    options = SMALL | {"recipe": "conditional", "network": "mlp", "epochs": 30}
    return folder / "data", latens.train(folder / "data", out=folder / "run", **options)


@pytest.mark.parametrize("recipe", ["semi_supervised", "conditional"])
@pytest.mark.usefixtures("small_figures", "few_frames")
def test_a_test_split_without_labels(recipe, animals, tmp_path, run_latens):
    for name in ("cats", "dogs"):
        save(tmp_path / "data" / "train" / name, animals[name])
    save(tmp_path / "data" / "test", animals["cats"][:12])
    options = ("--recipe", recipe, "--network", "mlp", "--hidden", 16, "--epochs", 2)
    done = run_latens("train", "data", *options, "--latent-dim", 2, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    for words in (
        ("sample", "run", "--label", "cats", "-n", 4),
        ("generate", "run", "-n", 4, "--out", "made"),
        ("evaluate", "run", "--all"),
    ):
        done = run_latens(*words)
        assert done.returncode == 0, done.stderr
        assert "nan" not in done.stdout
    done = run_latens("evaluate", "run", "--neighbours", 2)
    assert done.returncode == 2
    told = "no class of these images is known"
    assert (told if recipe == "semi_supervised" else "is told the class") in done.stderr


@pytest.mark.usefixtures("small_figures", "few_frames")
def test_all_figures_of_a_set_of_few_images(animals, tmp_path, run_latens):
    for name in ("cats", "dogs"):
        save(tmp_path / "data" / name, animals[name])
    done = run_latens("train", "data", "--recipe", "mlp", "--epochs", 2, "--out", "run")
    assert done.returncode == 0, done.stderr
    done = run_latens("evaluate", "run", "--all")
    assert done.returncode == 0, done.stderr
    assert "samples:" not in done.stdout


@pytest.mark.usefixtures("small_figures", "few_frames")
def test_all_figures_are_of_the_same_labels_and_bits(animals, tmp_path):
    """Labels by name, images in the model's size, and bits where the run has bits."""
    for name, images in animals.items():
        save(tmp_path / "data" / name, images)
    run = latens.train(
        tmp_path / "data",
        out=tmp_path / "run",
        **SMALL | {"recipe": "semi_supervised", "network": "mlp", "epochs": 40},
    )
    other = tmp_path / "other"
    for name in ("ants", "dogs", "rats"):  # of which ants are unknown, and take an index
        images = animals["cats" if name == "ants" else name]
        save(other / name, np.kron(images, np.ones((2, 2), np.uint8)))
    test = load_data(other).test
    found = latens.evaluate_all(run, other).test
    names = "cats", "dogs", "rats"
    alike = load_split(other, "all", (1, 8, 8), names=names)
    expected = latens.evaluate(run, alike).accuracy
    assert expected == 1
    assert found.accuracy == 1
    assert found.images == len(test)
    bits = latens.train(tmp_path / "data", out=tmp_path / "b", **SMALL, binarisation="static")
    assert latens.evaluate_all(bits, other).test.kind == "binary"
    assert load_alike(other, (1, 8, 8), binarisation="static").binary
    assert not load_alike(other, (1, 8, 8)).binary
    assert latens.evaluate(bits, other).kind == "binary"


def test_an_image_is_scored_alike_beside_labelled_ones(three, animals, tmp_path):
    """A class that is unknown is guessed, whether or not that of another image is known."""
    _, run = three
    save(tmp_path / "alone", animals["cats"][:1])
    save(tmp_path / "both" / "what", animals["cats"][:1])
    save(tmp_path / "both" / "dogs", animals["dogs"][:3])
    values = {}
    for name in ("alone", "both"):
        packed = latens.score(
            run, tmp_path / name, out=tmp_path / f"{name}.csv", scores=["-elbo"]
        ).read_text()
        rows = [line.split(",") for line in packed.splitlines()[1:]]
        values[name] = {row[0].split("/")[-2:][0]: float(row[-1]) for row in rows}
    assert values["both"]["what"] == pytest.approx(values["alone"]["00.png"], rel=1e-6)


def test_numbers_from_python_are_indices_of_the_classes(three, animals, tmp_path):
    _, run = three
    x = np.concatenate([animals["cats"][:5], animals["dogs"][:5]])
    y = np.array([0] * 5 + [1] * 5)
    out = latens.score(run, (x, y), out=tmp_path / "s.csv", scores=["-elbo"])
    rows = [line.split(",") for line in out.read_text().splitlines()]
    at = {name: rows[0].index(name) for name in ("label", "-elbo")}
    assert [row[at["label"]] for row in rows[1:]] == ["cats"] * 5 + ["dogs"] * 5
    mean = np.mean([float(row[at["-elbo"]]) for row in rows[1:]])
    figures = latens.evaluate(run, (x, y))
    assert mean == pytest.approx(-figures.elbo, abs=5 * figures.errors["elbo"].sampling + 0.2)
    with pytest.raises(LatensError, match="labels from 0 to 7, but 3 class names"):
        latens.score(run, (x, y * 7), out=tmp_path / "no.csv")


def test_the_crop_of_the_training_is_that_of_other_images(tmp_path):
    """A white square in a black frame: what is cut out is white."""
    image = np.zeros((40, 40), np.uint8)
    image[10:30, 10:30] = 255
    save(tmp_path / "framed", [image] * 3)
    cropped = load_split(tmp_path / "framed", "all", (1, 8, 8), crop=0.5)
    assert cropped.pixels.min() == 255
    assert load_split(tmp_path / "framed", "all", (1, 8, 8)).pixels.min() == 0
    vae = latens.VAE(latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(2, (1, 8, 8), (16,)))
    vae.about = {"training": {"data": {"crop": 0.5}}}
    found = latens.evaluate(vae, tmp_path / "framed")
    assert found.elbo == pytest.approx(latens.evaluate(vae, cropped).elbo, rel=1e-6)


@pytest.mark.usefixtures("small_figures", "few_frames")
def test_a_folder_called_mnist_is_not_mnist(animals, tmp_path):
    for name in ("cats", "dogs"):
        save(tmp_path / "mnist" / name, animals[name])
    run = latens.train(tmp_path / "mnist", out=tmp_path / "run", **SMALL)
    assert run.name == "mnist"
    assert shipped_for(run) is None
    assert "SVM" in judge_of(run).name
    assert "judge" not in features_of(run, data_of(run)).name
    assert shipped_for(latens.Run.open("mnist-2d")) == "mnist"
    shutil.move(tmp_path / "mnist", tmp_path / "shapes")
    again = latens.train(tmp_path / "shapes", out=tmp_path / "again", **SMALL)
    assert latens.evaluate_all(again).factors is None


def test_good_images_are_test_images(three, animals, tmp_path):
    """Of the run's own folder, and of any with splits of its own."""
    data, run = three
    held = data_of(run).test
    bad = held.pixels[:, 0].numpy()
    found = latens.anomaly(run, data, bad, out=tmp_path / "page", scores=["-elbo"])
    rows = (found.path.parent / "scores.csv").read_text().splitlines()
    assert sum(",good," in row for row in rows) == len(held)
    save(tmp_path / "split" / "train" / "cats", animals["cats"])
    save(tmp_path / "split" / "test" / "cats", animals["cats"][:4])
    latens.anomaly(run, tmp_path / "split", animals["rats"], out=tmp_path / "b", scores=["-elbo"])
    rows = (tmp_path / "b" / "scores.csv").read_text().splitlines()
    assert sum(",good," in row for row in rows) == 4
    assert all("test/" in row for row in rows if ",good," in row)


def test_what_was_left_out_is_said_again(tmp_path, run_latens, monkeypatch):
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latens.data.cache.CACHED_FROM", 20)
    save(tmp_path / "data", np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8))
    for i in range(3):
        (tmp_path / "data" / f"bad{i}.png").write_bytes(b"no image")
    words = ("train", "data", "--recipe", "mlp", "--skip-bad", "--epochs", 1, "--no-report")
    said = [run_latens(*words, "--out", f"r{i}").stderr for i in range(2)]
    for text in said:
        assert "left out 3 of 33 images" in text
    assert said[1].count("left out 3") == 1


def test_validation_images_of_ones_own_are_used(animals, tmp_path):
    for name in ("train", "validation", "test"):
        save(tmp_path / "data" / name, animals["cats"])
    assert len(load_data(tmp_path / "data").validation) == 20
    with pytest.raises(LatensError, match=r"has 20 validation images of its own"):
        load_data(tmp_path / "data", validation=5)


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_pixels_of_0_and_1_are_noted(kind, tmp_path, capsys):
    bits = np.random.default_rng(0).integers(0, 2, (30, 8, 8), np.uint8)
    data = bits if kind == "array" else tmp_path / "data"
    if kind == "folder":
        save(data, bits)
    load_data(data)
    said = capsys.readouterr().err
    assert "is 1 of 255, so they are nearly black" in said
    assert ("--range 0,1" in said) == (kind == "array")
    if kind == "array":
        assert load_data(bits, value_range=(0, 1)).train.pixels.max() == 255
    load_data(bits * 255)
    load_data(bits.astype(bool))
    assert "nearly black" not in capsys.readouterr().err


def test_the_range_is_kept_in_every_digit():
    config = latens.config.TrainConfig.from_options(range="1234567,1234890.5")
    assert config.data.value_range == (1234567.0, 1234890.5)
    assert config.data.range == "1234567.0,1234890.5"
    assert latens.config.TrainConfig.from_options(range="0,4000").data.range == "0,4000"


def test_programs_say_what_pixels_become(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("latens.deployment._write", lambda *_: 0.0)  # which tests of its own trace
    deep = np.random.default_rng(0).integers(1000, 4000, (40, 8, 8), np.int64)
    np.save(tmp_path / "deep.npy", deep)
    options = {"range": "1000,4000", "binarisation": "threshold"}
    run = latens.train(tmp_path / "deep.npy", out=tmp_path / "run", **SMALL, **options)
    export_onnx(run.path, tmp_path / "onnx")
    about = json.loads((tmp_path / "onnx" / "metadata.json").read_text())["preprocessing"]
    assert "(pixel − 1000) / 3000" in about
    assert "128/255" in about
    assert about in (tmp_path / "onnx" / "README.md").read_text()


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_names_that_are_not_utf8_are_written(suffix, three, animals, tmp_path):
    save(tmp_path / "data", animals["cats"][:2])
    name = os.fsdecode(b"\xff.png")
    (tmp_path / "data" / "00.png").rename(tmp_path / "data" / name)
    out = latens.embed(three[1], tmp_path / "data", out=tmp_path / f"z.{suffix}")
    if suffix == "csv":
        assert b"\xff.png," in out.read_bytes()
    elif suffix == "npz":
        assert set(np.load(out)["path"]) == {name, "01.png"}
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert set(parquet.read_table(out)["path"].to_pylist()) == {"?.png", "01.png"}


def test_a_loaded_model_reads_other_images_as_its_run_does(tmp_path):
    options = {"recipe": "mlp", "hidden": 16, "epochs": 1, "report": False, "film": False}
    run = latens.train("digits", out=tmp_path / "run", binarisation="threshold", **options)
    x = latens.load_data("digits").test.pixels.numpy()
    by_run, by_model = latens.evaluate(run, x), latens.evaluate(latens.load(run.path), x)
    assert by_model.kind == by_run.kind
    assert (by_model.elbo, by_model.kl) == (by_run.elbo, by_run.kl)


def test_classes_are_no_attributes_of_the_same_names(tmp_path, animals):
    torch.manual_seed(0)
    names = ("cats", "dogs")
    vae = recipes.build("semi_supervised", (1, 8, 8), 2, "mlp", labels=2, exclusive=False).eval()
    vae.about["training"] = {"data": {"attributes": names}}
    for name in names:
        save(tmp_path / "data" / name, animals[name])
    assert latens.evaluate(vae, tmp_path / "data").accuracy is None
    images = load_split(tmp_path / "data", "all", (1, 8, 8), names=names)
    with pytest.raises(LatensError, match="the labels are classes, and the model was trained with"):
        latens.evaluate(vae, images)
