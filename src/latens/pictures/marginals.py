"""Each latent dimension's marginal: a histogram beside the prior's density."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from latens.pictures.plots import render, styled
from latens.pictures.style import INK, RULE, TRAIN, VALIDATION

MOST_HISTOGRAMS, COLUMNS = 40, 5
FARTHEST = 4  # of z that are shown; what lies beyond is counted at the edges
EDGES = np.linspace(-FARTHEST, FARTHEST, 41)
GRID = np.linspace(-FARTHEST, FARTHEST, 161)
TICKS = range(-FARTHEST, FARTHEST + 1, 2)
# Inches: from a panel to the next; of a panel; beside, below and above all of them
PITCH, PANEL, BESIDE, BELOW, ABOVE = (2.1, 1.55), (1.98, 1.24), 0.1, 0.6, 0.3
LEAST_WIDTH = 4.2  # of the figure, in inches
MARGIN = 1.1  # a panel's width over that of what it shows
TICK = 0.04  # inches
# Of a prior's density: in standard deviations of its samples; at least, in steps of its grid
KDE_WIDTH, LEAST_KDE_WIDTH = 0.1, 0.5


def histograms(
    z: Float[np.ndarray, "N D"],
    order: Sequence[int],
    title: str = "",
    prior: Float[np.ndarray, "M D"] | None = None,
    names: Sequence[str] | None = None,
) -> Image.Image:
    """Each latent dimension as a histogram, against the prior's density.

    Args:
        z: samples of q(z|x), one for each image.
        order: which dimensions to show, first to last; at most 40 are.
        prior: samples of p(z), of which a smooth density is drawn; None: the unit Gaussian.
        names: of all dimensions; None: z[0], z[1], …
    """
    shown = list(order)[:MOST_HISTOGRAMS]
    inside = z[:, shown].clip(-FARTHEST, FARTHEST)
    heights = np.stack([np.histogram(values, EDGES, density=True)[0] for values in inside.T])
    density = np.stack([_density(None if prior is None else prior[:, d]) for d in shown])
    top = 1.05 * np.maximum(heights.max(1), density.max(1))[:, None]
    steps = np.pad(np.repeat(heights / top, 2, 1), ((0, 0), (1, 1)))
    bars, lines = _in_panels(np.repeat(EDGES, 2), steps), _in_panels(GRID, density / top)
    with styled():
        figure, ax = _panels([names[d] if names else f"z[{d}]" for d in shown])
        ax.add_collection(PolyCollection(list(bars), fc=TRAIN, alpha=0.75, lw=0), autolim=False)
        ax.add_collection(LineCollection(list(lines), color=VALIDATION, lw=1.4), autolim=False)
        label = "density of N(0, 1)" if prior is None else "density of p(z)"
        handles = [
            Line2D([], [], color=TRAIN, lw=5, alpha=0.75, label="z ~ q(z|x) of the images"),
            Line2D([], [], color=VALIDATION, label=label),
        ]
        figure.legend(handles=handles, loc="lower left", ncols=2, fontsize=8)
        return render(figure, title)


def _panels(titles: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with an empty panel under each title, and axes that `_in_panels` gives places in.

    All panels are in one pair of axes: a pair for each would take several times as long.
    """
    columns, rows = min(COLUMNS, len(titles)), math.ceil(len(titles) / COLUMNS)
    width = max(LEAST_WIDTH, PITCH[0] * columns)
    above, below = PANEL[1] + ABOVE, PITCH[1] * (rows - 1) + BELOW  # of the first panel's bottom
    figure = Figure(figsize=(width, above + below))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-BESIDE, width - BESIDE), ylim=(-below, above))
    ax.set_axis_off()
    ones = np.ones((len(titles), 1))
    frame = _in_panels(np.array([-MARGIN, -MARGIN, MARGIN]) * FARTHEST, ones * [1, 0, 0])
    rules = [_in_panels(np.full(2, float(tick)), ones * [0, 1]) for tick in TICKS]
    marks = [_in_panels(np.full(2, float(tick)), ones * [0, -TICK / PANEL[1]]) for tick in TICKS]
    for curves, colour, lw, order in ((rules, RULE, 0.6, 0), ([*marks, frame], INK, 0.8, 2)):
        lines = LineCollection(list(chain(*curves)), color=colour, lw=lw, zorder=order)
        ax.add_collection(lines, autolim=False)
    for (x, y), title in zip(frame[:, 0], titles, strict=True):
        ax.text(x, y + 0.07, title, size=8, weight="bold")
    for tick, panels in zip(TICKS, marks, strict=True):
        number = f"{tick}".replace("-", "\N{MINUS SIGN}")
        for x, y in panels[-columns:, 1]:  # below the last panel of each column
            ax.text(x, y - 0.03, number, size=7, ha="center", va="top")
    return figure, ax


def _in_panels(
    x: Float[np.ndarray, " P"], y: Float[np.ndarray, "N P"]
) -> Float[np.ndarray, "N P 2"]:
    """Curves, each in its panel, as points in inches from the first panel's lower left corner.

    Args:
        x: values of z.
        y: heights as shares of a panel's.
    """
    number = np.arange(len(y))
    corners = np.stack([number % COLUMNS * PITCH[0], -(number // COLUMNS) * PITCH[1]], 1)
    across = (x / (MARGIN * FARTHEST) + 1) / 2 * PANEL[0]
    points = np.stack(np.broadcast_arrays(across, y * PANEL[1]), -1)
    return points + corners[:, None]


def _density(values: Float[np.ndarray, " M"] | None) -> Float[np.ndarray, " G"]:
    """On `GRID`: the density of N(0, 1), or of samples.

    The latter is a kernel density estimate: a Gaussian of `KDE_WIDTH` around each sample, rounded
    to the grid.
    """
    if values is None:
        return np.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi)
    from scipy.ndimage import gaussian_filter1d  # needed for learned priors alone

    step = GRID[1] - GRID[0]
    heights, _ = np.histogram(values, np.append(GRID, GRID[-1] + step) - step / 2)
    width = max(KDE_WIDTH * values.std(), LEAST_KDE_WIDTH * step)
    return gaussian_filter1d(heights / (len(values) * step), width / step, mode="constant")
