"""Images side by side, each pixel kept sharp."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from latens.pictures.style import DIVERGING, HEAT, INK, MARGIN, font, titled

LEAST_SIDE = 56  # screen pixels: smaller images are scaled up by a whole number
GAP = 4  # screen pixels between images
CAPTION_HEIGHT = 14  # screen pixels below an image, or above a column, for words about it
TEXT, SMALL = 12, 10  # heights of letters


@dataclass(frozen=True)
class Sheet:
    """The images of a picture and the words beside them, which a page lays out to fit its screen.

    `grid`, `table` and `pairs` keep theirs in `info["sheet"]` of the picture.

    Attributes:
        images: in [0, 1]: rows and columns of a table; otherwise items, each a column of images.
        title: "what · run".
        rows, columns: names; of items, `rows` are the names of the images in a column.
        captions: a few words below each item.
        is_table: rows and columns belong together, so that nothing can be moved to a next line.
        least_side: as in `tile`.
        gap: as in `tile`.
    """

    images: Float[Tensor, "R C channels H W"]
    title: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    captions: Sequence[str] = ()
    is_table: bool = False
    least_side: int = LEAST_SIDE
    gap: int = GAP


def in_rgb(images: Float[Tensor, "*N channels H W"]) -> Float[Tensor, "*N 3 H W"]:
    """Images of any channels as they are shown: grey in three, of more than three the first three.

    Two are red and green.
    """
    channels = images.shape[-3]
    if channels == 1:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    if channels == 2:
        return torch.cat((images, torch.zeros_like(images[..., :1, :, :])), -3)
    return images[..., :3, :, :]


def tile(
    images: Float[Tensor, "R C channels H W"],
    below: int = 0,
    least_side: int = LEAST_SIDE,
    gap: int = GAP,
) -> UInt8[np.ndarray, "height width 3"]:
    """R rows of C images in [0, 1] as one RGB array on white, scaled up by a whole number.

    Images become RGB, see `in_rgb`. The image in row r and column c starts at pixel
    (r (s H + below + gap), c (s W + gap)), where s is the scale.

    Args:
        below: white pixels under each row.
        least_side: images whose longer side has fewer pixels are scaled up to that many or more.
        gap: white pixels between images.
    """
    rows, columns, _, height, width = images.shape
    pixels = (in_rgb(images).clamp(0, 1) * 255).round().byte().cpu().numpy()
    scale = max(1, math.ceil(least_side / max(height, width)))
    pixels = pixels.repeat(scale, axis=3).repeat(scale, axis=4)
    height, width = height * scale, width * scale
    step_y, step_x = height + below + gap, width + gap
    sheet = np.full((rows * step_y, columns * step_x, 3), 255, dtype=np.uint8)
    cells = sheet.reshape(rows, step_y, columns, step_x, 3)
    cells[:, :height, :, :width] = pixels.transpose(0, 3, 1, 4, 2)
    return sheet[: rows * step_y - gap, : columns * step_x - gap]


def grid(
    images: Float[Tensor, "N C H W"],
    title: str = "",
    columns: int | None = None,
    captions: Sequence[str] = (),
    least_side: int = LEAST_SIDE,
) -> Image.Image:
    """N images in [0, 1], in a grid about as wide as it is high.

    Args:
        captions: a few words below each image.
        least_side: as in `tile`.
    """
    n = len(images)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = images.new_ones(rows * columns, *images.shape[1:])  # white where there is none
    padded[:n] = images
    padded = padded.unflatten(0, (rows, columns))
    sheet = tile(padded, CAPTION_HEIGHT if captions else 0, least_side)
    image = framed(sheet, title, captions=captions, shape=(rows, columns))
    image.info["sheet"] = Sheet(images[:, None], title, captions=captions, least_side=least_side)
    return image


def table(
    images: Float[Tensor, "R C channels H W"],
    title: str = "",
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    least_side: int = LEAST_SIDE,
    gap: int = GAP,
) -> Image.Image:
    """R rows of C images in [0, 1], each row and column with its name.

    Args:
        columns: C names, or none; an empty one is left out.
        rows: R names, or none.
        least_side: as in `tile`.
        gap: as in `tile`.
    """
    shape = (images.shape[0], images.shape[1])
    image = framed(tile(images, 0, least_side, gap), title, rows, columns, shape=shape)
    image.info["sheet"] = Sheet(images, title, rows, columns, (), True, least_side, gap)
    return image


def pairs(
    inputs: Float[Tensor, "N C H W"],
    outputs: Float[Tensor, "N C H W"],
    title: str = "",
    columns: int = 12,
    errors: bool = False,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Inputs with the reconstruction right below each, in labelled rows.

    Args:
        columns: at most so many beside each other.
        errors: add below each pair |input − output|, averaged over the channels; white is 1.
        captions: a few words below each pair.
    """
    stack = [inputs, outputs] + ([error_map(inputs, outputs)] if errors else [])
    channels = max(part.shape[1] for part in stack)
    parts = torch.stack([part.expand(-1, channels, -1, -1) for part in stack])  # [P, N, C, H, W]
    n = len(inputs)
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    padded = parts.new_ones(len(stack), rows * columns, *parts.shape[2:])
    padded[:, :n] = parts
    sheet = padded.unflatten(1, (rows, columns)).transpose(0, 1).flatten(0, 1)
    names = ["input", "output", "error"][: len(stack)]
    below = CAPTION_HEIGHT if captions else 0
    # Words below every row of images, though only those of the last row of a pair say something
    words = [""] * (len(stack) * rows * columns)
    for i, caption in enumerate(captions):
        row, column = divmod(i, columns)
        words[((row + 1) * len(stack) - 1) * columns + column] = caption
    shape = (len(stack) * rows, columns)
    image = framed(
        tile(sheet, below), title, names * rows, captions=words if captions else (), shape=shape
    )
    image.info["sheet"] = Sheet(parts.transpose(0, 1), title, names, captions=captions)
    return image


def error_map(
    inputs: Float[Tensor, "N C H W"], outputs: Float[Tensor, "N C H W"]
) -> Float[Tensor, "N 3 H W"]:
    """|input − output| in colours from black (0) to white (1), averaged over the channels."""
    return in_colours((inputs - outputs).abs().mean(1).clamp(0, 1))


def in_colours(
    values: Float[Tensor, "*N H W"], diverging: bool = False
) -> Float[Tensor, "*N 3 H W"]:
    """Numbers in [0, 1] as colours; or, where `diverging`, from −1 (blue) over 0 to 1 (red)."""
    if diverging:
        values = (values + 1) / 2
    import matplotlib  # takes half a second

    scale = matplotlib.colormaps[DIVERGING if diverging else HEAT]
    colours = torch.from_numpy(scale(values.cpu().numpy())[..., :3])
    return colours.movedim(-1, -3).float()


def framed(
    sheet: UInt8[np.ndarray, "height width 3"],
    title: str = "",
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    shape: tuple[int, int] = (1, 1),
) -> Image.Image:
    """The sheet, pixel by pixel, under its title, with the names of its rows and columns.

    `info["box"]` of the image tells where the sheet is: left, top, right and bottom as shares of
    the image's width and height.

    Args:
        title: "what · run", in two lines.
        captions: below each image, row after row.
        shape: rows and columns of the sheet.
    """
    height, width = sheet.shape[:2]
    left = MARGIN + (8 + max(round(font(TEXT).getlength(name)) for name in rows) if rows else 0)
    top = CAPTION_HEIGHT if columns else 0
    top += 0 if title else MARGIN
    size = left + width + MARGIN, top + height + MARGIN
    image = titled(Image.fromarray(sheet), title, (left, top), size)
    top = round(image.info["box"][1] * image.height)
    draw = ImageDraw.Draw(image)
    step_y, step_x = (height + GAP) / shape[0], (width + GAP) / shape[1]
    for i, name in enumerate(rows):
        middle = (left - 8, top + (i + 0.5) * height / shape[0])
        draw.text(middle, name, INK, font(TEXT), anchor="rm")
    for i, name in enumerate(columns):
        middle = (left + (i + 0.5) * step_x - GAP / 2, top - 3)
        draw.text(middle, name, INK, font(SMALL), anchor="ms")
    for i, caption in enumerate(captions):
        row, column = divmod(i, shape[1])
        below = top + (row + 1) * step_y - GAP - CAPTION_HEIGHT + 2
        middle = (left + (column + 0.5) * step_x - GAP / 2, below)
        draw.text(middle, caption, INK, font(SMALL), anchor="ma")
    return image
