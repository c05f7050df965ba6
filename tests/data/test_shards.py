"""Shards of the two common kinds, from disk and from a server."""

import functools
import io
import json
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import latens
from latens import LatensError
from latens.data import load_data, load_split, shards, source_of
from latens.data.shards import name_of_shards, shards_of
from latens.data.streaming import stream_images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 10, 12), np.uint8)
LABELS = [f"kind {i % 3}" for i in range(60)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "cache"))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path, rows, mode="w", label="cls", extra=()):
    with tarfile.open(path, mode) as archive:
        for i in rows:
            told = LABELS[i] if label == "cls" else json.dumps({"label": LABELS[i], "n": i})
            files = {f"a/{i:04d}.png": png(PIXELS[i]), f"a/{i:04d}.{label}": told.encode()}
            for name, content in (files | dict(extra)).items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))


def write_parquet(path, rows, names=None):
    images = [{"bytes": png(PIXELS[i]), "path": f"{i}.png"} for i in rows]
    labels = [LABELS[i] if names is None else names.index(LABELS[i]) for i in rows]
    table = pa.table({"image": images, "label": labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(about)
    parquet.write_table(table, path, row_group_size=7)


def test_tar_shards_are_images_with_labels(tmp_path):
    write_tar(tmp_path / "set-000.tar", range(25))
    write_tar(tmp_path / "set-001.tar.gz", range(25, 60), mode="w:gz", label="json")
    found = load_data(tmp_path, validation=6)
    every = found.split("all")
    assert found.shape == (1, 10, 12)
    assert found.classes == ("kind 0", "kind 1", "kind 2")
    assert found.sizes() == {"train": 48, "validation": 6, "test": 6}
    for pixels, label in zip(every.pixels, every.labels, strict=True):
        (row,) = np.nonzero((pixels[0].numpy() == PIXELS).all((1, 2)))[0]
        assert LABELS[row] == found.classes[label]


def test_images_whose_names_have_dots_are_images_each(tmp_path, capsys):
    """Where none is the image of its sample; else they are further fields, and said to be."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8)
    names = [f"cell{i // 4}.z{i % 4}.png" for i in range(12)]
    for tar, files in (
        ("cells.tar", zip(names, pixels, strict=True)),
        (
            "masks.tar",
            [(f"{i:02d}{end}", pixels[i]) for i in range(12) for end in (".png", ".seg.png")],
        ),
    ):
        with tarfile.open(tmp_path / tar, "w") as archive:
            for name, image in files:
                content = png(image)
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
        data = load_data(tmp_path / tar)
        assert sum(data.sizes().values()) == 12, tar
        said = capsys.readouterr().err
        assert ("further images of its samples (seg.png)" in said) == (tar == "masks.tar")


def test_numbers_in_braces_name_shards(tmp_path):
    for i in range(3):
        write_tar(tmp_path / f"set-{i:02d}.tar", range(20 * i, 20 * i + 20))
    pattern = tmp_path / "set-{00..02}.tar"
    assert [path[-6:-4] for path in shards_of(pattern)] == ["00", "01", "02"]
    assert len(load_data(pattern).split("all")) == 60
    assert len(load_data(tmp_path / "set-{01..02}.tar").split("all")) == 40
    assert name_of_shards(str(pattern)) == "set"
    with pytest.raises(LatensError, match=r"no such file or folder: .*set-03\.tar"):
        load_data(tmp_path / "set-{02..03}.tar")
    with pytest.raises(LatensError, match="100,000 shards"):
        load_data("set-{0..99999999}.tar")


@pytest.mark.parametrize("names", [None, ["kind 2", "kind 0", "kind 1"]])
def test_parquet_as_hugging_face_has_it(tmp_path, names):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", range(30), names)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", range(30, 45), names)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", range(45, 60), names)
    found = load_data(tmp_path, validation=5)
    assert found.sizes() == {"train": 40, "validation": 5, "test": 15}
    assert found.classes == tuple(names or ("kind 0", "kind 1", "kind 2"))
    assert found.test.pixels[:, 0].numpy().tolist() == PIXELS[45:].tolist()
    assert [found.classes[label] for label in found.test.labels] == LABELS[45:]


class Server(SimpleHTTPRequestHandler):
    """Serves files, counts what is asked for, and ends some answers too early."""

    asked: list

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        if "short" in self.path:
            outputfile.write(source.read()[:2_000])
        else:
            super().copyfile(source, outputfile)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Server, directory=folder)
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_shards_on_a_server_are_read_once_and_never_stored(server, tmp_path, monkeypatch):
    folder, address = server
    for i in range(3):
        write_tar(folder / f"train-{i}.tar", range(20 * i, 20 * i + 20))
    monkeypatch.chdir(tmp_path)
    pattern = address + "/train-{0..2}.tar"
    options = {"recipe": "mlp", "hidden": "16", "latent_dim": 2, "epochs": 1, "film": False}
    run = latens.train(pattern, **options)
    assert run.path.name == "train-mlp-1"
    assert Server.asked == [f"/train-{i}.tar" for i in range(3)]
    assert latens.evaluate(run).images == 6  # from the cache
    assert len(load_data(pattern).split("all")) == 60
    assert len(Server.asked) == 3
    stored = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert stored < PIXELS.nbytes + 4_000 < sum(path.stat().st_size for path in folder.iterdir())
    assert source_of(pattern) == pattern
    write_tar(folder / "train-1.tar", range(30))
    assert len(load_data(pattern).split("all")) == 70  # it has changed


def test_a_server_that_fails_ends_in_one_line(server, tmp_path):
    folder, address = server
    write_tar(folder / "short.tar", range(20))
    for name, words in (("short", "cannot be read"), ("missing", "404")):
        with pytest.raises(LatensError, match=words) as caught:
            load_data(f"{address}/{name}.tar")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))
    write_parquet(folder / "train.parquet", range(20))
    with pytest.raises(LatensError, match="download it first"):
        load_data(f"{address}/train.parquet")


def test_what_is_no_shard_ends_in_one_line(tmp_path):
    def refused(name, words):
        with pytest.raises(LatensError, match=words) as caught:
            load_data(tmp_path / name)
        assert "\n" not in str(caught.value)

    write_tar(tmp_path / "whole.tar", range(40))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:9_000])
    refused("cut.tar", "cut.tar cannot be read")
    (tmp_path / "text.tar").write_text("hello")
    refused("text.tar", "text.tar cannot be read")
    (tmp_path / "text.parquet").write_text("hello")
    refused("text.parquet", "text.parquet cannot be read")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    refused("x.parquet", "call the images' column image")
    parquet.write_table(pa.table({"image": ["a.png"]}), tmp_path / "paths.parquet")
    refused("paths.parquet", "must hold bytes")
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    refused("none.tar", "no images")


def test_bad_images_are_left_out_or_refused(tmp_path):
    write_tar(tmp_path / "set.tar", range(30), extra=[("b/x.png", b"no image")])
    with pytest.raises(LatensError, match=r"b/x\.png of .*set\.tar is not an image"):
        load_data(tmp_path / "set.tar")
    assert len(load_data(tmp_path / "set.tar", skip_bad=True).split("all")) == 30


def test_features_of_shards_are_those_of_their_images(tmp_path, run_latens):
    write_tar(tmp_path / "set.tar", range(60))
    train = "train set.tar --recipe mlp --hidden 16 --latent-dim 2 --epochs 1 --no-report --out run"
    assert run_latens(*train.split()).returncode == 0
    done = run_latens("embed", "run", "set.tar", "--out", "z.npz")
    assert done.returncode == 0, done.stderr
    packed = np.load(tmp_path / "z.npz")
    x = torch.from_numpy(PIXELS)[:, None] / 255
    expected = latens.load(tmp_path / "run").embed(x)
    np.testing.assert_allclose(packed["mu"], expected, atol=1e-5)
    assert packed["label"].tolist() == LABELS
    assert set(packed["split"].tolist()) == {""}  # it tells none of its own
    assert "has changed" not in done.stderr
    assert "has changed" not in run_latens("evaluate", "run").stderr


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-val-000000.tar", "validation"),
        ("cifar10-test-0.tar", "test"),
        ("mnist_test.parquet", "test"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation-3.tar.gz", "validation"),
        ("test/0.tar", "test"),
        ("contest-0.tar", "train"),
        ("testament-0.tar", "train"),
    ],
)
def test_a_word_of_the_name_tells_the_split(name, split):
    assert shards._split_of(name) == split


def test_json_too_deep_to_be_read_is_one_line():
    with pytest.raises(LatensError, match="label that cannot be read"):
        shards._label_of({"json": b"[" * 10**6}, "a.jpg of set.tar")


@pytest.mark.parametrize("name", ["crash-test-0.tar", "imagenet-val-0.tar"])
def test_shards_of_a_test_set_alone_are_all_images(name, tmp_path):
    """To be trained on, and to be scored."""
    write_tar(tmp_path / name, range(40))
    assert load_data(tmp_path / name).sizes() == {"train": 33, "validation": 3, "test": 4}
    assert len(load_split(tmp_path / name, None, (3, 10, 12))) == 40
    stream = stream_images(tmp_path / name, (1, 10, 12))
    assert {split for block in stream.blocks() for split in block.splits} == {""}
