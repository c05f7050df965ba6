"""Plots by matplotlib: their look, and what they become."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from latens.pictures.style import DPI, INK, PAPER, RULE, SOFT, titled

PLOT_DPI = 150  # of what has lines and text alone
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper"}

_RC: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

_SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "latens"}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made inside have latens's look."""
    with matplotlib.rc_context(_RC):
        yield


def render(figure: Figure, title: str = "", dpi: int = PLOT_DPI) -> Image.Image:
    """A plot under its title; its `info["dpi"]` tells at which size it is meant to be seen."""
    return Still(figure, dpi).render([], title)


class Still:
    """What stands still in a film of plots: drawn once, on which each frame's own is drawn.

    Args:
        figure: as it is now.
        dpi: of the frames.
    """

    def __init__(self, figure: Figure, dpi: int = PLOT_DPI):
        figure.set_dpi(dpi)
        self.figure = figure
        self.canvas = FigureCanvasAgg(figure)
        self.canvas.draw()
        figure.set_layout_engine("none")  # all is in its place, also where it becomes an SVG
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def render(self, moving: Sequence[Artist], title: str = "") -> Image.Image:
        """A frame: what stands still, and these artists of the figure, under a title."""
        self.canvas.restore_region(self.background)
        for artist in sorted(moving, key=Artist.get_zorder):
            artist.draw(self.canvas.get_renderer())
        return _under_title(self.canvas, self.figure, title)


def _under_title(canvas: FigureCanvasAgg, figure: Figure, title: str) -> Image.Image:
    dpi = round(figure.dpi)
    plot = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = titled(plot, title, (0, 0), plot.size, dpi / DPI)
    image.info |= {"dpi": (dpi, dpi), "figure": figure}
    return image


def places_of_axes(image: Image.Image) -> list[dict[str, Any]]:
    """Of each pair of axes of a rendered plot: its box and the limits of x.

    A box is left, top, right and bottom as shares of the plot's width and height.
    """
    return [
        {"box": [p.x0, 1 - p.y1, p.x1, 1 - p.y0], "limits": list(ax.get_xlim())}
        for ax in image.info["figure"].axes
        for p in [ax.get_position()]
    ]


def svg(figure: Figure) -> str:
    """A plot as an SVG element whose ink, soft ink, rules and paper are CSS variables.

    So a page's colour scheme decides on them. Letters stay letters.
    """
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context(_SVG):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S
    )
    text = re.sub(r' xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"', "", text)  # HTML needs none
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
