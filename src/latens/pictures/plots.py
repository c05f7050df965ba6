"""Plots by matplotlib: their look, and what they become."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
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
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
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
