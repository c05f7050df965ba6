"""Runs side by side: their figures, curves, and the same images and noise through each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from latens import files, pictures
from latens.analysis.generation import likeliest_condition
from latens.errors import LatensError
from latens.report.context import Picture, Section
from latens.report.html import Chapter, draw_pictures, page
from latens.run.comparison import as_markdown, columns_of, figures_of, named, ranking, rows_of
from latens.run.data import data_of
from latens.run.directory import PICTURES, REPORT, Run, check_out

TABLE = "table.md"
NAMED = ("classes", "attributes")
IMAGES = 12


def compare(paths: Sequence[str | Path], out: str | Path = "comparison") -> Path:
    """Put runs side by side on one page; returns its path.

    Args:
        paths: run directories, or pretrained models by name; two or more.
        out: the folder for the page and its pictures.

    Raises:
        LatensError: fewer than two runs, one that cannot be used or has not ended.
    """
    if len(paths) < 2:
        raise LatensError("comparing needs two runs or more")
    runs = named([Run.open(path) for path in paths])
    order, comment = ranking(runs)  # fails before anything is written
    out = Path(out)
    check_out(out, TABLE)
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    chapters = draw_pictures(SECTIONS, runs, out / PICTURES)
    title = f"Comparison of {', '.join(runs)}"
    return write_tables(out, title, rows_of(runs, order), comment, chapters)


def write_tables(
    out: Path,
    title: str,
    rows: Sequence[dict[str, str]],
    comment: str,
    chapters: Sequence[Chapter],
    command: str = "",
) -> Path:
    """Write table.md, and report.html with the table and all pictures; returns the page's path.

    Args:
        comment: on the table.
        command: that made the runs.
    """
    table = f"{as_markdown(rows)}\n{comment}\n"
    files.write_bytes(out / TABLE, table.encode())
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
    shown = data_of(first).test.take(slice(0, IMAGES))
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
        f"The first test images of {first.name}, and the reconstructions by each model.",
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
        rows.append(vae.decode_images(z, y))
    yield Picture(
        "same-noise",
        [pictures.table(torch.stack(rows), "samples of the same noise", rows=list(runs))],
        "Sampled images, a row for each run, with the same noise in each column",
        "The same z in each column, cut to the latent dimensions of each model, or drawn from its "
        "own prior where that is not N(0, I); a conditional model is given each class in turn.",
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
