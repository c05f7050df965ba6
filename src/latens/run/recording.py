"""The recording of a training for films: the same images and latents, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from latens.errors import LatensError
from latens.model.serialization import read_tensors
from latens.run.directory import Run

SHOWN = ("train", "validation")
FEATURES = "features."  # before the number and the name of a layer


@dataclass(frozen=True)
class Recording:
    """Frames of a training, E of them.

    Attributes:
        epochs: of each frame; 0 is before the first step.
        train, validation: the reconstructions of the first images of each split.
        samples: images decoded from the same noise.
        latents: the mean z of the first validation images.
        features: the outputs of every convolution for the first validation image, by layer.
    """

    epochs: Sequence[int]
    train: UInt8[np.ndarray, "E N C H W"]
    validation: UInt8[np.ndarray, "E V C H W"]
    samples: UInt8[np.ndarray, "E M C H W"]
    latents: Float[np.ndarray, "E P D"]
    features: dict[str, Float[np.ndarray, "E channels h w"]]

    def images(self, name: str) -> Float[Tensor, "E N C H W"]:
        """The frames of "train", "validation" or "samples" in [0, 1]."""
        return torch.from_numpy(getattr(self, name)).float() / 255


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
        **{name: every[name] for name in (*SHOWN, "samples")},
    )
