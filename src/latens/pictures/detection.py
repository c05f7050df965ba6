"""Scores of good and of bad images: their histograms, and the curve of what is found."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from latens.pictures.plots import render, styled
from latens.pictures.style import CLASSES, INK, TRAIN, VALIDATION

Scores = Float[np.ndarray, " _"]  # of good and of bad images there may be another number
BINS = 40
SHOWN = (0.002, 0.998)  # quantiles of all scores; what lies outside is in the first and last bar


def score_histograms(
    scores: Mapping[str, tuple[Scores, Scores]],
    thresholds: Mapping[str, float],
    units: Mapping[str, str],
    title: str = "",
) -> Image.Image:
    """For each score the shares of good and of bad images over its values, with its threshold.

    Args:
        scores: of good and of bad images, by name.
        thresholds: by name; an infinite one is left out.
        units: of the scores, by name.
    """
    with styled():
        figure = Figure(figsize=(3.5 * min(3, len(scores)), 2.5 * -(-len(scores) // 3) + 0.5))
        figure.set_layout_engine("constrained")
        axes = figure.subplots(-(-len(scores) // 3), min(3, len(scores)), squeeze=False).flatten()
        for ax, (name, (good, bad)) in zip(axes, scores.items(), strict=False):
            low, high = np.quantile(np.concatenate([good, bad]), SHOWN)
            edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
            for values, colour, label in ((good, TRAIN, "good"), (bad, VALIDATION, "bad")):
                heights, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
                share = heights / len(values)
                ax.stairs(share, edges, fill=True, color=colour, alpha=0.55, label=label)
            if np.isfinite(thresholds[name]):
                ax.axvline(thresholds[name], color=INK, lw=1.2, ls="--", label="threshold")
            ax.set_title(name)
            ax.set_xlabel(units[name])
            ax.set_ylabel("share of images")
        for ax in axes[len(scores) :]:
            ax.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8)
        return render(figure, title)


def roc_curves(scores: Mapping[str, tuple[Scores, Scores]], title: str = "") -> Image.Image:
    """Share of bad images above a threshold, over the share of good ones above it."""
    with styled():
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
        for i, (name, (good, bad)) in enumerate(scores.items()):
            values = np.unique(np.concatenate([good, bad]))[::-1]
            above = [
                1 - np.searchsorted(np.sort(part), values, side="left") / len(part)
                for part in (good, bad)
            ]
            x, y = (np.concatenate([[0], part, [1]]) for part in above)
            ax.plot(x, y, color=CLASSES[i % len(CLASSES)], label=name)
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        ax.set_xlabel("false-positive rate: good images above the threshold")
        ax.set_ylabel("bad images above the threshold")
        ax.legend(loc="lower right")
        return render(figure, title)
