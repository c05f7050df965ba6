"""The recording of a training for films: the same images and latents, epoch by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latens.errors import LatensError
from latens.model.serialization import read_tensors
from latens.run.directory import Run

SHOWN = ("train", "validation")
POINTS = "points"  # validation images whose latents are recorded
ROWS = "rows."  # before the name of what is recorded: which rows of their split these images are
FEATURES = "features."  # before the number and the name of a layer


@dataclass(frozen=True)
class Recording:
    """Frames of a training, E of them.

    Attributes:
        epochs: of each frame; 0 is before the first step.
        train, validation: the reconstructions of some images of each split.
        samples: images decoded from the same noise.
        latents: the mean z of validation images.
        features: the outputs of every convolution for the first of `validation`, by layer.
        rows: which images of their split those of "train", "validation" and "points" are.
    """

    epochs: Sequence[int]
    train: UInt8[np.ndarray, "E N C H W"]
    validation: UInt8[np.ndarray, "E V C H W"]
    samples: UInt8[np.ndarray, "E M C H W"]
    latents: Float[np.ndarray, "E P D"]
    features: dict[str, Float[np.ndarray, "E channels h w"]]
    rows: dict[str, Int64[Tensor, " n"]]

    def images(self, name: str) -> Float[Tensor, "E N C H W"]:
        """The frames of "train", "validation" or "samples" in [0, 1]."""
        return torch.from_numpy(getattr(self, name)).float() / 255


def rows_of_frame(frame: Mapping[str, Tensor]) -> dict[str, Int64[Tensor, " n"]]:
    """Which images of their split a frame is of, by name; before 0.2.0 the first ones."""
    counts = {name: len(frame[name]) for name in SHOWN if name in frame}
    counts |= {POINTS: len(frame["latents"])} if "latents" in frame else {}
    first = {name: torch.arange(count) for name, count in counts.items()}
    return first | {n.removeprefix(ROWS): t.long() for n, t in frame.items() if n.startswith(ROWS)}


def read_recording(run: Run) -> Recording:
    """The frames that a training has left.

    Raises:
        LatensError: there are none, or they are damaged.
    """
    frames = run.frames
    if not frames:
        raise LatensError(
            f"{run.home} holds no recording of its training, so there are no films of it: train "
            "anew with --film"
        )
    read = [read_tensors(path)[0] for path in frames.values()]
    rows = rows_of_frame(read[0])
    read = [{n: t for n, t in frame.items() if not n.startswith(ROWS)} for frame in read]
    names = set(read[0])
    if any(set(frame) != names for frame in read) or not {*SHOWN, "samples", "latents"} <= names:
        raise LatensError(f"{run.path}: its recording is damaged; train anew with --film")
    every = {name: np.stack([frame[name].numpy() for frame in read]) for name in read[0]}
    return Recording(
        epochs=list(frames),
        features={
            name.removeprefix(FEATURES).partition(".")[2]: values.astype(np.float32)
            for name, values in sorted(every.items())
            if name.startswith(FEATURES)
        },
        latents=every["latents"].astype(np.float32),
        rows=rows,
        **{name: every[name] for name in (*SHOWN, "samples")},
    )
