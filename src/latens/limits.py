"""How large an input may be before it is decoded, unpacked or built.

A file from a stranger may stand for far more than it holds. Each limit is a field of `Limits`, and
the environment variable `LATENS_LIMITS`, such as `LATENS_LIMITS=image_pixels=400000000,shards=1e6`,
sets others.
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from latens.errors import LatensError, unknown

VARIABLE = "LATENS_LIMITS"
USUAL_RATIO = 50  # of unpacked to packed bytes: up to it a large file may hold as much as it likes


def _limit(value: int, words: str) -> Any:
    return field(default=value, metadata={"words": words})


@dataclass(frozen=True)
class Limits:
    """The most of each thing that is read."""

    image_pixels: int = _limit(89_478_485, "pixels")  # Pillow's own; 9,459 on a side
    parallel_pixels: int = _limit(2**24, "pixels")  # larger images are decoded one at a time
    unpacked_bytes: int = _limit(2**30, "bytes when unpacked")
    member_bytes: int = _limit(2**26, "bytes in one file")  # of a tar file
    shards: int = _limit(100_000, "shards")
    option_bytes: int = _limit(2**20, "bytes")  # of a file of options
    aliases: int = _limit(20, "aliases")  # in it: values that stand for another
    nesting: int = _limit(50, "lists in lists")
    tensors: int = _limit(10_000, "tensors of weights")  # of a model
    name_length: int = _limit(200, "characters")  # of a class or an attribute


def limits() -> Limits:
    """Those of the environment, else the defaults.

    Raises:
        LatensError: the environment names no limit, or no number.
    """
    known = {item.name for item in fields(Limits)}
    chosen = {}
    for pair in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, value = pair.strip().partition("=")
        if name not in known:
            raise unknown(f"limit in {VARIABLE}", name, sorted(known))
        try:
            chosen[name] = int(float(value))
        except (ValueError, OverflowError):
            chosen[name] = 0
        if chosen[name] < 1:
            raise LatensError(f"{VARIABLE} sets {name} to '{value}': give a number above 0")
    return Limits(**chosen)


def check(name: str, found: int, subject: str, allowed: int = 0) -> None:
    """Raise a LatensError where more was found than a limit allows.

    Args:
        name: of the limit.
        subject: what has so many, and a verb: "x.png has".
        allowed: in place of the limit where it is larger.
    """
    most = max(getattr(limits(), name), allowed)
    if found > most:
        words = next(item.metadata["words"] for item in fields(Limits) if item.name == name)
        raise LatensError(
            f"{subject} more than {most:,} {words}: if it is to be trusted, {VARIABLE}={name}="
            "NUMBER allows more"
        )


def check_unpacked(path: Path, found: int) -> None:
    """Raise a LatensError where a packed file stands for far more bytes than it has."""
    allowed = USUAL_RATIO * path.stat().st_size
    check("unpacked_bytes", found, f"{path} holds", allowed)
