"""Runs side by side: their figures, curves, and the same images and noise through each."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latens import files, pictures
from latens.report.context import Picture, Section
from latens.api import data_of
from latens.errors import LatensError
from latens.model.networks.labels import embedding_of
from latens.report.html import Chapter, draw_pictures, page
from latens.model.priors import StandardNormal
from latens.run.directory import PICTURES, REPORT, Run, check_out
from latens.analysis.generation import likeliest_condition

TABLE = "table.md"
NAMED = ("classes", "attributes")
IMAGES = 12
COLUMNS = ("run", "kind", "−elbo", "reconstruction", "kl", "bits per dim", "active", "accuracy")
COLUMNS += ("data", "recipe", "dims", "β", "parameters", "minutes")


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
        title=title,
        columns=columns_of(rows),
        rows=rows,
        comment=comment,
        command=command,
    )
    files.write_bytes(out / REPORT, text.encode())
    return out / REPORT


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs under the last parts of their paths that tell them apart.

    Raises:
        LatensError: the same run twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise LatensError("the same run is given twice")
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("paths that differ have names that differ")


# ---- figures ---------------------------------------------------------------------------------


def figures_of(name: str, run: Run) -> dict[str, Any]:
    """The figures on the test set.

    Raises:
        LatensError: the training has not ended.
    """
    if run.figures is None:
        raise LatensError(f"{name} has no figures: its training has not ended; go on by --resume")
    return run.figures


def kind_of(name: str, run: Run) -> tuple[str, str]:
    """What must agree before −elbo may be compared: what it is of, and of which test images."""
    figures, data = figures_of(name, run), run.record["data"]
    given = ", given the label" if embedding_of(run.vae) is not None else ""
    size = "×".join(map(str, data["shape"]))
    return figures["kind"] + given, f"{figures['images']:,} images of {data['name']}, {size}"


def _same_test_images(runs: Iterable[Run]) -> bool:
    """Whether all runs are measured on the same pixels, whatever else was split how.

    Raises:
        LatensError: their data are not there to be looked at.
    """
    by_data = {run.record["data"]["fingerprint"]: run for run in runs}
    if len(by_data) == 1:
        return True
    tests = (data_of(run).test for run in by_data.values())
    return len({hashlib.sha256(test.pixels.numpy().tobytes()).digest() for test in tests}) == 1


def ranking(runs: Mapping[str, Run]) -> tuple[list[str], str]:
    """The names from the least −elbo to the largest, and what to say of it.

    Figures of different kinds are not ranked: the names stay in their order.
    """
    kinds = {name: kind_of(name, run) for name, run in runs.items()}
    refusal = "Not ranked: {}, and no order of them means anything."
    for part in range(2):
        different = sorted({kind[part] for kind in kinds.values()})
        if len(different) > 1:
            reason = f"their figures are of different kinds ({'; '.join(different)})"
            return list(runs), refusal.format(reason)
    if not _same_test_images(runs.values()):
        return list(runs), refusal.format("their figures are of different test images")
    order = sorted(runs, key=lambda name: -figures_of(name, runs[name])["elbo"])
    return order, f"Ranked by −elbo ({kinds[order[0]][0]}), the least first: {order[0]}."


def rows_of(runs: Mapping[str, Run], order: Iterable[str]) -> list[dict[str, str]]:
    """The figures of each run as texts under `COLUMNS`, in this order of names."""
    return [_row(name, runs[name]) for name in order]


def _row(name: str, run: Run) -> dict[str, str]:
    figures, config = figures_of(name, run), run.config
    bits, accuracy = figures.get("bits_per_dim"), figures.get("accuracy")
    values = (
        name,
        kind_of(name, run)[0],
        f"{-figures['elbo']:.2f}",
        f"{figures['reconstruction']:.2f}",
        f"{figures['kl']:.2f}",
        "" if bits is None else f"{bits:.3f}",
        f"{figures['active_units']} of {config.latent_dim}",
        "" if accuracy is None else f"{accuracy:.2%}",
        run.name,
        config.recipe,
        str(config.latent_dim),
        run.beta,
        f"{run.record['parameters']:,}",
        f"{run.metrics[-1]['seconds'] / 60:.1f}" if run.metrics else "",
    )
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {name: row[name].replace("-", "−") for name in ("−elbo", "reconstruction")}


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table in Markdown, without columns in which nothing stands."""
    columns = columns_of(rows)
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def columns_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """The columns in which anything stands."""
    return [column for column in rows[0] if any(row[column] for row in rows)]


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
    """Each run as a point: what its latents cost, and what they leave untold."""
    told = {name: figures_of(name, run) for name, run in runs.items()}
    points = {name: (figures["kl"], figures["reconstruction"]) for name, figures in told.items()}
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
        f"The first test images of {first.name}, and what each model makes of them.",
    )


def _same_noise(runs: Mapping[str, Run]) -> Iterator[Picture]:
    _check_same_shape(runs)
    dims = [math.prod(run.vae.latent_shape) for run in runs.values()]
    noise = torch.randn(IMAGES, max(dims))
    rows = []
    for run, count in zip(runs.values(), dims, strict=True):
        embedding = embedding_of(run.vae)
        shape = (IMAGES,) if embedding is None or embedding.exclusive else (IMAGES, embedding.count)
        y = None if embedding is None else torch.arange(IMAGES) % embedding.count
        y = y if y is None or len(shape) == 1 else torch.full(shape, -1)
        z = noise[:, :count].unflatten(1, run.vae.latent_shape)
        if not isinstance(run.vae.prior, StandardNormal):  # which makes z from noise in its own way
            z = run.vae.prior().sample((IMAGES,))
        rows.append(run.vae.picture(z, y))
    yield Picture(
        "same-noise",
        [pictures.table(torch.stack(rows), "samples of the same noise", rows=list(runs))],
        "Sampled images, a row for each run, with the same noise in each column",
        "The same z in each column, cut to the latent dimensions of each model, or drawn from its "
        "own prior where that is learned; a conditional one is told each class in turn.",
    )


def _check_same_shape(runs: Mapping[str, Run]) -> None:
    shapes = {run.vae.image_shape for run in runs.values()}
    if len(shapes) > 1:
        raise LatensError("these models are of images of different sizes, so no image fits all")


SECTIONS = (
    Section(
        "Curves",
        "A curve that turns up overfits. Heights may be compared only where the figures are of one "
        "kind, and those of the loss only for one β.",
        _curves,
    ),
    Section(
        "The same images",
        "Look for what one model keeps and another blurs.",
        _same_images,
    ),
    Section(
        "The same noise", "Look for what could pass for data, and what could not.", _same_noise
    ),
)
