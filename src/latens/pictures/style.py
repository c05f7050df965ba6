"""One look for all pictures: colours, letters, titles; and how each becomes a file."""

import functools
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from latens import files

# The prior on a plane: the centre of a unit Gaussian, or log p of points [N, 2], in nats
Prior = tuple[float, float] | Callable[[Any], Any]

INK = "#1f2933"
SOFT = "#5b6875"
PAPER = "#ffffff"
RULE = "#d9dee4"
# Okabe & Ito's palette: told apart by colour-blind readers too
TRAIN = "#0072b2"
VALIDATION = "#d55e00"
BAR = "#56b4e9"
# Tol's "muted" scheme: ten colours for classes, each with a marker of its own besides
CLASSES = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33")
CLASSES += ("#882255", "#44aa99", "#999933", "#aa4499", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
HEAT = "magma"  # from nothing to much; read alike in grey
DIVERGING = "RdBu_r"  # from below zero, by white, to above; told apart by the colour-blind
DPI = 100  # one array pixel is one screen pixel
MARGIN = 12
TITLE_LINE = 18
TITLE = 13  # height of the letters


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pictures, `size` pixels high."""
    # matplotlib's, which takes half a second to import, so it is only looked for
    folder = Path(str(find_spec("matplotlib").origin)).parent / "mpl-data/fonts/ttf"  # pyright: ignore[reportOptionalMemberAccess]
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' * bold}.ttf", size)


def heading(title: str) -> tuple[str, str]:
    """What a picture shows, and of which run: the two lines of a title "what · run"."""
    what, _, run = title.partition(" · ")
    return what, run


def titled(
    content: Image.Image,
    title: str,
    place: tuple[int, int],
    size: tuple[int, int],
    scale: float = 1,
) -> Image.Image:
    """Content on white under its title.

    `info["box"]` tells where the content is: left, top, right and bottom as shares of the image's
    width and height.

    Args:
        title: "what · run", in two lines.
        place: of the content below the title: left, and pixels from the title.
        size: room for the content and what is around it, below the title.
        scale: of all letters and margins.
    """
    margin, line = round(MARGIN * scale), round(TITLE_LINE * scale)
    lines = [words for words in heading(title) if words]
    fonts = [font(round(TITLE * scale), bold=i == 0) for i in range(len(lines))]
    below = margin + line * len(lines) + round(4 * scale) * bool(lines) if lines else 0
    widths = [margin * 2 + math.ceil(f.getlength(t)) for f, t in zip(fonts, lines, strict=True)]
    image = Image.new("RGB", (max(size[0], *widths, 1), below + size[1]), PAPER)
    left, top = place[0], below + place[1]
    image.paste(content, (left, top))
    draw = ImageDraw.Draw(image)
    for i, words in enumerate(lines):
        draw.text((margin, margin + i * line), words, INK if i == 0 else SOFT, fonts[i])
    right, bottom = left + content.width, top + content.height
    width, height = image.size
    image.info["box"] = (left / width, top / height, right / width, bottom / height)
    return image


def save(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with files.replacing(path) as temporary:
        image.save(temporary, format="PNG", dpi=image.info.get("dpi", (DPI, DPI)))
