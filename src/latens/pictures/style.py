"""One look for all pictures, and how each becomes a file."""

import functools
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from latens import files

INK = "#1f2933"
SOFT = "#5b6875"
PAPER = "#ffffff"
RULE = "#d9dee4"
# Okabe & Ito's palette: told apart by colour-blind readers too
TRAIN = "#0072b2"
VALIDATION = "#d55e00"
BAR = "#56b4e9"
# Tol's "muted" scheme: ten colours for classes, each with a marker of its own besides
CLASSES = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33")
CLASSES += ("#882255", "#44aa99", "#999933", "#aa4499", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
HEAT = "magma"  # from nothing to much; read alike in grey
DIVERGING = "RdBu_r"  # from below zero, by white, to above; told apart by the colour-blind
DPI = 100  # one array pixel is one screen pixel
PLOT_DPI = 150  # of what has lines and text alone
MARGIN = 12
TITLE_LINE = 18
TITLE = 13  # height of the letters
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper"}
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

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


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pictures, `size` pixels high."""
    return ImageFont.truetype(FONTS / f"DejaVuSans{'-Bold' * bold}.ttf", size)


def heading(title: str) -> tuple[str, str]:
    """What a picture shows, and of which run: the two lines of a title "what · run"."""
    what, _, run = title.partition(" · ")
    return what, run


def titled(
    content: Image.Image,
    title: str,
    place: tuple[int, int],
    size: tuple[int, int],
    scale: float = 1,
) -> Image.Image:
    """Content on white under its title.

    `info["box"]` tells where the content is: left, top, right and bottom as shares of the image's
    width and height.

    Args:
        title: "what · run", in two lines.
        place: of the content below the title: left, and pixels from the title.
        size: room for the content and what is around it, below the title.
        scale: of all letters and margins.
    """
    margin, line = round(MARGIN * scale), round(TITLE_LINE * scale)
    lines = [words for words in heading(title) if words]
    fonts = [font(round(TITLE * scale), bold=i == 0) for i in range(len(lines))]
    below = margin + line * len(lines) + round(4 * scale) * bool(lines) if lines else 0
    widths = [margin * 2 + math.ceil(f.getlength(t)) for f, t in zip(fonts, lines, strict=True)]
    image = Image.new("RGB", (max(size[0], *widths, 1), below + size[1]), PAPER)
    left, top = place[0], below + place[1]
    image.paste(content, (left, top))
    draw = ImageDraw.Draw(image)
    for i, words in enumerate(lines):
        draw.text((margin, margin + i * line), words, INK if i == 0 else SOFT, fonts[i])
    right, bottom = left + content.width, top + content.height
    width, height = image.size
    image.info["box"] = (left / width, top / height, right / width, bottom / height)
    return image


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


def save(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with files.replacing(path) as temporary:
        image.save(temporary, format="PNG", dpi=image.info.get("dpi", (DPI, DPI)), optimize=True)
