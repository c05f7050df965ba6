"""Pages: sections with their pictures, each page one file that asks for nothing from outside."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from markupsafe import Markup
from PIL import Image

from latens import pictures
from latens.console import progress
from latens.errors import LatensError
from latens.report.context import SEED, Picture, Section

LARGEST = 14_000_000  # characters of pictures on a page; beyond it, details stay in their files
HOVER_QUALITY = 75


@dataclass
class Shown:
    """A picture on a page.

    Attributes:
        picture: without its frames, which may be many.
        width: screen pixels at which it is shown.
        written: the paths of its files.
        hover: what the page's script needs where hovering shows more; None where nothing.
        sharp: it is made of pixels, which a screen must not blur.
        url: the file itself; empty where the page would become too large.
    """

    picture: Picture
    width: int
    written: Future[list[Path]]
    hover: dict[str, Any] | None
    sharp: bool
    url: str = ""

    @property
    def path(self) -> Path:
        """Of the file that the page shows."""
        return self.written.result()[-1]


@dataclass
class Chapter:
    """A section with its pictures, and what to say where some cannot be made."""

    section: Section
    shown: list[Shown] = field(default_factory=list)
    note: str = ""


def draw_pictures(sections: Sequence[Section], context: Any, folder: Path) -> list[Chapter]:
    """Write every picture that applies to a run, or to several; returns what is for its page."""
    chapters = []
    with ThreadPoolExecutor() as pool, progress("sections") as bar:  # drawing beside writing
        for section in bar.track(sections, description="drawing"):
            chapter = Chapter(section)
            with torch.random.fork_rng(devices=[]):  # samples, and bits drawn at each visit
                torch.manual_seed(SEED)
                try:
                    for picture in section.draw(context):
                        written = pool.submit(picture.save, folder)
                        chapter.shown.append(_shown(picture, written))
                except LatensError as error:
                    chapter.note = str(error)
            if chapter.shown or chapter.note not in ("", *(c.note for c in chapters)):
                chapters.append(chapter)
    return chapters


def _shown(picture: Picture, written: Future[list[Path]]) -> Shown:
    first = picture.frames[0]
    width = round(first.width * pictures.DPI / first.info.get("dpi", (pictures.DPI,))[0])
    hover = None
    if picture.hover is not None:
        places = {name: first.info[name] for name in ("box", "limits") if name in first.info}
        hover = places | {
            name: _data_url(_webp(value), "webp") if isinstance(value, Image.Image) else value
            for name, value in picture.hover.items()
        }
    bare = Picture(picture.name, (), picture.alt, picture.caption, detail=picture.detail)
    plot = "limits" in first.info or "dpi" in first.info
    return Shown(bare, width, written, hover, sharp=not plot)


def page(template: str, chapters: Sequence[Chapter], **content: Any) -> str:
    """A page by a template of latens's, with the pictures of all chapters inside it."""
    _embed(shown for chapter in chapters for shown in chapter.shown)
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
        chapters=chapters,
        **content,
    )


def _embed(every: Iterable[Shown]) -> None:
    """Put pictures into their pages; where they are too large together, not the details."""
    room = LARGEST
    for shown in sorted(every, key=lambda shown: shown.picture.detail):
        url = _data_url(shown.path.read_bytes(), shown.path.suffix[1:])
        if len(url) <= room:
            shown.url = url
            room -= len(url)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=HOVER_QUALITY)
    return buffer.getvalue()


def _as_json(content: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(content, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - nothing in it ends an element


def _data_url(content: bytes, kind: str) -> str:
    """An image as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
