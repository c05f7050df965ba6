"""One look for all pictures."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from latens import files

INK = "#1f2933"
PAPER = "#ffffff"
RULE = "#d9dee4"
# Okabe & Ito's palette: told apart by colour-blind readers too
TRAIN = "#0072b2"
VALIDATION = "#d55e00"
BAR = "#56b4e9"
DPI = 100  # one array pixel is one screen pixel in grids

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
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made inside have latens's look."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script without a font
        yield


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a figure as PNG, at once."""
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
