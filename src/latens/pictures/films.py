"""Pictures in turn, as an animated GIF and as an animated WebP."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from latens import files
from latens.errors import LatensError

SECONDS = 0.5  # that a frame is shown
HOLD = 3.0  # that the last one is, before the film begins again
LARGEST = 3_000_000  # bytes of a GIF
WEBP_QUALITY = 80
COLOURS = (256, 64, 16)  # of a GIF: fewer where it would be too large
SHRINK = 0.75
NEARLY_WHITE = 247


def save_film(
    path: Path, frames: Sequence[Image.Image], seconds: float = SECONDS, hold: float = HOLD
) -> list[Path]:
    """Write PATH.gif and PATH.webp, both without end; returns their paths.

    A GIF that would be larger than 3 MB gets fewer colours, then a smaller size: no frame is
    lost. The WebP keeps the size.

    Args:
        path: without a suffix.
        frames: RGB, all of one size; equal neighbours count as one.
        seconds: each frame is shown.
        hold: the last frame is shown.

    Raises:
        LatensError: no frames.
        OSError: they cannot be written.
    """
    if not frames:
        raise LatensError(f"{path.name} has no frames")
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * hold)]
    options = {"save_all": True, "duration": durations, "loop": 0}
    webp, gif = path.with_name(f"{path.name}.webp"), path.with_name(f"{path.name}.gif")
    rest = {"append_images": frames[1:], "quality": WEBP_QUALITY, "method": 2}
    with files.replacing(webp) as temporary:
        frames[0].save(temporary, format="WEBP", **rest, **options)
    with files.replacing(gif) as temporary:
        for colours, scale in _ever_smaller():
            few = _with_few_colours(frames, colours, scale)
            few[0].save(temporary, format="GIF", append_images=few[1:], optimize=False, **options)
            if temporary.stat().st_size <= LARGEST:
                break
    return [gif, webp]


def _ever_smaller() -> Iterator[tuple[int, float]]:
    """Numbers of colours and scales of a GIF: fewer colours, then all again at a smaller scale."""
    for step in itertools.count():
        for colours in COLOURS:
            yield colours, SHRINK**step


def _with_few_colours(frames: Sequence[Image.Image], count: int, scale: float) -> list[Image.Image]:
    """Frames of one common palette, so that what stands still is stored once."""
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in frames[0].size)
        frames = [frame.resize((width, height), Image.Resampling.BOX) for frame in frames]
    shown = frames[:: max(1, len(frames) // 4)]
    strip = Image.new("RGB", (shown[0].width, sum(frame.height for frame in shown)))
    for i, frame in enumerate(shown):
        strip.paste(frame, (0, i * frame.height))
    palette = _keeping_white(strip.quantize(count, Image.Quantize.MEDIANCUT))
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _keeping_white(palette: Image.Image) -> Image.Image:
    """The palette with what is nearly white made white: paper is no shade of grey."""
    entries = np.array(palette.getpalette()).reshape(-1, 3)
    entries[(entries >= NEARLY_WHITE).all(1)] = 255
    kept = Image.new("P", (1, 1))
    kept.putpalette(entries.flatten().tolist())
    return kept


def read_frames(path: Path) -> list[Image.Image]:
    """The frames of a film, RGB."""
    with Image.open(path) as film:
        frames = []
        for i in range(getattr(film, "n_frames", 1)):
            film.seek(i)
            frames.append(film.convert("RGB"))
    return frames
