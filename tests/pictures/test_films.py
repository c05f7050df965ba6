import numpy as np
import pytest
import torch
from PIL import Image

from latens import LatensError
from latens.pictures import grid, read_frames, save_film
from latens.pictures.films import LARGEST


def frames(count, side=64):
    return [grid(torch.full((4, 1, side, side), i / count), f"frame {i}") for i in range(count)]


@pytest.mark.parametrize("count", [2, 7])
def test_a_film_has_its_frames_in_their_order(tmp_path, count):
    given = frames(count)
    for path in save_film(tmp_path / "film", given):
        read = read_frames(path)
        assert len(read) == count
        for frame, original in zip(read, given, strict=True):
            assert frame.size == original.size
            difference = np.asarray(frame).astype(int) - np.asarray(original)
            assert np.abs(difference).mean() < 4, path.suffix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.webp"]


def test_white_stays_white_in_a_gif(tmp_path):
    gif, _ = save_film(tmp_path / "film", frames(3))
    for frame in read_frames(gif):
        assert frame.getpixel((1, 1)) == (255, 255, 255)


def test_time_is_that_asked_for(tmp_path):
    gif, _ = save_film(tmp_path / "film", frames(3), seconds=0.2, hold=1.5)
    with Image.open(gif) as film:
        assert film.info["loop"] == 0
        durations = []
        for i in range(3):
            film.seek(i)
            durations.append(film.info["duration"])
    assert durations == [200, 200, 1500]


def test_a_large_gif_loses_colours_and_size_and_no_frame(tmp_path):
    rng = np.random.default_rng(0)
    noise = [
        Image.fromarray(rng.integers(0, 256, (500, 500, 3), dtype=np.uint8)) for _ in range(20)
    ]
    gif, webp = save_film(tmp_path / "film", noise)
    assert gif.stat().st_size <= LARGEST
    assert len(read_frames(gif)) == len(read_frames(webp)) == 20
    assert read_frames(webp)[0].size == (500, 500)


def test_without_frames_there_is_no_film(tmp_path):
    with pytest.raises(LatensError, match="film has no frames"):
        save_film(tmp_path / "film", [])
    assert not list(tmp_path.iterdir())
