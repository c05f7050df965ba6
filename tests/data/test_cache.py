"""Decoded images on disk."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens import Images, LatensError, load_data
from latens.data import cache
from latens.data.decoding import Target
from latens.data.images import DataSet, hold_out
from latens.training.setup import _mean_image

COUNT = 20


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of the cache, used from twenty images on."""
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "CACHED_FROM", COUNT)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(COUNT):
        Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def count_decoding(monkeypatch):
    """How often `decode` was called."""
    calls = []
    decode = cache.decode

    def counted(*arguments):
        calls.append(1)
        return decode(*arguments)

    monkeypatch.setattr(cache, "decode", counted)
    return calls


def test_a_set_is_decoded_once_and_memory_mapped(place, folder, monkeypatch):
    calls = count_decoding(monkeypatch)
    first, second = load_data(folder), load_data(folder)
    assert len(calls) == 1
    assert first.fingerprint() == second.fingerprint()
    pixels, _ = cache.decoded(folder, sorted(folder.iterdir()), Target(None, None))
    assert isinstance(pixels, np.memmap)
    assert pixels[:, 0, 0, 0].tolist() == [10 * i for i in range(COUNT)]
    assert sorted(path.suffix for path in place.iterdir()) == [".json", ".npy"]


def test_a_large_set_stays_on_the_disk(place, folder, monkeypatch):
    """What a training walks through, mean, fingerprint and batches, takes little memory."""
    monkeypatch.setattr("latens.data.images.BYTES_IN_BLOCK", 2**18)
    path = cache.cache_folder() / "large.npy"
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(4000, 3, 64, 64))
    for start in range(0, 4000, 500):
        large[start : start + 500] = start // 500
    large.flush()
    data = DataSet(*["large"] * 2, *hold_out_two(Images(torch.from_numpy(np.load(path, "c")))))
    before = anonymous_memory()
    data.fingerprint()
    mean = _mean_image(data)
    for batch in data.train.batches(64):
        assert batch.pixels.dtype == torch.uint8
    assert anonymous_memory() - before < 10e6  # of 49 million bytes
    assert mean.mean().item() == pytest.approx(3.5 / 255, rel=0.05)


def hold_out_two(images):
    rest, test = hold_out(images, 400, 0, "testing")
    rest, validation = hold_out(rest, 400, 1, "validation")
    return rest, validation, test


def anonymous_memory():
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def test_other_options_are_decoded_anew(place, folder, monkeypatch):
    calls = count_decoding(monkeypatch)
    assert load_data(folder).shape == (1, 8, 8)
    assert load_data(folder, size=(4, 4)).shape == (1, 4, 4)
    assert len(calls) == 2
    assert len(list(place.iterdir())) == 4


def test_another_version_of_the_format_is_decoded_anew(place, folder, monkeypatch):
    load_data(folder)
    known = set(place.iterdir())
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    calls = count_decoding(monkeypatch)
    load_data(folder)
    assert len(calls) == 1
    assert len(set(place.iterdir()) - known) == 2


def test_a_source_that_has_changed_is_decoded_again(place, folder, monkeypatch, capsys):
    calls = count_decoding(monkeypatch)
    before = load_data(folder).fingerprint()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "03.png")
    capsys.readouterr()
    after = load_data(folder)
    assert len(calls) == 2
    assert after.fingerprint() != before
    assert "has changed since its images were decoded" in capsys.readouterr().err
    assert len(list(place.iterdir())) == 2  # the old one is gone


def test_a_cut_off_cache_is_decoded_again(place, folder, monkeypatch):
    before = load_data(folder).fingerprint()
    path = next(place.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:200])
    calls = count_decoding(monkeypatch)
    assert load_data(folder).fingerprint() == before
    assert len(calls) == 1


def test_nothing_half_decoded_is_left(place, folder):
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:40])
    with pytest.raises(LatensError, match=r"07\.png"):
        load_data(folder)
    assert list(place.iterdir()) == []


def test_bad_images_are_left_out_when_told(place, folder, capsys):
    (folder / "07.png").write_bytes(b"nothing")
    for _ in range(2):  # decoded, and from the cache
        data = load_data(folder, skip_bad=True)
        assert sum(data.sizes().values()) == COUNT - 1
        levels = {int(v) for split in data.sizes() for v in data.split(split).pixels[:, 0, 0, 0]}
        assert levels == {10 * i for i in range(COUNT) if i != 7}
    assert json.loads(next(place.glob("*.json")).read_text())["bad"] == [7]


def test_only_bad_images_cannot_be_skipped(place, folder):
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(LatensError, match="is not an image"):
        load_data(folder, skip_bad=True)


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(LatensError, match="LATENS_CACHE"):
        load_data(folder)


def test_no_room_for_the_cache(folder, monkeypatch, place):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(LatensError, match="No space left on device; free some space"):
        load_data(folder)
    assert list(place.iterdir()) == []
