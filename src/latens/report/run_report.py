"""From a run directory to one HTML page, and the pictures on it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from latens import files
from latens.data import DataSet
from latens.errors import LatensError
from latens.model.noise import forked_rng
from latens.report.contents import SECTIONS
from latens.report.context import SEED, ReportContext
from latens.report.explorer import explorer_of, neighbour_maps, points_of
from latens.report.html import Chapter, asset, draw_pictures, page
from latens.report.primer import Primer, primer_of
from latens.run import directory as runs
from latens.run.directory import Run, best_row
from latens.run.private import command_without_folders, without_folders

SCRIPTS = ("page.js", "explorer.js")


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
    with ThreadPoolExecutor(1) as pool, forked_rng(context.vae.device, SEED):
        maps = pool.submit(
            neighbour_maps, context.latents.mean[points_of(context)]
        )  # beside the drawing
        chapters = draw_pictures(SECTIONS, context, folder)
        content = {
            "primer": primer_of(context),
            "explorer": explorer_of(context, maps.result()),
            "baselines": context.baselines,
            "p_of_x": "p(x)" if context.vae.label_embedding is None else "p(x | label)",
        }
    files.write_bytes(out / runs.REPORT, render(run, chapters, **content).encode())
    return out / runs.REPORT


def render(
    run: Run,
    chapters: Sequence[Chapter],
    primer: Primer | None = None,
    explorer: Mapping[str, Any] | None = None,
    baselines: Mapping[str, str] | None = None,
    p_of_x: str = "p(x)",
) -> str:
    """The page, with every picture inside it.

    Args:
        p_of_x: what −ELBO is a bound of, of a conditional model p(x | label).
        baselines: what to compare a figure with, in words, by the figure's name.
    """
    rows, record = run.metrics, run.record
    for chapter in chapters:
        chapter.note = chapter.note.replace(str(run.path), run.name)
    options = without_folders(record["options"])
    return page(
        "report.html.j2",
        chapters,
        SCRIPTS,
        run=run,
        title=run.title,
        config=run.config,
        init_from=without_folders(run.config.model.init_from),
        record=record,
        command=command_without_folders(record["command"]),
        options=yaml.safe_dump(options, sort_keys=False, allow_unicode=True),
        last=rows[-1],
        best=best_row(rows),
        figures=run.figures,
        p_of_x=p_of_x,
        primer=primer,
        explorer=explorer,
        network=Markup(asset("network.js")),  # noqa: S704 - ours
        baselines=dict.fromkeys(("elbo", "reconstruction", "accuracy", "bits"), "")
        | dict(baselines or {}),
    )
