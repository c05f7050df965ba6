"""What a training leaves for films of itself: the same images and latents, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.labels import embed_all
from latens.model.networks.labels import embedding_of
from latens.run.directory import Run
from latens.model.serialization import read_tensors
from latens.model.vae import VAE
from latens.analysis.views import feature_maps

SHORT = 250  # epochs: trainings up to so long are recorded unless told otherwise
EVERY = 20  # epochs that are all recorded; then each is so much later than the one before:
LATER = 1.2
PAIRS, SAMPLES, POINTS = 16, 36, 1_000
FEATURES = "features."  # before the number and the name of a layer
LARGEST_HALF = 65504.0


class Recorder:
    """Looks at a model in the same way again and again, and leaves what it saw in the run.

    Args:
        run: where the frames go.
        data: its first training and validation images are shown.
        last: the last epoch that is recorded already; −1 for none.
    """

    def __init__(self, run: Run, data: DataSet, last: int = -1):
        self.run = run
        self.last = last
        self.shown = {name: data.split(name).take(slice(0, PAIRS)) for name in SHOWN}
        self.points = data.validation.take(slice(0, POINTS))

    def record(self, vae: VAE, epoch: int, final: bool = False) -> None:
        """Keep a frame, if one is due: 0 is the model before its first step.

        Args:
            final: it is the training's last epoch, which always is.
        """
        due = self.last < 0 or epoch > max(self.last, (self.last >= EVERY) * LATER * self.last)
        if epoch == self.last or not (due or final):
            return
        self.last = epoch
        was_training = vae.training
        vae.eval()
        with torch.random.fork_rng(devices=[vae.device] if vae.device.type == "cuda" else []):
            torch.manual_seed(0)  # the same noise each time
            self.run.save_frame(epoch, self._seen(vae))
        vae.train(was_training)

    def _seen(self, vae: VAE) -> dict[str, Tensor]:
        frame = {}
        for name, images in self.shown.items():
            x, y = _on(vae, images)
            frame[name] = _bytes(vae.reconstruct(x, y))
        frame["samples"] = _bytes(vae.sample(SAMPLES, self._conditions(vae)))
        frame["latents"] = _half(embed_all(vae, self.points)[0])
        x, y = _on(vae, self.shown["validation"].take(slice(0, 1)))
        maps = feature_maps(vae, x, y)
        # safetensors sorts by name; the numbers keep the order from x to x̂
        features = {
            f"{FEATURES}{i:03d}.{name}": _half(m) for i, (name, m) in enumerate(maps.items())
        }
        return frame | features

    def _conditions(self, vae: VAE) -> Int64[Tensor, "N *A"] | None:
        """Labels for new images of a conditional model: those of validation images, in turn."""
        if embedding_of(vae) is None or self.points.labels is None:
            return None
        rows = torch.arange(SAMPLES) % len(self.points)
        return self.points.labels[rows].to(vae.device)


SHOWN = ("train", "validation")


def _on(vae: VAE, images: Images) -> tuple[Tensor, Tensor | None]:
    y = None if images.labels is None else images.labels.to(vae.device)
    return images.unit().to(vae.device), y


def _half(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In 16 bits, the largest of which is 65504."""
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def _bytes(images: Float[Tensor, "N C H W"]) -> UInt8[Tensor, "N C H W"]:
    return (images * 255).round().byte().cpu()


# ---- the recording ---------------------------------------------------------------------------


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
            f"{run.path} holds no recording of its training, so there are no films of it: train "
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
