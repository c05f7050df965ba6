"""Pages: sections with their pictures, each page one file that asks for nothing from outside."""

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from latens import pictures
from latens.console import progress
from latens.errors import LatensError
from latens.model.noise import forked_rng
from latens.pictures import Sheet
from latens.report.context import SEED, Picture, Section

LARGEST = 13_500_000  # characters of a page; beyond it, details stay in their files
LOSSLESS_PIXELS = (
    400_000  # of a sprite; beyond it WebP takes a hundredth of the room by losing some
)
QUALITY = 82
LONGEST_SIDE = 16_383  # of a WebP


@dataclass(frozen=True)
class Sprite:
    """All images of a sheet, those of all its frames below each other.

    Attributes:
        url: the file itself, which is a WebP.
        columns, rows: of images in one frame.
        frames: how many.
        side: (height, width) of an image on the screen.
    """

    url: str
    columns: int
    rows: int
    frames: int
    side: tuple[int, int]


@dataclass
class Shown:
    """A picture on a page: an SVG, or a sheet whose images are cut from a sprite.

    Attributes:
        picture: without its frames, which may be many.
        path: of its file.
        sheet: the words beside its images; None of a plot.
        count: items of the sheet, or rows of a table; and images in each.
        svg: a plot.
        sprite: images.
        is_plot: the images are plots, with lines on white.
        fits: it is on the page; otherwise the page would become too large.
    """

    picture: Picture
    path: Path
    sheet: Sheet | None = None
    count: tuple[int, int] = (1, 1)
    svg: str = ""
    sprite: Sprite | None = None
    is_plot: bool = False
    fits: bool = True

    @property
    def natural(self) -> int:
        """The width in screen pixels that a plot is meant to have."""
        points = re.search(r'width="([\d.]+)pt"', self.svg)
        return round(float(points[1]) * pictures.DPI / 72) if points else 0

    @property
    def size(self) -> int:
        """Characters on the page."""
        about = "" if self.picture.about is None else json.dumps(self.picture.about)
        return len(self.svg) + len(self.sprite.url if self.sprite else "") + len(about)


@dataclass
class Chapter:
    """A section with its pictures, and what to say where some cannot be made."""

    section: Section
    shown: list[Shown] = field(default_factory=list)
    note: str = ""
    finding: str = ""


def draw_pictures(sections: Sequence[Section], context: Any, folder: Path) -> list[Chapter]:
    """Write every picture that applies to a run, or to several; returns what is for its page."""
    begun: list[tuple[Chapter, list[Future[Shown]]]] = []
    with ThreadPoolExecutor() as pool, progress("sections") as bar:  # drawing beside writing
        for section in bar.track(sections, description="drawing"):
            chapter, ready = Chapter(section), list[Future[Shown]]()
            begun.append((chapter, ready))
            with forked_rng(seed=SEED):  # samples, and bits drawn at each visit
                try:
                    for picture in section.draw(context):
                        ready.append(pool.submit(_shown, picture, folder, _svg(picture)))
                    chapter.finding = section.finding(context)
                except LatensError as error:
                    chapter.note = str(error)
    chapters: list[Chapter] = []
    for chapter, ready in begun:
        chapter.shown = [shown for each in ready if (shown := each.result()).picture.on_page]
        if chapter.shown or chapter.note not in ("", *(c.note for c in chapters)):
            chapters.append(chapter)
    return chapters


def _svg(picture: Picture) -> str:
    """A still plot as SVG; empty of anything else. Matplotlib's settings are not for threads."""
    figure = picture.frames[0].info.get("figure")
    return "" if figure is None or picture.is_film or not picture.on_page else pictures.svg(figure)


def _shown(picture: Picture, folder: Path, svg: str) -> Shown:
    """Write a picture, and make ready what a page shows of it."""
    path = picture.save(folder)[-1]
    bare = replace(picture, frames=())
    if svg or not picture.on_page or "drawn" in (picture.about or {}):
        return Shown(bare, path, svg=svg)
    return sheet_of(picture, path)


def sheet_of(picture: Picture, path: Path = Path()) -> Shown:
    """A picture whose images a page lays out itself.

    A film of plots, or of sheets of several shapes, has one image a frame.
    """
    shown = Shown(replace(picture, frames=()), path)
    sheets = [f.info["sheet"] for f in picture.frames if isinstance(f.info.get("sheet"), Sheet)]
    shapes = {tuple(sheet.images.shape) for sheet in sheets}
    shown.is_plot = len(sheets) < len(picture.frames) or len(shapes) > 1
    if shown.is_plot:
        pixels = np.stack([np.asarray(frame.convert("RGB")) for frame in picture.frames])[:, None]
        words = Sheet(torch.empty(1, 1, 3, 1, 1))
    else:
        pixels = np.stack([_pixels(sheet) for sheet in sheets])
        shown.count = (sheets[0].images.shape[0], sheets[0].images.shape[1])
        words = replace(sheets[0], images=torch.empty(*shown.count, 3, 1, 1))
    shown.sheet, shown.sprite = words, _sprite(pixels, words, shown.count)
    return shown


def _pixels(sheet: Sheet) -> UInt8[np.ndarray, "N H W 3"]:
    """The images of a sheet, row by row, as bytes."""
    images = pictures.in_rgb(sheet.images.flatten(0, 1))
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _sprite(pixels: UInt8[np.ndarray, "F N H W 3"], sheet: Sheet, count: tuple[int, int]) -> Sprite:
    """A sprite of F frames of N images; those of a table without gaps are one image."""
    frames, n, height, width = pixels.shape[:4]
    scale = max(1, math.ceil(sheet.least_side / max(height, width)))
    side = height * scale, width * scale
    if sheet.is_table and not sheet.gap:
        rows, columns = count
        grid = pixels.reshape(frames, rows, columns, height, width, 3).swapaxes(2, 3)
        pixels = grid.reshape(frames, 1, rows * height, columns * width, 3)
        frames, n, height, width = pixels.shape[:4]
        side = height * scale, width * scale
    while width > LONGEST_SIDE or height * frames * math.ceil(n * width / LONGEST_SIDE) > (
        LONGEST_SIDE
    ):
        pixels = pixels[:, :, ::2, ::2]
        height, width = pixels.shape[2:4]
    columns = min(n, LONGEST_SIDE // width)
    rows = math.ceil(n / columns)
    padded = np.full((frames, rows * columns, height, width, 3), 255, np.uint8)
    padded[:, :n] = pixels
    grid = padded.reshape(frames * rows, columns, height, width, 3).swapaxes(1, 2)
    image = Image.fromarray(grid.reshape(frames * rows * height, columns * width, 3))
    return Sprite(webp_url(image), columns, rows, frames, side)


def webp_url(image: Image.Image) -> str:
    """An image as an address that holds it; without loss unless it is large."""
    buffer = io.BytesIO()
    lossless = image.width * image.height <= LOSSLESS_PIXELS
    image.save(buffer, format="WEBP", lossless=lossless, quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- pages -----------------------------------------------------------------------------------


def page(
    template: str,
    chapters: Sequence[Chapter],
    scripts: Sequence[str],
    explorer: Mapping[str, Any] | None = None,
    **content: Any,
) -> str:
    """A page by a template of latens's, with the pictures of all chapters inside it.

    Args:
        scripts: of the folder `templates`, in their order.
        explorer: what `explorer_of` gives.
    """
    data = Markup() if explorer is None else as_json(explorer)
    _embed((shown for chapter in chapters for shown in chapter.shown), LARGEST - len(data))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.PackageLoader("latens"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        style=Markup(asset("page.css")),  # noqa: S704 - ours
        script=Markup("\n".join(map(asset, scripts))),  # noqa: S704
        as_json=as_json,
        explorer=explorer,
        explorer_data=data,
        chapters=[chapter for chapter in chapters if chapter.shown],
        groups={
            shown.picture.group: shown.picture
            for chapter in chapters
            for shown in chapter.shown
            if shown.picture.group
        },
        notes=[chapter.note for chapter in chapters if chapter.note],
        **content,
    )


def asset(name: str) -> str:
    """A file of the folder `templates`."""
    return resources.files("latens").joinpath("templates", name).read_text("utf-8")


def _embed(every: Iterable[Shown], room: int) -> None:
    """Leave out of a page what is too large for it, details first."""
    for shown in sorted(every, key=lambda shown: shown.picture.detail):
        shown.fits = shown.size <= room
        room -= shown.size * shown.fits


def as_json(content: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - nothing in it ends an element
