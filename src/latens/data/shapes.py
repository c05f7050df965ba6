"""`shapes`: images of which every factor is known, drawn on demand, the same on every machine.

A square, an ellipse or a triangle of one colour on black, 64x64: six factors that vary freely,
after the idea of dSprites (Matthey et al. 2017) and of 3D Shapes (Burgess & Kim 2018). Masks are
drawn in whole numbers alone, so that no rounding of a machine enters.
"""

import math
from functools import cache

import numpy as np
from jaxtyping import Int, UInt8

FORMS = ("square", "ellipse", "triangle")
COLOURS = (
    (255, 64, 64),
    (255, 200, 0),
    (64, 200, 64),
    (0, 200, 220),
    (96, 96, 255),
    (240, 80, 220),
)
SCALES = (6, 8, 10, 12)  # half of a side, or of the longer axis, in pixels
ROTATIONS = 10  # of 9 degrees each: beyond 90 a square would repeat itself
POSITIONS = 13  # in x and in y, two pixels apart
FACTORS = {
    "shape": len(FORMS),
    "scale": len(SCALES),
    "rotation": ROTATIONS,
    "x": POSITIONS,
    "y": POSITIONS,
    "colour": len(COLOURS),
}  # 121,680 images altogether
SIDE = 64
MASK = 40  # pixels a side, wide enough for any form
FINE = 4  # points a pixel in each direction
TURN = 1 << 14  # cosines and sines are whole numbers of this unit
SHUFFLE = 777  # the order in which images are dealt to the splits


def shuffled_factors(start: int, count: int) -> Int[np.ndarray, "N 6"]:
    """`count` rows of factor values from `start` on, of all combinations in a fixed random order.

    The order is that of a Mersenne twister, which NumPy promises never to change.
    """
    total = math.prod(FACTORS.values())
    order = np.random.RandomState(SHUFFLE).permutation(total)[start : start + count]
    return np.stack(np.unravel_index(order, tuple(FACTORS.values())), 1)


def draw_shapes(factors: Int[np.ndarray, "N 6"]) -> UInt8[np.ndarray, "N 3 64 64"]:
    """The images of rows of factor values, in the order of `FACTORS`."""
    images = np.zeros((len(factors), 3, SIDE, SIDE), np.uint8)
    for image, (shape, scale, rotation, x, y, colour) in zip(images, factors.tolist(), strict=True):
        mask = _mask(shape, scale, rotation)
        rows, columns = slice(2 * y, 2 * y + MASK), slice(2 * x, 2 * x + MASK)
        for channel, value in zip(image, COLOURS[colour], strict=True):
            channel[rows, columns] = mask * value // (FINE * FINE)
    return images


@cache
def _mask(shape: int, scale: int, rotation: int) -> Int[np.ndarray, "h w"]:
    """How many of a pixel's points lie within the form, at its place in the mask."""
    half = SCALES[scale] * FINE * 2 * TURN  # the same unit as u and v below
    points = 2 * np.arange(MASK * FINE, dtype=np.int64) + 1 - MASK * FINE  # odd: between pixels
    angle = math.radians(90 * rotation / ROTATIONS)
    cosine, sine = round(TURN * math.cos(angle)), round(TURN * math.sin(angle))
    u = cosine * points + sine * points[:, None]
    v = cosine * points[:, None] - sine * points
    if FORMS[shape] == "square":
        inside = (abs(u) <= half * 3 // 4) & (abs(v) <= half * 3 // 4)
    elif FORMS[shape] == "ellipse":
        inside = u * u + 4 * v * v <= half * half
    else:  # a tip at the right and a side at the left
        inside = (2 * u >= -half) & (2 * abs(v) + u <= half)
    return inside.reshape(MASK, FINE, MASK, FINE).sum((1, 3))
