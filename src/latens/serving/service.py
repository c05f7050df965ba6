"""A model behind the routes: checks what is asked, and puts it into batches."""

import asyncio
import base64
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from fastapi import UploadFile
from PIL import Image
from torch import Tensor

from latens.analysis.generation import labels_like_training, temperatures_of
from latens.commands import check_files
from latens.data.decoding import InMemoryFile, decode_some, read_header
from latens.data.images import Images, own_bits
from latens.errors import LatensError
from latens.evaluation.labels import LabelStatistics
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.run.data import target_of
from latens.run.directory import Run
from latens.serving.batching import Batcher, Busy
from latens.serving.functions import Functions
from latens.serving.limits import Limits
from latens.serving.schemas import Figures, SampleRequest

LONGEST_LABEL = 1_000  # characters
MOST_UPLOADS = 64  # requests whose images are in memory and not decoded yet


@dataclass
class Service:
    """A run's model behind the routes.

    Attributes:
        run, vae: the model.
        limits: of requests.
        batcher: computes.
    """

    run: Run
    vae: LatentModel
    limits: Limits
    batcher: Batcher
    functions: Functions = field(init=False)
    decoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    uploads: int = 0

    def __post_init__(self) -> None:
        check_files(self.vae.image_shape[0])
        self.functions = Functions(self.vae)

    def about(self) -> Figures:
        """What the model is; not where it lies."""
        data = self.run.record["data"]
        return Figures(
            title=self.run.title,
            image_shape=list(self.vae.image_shape),
            latent_shape=list(self.vae.latent_shape),
            levels=len(self.vae.level_shapes),
            classes=data["classes"],
            attributes=list(data.get("attributes") or ()),
            figures=self.run.figures,
            limits=asdict(self.limits),
        )

    async def uploaded(
        self, files: Sequence[UploadFile], labels: Sequence[str] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pixels `[N, C, H, W]` uint8 of image files, and their classes where they matter.

        Raises:
            Busy: too many requests whose images are not decoded yet.
            LatensError: too many files, files that are no images, or other labels.
        """
        self.check_number(len(files))
        if self.uploads >= MOST_UPLOADS:
            raise Busy
        self.uploads += 1
        try:
            content = [InMemoryFile(each.filename or "image", await each.read()) for each in files]
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self.decoding, self._decoded, content)
        finally:
            self.uploads -= 1
        return pixels, self.classes(labels, len(files))

    def _decoded(self, files: list[InMemoryFile]) -> Tensor:
        """One request at a time: a few bytes may stand for images that take minutes."""
        pixels = sum(math.prod(read_header(file).size) for file in files)
        if pixels > self.limits.megapixels * 1e6:
            raise LatensError(
                f"the images have {pixels / 1e6:,.0f} megapixels: a request may have "
                f"{self.limits.megapixels:g}"
            )
        rows = []
        for each in decode_some(files, target_of(self.run)):
            if isinstance(each, LatensError):
                raise each
            rows.append(each)
        images = Images(torch.from_numpy(np.stack(rows)))
        return own_bits(images, self.run.config.data.binarisation).pixels

    def classes(self, labels: Sequence[str] | None, number: int) -> Tensor | None:
        """Class indices by name; None where the model does not ask for them.

        Raises:
            LatensError: no such class, another number of labels than images, or a model that does
                not depend on them.
        """
        if not labels:
            return None
        if self.vae.label_embedding is None:
            raise LatensError("this model does not depend on labels: leave them out")
        if len(labels) != number:
            raise LatensError(f"{number} images and {len(labels)} labels: give one for each image")
        statistics = LabelStatistics.of(self.vae)
        if not statistics.exclusive:
            raise LatensError(
                "this model's images have attributes and no classes: leave out labels"
            )
        return torch.tensor([_index(statistics, label) for label in labels])

    def check_number(self, number: int) -> None:
        """Refuse more images than a request may have."""
        if not 1 <= number <= self.limits.images:
            raise LatensError(f"{number} images: a request may have 1 to {self.limits.images}")

    async def sample(self, asked: SampleRequest) -> dict[str, Tensor]:
        """New images of any kind, or of one label."""
        self.check_number(asked.number)
        vae, number = self.vae, asked.number
        temperature = vae.temperatures(temperatures_of(asked.temperature))
        if asked.label is not None and vae.label_embedding is None:
            _index(LabelStatistics.of(vae), asked.label)
            return await self.batcher(
                object(),  # alone: z that fall short of the class are drawn anew
                lambda: self.functions.sample_of(
                    number, asked.label or "", temperature, "mixture", asked.seed
                ),
                rows=number,
            )
        y = self._labels_for(number, asked)
        seeds = torch.arange(asked.seed, asked.seed + number)
        found = await self.batcher(
            ("sample", *temperature),
            lambda seeds, y: self.functions.sample(seeds, y, temperature),
            seeds,
            y,
            rows=number,
        )
        return found if y is None or y.dim() > 1 else found | {"labels": y}

    def _labels_for(self, number: int, asked: SampleRequest) -> Tensor | None:
        """Labels for a conditional model: the one asked for, else as in training."""
        if self.vae.label_embedding is None:
            return None
        statistics = LabelStatistics.of(self.vae)
        index = None if asked.label is None else _index(statistics, asked.label)
        with forked_rng(seed=asked.seed):
            return labels_like_training(statistics, number, index)

    async def answer(self, found: dict[str, Tensor]) -> dict[str, Any]:
        """Tensors as JSON: images as PNG files in base64, labels by name."""
        return await asyncio.to_thread(self._answer, found)  # others are served meanwhile

    def _answer(self, found: dict[str, Tensor]) -> dict[str, Any]:
        texts: dict[str, Any] = {
            name: values.tolist()
            for name, values in found.items()
            if name not in ("images", "labels")
        }
        if "images" in found:
            texts["images"] = [_png(image) for image in found["images"]]
        if "labels" in found:
            names = LabelStatistics.of(self.vae).names
            texts["labels"] = [names[label] for label in found["labels"].tolist()]
        return texts


def _index(statistics: LabelStatistics, label: str) -> int:
    if len(label) > LONGEST_LABEL:  # which is not worth the search for one like it
        raise LatensError(f"a label of {len(label):,} characters: there is none")
    return statistics.index(label)


def _png(image: Tensor) -> str:
    """An image `[C, H, W]` in [0, 1] as a PNG file in base64."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
