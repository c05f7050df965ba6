"""Images side by side, each pixel kept sharp."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from torch import Tensor

from latens.pictures.style import DPI, INK, save, styled

LEAST_SIDE = 56  # screen pixels: smaller images are scaled up by a whole number
GAP = 4  # screen pixels between images
MARGIN = 12
TITLE_HEIGHT = 30
CAPTION_HEIGHT = 14  # screen pixels below an image, or above a column, for words about it
TITLE = FontProperties(family="DejaVu Sans", weight="bold", size=9)


def tile(
    images: Float[Tensor, "R C channels H W"], below: int = 0
) -> UInt8[np.ndarray, "height width 3"]:
    """R rows of C images in [0, 1] as one RGB array on white, scaled up by a whole number.

    Grey images become RGB. The image in row r and column c starts at pixel
    (r (s H + below + GAP), c (s W + GAP)), where s is the scale.

    Args:
        below: white pixels under each row.
    """
    rows, columns, channels, height, width = images.shape
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    pixels = np.broadcast_to(pixels, (rows, columns, 3, height, width)) if channels == 1 else pixels
    scale = max(1, math.ceil(LEAST_SIDE / max(height, width)))
    pixels = pixels.repeat(scale, axis=3).repeat(scale, axis=4)
    height, width = height * scale, width * scale
    size = rows * (height + below + GAP) - GAP, columns * (width + GAP) - GAP
    sheet = np.full((*size, 3), 255, dtype=np.uint8)
    for r in range(rows):
        for c in range(columns):
            top, left = r * (height + below + GAP), c * (width + GAP)
            sheet[top : top + height, left : left + width] = pixels[r, c].transpose(1, 2, 0)
    return sheet


def save_grid(
    path: Path,
    images: Float[Tensor, "N C H W"],
    title: str = "",
    columns: int | None = None,
    captions: Sequence[str] | None = None,
) -> None:
    """Write N images in [0, 1] as a PNG, in a grid about as wide as it is high.

    Args:
        captions: a few words below each image.
    """
    n = len(images)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = images.new_ones(rows * columns, *images.shape[1:])  # white where there is none
    padded[:n] = images
    sheet = tile(padded.unflatten(0, (rows, columns)), CAPTION_HEIGHT if captions else 0)
    _save_sheet(path, sheet, title, captions=captions or (), grid=(rows, columns))


def save_rows(
    path: Path,
    images: Float[Tensor, "R C channels H W"],
    title: str,
    columns: Sequence[str],
    rows: Sequence[str] = (),
) -> None:
    """Write R rows of C images in [0, 1] as a PNG, each column under its name.

    Args:
        columns: C names.
        rows: R names, or none.
    """
    _save_sheet(path, tile(images), title, rows=rows, columns=columns)


def save_pairs(
    path: Path,
    inputs: Float[Tensor, "N C H W"],
    outputs: Float[Tensor, "N C H W"],
    title: str = "",
    columns: int = 12,
) -> None:
    """Write inputs as a PNG with the reconstruction right below each, in labelled rows."""
    n = len(inputs)
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    pairs = inputs.new_ones(rows, 2, columns, *inputs.shape[1:])
    for row in range(rows):
        part = slice(row * columns, (row + 1) * columns)
        count = len(inputs[part])
        pairs[row, 0, :count], pairs[row, 1, :count] = inputs[part], outputs[part]
    _save_sheet(path, tile(pairs.flatten(0, 1)), title, rows=["input", "output"] * rows)


def _save_sheet(
    path: Path,
    sheet: np.ndarray,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    grid: tuple[int, int] = (1, 1),
) -> None:
    """The sheet, pixel by pixel, under its title, with the names of its rows and columns.

    Args:
        captions: below each image, row after row, in a sheet of `grid` images.
    """
    height, width = sheet.shape[:2]
    left = MARGIN + (46 if rows else 0)
    top = MARGIN + (TITLE_HEIGHT if title else 0) + (CAPTION_HEIGHT if columns else 0)
    with styled():
        total_width = max(left + width + MARGIN, _title_width(title) + 2 * MARGIN)
        total_height = top + height + MARGIN
        figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
        figure.figimage(sheet, left, MARGIN, origin="upper", resize=False)

        def write(x: float | int, y: float | int, text: str, **style: Any) -> None:
            """Text at screen pixels from the upper left."""
            figure.text(x / total_width, 1 - y / total_height, text, **style)

        if title:
            write(MARGIN, MARGIN + 6, title, fontproperties=TITLE, va="top", color=INK)
        for i, name in enumerate(rows):
            write(MARGIN, top + (i + 0.5) * height / len(rows), name, va="center")
        for i, name in enumerate(columns):
            x = left + (i + 0.5) * (width + GAP) / len(columns) - GAP / 2
            write(x, top - 4, name, ha="center", va="bottom", fontsize=8)
        for i, caption in enumerate(captions):
            row, column = divmod(i, grid[1])
            x = left + (column + 0.5) * (width + GAP) / grid[1] - GAP / 2
            y = top + (row + 1) * (height + GAP) / grid[0] - GAP - CAPTION_HEIGHT + 2
            write(x, y, caption, ha="center", va="top", fontsize=7)
        save(figure, path)


def _title_width(title: str) -> int:
    """How many screen pixels a title is wide."""
    figure = Figure(dpi=DPI)
    text = figure.text(0, 0, title, fontproperties=TITLE, parse_math=False)
    return math.ceil(text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)
