"""From a run directory to one HTML page, and the pictures on it."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from latens import files
from latens.data import DataSet
from latens.errors import LatensError
from latens.report.context import ReportContext
from latens.report.html import Chapter, draw_pictures, page
from latens.report.sections import SECTIONS
from latens.run import directory as runs
from latens.run.directory import Run, best_row


def write_report(
    run: Run,
    data: DataSet,
    out: Path | None = None,
    projection: str = "pca",
    attribute: str | None = None,
    plane: tuple[int, int] | None = None,
) -> Path:
    """Write the pictures of a run, and `report.html`, which holds them all, into a folder.

    Args:
        out: the folder; None is the run's.
        projection: of the latent plane of more than two dimensions: pca, tsne or umap.
        attribute: what the latent plane is coloured by, where images have attributes.
        plane: the two latent dimensions along which a plane is decoded; None: of the largest KL.

    Raises:
        LatensError: the run holds nothing to show yet, or is damaged.
    """
    if not run.metrics:
        raise LatensError(f"{run.path} has no finished epoch yet: go on with it by --resume")
    out = out or run.path
    folder = out / runs.PICTURES
    context = ReportContext(run, data, projection, attribute, plane)
    folder.mkdir(parents=True, exist_ok=True)
    page = render(run, draw_pictures(SECTIONS, context, folder))
    files.write_bytes(out / runs.REPORT, page.encode())
    return out / runs.REPORT


def render(run: Run, chapters: Sequence[Chapter]) -> str:
    """The page, with every picture inside it."""
    rows = run.metrics
    return page(
        "report.html.j2",
        chapters,
        run=run,
        title=run.title,
        config=run.config,
        record=run.record,
        options=yaml.safe_dump(run.record["options"], sort_keys=False, allow_unicode=True),
        last=rows[-1],
        best=best_row(rows),
        figures=run.figures,
    )
