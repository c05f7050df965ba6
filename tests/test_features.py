"""Features, scores and the nearest images: files against what the model says itself."""

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

import latens
from latens import features
from latens.data.streaming import stream_of_data_set
from latens.errors import LatensError
from latens.evaluation.scores import image_scores, typical_elbo
from latens.model import recipes
from latens.run.data import data_of

SMALL = {"recipe": "mlp", "latent_dim": 3, "hidden": "32", "epochs": 2}
SMALL |= {"report": False, "film": False}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return latens.train("digits", out=tmp_path_factory.mktemp("features") / "run", **SMALL)


@pytest.fixture(scope="session")
def digits():
    return latens.load_data("digits")


@pytest.fixture
def folder(tmp_path, digits):
    """Images in train/ and test/, a folder for each class, one of them no image."""
    for split in ("train", "test"):
        images = digits.split(split).take(slice(0, 20))
        for i, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            path = tmp_path / "images" / split / str(int(label)) / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(path)
    (path.parent / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns_of(rows, name, dims=3):
    return np.array([[float(row[f"{name}_{d}"]) for d in range(1, dims + 1)] for row in rows])


def test_the_latents_of_a_runs_own_images_are_those_of_its_model(run, tmp_path):
    rows = rows_of(latens.embed(run, out=tmp_path / "z.csv"))
    data = data_of(run)
    assert [row["split"] for row in rows] == [
        name for name in ("train", "validation", "test") for _ in range(len(data.split(name)))
    ]
    test = [row for row in rows if row["split"] == "test"]
    q = run.vae.encode(data.test.unit())
    assert columns_of(test, "mu") == pytest.approx(q.mean.detach().numpy(), rel=1e-4, abs=1e-5)
    assert columns_of(test, "sigma") == pytest.approx(q.stddev.detach().numpy(), rel=1e-4)
    assert [int(row["label"]) for row in test] == data.test.labels.tolist()
    whole = latens.load_data("digits")  # a path is the image's row in the data set
    assert int(test[0]["path"]) == int(whole.test.rows[0])


def test_the_three_kinds_of_file_agree(run, folder, tmp_path):
    rows = rows_of(latens.embed(run, folder, out=tmp_path / "z.csv"))
    packed = np.load(latens.embed(run, folder, out=tmp_path / "z.npz"))
    table = parquet.read_table(latens.embed(run, folder, out=tmp_path / "z.parquet")).to_pylist()
    assert len(rows) == len(table) == len(packed["mu"]) == 40
    for name in ("path", "split", "label"):
        assert [row[name] for row in rows] == [row[name] for row in table] == list(packed[name])
    for name in ("mu", "sigma"):
        assert columns_of(rows, name) == pytest.approx(packed[name], rel=1e-6)
        assert (columns_of(table, name) == packed[name].astype(float)).all()
    assert not list(tmp_path.glob(".*"))


def test_each_file_of_a_folder_keeps_its_name_split_and_label(
    run, folder, digits, tmp_path, capsys
):
    rows = {row["path"]: row for row in rows_of(latens.embed(run, folder, out=tmp_path / "z.csv"))}
    assert "left out 1 of 41 images" in capsys.readouterr().err
    test = digits.test.take(slice(0, 20))
    for i, label in enumerate(test.labels.tolist()):
        row = rows[f"test/{label}/{i:02d}.png"]
        assert (row["split"], row["label"]) == ("test", str(label))
        mean = run.vae.embed(test.take(slice(i, i + 1)).unit())[0]
        assert columns_of([row], "mu")[0] == pytest.approx(mean.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("binarisation", ["none", "threshold", "dynamic"])
def test_each_image_of_a_runs_own_folder_keeps_its_name(binarisation, tmp_path):
    """Images that are told apart by how many of their pixels are white."""
    for i in range(40):
        pixels = np.zeros((8, 8), np.uint8)
        pixels.flat[:i] = 255
        (tmp_path / "own").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "own" / f"{i:02d}.png")
    data = latens.load_data(tmp_path / "own", binarisation=binarisation)
    names = {}
    for block in stream_of_data_set(data).blocks():
        for pixels, path in zip(block.images.pixels, block.paths, strict=True):
            names[path] = int((pixels > 0).sum())
    assert names == {f"{i:02d}.png": i for i in range(40)}


def test_a_folder_without_one_good_image_is_refused(run, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(LatensError, match="not an image"):
        latens.embed(run, tmp_path / "bad", out=tmp_path / "z.csv")
    assert not (tmp_path / "z.csv").exists()


def test_bits_are_each_images_own(tmp_path, digits):
    """Whatever stands beside it, an image outside the run has the same bits everywhere."""
    run = latens.train("digits", out=tmp_path / "bits", **(SMALL | {"binarisation": "static"}))
    grey = digits.test.pixels
    np.save(tmp_path / "test.npy", grey.numpy())
    np.save(tmp_path / "two.npy", grey[[7, 3]].numpy())
    (tmp_path / "files").mkdir()
    for i in (3, 7):
        Image.fromarray(grey[i, 0].numpy()).save(tmp_path / "files" / f"{i}.png")

    def scores(data):
        out = latens.score(run, tmp_path / data, out=tmp_path / "s.csv", scores=["-elbo"])
        return [float(row["-elbo"]) for row in rows_of(out)]

    every = scores("test.npy")
    assert scores("two.npy") == pytest.approx([every[7], every[3]], rel=1e-5)
    assert scores("files") == pytest.approx([every[3], every[7]], rel=1e-5)
    images = latens.data.load_split(tmp_path / "test.npy", "all", run.vae.image_shape, "static")
    assert set(images.pixels.unique().tolist()) == {0, 255}
    brightness = [of.double().mean().item() for of in (images.pixels, grey)]
    assert brightness[0] == pytest.approx(brightness[1], rel=0.02)
    expected = image_scores(run.vae, images, ["-elbo"])["-elbo"]
    assert every == pytest.approx(expected.tolist(), rel=1e-5)
    found = latens.search(
        run, tmp_path / "files" / "7.png", tmp_path / "files", out=tmp_path / "s.png", number=1
    )
    assert found[0]["path"] == "7.png"
    assert found[0]["distance"] < 1e-6


def test_levels_of_a_ladder_stand_in_a_row(tmp_path):
    ladder = SMALL | {"recipe": "ladder", "levels": "2x1,4x2", "channels": 8, "epochs": 1}
    ladder = {name: ladder[name] for name in ladder if name not in ("hidden", "latent_dim")}
    run = latens.train("digits", out=tmp_path / "ladder", **ladder)
    packed = np.load(latens.embed(run, "digits", out=tmp_path / "z.npz", levels=3))
    assert packed["mu"].shape == (1797, 4 + 16 + 16)
    assert "sigma" not in packed
    assert np.load(latens.embed(run, out=tmp_path / "z.npz"))["sigma"].shape == (1797, 4)


def test_scores_are_those_of_each_image(run, digits, tmp_path):
    np.save(tmp_path / "test.npy", digits.test.pixels.numpy())
    out = latens.score(run, tmp_path / "test.npy", out=tmp_path / "s.csv", scores=["-elbo"])
    rows = rows_of(out)
    expected = image_scores(run.vae, digits.test, ["-elbo"])["-elbo"]
    assert [float(row["-elbo"]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)
    rows = rows_of(latens.score(run, out=out))
    assert list(rows[0]) == [
        "path",
        "split",
        "label",
        "-elbo",
        "nll",
        "reconstruction",
        "displacement",
        "typicality",
    ]
    typical = typical_elbo(run.vae, data_of(run).train)
    for row in rows[:50]:
        assert float(row["typicality"]) == pytest.approx(
            abs(float(row["-elbo"]) - typical), abs=1e-3
        )
        assert float(row["nll"]) < float(row["-elbo"]) + 3
    some = latens.score(run, tmp_path / "test.npy", out=tmp_path / "r.parquet", scores=["regret"])
    assert parquet.read_table(some)["regret"].to_numpy().mean() > 0


def test_regret_needs_a_gaussian_that_can_be_refined(tmp_path, digits):
    run = latens.train("digits", out=tmp_path / "full", **SMALL, posterior="full")
    with pytest.raises(LatensError, match="regret is not available"):
        latens.score(run, out=tmp_path / "s.csv", scores=["regret"])


def test_the_nearest_images_are_those_of_all_distances(run, folder, digits, run_latens):
    query = min((folder / "test").rglob("*[0-9].png"))
    result = run_latens("search", run.path, query, "digits", "-n", "5")
    assert result.returncode == 0, result.stderr
    *lines, picture = result.stdout.splitlines()
    with Image.open(picture) as shown:
        assert shown.width > 100
    every = latens.data.load_split("digits", "all", run.vae.image_shape)
    z = run.vae.embed(every.unit()).numpy()
    with Image.open(query) as image:
        pixels = torch.from_numpy(np.array(image))
    at = run.vae.embed(pixels[None, None] / 255).numpy()
    distances = np.sort(np.linalg.norm(z - at, axis=1))
    assert [float(line.split()[0]) for line in lines] == pytest.approx(distances[:5], abs=1e-3)
    assert lines[0].split()[0] == "0.0000"
    assert lines[0].split()[2:] == ["test", query.parent.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "RUN", "--out", "z.txt"), "must end in .csv, .parquet or .npz"),
        (("embed", "RUN", "--out", "none/z.csv"), "no folder none"),
        (("embed", "RUN", "--out", "z.csv", "--levels", "1"), "levels are of a ladder"),
        (("embed", "RUN", "wide.npy", "--out", "z.csv"), "the model reads (1, 8, 8)"),
        (("embed", "RUN", "nowhere", "--out", "z.csv"), "nowhere"),
        (("score", "RUN", "--out", "s.npz"), "must end in .csv or .parquet"),
        (("score", "RUN", "--out", "s.csv", "--scores", "elbo"), "-elbo"),
        (("score", "RUN", "--out", "s.csv", "--importance-samples", "0"), "importance samples"),
        (("search", "RUN", "nowhere.png", "digits"), "no such file"),
        (("anomaly", "RUN", "--good", "digits", "--bad", "wide.npy"), "the model reads (1, 8, 8)"),
        (("anomaly", "RUN", "--good", "digits", "--bad", "digits", "--false-positive-rate", "2"),
         "between 0 and 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(run, run_latens, tmp_path, arguments, message):
    np.save(tmp_path / "wide.npy", np.zeros((12, 9, 9), np.uint8))
    result = run_latens(*(run.path if word == "RUN" else word for word in arguments))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"wide.npy"}


PEAK = """
import resource, sys, latens
latens.embed(sys.argv[1], sys.argv[2], out=sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_images(run, tmp_path):
    def peak(count):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
        np.save(tmp_path / "many.npy", pixels)
        words = [sys.executable, "-c", PEAK, run.path, tmp_path / "many.npy", tmp_path / "z.npz"]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert peak(100_000) < 1.2 * peak(5_000)


def test_bits_that_are_drawn_anew_are_the_same_at_each_call(tmp_path):
    run = latens.train("digits", out=tmp_path / "run", **SMALL | {"binarisation": "dynamic"})
    rows = []
    for name in "ab":
        torch.randn(len(name) + ord(name))  # the user's generator is elsewhere
        rows.append(np.load(latens.embed(run, "digits", out=tmp_path / f"{name}.npz"))["mu"])
    assert np.array_equal(*rows)


def test_folders_named_like_attributes_are_images_without_labels():
    torch.manual_seed(0)
    vae = recipes.build("conditional", (1, 8, 8), 2, "mlp", labels=3, exclusive=False).eval()
    images = latens.Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, -1, 0]))
    _, y = features.given(vae, images)
    assert y is None or y.shape == (4, 3)


def test_a_data_set_with_other_images_is_embedded_itself(digits_run, digits, tmp_path):
    black = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    other = replace(
        digits, test=replace(digits.test, array=black, rows=None, labels=None, places=None)
    )
    table = latens.embed(digits_run, other, out=tmp_path / "z.npz")
    z = np.load(table)["mu"]
    assert len(z) == 1438 + 180 + 20
    assert np.ptp(z[-20:], axis=0).max() < 1e-5
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(LatensError, match=r"folder\.csv is a folder: name a file"):
        latens.embed(digits_run, other, out=tmp_path / "folder.csv")
