"""From a run directory to one HTML page, and the pictures on it."""

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from PIL import Image

from latens import files, pictures, runs
from latens.data import DataSet
from latens.errors import LatensError
from latens.runs import Run
from latens.samples import draw
from latens.watching import best_row

SHOWN = 24  # images in a picture of pairs
SAMPLES = 64
SEED = 0  # of what is shown


def write_report(run: Run, data: DataSet, out: Path | None = None) -> Path:
    """Write the pictures of a run, and `report.html`, which holds them all, into a folder.

    Args:
        out: the folder; None is the run's.

    Raises:
        LatensError: the run holds nothing to show yet, or is damaged.
    """
    rows = run.metrics
    if not rows:
        raise LatensError(f"{run.path} has no finished epoch yet: go on with it by --resume")
    out = out or run.path
    folder = out / runs.PICTURES
    folder.mkdir(exist_ok=True)
    draw_pictures(run, data, folder)
    page = render(run, rows, folder)
    files.write_bytes(out / runs.REPORT, page.encode())
    return out / runs.REPORT


def draw_pictures(run: Run, data: DataSet, folder: Path) -> None:
    """The PNG files of a run."""
    vae, rows, what = run.vae.cpu(), run.metrics, run.title
    with torch.random.fork_rng(devices=[]):  # samples, and bits where they are drawn at each visit
        torch.manual_seed(SEED)
        for split in ("train", "validation"):
            shown = data.split(split).take(slice(0, SHOWN))
            x = shown.unit()
            path = folder / f"reconstructions-{split}.png"
            again = vae.reconstruct(x, shown.labels)
            pictures.save_pairs(path, x, again, f"{split} images · {what}")
        samples = draw(vae, SAMPLES).images
    pictures.save_grid(folder / "samples.png", samples, f"samples, z ~ p(z) · {what}")
    pictures.save_curves(folder / "curves.png", rows, what)
    per_dim = best_row(rows)["validation"]["kl_per_dim"]
    if per_dim:
        pictures.save_kl_per_dim(folder / "kl-per-dim.png", per_dim, f"validation · {what}")


def render(run: Run, rows: list[dict[str, Any]], folder: Path) -> str:
    """The page, with every picture inside it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = resources.files("latens").joinpath("templates/report.html.j2").read_text("utf-8")
    images = {path.stem: _embed(path) for path in sorted(folder.glob("*.png"))}
    return environment.from_string(template).render(
        run=run,
        title=run.title,
        beta=run.beta,
        record=run.record,
        options=yaml.safe_dump(run.record["options"], sort_keys=False, allow_unicode=True),
        last=rows[-1],
        best=best_row(rows),
        figures=run.figures,
        images=images,
    )


def _embed(path: Path) -> dict[str, Any]:
    """A PNG as a data URL, and the width in pixels at which it is shown."""
    with Image.open(path) as image:
        width = round(image.width * pictures.DPI / image.info["dpi"][0])
    content = base64.b64encode(path.read_bytes()).decode()
    return {"url": f"data:image/png;base64,{content}", "width": width}
