"""Recording a training for films: the same images and latents, epoch by epoch."""

from contextlib import suppress

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from latens.analysis.feature_maps import feature_maps
from latens.data import DataSet, Images
from latens.errors import LatensError
from latens.evaluation.labels import embed_all
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.model.serialization import read_tensors
from latens.run.directory import Run
from latens.run.recording import FEATURES, POINTS, ROWS, SHOWN, rows_of_frame

EVERY = 20  # epochs that are all recorded; then each is so much later than the one before:
LATER = 1.2
PAIRS, SAMPLES, MOST_POINTS = 16, 36, 1_000
LARGEST_HALF = 65504.0


class Recorder:
    """Records the same outputs of a model after each epoch into the run directory.

    Args:
        run: where the frames go.
        data: some of its training and validation images are shown.
        last: the last epoch that is recorded already; −1 for none.
    """

    def __init__(self, run: Run, data: DataSet, last: int = -1):
        self.run = run
        self.last = last
        self.rows = {name: data.split(name).some_rows(PAIRS) for name in SHOWN}
        self.rows |= {POINTS: data.validation.some_rows(MOST_POINTS)}
        if run.frames:  # of a training that goes on
            with suppress(LatensError):  # a damaged film is no reason to stop
                self.rows = rows_of_frame(read_tensors(next(iter(run.frames.values())))[0])
        self.shown = {name: data.split(name).take(self.rows[name]) for name in SHOWN}
        self.points = data.validation.take(self.rows[POINTS])

    def record(self, vae: LatentModel, epoch: int, final: bool = False) -> None:
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
        with forked_rng(vae.device, 0):  # the same noise each time
            self.run.save_frame(epoch, self._seen(vae))
        vae.train(was_training)

    def _seen(self, vae: LatentModel) -> dict[str, Tensor]:
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
        return frame | features | {f"{ROWS}{name}": rows for name, rows in self.rows.items()}

    def _conditions(self, vae: LatentModel) -> Int64[Tensor, "N *A"] | None:
        """Labels for new images of a conditional model: those of validation images, in turn."""
        if vae.label_embedding is None or self.points.labels is None:
            return None
        rows = torch.arange(SAMPLES) % len(self.points)
        return self.points.labels[rows].to(vae.device)


def _on(vae: LatentModel, images: Images) -> tuple[Tensor, Tensor | None]:
    y = None if images.labels is None else images.labels.to(vae.device)
    return images.unit().to(vae.device), y


def _half(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In 16 bits, the largest of which is 65504."""
    return values.clamp(-LARGEST_HALF, LARGEST_HALF).half()


def _bytes(images: Float[Tensor, "N C H W"]) -> UInt8[Tensor, "N C H W"]:
    return (images * 255).round().byte().cpu()
