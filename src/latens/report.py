"""From a run directory to one HTML page, and the pictures on it."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
import yaml
from markupsafe import Markup
from PIL import Image

from latens import files, pictures, runs
from latens.album import SEED, Picture, Section, Subject
from latens.data import DataSet
from latens.errors import LatensError
from latens.messages import progress
from latens.pictures.planes import colour_of
from latens.runs import Run
from latens.sections import SECTIONS
from latens.watching import best_row

LARGEST = 14_000_000  # characters of pictures on a page; beyond it, details stay in their files
HOVER_PIXELS = 1_600_000  # of all images that hovering shows
HOVER_POINTS = 1_500
HOVER_QUALITY = 75


@dataclass
class Shown:
    """A picture on a page.

    Attributes:
        picture: without its frames, which may be many.
        path: of its file.
        width: screen pixels at which it is shown.
        hover: what the page's script needs where hovering shows more; None where nothing.
        url: the file itself; empty where the page would become too large.
    """

    picture: Picture
    path: Path
    width: int
    hover: dict[str, Any] | None
    url: str = ""


@dataclass
class Chapter:
    """A section with its pictures, and what to say where some cannot be made."""

    section: Section
    shown: list[Shown] = field(default_factory=list)
    note: str = ""


def write_report(
    run: Run,
    data: DataSet,
    out: Path | None = None,
    projection: str = "pca",
    attribute: str | None = None,
) -> Path:
    """Write the pictures of a run, and `report.html`, which holds them all, into a folder.

    Args:
        out: the folder; None is the run's.
        projection: of the latent plane of more than two dimensions: pca, tsne or umap.
        attribute: what the latent plane is coloured by, where images have attributes.

    Raises:
        LatensError: the run holds nothing to show yet, or is damaged.
    """
    if not run.metrics:
        raise LatensError(f"{run.path} has no finished epoch yet: go on with it by --resume")
    out = out or run.path
    folder = out / runs.PICTURES
    folder.mkdir(exist_ok=True)
    subject = Subject(run, data, projection, attribute)
    page = render(run, draw_pictures(subject, folder))
    files.write_bytes(out / runs.REPORT, page.encode())
    return out / runs.REPORT


def draw_pictures(subject: Subject, folder: Path) -> list[Chapter]:
    """Write every picture that applies to a run; returns what is for its page."""
    chapters = []
    with progress("sections") as bar:
        for section in bar.track(SECTIONS, description="drawing"):
            chapter = Chapter(section)
            with torch.random.fork_rng(devices=[]):  # samples, and bits drawn at each visit
                torch.manual_seed(SEED)
                try:
                    for picture in section.draw(subject):
                        chapter.shown.append(_shown(picture, picture.save(folder), subject))
                except LatensError as error:
                    chapter.note = str(error)
            if chapter.shown or chapter.note not in ("", *(c.note for c in chapters)):
                chapters.append(chapter)
    return chapters


def _shown(picture: Picture, paths: Sequence[Path], subject: Subject) -> Shown:
    first = picture.frames[0]
    width = round(first.width * pictures.DPI / first.info.get("dpi", (pictures.DPI,))[0])
    hover: dict[str, Any] | None = None
    if picture.plane or picture.lattice:
        hover = {name: first.info[name] for name in ("box", "limits") if name in first.info}
        hover |= _points(subject) if picture.plane else (picture.lattice or {})
    bare = Picture(picture.name, (), picture.alt, picture.caption, detail=picture.detail)
    return Shown(bare, paths[-1], width, hover)


def _points(subject: Subject) -> dict[str, Any]:
    """Points of the latent plane with their images, for hovering."""
    points, axes, _ = subject.plane
    labels, names, _ = subject.colours
    height, width = subject.vae.image_shape[1:]
    count = min(len(points), HOVER_POINTS, max(1, HOVER_PIXELS // (height * width)))
    images = subject.test.take(slice(0, count))
    columns = math.ceil(math.sqrt(count))
    x = images.unit()
    padded = x.new_ones(math.ceil(count / columns) * columns, *x.shape[1:])
    padded[:count] = x
    sheet = pictures.tile(padded.unflatten(0, (-1, columns)), least_side=1, gap=0)
    told = [-1] * count if labels is None else labels[:count].tolist()
    return {
        "points": np.round(points[:count], 3).tolist(),
        "labels": told,
        "names": list(names),
        "colours": {label: colour_of(label) for label in sorted(set(told))},
        "axes": [axis.partition(" (")[0] for axis in axes],
        "sprite": _url(_webp(Image.fromarray(sheet)), "webp"),
        "columns": columns,
        "side": [width, height],
    }


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=HOVER_QUALITY)
    return buffer.getvalue()


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# ---- the page --------------------------------------------------------------------------------


def render(run: Run, chapters: Sequence[Chapter]) -> str:
    """The page, with every picture inside it."""
    embed(shown for chapter in chapters for shown in chapter.shown)
    rows = run.metrics
    return page(
        "report.html.j2",
        run=run,
        title=run.title,
        beta=run.beta,
        record=run.record,
        options=yaml.safe_dump(run.record["options"], sort_keys=False, allow_unicode=True),
        last=rows[-1],
        best=best_row(rows),
        figures=run.figures,
        chapters=chapters,
    )


def embed(every: Any) -> None:
    """Put pictures into their pages; where they are too large together, not the details."""
    room = LARGEST
    for shown in sorted(every, key=lambda shown: shown.picture.detail):
        url = _url(shown.path.read_bytes(), shown.path.suffix[1:])
        if len(url) <= room:
            shown.url = url
            room -= len(url)


def page(template: str, **content: Any) -> str:
    """A page by a template of latens's, with the look that all have."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.PackageLoader("latens"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = resources.files("latens").joinpath("templates/report.js").read_text("utf-8")
    return environment.get_template(template).render(
        script=Markup(script),  # noqa: S704 - ours
        as_json=_as_json,
        **content,
    )


def _as_json(content: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - nothing in it ends an element
