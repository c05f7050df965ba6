"""How much a client may ask of the service."""

import math
from dataclasses import dataclass, fields

from latens.errors import LatensError


@dataclass(frozen=True)
class Limits:
    """What one request, and one client, may ask for.

    Attributes:
        images: that a request sends, or asks for.
        megabytes: of a request.
        megapixels: of all images that a request sends, before they are brought to the model's size.
        rate: requests in a second from one address; 0: any number.
        samples: K of an importance-sampled log p(x).
        waiting: images of all requests that may wait to be computed; beyond, clients are told to
            come again.
    """

    images: int = 64
    megabytes: float = 16.0
    megapixels: float = 200.0
    rate: int = 100
    samples: int = 1_000
    waiting: int = 4_096

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and each.name != "rate"):
                least = "0 or more" if each.name == "rate" else "above 0"
                raise LatensError(f"{each.name} is {value}: it must be {least}")
