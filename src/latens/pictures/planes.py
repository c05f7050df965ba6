"""Latents as points: on a plane, and turning in space."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from contourpy import contour_generator
from jaxtyping import Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from PIL import Image

from latens.pictures.plots import Still, styled
from latens.pictures.style import CLASSES, DPI, INK, MARKERS, SOFT, TRAIN, Prior

SIGMAS = (1, 2, 3)
CELLS = 200  # along each axis, of the grid on which a density is drawn
COARSE, WIDENED = 80, 40  # of the grid on which limits are sought, and how often they are widened
OUTSIDE = 0.001  # of the points, at most, beyond each edge of a plane
MOST_IN_LEGEND, LETTERS, LEGEND_LEFT = 20, 13, 0.83
PLANE_SIZE, TURNING_SIZE = (7.6, 6.2), (6.8, 5.2)  # inches
POINT = 11  # area of a point, in square points; more for few of them, less for many
FEW, MANY = 400, 2000
TURN_FRAMES = 40
ELEVATION = 18  # degrees above the plane of the first two components


def _place(labels: Int[np.ndarray, " N"] | None) -> tuple[float, float, float, float]:
    """Where the axes go. A layout that measures all text would take most of a film's time."""
    return 0.1, 0.09, (0.96 if labels is None else LEGEND_LEFT) - 0.12, 0.89


def colour_of(label: int) -> str:
    """The colour of a class; −1 is unknown."""
    return "#9aa5b1" if label < 0 else CLASSES[label % len(CLASSES)]


def marker_of(label: int) -> str:
    """The marker of a class: another one for each of the same colour's classes too."""
    return "." if label < 0 else MARKERS[(label + label // len(CLASSES)) % len(MARKERS)]


def latent_plane(
    z: Float[np.ndarray, "N 2"],
    labels: Int[np.ndarray, " N"] | None = None,
    names: Sequence[str] = (),
    title: str = "",
    axes: tuple[str, str] = ("z[0]", "z[1]"),
    prior: Prior | None = (0.0, 0.0),
    limits: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Latents on a plane in the colour and marker of their class.

    `info["box"]` of the image tells where the axes are (left, top, right and bottom as shares of
    its width and height), `info["limits"]` the coordinates of their edges.

    Args:
        labels: the class of each; −1 is unknown, None draws all alike.
        names: of the classes.
        axes: what the axes are.
        prior: around which point to draw the contours of a unit Gaussian at 1, 2 and 3 σ, dashed;
            or log p(z), `[N, 2] -> [N]`, of which the regions of highest density are drawn that
            hold as much of it (39, 86 and 99 %); None draws none.
        limits: left, right, bottom, top; None leaves room around all points.
    """
    if limits is None:
        limits = plane_limits(z, None if callable(prior) else prior)
        limits = limits_of_density(prior, limits) if callable(prior) else limits
    return latent_planes([z], labels, names, [title], axes, prior, limits)[0]


def latent_planes(
    frames: Sequence[Float[np.ndarray, "N 2"]],
    labels: Int[np.ndarray, " N"] | None,
    names: Sequence[str],
    titles: Sequence[str],
    axes: tuple[str, str],
    prior: Prior | None,
    limits: tuple[float, float, float, float],
) -> list[Image.Image]:
    """`latent_plane` of several latents of the same images, on one plane.

    What stands still is drawn once: axes and letters take most of the time.
    """
    left, right, bottom, top = limits
    with styled():
        figure = Figure(figsize=PLANE_SIZE)
        ax = figure.add_axes(_place(labels))
        ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        ax.set(xlabel=axes[0], ylabel=axes[1])
        _legend(figure, labels, names)
        still, images = Still(figure, DPI), []
        points = _Points(ax, labels, len(frames[0]))
        for z, title in zip(frames, titles, strict=True):
            points.move(z)
            moving = _label_centres(ax, z, labels, names) + _outside(ax, z, limits)
            if prior is not None:
                moving += _regions(ax, prior) if callable(prior) else _circles(ax, prior)
            images.append(still.render([*points.artists, *moving], title))
            _tell_axes(images[-1], figure, ax)
            if len(images) < len(frames):
                for artist in moving:
                    artist.remove()
    return images


def held_by(sigma: int) -> float:
    """The share of a unit Gaussian in two dimensions within so many σ."""
    return 1 - math.exp(-0.5 * sigma**2)


def density_levels(
    log_p: Float[np.ndarray, "H W"], cell: float, shares: Sequence[float]
) -> list[float]:
    """Log p at the edge of the regions of highest density that hold these shares of p, in nats.

    Those are left out that the grid does not hold.

    Hyndman 1996, "Computing and Graphing Highest Density Regions".

    Args:
        log_p: at the centres of a grid's cells, each of the area `cell`.
    """
    highest = np.sort(log_p.ravel())[::-1]
    held = np.cumsum(np.exp(highest) * cell)
    return [float(highest[np.searchsorted(held, share)]) for share in shares if share <= held[-1]]


def limits_of_density(
    log_prob: Callable[[np.ndarray], np.ndarray], limits: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """These limits, or wider ones that hold what 3 σ do of a Gaussian, where there are such."""
    left, right, bottom, top = limits
    for _ in range(WIDENED):
        x, y = np.linspace(left, right, COARSE), np.linspace(bottom, top, COARSE)
        points = np.stack([values.ravel() for values in np.meshgrid(x, y)], axis=1)
        held = np.exp(log_prob(points)).sum() * (x[1] - x[0]) * (y[1] - y[0])
        if held > held_by(max(SIGMAS)):
            break
        across, along = (right - left) / 8, (top - bottom) / 8
        left, right, bottom, top = left - across, right + across, bottom - along, top + along
    return left, right, bottom, top


def _on_grid(
    log_prob: Callable[[np.ndarray], np.ndarray], limits: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[float, str]]:
    """X `[W]`, y `[H]`, log p `[H, W]`, and names of the levels that hold as much as 1, 2, 3 σ."""
    left, right, bottom, top = limits
    edges = np.linspace(left, right, CELLS + 1), np.linspace(bottom, top, CELLS + 1)
    x, y = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
    points = np.stack([values.ravel() for values in np.meshgrid(x, y)], axis=1)
    log_p = log_prob(points).reshape(CELLS, CELLS)
    shares = [held_by(sigma) for sigma in SIGMAS]
    levels = density_levels(log_p, (x[1] - x[0]) * (y[1] - y[0]), shares)
    return x, y, log_p, {level: f"{of:.0%}" for level, of in zip(levels, shares, strict=False)}


def contour_lines(
    log_prob: Callable[[np.ndarray], np.ndarray], limits: tuple[float, float, float, float]
) -> list[Float[np.ndarray, "n 2"]]:
    """The contours that `latent_plane` draws of a density, as lines."""
    x, y, log_p, levels = _on_grid(log_prob, limits)
    generator = contour_generator(x, y, log_p)
    return [np.asarray(line) for level in levels for line in generator.lines(level)]


def _regions(ax: Axes, log_prob: Callable[[np.ndarray], np.ndarray]) -> list[Artist]:
    """Dashed contours of the regions that hold as much of p as 1, 2 and 3 σ do of a Gaussian."""
    x, y, log_p, levels = _on_grid(log_prob, (*ax.get_xlim(), *ax.get_ylim()))
    drawn = ax.contour(
        x, y, log_p, sorted(levels), colors=INK, linestyles="--", linewidths=0.9, zorder=4
    )
    return [drawn, *ax.clabel(drawn, fmt=levels, fontsize=7, zorder=5)]


def _circles(ax: Axes, centre: tuple[float, float]) -> list[Artist]:
    """Dashed circles at 1, 2 and 3 σ of a unit Gaussian."""
    drawn: list[Artist] = []
    for sigma in SIGMAS:
        circle = Circle(centre, sigma, fill=False, ls="--", lw=1.1, ec=INK, zorder=4)
        drawn.append(ax.add_patch(circle))
        top = centre[0], centre[1] + sigma
        drawn.append(ax.annotate(f"{sigma}σ", top, fontsize=8, ha="center", va="bottom", zorder=5))
    return drawn


def _tell_axes(image: Image.Image, figure: Figure, ax: Axes) -> None:
    """Narrow `info["box"]` from the whole plot to its axes, and add their limits."""
    (x0, y0), (x1, y1) = figure.transFigure.inverted().transform(ax.get_window_extent())
    left, top, right, bottom = image.info["box"]
    width, height = right - left, bottom - top
    image.info["box"] = (
        left + x0 * width,
        top + (1 - y1) * height,
        left + x1 * width,
        top + (1 - y0) * height,
    )
    image.info["limits"] = (*ax.get_xlim(), *ax.get_ylim())


def plane_limits(
    z: Float[np.ndarray, "N 2"], prior: tuple[float, float] | None = (0.0, 0.0)
) -> tuple[float, float, float, float]:
    """Left, right, bottom and top that show 99.8 % of the points, and 3 σ of the prior.

    The few farthest points would leave the others little room.
    """
    low, high = np.quantile(z, (OUTSIDE, 1 - OUTSIDE), axis=0) if len(z) else np.zeros((2, 2))
    if prior is not None:
        reach = max(SIGMAS) + 0.5
        low, high = (
            np.minimum(low, np.subtract(prior, reach)),
            np.maximum(high, np.add(prior, reach)),
        )
    room = 0.03 * (high - low) + 1e-3
    (left, bottom), (right, top) = low - room, high + room
    return float(left), float(right), float(bottom), float(top)


def _outside(
    ax: Axes, z: Float[np.ndarray, "N 2"], limits: tuple[float, float, float, float]
) -> list[Artist]:
    """How many points a plane does not show, in words in its upper right corner."""
    left, right, bottom, top = limits
    x, y = z.T
    count = int(((x < left) | (x > right) | (y < bottom) | (y > top)).sum())
    if not count:
        return []
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (-4, -4)}
    words = f"{count:,} of {len(z):,} points are outside"
    return [ax.annotate(words, (1, 1), ha="right", va="top", color=SOFT, **place)]


def turning(
    z: Float[np.ndarray, "N 3"],
    labels: Int[np.ndarray, " N"] | None = None,
    names: Sequence[str] = (),
    title: str = "",
    axes: Sequence[str] = ("PC 1", "PC 2", "PC 3"),
    frames: int = TURN_FRAMES,
) -> list[Image.Image]:
    """Points in space that turn once around the third axis, `frames` pictures.

    Points farther from the eye are drawn first and paler.

    Args:
        axes: the names of the three.
    """
    reach = float(np.abs(z).max(initial=1e-3)) * 1.05
    lift = math.radians(ELEVATION)
    pictures = []
    with styled():
        figure = Figure(figsize=TURNING_SIZE)
        ax = figure.add_axes(_place(labels))
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set_axis_off()
        _legend(figure, labels, names)
        still = Still(figure, DPI)
        points = _Points(ax, labels, len(z), large=True)
        for frame in range(frames):
            angle = 2 * math.pi * frame / frames
            x, y = z[:, 0], z[:, 1]
            across = x * math.cos(angle) - y * math.sin(angle)
            depth = x * math.sin(angle) + y * math.cos(angle)
            up = z[:, 2] * math.cos(lift) + depth * math.sin(lift)
            points.move(np.stack((across, up), 1), depth / reach)
            moving = _axes_in_space(ax, axes, reach, angle, lift)
            pictures.append(still.render([*points.artists, *moving], title))
            for artist in moving:
                artist.remove()
    return pictures


def _axes_in_space(
    ax: Axes, names: Sequence[str], reach: float, angle: float, lift: float
) -> list[Artist]:
    drawn: list[Artist] = []
    directions = (
        (math.cos(angle), math.sin(angle) * math.sin(lift)),
        (-math.sin(angle), math.cos(angle) * math.sin(lift)),
        (0.0, math.cos(lift)),
    )
    for name, (across, up) in zip(names, directions, strict=True):
        length = 0.8 * reach
        drawn += ax.plot([0, across * length], [0, up * length], color=SOFT, lw=0.9, zorder=0)
        end = across * length, up * length
        drawn.append(ax.annotate(name, end, fontsize=8, color=SOFT))
    return drawn


class _Points:
    """Points in the colour and marker of their class, which move from frame to frame.

    Args:
        count: N.
        large: as if there were few of them.
    """

    def __init__(
        self, ax: Axes, labels: Int[np.ndarray, " N"] | None, count: int, large: bool = False
    ):
        size = POINT * (2.2 if large or count <= FEW else 1 if count <= MANY else 0.55)
        kinds = [-1] if labels is None else sorted(set(labels.tolist()))
        self.rows: list[np.ndarray] = []  # of each class
        self.artists: list[PathCollection] = []
        for kind in kinds:
            rows = np.arange(count) if labels is None else np.flatnonzero(labels == kind)
            colour = TRAIN if labels is None else colour_of(kind)
            marker = "o" if labels is None else marker_of(kind)
            nowhere = np.zeros(len(rows))
            self.rows.append(rows)
            self.artists.append(
                ax.scatter(nowhere, nowhere, s=size, color=colour, marker=marker, lw=0, alpha=0.75)
            )

    def move(
        self, z: Float[np.ndarray, "N 2"], depth: Float[np.ndarray, " N"] | None = None
    ) -> None:
        """Put them at `z`; by `depth` in [−1, 1] the far ones are paler and behind the others."""
        for rows, artist in zip(self.rows, self.artists, strict=True):
            order = rows
            if depth is not None:
                order = rows[np.argsort(-depth[rows], kind="stable")]
                artist.set_alpha((0.55 - 0.4 * depth[order].clip(-1, 1)).tolist())
            artist.set_offsets(z[order])


def _label_centres(
    ax: Axes,
    z: Float[np.ndarray, "N 2"],
    labels: Int[np.ndarray, " N"] | None,
    names: Sequence[str],
) -> list[Artist]:
    """The name of each class at the median of its points, so that none depends on its colour."""
    if labels is None:
        return []
    drawn: list[Artist] = []
    largest_first = sorted(set(labels.tolist()) - {-1}, key=lambda k: -(labels == k).sum())
    for kind in largest_first[:MOST_IN_LEGEND]:
        x, y = np.median(z[labels == kind], axis=0)
        box = {"boxstyle": "round,pad=0.2", "fc": "#ffffffd9", "ec": colour_of(kind), "lw": 1}
        words = ax.annotate(_name(names, kind), (x, y), ha="center", va="center", zorder=6)
        words.set(fontsize=8, weight="bold", bbox=box)
        drawn.append(words)
    return drawn


def _name(names: Sequence[str], kind: int) -> str:
    name = str(names[kind]) if kind < len(names) else str(kind)
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _legend(figure: Figure, labels: Int[np.ndarray, " N"] | None, names: Sequence[str]) -> None:
    if labels is None:
        return
    kinds = sorted(set(labels.tolist()) - {-1})
    handles = [
        Line2D(
            [],
            [],
            ls="none",
            marker=marker_of(k),
            color=colour_of(k),
            ms=6,
            label=_name(names, k),
        )
        for k in kinds[:MOST_IN_LEGEND]
    ]
    if len(kinds) > MOST_IN_LEGEND:
        more = f"and {len(kinds) - MOST_IN_LEGEND} more"
        handles.append(Line2D([], [], ls="none", label=more))
    if (labels < 0).any():
        handles.append(Line2D([], [], ls="none", marker=".", color=colour_of(-1), label="unknown"))
    if handles:
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(LEGEND_LEFT, 0.5))
