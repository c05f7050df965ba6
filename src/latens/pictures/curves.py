"""Curves of a training, and the KL of each latent dimension."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latens.pictures.style import BAR, INK, TRAIN, VALIDATION, save, styled

TERMS = {"loss": "loss", "reconstruction": "reconstruction, −log p(x|z)", "kl": "KL(q ‖ p)"}


def save_curves(path: Path, rows: list[dict[str, Any]], title: str = "") -> None:
    """Write loss, reconstruction and KL over the epochs, training and validation, as a PNG.

    Args:
        rows: those of metrics.jsonl, in nats per image.
    """
    epochs = [row["epoch"] for row in rows]
    with styled():
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        for axes, (term, name) in zip(figure.subplots(1, 3), TERMS.items(), strict=True):
            for part, colour in (("train", TRAIN), ("validation", VALIDATION)):
                values = [row[part][term] for row in rows]
                style = {"marker": "o", "markersize": 4} if len(rows) < 15 else {}
                axes.plot(epochs, values, color=colour, label=part, **style)
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.set_ylabel("nats per image")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _leave_out_the_start(axes, rows, term)
        figure.axes[0].legend()
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        save(figure, path, dpi=150)


def _leave_out_the_start(axes: Axes, rows: list[dict[str, Any]], term: str) -> None:
    """Where the first epochs dwarf the rest, show the rest, and say so."""
    values = [[row[part][term] for row in rows] for part in ("train", "validation")]
    settled = [value for series in values for value in series[len(series) // 10 :]]
    low, high = min(settled), max(settled)
    room = 0.08 * (high - low) or 1.0
    top = max(max(series) for series in values)
    if top > high + 2 * (high - low):
        axes.set_ylim(low - room, high + room)
        axes.set_xlabel(f"epoch (training starts at {values[0][0]:.0f} nats)")


def save_kl_per_dim(path: Path, kl_per_dim: list[float], title: str = "") -> None:
    """Write the KL of each latent dimension in nats, largest first, as a PNG."""
    order = sorted(range(len(kl_per_dim)), key=lambda d: -kl_per_dim[d])
    with styled():
        width = min(10.5, max(4.5, 1.5 + 0.3 * len(order)))
        figure = Figure(figsize=(width, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.bar(
            range(len(order)), [kl_per_dim[d] for d in order], color=BAR, edgecolor=INK, lw=0.5
        )
        if len(order) <= 40:
            axes.set_xticks(range(len(order)), [str(d) for d in order], fontsize=8)
            axes.set_xlabel("latent dimension, by its index")
        else:
            axes.set_xlabel("latent dimensions, largest KL first")
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("nats per image")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        save(figure, path, dpi=150)
