"""Images side by side, each pixel kept sharp."""

import math
from pathlib import Path

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
TITLE = FontProperties(family="DejaVu Sans", weight="bold", size=9)


def tile(images: Float[Tensor, "R C channels H W"]) -> UInt8[np.ndarray, "height width 3"]:
    """R rows of C images in [0, 1] as one RGB array on white, scaled up by a whole number.

    Grey images become RGB. The image in row r and column c starts at pixel
    (r (s H + GAP), c (s W + GAP)), where s is the scale.
    """
    rows, columns, channels, height, width = images.shape
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    pixels = np.broadcast_to(pixels, (rows, columns, 3, height, width)) if channels == 1 else pixels
    scale = max(1, math.ceil(LEAST_SIDE / max(height, width)))
    pixels = pixels.repeat(scale, axis=3).repeat(scale, axis=4)
    height, width = height * scale, width * scale
    sheet = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for r in range(rows):
        for c in range(columns):
            top, left = r * (height + GAP), c * (width + GAP)
            sheet[top : top + height, left : left + width] = pixels[r, c].transpose(1, 2, 0)
    return sheet


def save_grid(
    path: Path, images: Float[Tensor, "N C H W"], title: str = "", columns: int | None = None
) -> None:
    """Write N images in [0, 1] as a PNG, in a grid about as wide as it is high."""
    n = len(images)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = images.new_ones(rows * columns, *images.shape[1:])  # white where there is none
    padded[:n] = images
    _save_sheet(path, tile(padded.unflatten(0, (rows, columns))), title, [])


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
    _save_sheet(path, tile(pairs.flatten(0, 1)), title, ["input", "output"] * rows)


def _save_sheet(path: Path, sheet: np.ndarray, title: str, labels: list[str]) -> None:
    """The sheet, pixel by pixel, under its title and beside the labels of its rows."""
    height, width = sheet.shape[:2]
    left = MARGIN + (46 if labels else 0)
    top = MARGIN + (TITLE_HEIGHT if title else 0)
    total_height = top + height + MARGIN
    with styled():
        total_width = max(left + width + MARGIN, _title_width(title) + 2 * MARGIN)
        figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
        figure.figimage(sheet, left, MARGIN, origin="upper", resize=False)
        if title:
            y = 1 - (MARGIN + 6) / total_height
            figure.text(MARGIN / total_width, y, title, fontproperties=TITLE, va="top", color=INK)
        for i, label in enumerate(labels):
            middle = total_height - top - (i + 0.5) * height / len(labels)
            figure.text(MARGIN / total_width, middle / total_height, label, va="center")
        save(figure, path)


def _title_width(title: str) -> int:
    """How many screen pixels a title is wide."""
    figure = Figure(dpi=DPI)
    text = figure.text(0, 0, title, fontproperties=TITLE, parse_math=False)
    return math.ceil(text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)
