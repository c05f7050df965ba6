"""Runs side by side: their figures, curves, and the same images and noise through each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from latens import files, pictures
from latens.analysis.generation import likeliest_condition
from latens.errors import LatensError
from latens.evaluation.proposals import PosteriorName
from latens.report.context import Picture, Section
from latens.report.html import Chapter, draw_pictures, page
from latens.run.comparison import (
    Configurations,
    Ranking,
    as_csv,
    as_data,
    as_latex,
    as_markdown,
    columns_of,
    configurations,
    figures_of,
    named,
    rank,
    refusal,
    rows_of,
    unmeasurable,
)
from latens.run.data import data_of
from latens.run.directory import PICTURES, REPORT, Run, check_out

TABLES = {"markdown": "table.md", "latex": "table.tex", "csv": "table.csv", "json": "table.json"}
NAMED = ("classes", "attributes")
IMAGES = 12


def compare(
    paths: Sequence[str | Path],
    out: str | Path = "comparison",
    importance_samples: int | None = None,
    posterior: PosteriorName | None = None,
) -> Path:
    """Put runs side by side on one page; returns its path.

    Runs that differ in their seed alone are one row. Where all are of one kind they are measured
    again on the same test images, and differences to the best are paired over these; tables are
    written beside the page in Markdown, LaTeX, CSV and JSON.

    Args:
        paths: run directories, or pretrained models by name; two or more.
        out: the folder for the page and its pictures.
        importance_samples: K of −log p(x), by which they are then ranked; None ranks by −elbo.
        posterior: measure all under this q(z|x), see `latens.evaluate`; None: each under its own,
            which must be the same for all.

    Raises:
        LatensError: fewer than two runs, one that cannot be used or has not ended, or K or q that
            cannot be.
    """
    if len(paths) < 2:
        raise LatensError("comparing needs two runs or more")
    if importance_samples is not None and importance_samples < 1:
        raise LatensError(f"{importance_samples} importance samples: 1 or more are needed")
    runs = named([Run.open(path) for path in paths])
    groups, ranked = configurations(runs), None
    comment = unmeasurable(runs) or refusal(runs, any_q=posterior is not None)
    out = Path(out)
    check_out(out, *TABLES.values())
    if comment is None:  # fails before anything is written
        ranked = rank(groups, importance_samples, posterior)
        comment = ranked.comment
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    chapters = draw_pictures(SECTIONS, runs, out / PICTURES)
    title = f"Comparison of {', '.join(groups)}"
    return write_tables(out, title, groups, ranked, comment, chapters)


def write_tables(
    out: Path,
    title: str,
    groups: Configurations,
    ranked: Ranking | None,
    comment: str,
    chapters: Sequence[Chapter],
    command: str = "",
) -> Path:
    """Write the tables, and report.html with one and all pictures; returns the page's path.

    Args:
        ranked: None where runs are in the order given.
        comment: on the table.
        command: that made the runs.
    """
    rows = rows_of(groups, ranked)
    texts = {
        "markdown": f"{as_markdown(rows)}\n{comment}\n",
        "latex": f"% {comment}\n{as_latex(rows)}",
        "csv": as_csv(rows),
    }
    for name, text in texts.items():
        files.write_bytes(out / TABLES[name], text.encode())
    files.write_json(out / TABLES["json"], as_data(groups, ranked, comment))
    text = page(
        "comparison.html.j2",
        chapters,
        ["page.js"],
        title=title,
        columns=columns_of(rows),
        rows=rows,
        comment=comment,
        command=command,
    )
    files.write_bytes(out / REPORT, text.encode())
    return out / REPORT


# ---- pictures --------------------------------------------------------------------------------


def _curves(runs: Mapping[str, Run]) -> Iterator[Picture]:
    yield Picture(
        "curves",
        [pictures.curves_of({name: run.metrics for name, run in runs.items()}, "validation")],
        "Loss, reconstruction and KL of each run over the images seen, on validation images",
        "On validation images, in nats per image.",
    )
    yield rate_distortion(runs)


def rate_distortion(runs: Mapping[str, Run], joined: bool = False) -> Picture:
    """Each run as a point: its KL, the rate, against its reconstruction, the distortion."""
    every = {name: figures_of(name, run) for name, run in runs.items()}
    points = {name: (figures["kl"], figures["reconstruction"]) for name, figures in every.items()}
    return Picture(
        "rate-distortion",
        [
            pictures.rate_distortion(
                points, f"rate and distortion on test images · {', '.join(points)}", joined
            )
        ],
        "A point for each run: reconstruction over KL, with lines of equal −ELBO",
        "Each run on test images; along a thin line −elbo is the same.",
    )


def _same_images(runs: Mapping[str, Run]) -> Iterator[Picture]:
    _check_same_shape(runs)
    first = next(iter(runs.values()))
    shown = data_of(first).test.some(IMAGES)
    x = shown.unit()
    again = []
    for run in runs.values():
        same = all(run.record["data"][key] == first.record["data"][key] for key in NAMED)
        y = shown.labels if same else likeliest_condition(run.vae, x)  # its labels are others
        again.append(run.vae.reconstruct(x, y))
    yield Picture(
        "same-images",
        [
            pictures.table(
                torch.stack([x, *again]), f"test images of {first.name}", rows=["input", *runs]
            )
        ],
        "Test images in the first row, and the reconstructions of each run below",
        f"Test images of {first.name}, and the reconstructions by each model.",
    )


def _same_noise(runs: Mapping[str, Run]) -> Iterator[Picture]:
    _check_same_shape(runs)
    dims = [math.prod(run.vae.latent_shape) for run in runs.values()]
    noise = torch.randn(IMAGES, max(dims))
    rows = []
    for run, count in zip(runs.values(), dims, strict=True):
        vae, embedding = run.vae, run.vae.label_embedding
        y = None if embedding is None else embedding.unknown(IMAGES)
        if embedding is not None and embedding.exclusive:
            y = torch.arange(IMAGES, device=vae.device) % embedding.count
        if vae.has_unit_prior:
            z = noise[:, :count].unflatten(1, vae.latent_shape).to(vae.device)
        else:
            z = vae.sample_prior(IMAGES, y)
        rows.append(vae.sample_given(z, y))
    yield Picture(
        "same-noise",
        [pictures.table(torch.stack(rows), "samples of the same noise", rows=list(runs))],
        "Sampled images, a row for each run, with the same noise in each column",
        "The same z in each column, cut to the latent dimensions of each model, or drawn from its "
        "own prior where that is not N(0, I); a conditional model is given each class in turn. "
        "Of a ladder it is z of the topmost level, below which each level is sampled.",
    )


def _check_same_shape(runs: Mapping[str, Run]) -> None:
    shapes = {run.vae.image_shape for run in runs.values()}
    if len(shapes) > 1:
        raise LatensError("these models are of images of different sizes, so no image fits all")


SECTIONS = (
    Section(
        "Curves",
        "A validation curve that rises again shows overfitting. Values may be compared only where "
        "the figures are of one kind, and those of the loss only for one objective.",
        _curves,
    ),
    Section(
        "The same images",
        "Look for details that one model keeps and another blurs.",
        _same_images,
    ),
    Section(
        "The same noise",
        "Look for samples that look like data, and for those that do not.",
        _same_noise,
    ),
)
