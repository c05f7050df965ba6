"""Downloads, from a server of the test's own."""

import contextlib
import gzip
import hashlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from latens import LatensError, load_data
from latens.data import load_split
from latens.data.sources import IDX_FILES, SOURCES, Source, _idx, fetch


class Handler(SimpleHTTPRequestHandler):
    """Serves files; while `slow`, it stops in the middle of one."""

    slow = False

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        if not self.slow:
            return super().copyfile(source, outputfile)
        content = source.read()
        outputfile.write(content[: len(content) // 2])
        outputfile.flush()
        while self.slow:
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # who asked may be gone
            outputfile.write(content[len(content) // 2 :])
        return None


@pytest.fixture
def server(tmp_path):
    """A folder that is served, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.slow = False
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("LATENS_DATA", str(folder))
    return folder


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def source(server):
    """A small data set in MNIST's format, at an address that does not answer and one that does."""
    folder, address = server
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (40, 6, 7), dtype=np.uint8),
        rng.integers(0, 10, 40, dtype=np.uint8),
        rng.integers(0, 256, (12, 6, 7), dtype=np.uint8),
        rng.integers(0, 10, 12, dtype=np.uint8),
    ]
    hashes = {}
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
        hashes[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    mirrors = ("http://127.0.0.1:9/", address)
    return Source("small", _idx, 5, "small", mirrors, hashes), arrays


def test_the_second_mirror_serves_when_the_first_does_not(source, cache, monkeypatch):
    small, (train, labels, test, _) = source
    monkeypatch.setitem(SOURCES, "small", small)
    data = load_data("small")
    assert data.sizes() == {"train": 35, "validation": 5, "test": 12}
    assert (data.test.pixels[:, 0].numpy() == test).all()
    every = {tuple(image.flatten()): label for image, label in zip(train, labels, strict=True)}
    for image, label in zip(data.train.pixels, data.train.labels, strict=True):
        assert every[tuple(image.flatten().tolist())] == label
    assert sorted(p.name for p in (cache / "small").iterdir()) == sorted(IDX_FILES)


def test_what_is_there_is_not_fetched_again(source, cache, server):
    small, _ = source
    path = fetch(small, IDX_FILES[0])
    (server[0] / IDX_FILES[0]).unlink()
    assert fetch(small, IDX_FILES[0]) == path


def test_a_corrupt_download_leaves_nothing(source, cache, server):
    small, _ = source
    good = (server[0] / IDX_FILES[0]).read_bytes()
    (server[0] / IDX_FILES[0]).write_bytes(good[:-10] + b"0123456789")
    with pytest.raises(LatensError, match="wrong checksum"):
        fetch(small, IDX_FILES[0])
    assert [p for p in cache.rglob("*") if p.is_file()] == []
    (server[0] / IDX_FILES[0]).write_bytes(good)
    assert fetch(small, IDX_FILES[0]).read_bytes() == good


def test_a_damaged_file_in_the_cache_is_fetched_anew(source, cache, server):
    small, _ = source
    path = fetch(small, IDX_FILES[0])
    good = path.read_bytes()
    path.write_bytes(good[:100])
    assert fetch(small, IDX_FILES[0]).read_bytes() == good


def downloading(small, address):
    """A process that fetches a file."""
    code = (
        "from latens.data.sources import Source, fetch, _idx;"
        f"fetch(Source('small', _idx, 5, 'small', ({address!r},), {small.files!r}),"
        f" {IDX_FILES[0]!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_two_downloads_of_one_file_at_once(source, cache, server):
    small, _ = source
    Handler.slow = True
    both = [downloading(small, server[1]) for _ in range(2)]
    while len(list((cache / "small").glob("*"))) < 2 and None in [one.poll() for one in both]:
        time.sleep(0.05)
    Handler.slow = False
    assert [one.wait() for one in both] == [0, 0]
    assert [path.name for path in (cache / "small").iterdir()] == [IDX_FILES[0]]
    path = fetch(small, IDX_FILES[0])
    assert path.read_bytes() == (server[0] / IDX_FILES[0]).read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_download_is_not_taken_for_good(source, cache, server, how):
    small, _ = source
    Handler.slow = True
    process = downloading(small, server[1])
    while not any((cache / "small").glob("*")) and process.poll() is None:
        time.sleep(0.05)
    assert any((cache / "small").glob("*")), "the download began"
    process.send_signal(how)
    assert process.wait() != 0
    Handler.slow = False
    assert not (cache / "small" / IDX_FILES[0]).exists()
    path = fetch(small, IDX_FILES[0])
    assert path.read_bytes() == (server[0] / IDX_FILES[0]).read_bytes()


def test_no_network_says_so_in_one_line(cache, monkeypatch):
    small = Source("small", _idx, 5, "small", ("http://127.0.0.1:9/",), {IDX_FILES[0]: "0" * 32})
    monkeypatch.setitem(SOURCES, "small", small)
    with pytest.raises(LatensError, match=r"no connection.*LATENS_DATA") as failure:
        load_data("small")
    assert "\n" not in str(failure.value)


def test_a_file_the_mirror_does_not_have(source, cache, server):
    small, _ = source
    (server[0] / IDX_FILES[0]).unlink()
    with pytest.raises(LatensError, match="HTTP status 404"):
        fetch(small, IDX_FILES[0])


def test_a_data_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENS_DATA", str(tmp_path / "absent"))
    with pytest.raises(LatensError, match="is not a folder: create it or unset it"):
        load_data("mnist")


def test_every_source_has_what_it_needs():
    for name, known in SOURCES.items():
        assert known.about
        if name not in ("digits", "shapes"):
            assert len(known.mirrors) >= 2 or name == "small"
            assert all(len(md5) == 32 for md5 in known.files.values())


@pytest.mark.mnist
def test_mnist_is_mnist():
    data = load_data("mnist")
    assert data.sizes() == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    every = load_data("mnist").split("train").unit().mean().item()
    assert every == pytest.approx(0.1307, abs=0.001)


@pytest.mark.mnist
def test_static_mnist_is_the_published_one():
    if not (Path(os.environ["LATENS_DATA"]) / "binarized_mnist").is_dir():
        pytest.skip("needs binarized_mnist/ in LATENS_DATA")
    data = load_data("binarized-mnist")
    assert data.sizes() == {"train": 50_000, "validation": 10_000, "test": 10_000}
    assert data.binary
    assert data.train.labels is None
    assert data.train.unit().mean().item() == pytest.approx(0.13056, abs=1e-5)


# ---- folders of IDX files --------------------------------------------------------------------


@pytest.fixture
def clothes(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 50), ("t10k", 20)):
        x = rng.integers(0, 256, (count, 9, 8), dtype=np.uint8)
        y = np.arange(count, dtype=np.uint8) % 4
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(x))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(
            gzip.decompress(idx(y))
        )  # as it is after unpacking
    return tmp_path


def test_a_folder_of_idx_files_is_read(clothes):
    data = load_data(clothes)
    assert data.sizes() == {"train": 45, "validation": 5, "test": 20}
    assert (data.shape, data.classes) == ((1, 9, 8), ("0", "1", "2", "3"))
    rng = np.random.default_rng(0)
    rng.integers(0, 256, (50, 9, 8), dtype=np.uint8)
    expected = rng.integers(0, 256, (20, 9, 8), dtype=np.uint8)
    assert np.array_equal(data.test.pixels[:, 0].numpy(), expected)
    assert data.test.labels.tolist() == [i % 4 for i in range(20)]


@pytest.mark.usefixtures("few_frames")
def test_a_model_of_such_images_is_trained_measured_and_shown(clothes, run_latens, tmp_path):
    run = tmp_path / "run"
    words = ("--recipe", "mlp", "--hidden", "8", "--epochs", "1", "--no-report")
    for command in (
        ("train", clothes, *words, "--out", run),
        ("evaluate", run),
        ("reconstruct", run, "-n", "4", "--out", tmp_path / "pairs.png"),
        ("report", run),
    ):
        done = run_latens(*map(str, command))
        assert done.returncode == 0, done.stderr
    assert load_split(clothes, None, (1, 9, 8)).pixels.shape == (20, 1, 9, 8)


def test_without_test_files_some_are_held_out(clothes):
    for path in clothes.glob("t10k*"):
        path.unlink()
    assert load_data(clothes).sizes() == {"train": 41, "validation": 4, "test": 5}


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("train-labels-idx1-ubyte", None, "no train-labels-idx1-ubyte.gz: add it"),
        ("train-labels-idx1-ubyte", b"\0\0", "truncated or no IDX file of labels"),
        (
            "train-labels-idx1-ubyte",
            gzip.decompress(idx(np.zeros(3, np.uint8))),
            "50 images in .* 3 labels",
        ),
        ("t10k-images-idx3-ubyte.gz", b"\x1f\x8bno", "truncated or no IDX file of images"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x0d\3" + bytes(12)), "no IDX file"),
    ],
    ids=["missing", "short", "other-count", "no-gzip", "other-type"],  # a gzip tells its time
)
def test_damaged_idx_files_are_named(clothes, file, content, told):
    (clothes / file).unlink()
    if content is not None:
        (clothes / file).write_bytes(content)
    with pytest.raises(LatensError, match=told):
        load_data(clothes)
