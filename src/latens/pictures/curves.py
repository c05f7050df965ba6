"""Curves of a training, the KL of each latent dimension, and rate against distortion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from latens.pictures.plots import render, styled
from latens.pictures.style import BAR, CLASSES, HEAT, INK, MARKERS, TRAIN, VALIDATION

Rows = Sequence[Mapping[str, Any]]
TERMS = {"loss": "loss", "reconstruction": "reconstruction, −log p(x|z)", "kl": "KL(q ‖ p)"}
FEW_EPOCHS = 15  # up to so many, each is a dot on its curve
MOST_BARS = 40  # with the name of each
LONGEST_PLACE = 3  # letters of an index that are written side by side
MOST_DIMS = 100  # latent dimensions in one picture, those with the largest KL


def learning_curves(rows: Rows, title: str = "") -> Image.Image:
    """Loss, reconstruction and KL of training and validation, β, learning rate and active units.

    An objective without β leaves its place to the norm of the gradient.

    Args:
        rows: those of metrics.jsonl, in nats per image.
    """
    with styled():
        figure = Figure(figsize=(10.5, 5.6), layout="constrained")
        axes = figure.subplots(2, 3).flatten()
        for ax, (term, name) in zip(axes, TERMS.items(), strict=False):
            for part, colour in (("train", TRAIN), ("validation", VALIDATION)):
                _curve(ax, rows, lambda row, p=part, t=term: row[p][t], colour, part)
            ax.set_title(name)
            ax.set_ylabel("nats per image")
            parts = [[row[part][term] for row in rows] for part in ("train", "validation")]
            _leave_out_the_start(ax, parts)
        axes[0].legend()
        first = {"gradient norm, mean of the epoch": lambda row: row["gradient_norm"]}
        if all("beta" in row for row in rows):
            first = {"β, weight of the KL": lambda row: row["beta"]}
        settings = first | {
            "learning rate after the epoch": lambda row: row["learning_rate"],
            "active units": lambda row: row["validation"]["active_units"],
        }
        for ax, (name, value) in zip(axes[3:], settings.items(), strict=True):
            _curve(ax, rows, value, INK)
            ax.set_title(name)
            ax.set_ylim(0, 1.08 * max(map(value, rows)) or 1.0)
        axes[5].yaxis.set_major_locator(MaxNLocator(integer=True))
        axes[5].set_ylabel("latent dimensions")
        return render(figure, title)


def curves_of(runs: Mapping[str, Rows], title: str = "") -> Image.Image:
    """Loss, reconstruction and KL on validation images of several runs, over images seen.

    Args:
        runs: the rows of metrics.jsonl of each, in nats per image, under its name.
    """
    with styled():
        figure = Figure(figsize=(10.5, 3.6 + 0.18 * len(runs)), layout="constrained")
        for ax, (term, name) in zip(figure.subplots(1, 3), TERMS.items(), strict=True):
            for i, (run, rows) in enumerate(runs.items()):
                colour, marker = CLASSES[i % len(CLASSES)], MARKERS[i % len(MARKERS)]
                images = [row["images"] for row in rows]
                values = [row["validation"][term] for row in rows]
                every = max(1, len(rows) // 8)
                ax.plot(
                    images, values, color=colour, label=run, marker=marker, ms=4, markevery=every
                )
            ax.set_title(f"{name}, validation", fontsize=9)
            ax.set_xlabel("images seen")
            ax.set_ylabel("nats per image")
            ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 5))
            _leave_out_the_start(
                ax, [[row["validation"][term] for row in rows] for rows in runs.values()]
            )
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2 if len(runs) > 3 else 1)
        return render(figure, title)


def _curve(
    ax: Axes, rows: Rows, value: Callable[[Any], float], colour: str, label: str | None = None
) -> None:
    marker = {"marker": "o", "markersize": 4} if len(rows) < FEW_EPOCHS else {}
    epochs = [row["epoch"] for row in rows]
    ax.plot(epochs, [value(row) for row in rows], color=colour, label=label, **marker)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epochs) == 1:
        ax.set_xlim(epochs[0] - 1, epochs[0] + 1)


def _leave_out_the_start(ax: Axes, series: Sequence[Sequence[float]]) -> None:
    """Where the first epochs dwarf the rest, show the rest, and say so."""
    settled = [value for values in series for value in values[len(values) // 10 :]]
    low, high = min(settled), max(settled)
    room = 0.08 * (high - low) or 1.0
    top = max(max(values) for values in series)
    if top > high + 2 * (high - low):
        ax.set_ylim(low - room, high + room)
        ax.set_xlabel(f"{ax.get_xlabel()} (starts at {top:.0f} nats)")


def kl_per_dim(values: Sequence[float], title: str = "", names: Sequence[str] = ()) -> Image.Image:
    """Bars: the KL of each latent dimension in nats, largest first; at most 100 of them.

    Args:
        names: of all dimensions; none: z[0], z[1], …
    """
    order = sorted(range(len(values)), key=lambda d: -values[d])[:MOST_DIMS]
    with styled():
        width = min(10.5, max(4.5, 1.5 + 0.3 * len(order)))
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.bar(range(len(order)), [values[d] for d in order], color=BAR, edgecolor=INK, lw=0.5)
        if len(order) <= MOST_BARS:
            places = _places(order, names)
            turn = 90 if max(map(len, places)) > LONGEST_PLACE else 0
            ax.set_xticks(range(len(order)), places, fontsize=8, rotation=turn)
            ax.set_xlabel("latent dimension, by its index")
        else:
            ax.set_xlabel(_dims_in_words(len(order), len(values)))
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("nats per image")
        return render(figure, title)


def kl_per_level(values: Sequence[float], names: Sequence[str], title: str = "") -> Image.Image:
    """Bars: the KL of each level of latents in nats, the topmost first."""
    with styled():
        figure = Figure(figsize=(min(10.5, max(4.5, 1.5 + 0.45 * len(values))), 3.2))
        figure.set_layout_engine("constrained")
        ax = figure.subplots()
        ax.bar(range(len(values)), values, color=BAR, edgecolor=INK, lw=0.5)
        ax.set_xticks(range(len(values)), names, fontsize=8, rotation=90)
        ax.set_xlabel("level of latents")
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("nats per image")
        return render(figure, title)


def _places(dims: Sequence[int], names: Sequence[str]) -> list[str]:
    """The indices of latent dimensions, such as 3, or 0,2,5 of a map."""
    return [names[d].removeprefix("z[").removesuffix("]") if names else str(d) for d in dims]


def _dims_in_words(shown: int, every: int) -> str:
    some = f"{shown} of {every:,} " if shown < every else ""
    return f"{some}latent dimensions, largest KL first"


def kl_over_training(
    epochs: Sequence[int],
    values: Float[np.ndarray, "E D"],
    title: str = "",
    names: Sequence[str] = (),
) -> Image.Image:
    """A heat map: the KL of each latent dimension (rows, largest last first) at each epoch.

    Args:
        values: in nats per image.
        names: of all dimensions; none: z[0], z[1], …
    """
    order = np.argsort(-values[-1], kind="stable")[:MOST_DIMS]
    edges = [epochs[0] - 0.5, *(e + 0.5 for e in epochs)]
    with styled():
        height = min(8.0, max(2.6, 1.4 + 0.2 * len(order)))
        figure = Figure(figsize=(8.0, height), layout="constrained")
        ax = figure.subplots()
        mesh = ax.pcolormesh(
            edges, np.arange(len(order) + 1) - 0.5, values[:, order].T, cmap=HEAT, vmin=0
        )
        ax.invert_yaxis()
        ax.grid(visible=False)
        if len(order) <= MOST_BARS:
            ax.set_yticks(range(len(order)), _places(order.tolist(), names), fontsize=8)
            ax.set_ylabel("latent dimension, by its index")
        else:
            ax.set_ylabel(_dims_in_words(len(order), values.shape[1]))
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(mesh, label="KL, nats per image")
        return render(figure, title)


def rate_distortion(
    points: Mapping[str, tuple[float, float]], title: str = "", joined: bool = False
) -> Image.Image:
    """Reconstruction over KL for several models, with the lines of equal −ELBO.

    Alemi et al. 2018, "Fixing a Broken ELBO", figure 1: rate R = KL(q ‖ p), distortion
    D = −E log p(x|z), and −ELBO = D + R.

    Args:
        points: (rate, distortion) in nats per image, under each model's name.
        joined: by a dotted line from each to the next.
    """
    rates, distortions = np.array(list(points.values())).T
    with styled():
        figure = Figure(figsize=(6.4, 5.0), layout="constrained")
        ax = figure.subplots()
        if joined:
            ax.plot(rates, distortions, color=INK, lw=0.8, ls=":", zorder=1)
        for i, (name, (rate, distortion)) in enumerate(points.items()):
            colour, marker = CLASSES[i % len(CLASSES)], MARKERS[i % len(MARKERS)]
            ax.plot(rate, distortion, ms=8, ls="none", color=colour, marker=marker)
            ax.annotate(name, (rate, distortion), (7, 5), textcoords="offset points", fontsize=8)
        _room(ax, rates, distortions)
        low, high = ax.get_xlim()
        bottom, top = ax.get_ylim()
        for level in MaxNLocator(6).tick_values(low + bottom, high + top):
            ax.plot([low, high], [level - low, level - high], color="#c3cad2", lw=0.7, zorder=0)
            if bottom < level - low < top:
                ax.text(low, level - low, f" {level:g}", fontsize=7, color="#7b8794", va="bottom")
        ax.set(xlim=(low, high), ylim=(bottom, top))
        ax.grid(visible=False)
        ax.set_xlabel("rate: KL(q ‖ p), nats per image")
        ax.set_ylabel("distortion: −E log p(x|z), nats per image")
        return render(figure, title)


def _room(ax: Axes, x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> None:
    """Limits with room around the points, also where there is one alone."""
    for values, limit in ((x, ax.set_xlim), (y, ax.set_ylim)):
        room = 0.15 * (values.max() - values.min()) or 1.0
        limit(values.min() - room, values.max() + room)
