"""What other programs take from a trained model: features of images, scores, the nearest images."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latens import pictures
from latens.analysis.generation import likeliest_condition
from latens.config import check_seed
from latens.console import note, progress
from latens.data import IN_MEMORY, NAMES, SPLITS, Images, load_data
from latens.data.streaming import Block, Stream, check_shape, stream_images, stream_of_data_set
from latens.errors import LatensError, unknown
from latens.evaluation.proposals import can_be_refined
from latens.evaluation.scores import QUICK, REGRET_STEPS, SCORES, image_scores, typical_elbo
from latens.model.ladder import Ladder
from latens.model.latent_model import LatentModel, load_model
from latens.model.noise import OwnNoise, seeds_of
from latens.run.data import data_of, is_own
from latens.run.directory import Run
from latens.table_files import check_table, table
from latens.training.devices import resolve_device


def embed(
    path: str | Path | Run,
    data: Any = None,
    *,
    out: str | Path,
    levels: int | None = None,
    device: str = "auto",
) -> Path:
    """Write the latent representation of each image: μ and σ of q(z|x) in each dimension.

    The columns are path, split, label, mu (`[N, D]`) and sigma; see `latens.table_files`.

    Args:
        path: a run, its directory, or a pretrained model by name.
        data: any data of the model's image size; image files are resized to it. None: the run's
            own, in its splits.
        out: a `.csv`, `.parquet` or `.npz` file.
        levels: of a hierarchy, how many from the topmost on stand in a row, without sigma; None:
            the topmost.

    Raises:
        LatensError: a run, data or a file that cannot be used.
    """
    out = Path(out)
    check_table(out)
    run, vae = opened(path, device)
    if levels is not None and not isinstance(vae, Ladder):
        raise LatensError("levels are of a ladder, and this model is none: leave out --levels")

    def features(block: Block) -> dict[str, np.ndarray]:
        x, y = given(vae, block.images)
        if levels is not None:
            assert isinstance(vae, Ladder)
            return {"mu": _rows(vae.embed(x, y, levels))}
        return {name: _rows(of) for name, of in mean_and_deviation(vae, x, y).items()}

    return _written(out, stream_for(run, vae, data), features, "embedding")


def score(
    path: str | Path | Run,
    data: Any = None,
    *,
    out: str | Path,
    scores: Sequence[str] | None = None,
    importance_samples: int = 100,
    steps: int = REGRET_STEPS,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Write how unusual each image is to the model, by several scores.

    Args:
        path, data: as in `embed`.
        out: a `.csv` or `.parquet` file.
        scores: which of `latens.evaluation.scores.SCORES`; None: all that the model has but
            regret, which takes long.
        importance_samples: K, of nll.
        steps: for the q(z|x) of each image, of regret.

    Raises:
        LatensError: a run, data, a file or a score that cannot be used.
    """
    check_seed(seed)
    out = Path(out)
    check_table(out, (".csv", ".parquet"))
    run, vae = opened(path, device)
    scorer = Scorer(run, vae, scores, importance_samples, steps, seed)
    return _written(out, stream_for(run, vae, data), scorer, "scoring")


class Scorer:
    """Scores of the images of a block, by name.

    Args:
        run: whose training images say what is typical.
        vae: its model.
        scores: which; None: all that the model has but regret.
        importance_samples, steps, seed: as in `score`.

    Raises:
        LatensError: a score that there is not, or a number below 1.
    """

    def __init__(
        self,
        run: Run,
        vae: LatentModel,
        scores: Sequence[str] | None = None,
        importance_samples: int = 100,
        steps: int = REGRET_STEPS,
        seed: int = 0,
    ):
        for name in scores or ():
            if name not in SCORES:
                raise unknown("score", name, SCORES)
        for name, count in (("importance samples", importance_samples), ("steps", steps)):
            if count < 1:
                raise LatensError(f"{count} {name}: 1 or more are needed")
        self.vae, self.seed = vae, seed
        self.importance_samples, self.steps = importance_samples, steps
        self.names = list(scores or QUICK)
        self.typical = None
        if "typicality" in self.names:
            try:
                self.typical = typical_elbo(vae, data_of(run).train)
            except LatensError as error:
                self._leave_out("typicality", scores, error)
        if "regret" in self.names and not can_be_refined(vae):
            self._leave_out("regret", scores, "only a diagonal Gaussian q(z|x) can be refined")

    def _leave_out(self, name: str, asked: Sequence[str] | None, why: object) -> None:
        if asked:
            raise LatensError(f"{name} is not available: {why}")
        note(f"no {name}: {why}")
        self.names.remove(name)

    def __call__(self, block: Block) -> dict[str, np.ndarray]:
        """`[n]` of each score, larger for the more unusual."""
        y = given(self.vae, block.images)[1]
        images = replace(block.images, labels=y if y is None else y.cpu())
        found = image_scores(
            self.vae,
            images,
            self.names,
            self.typical,
            self.importance_samples,
            self.steps,
            self.seed,
        )
        return {name: values.numpy() for name, values in found.items()}


def search(
    path: str | Path | Run,
    image: str | Path,
    data: Any = None,
    *,
    out: str | Path,
    number: int = 12,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """The images of a data set that are nearest to one in latent space, and a picture of them.

    Near is a small Euclidean distance between the means of q(z|x).

    Args:
        path, data: as in `embed`.
        image: an image file.
        out: a `.png` file.
        number: of images.

    Returns:
        For each, the nearest first: distance, path, split and label.

    Raises:
        LatensError: a run, an image, data or a file that cannot be used.
    """
    from latens.commands import check_png, read_images

    out = Path(out)
    check_png(out)
    if number < 1:
        raise LatensError(f"cannot find {number} images: ask for 1 or more")
    if Path(image).is_dir():
        raise LatensError(f"{image} is a folder: name one image file")
    run, vae = opened(path, device)
    query = read_images(run, [Path(image)])
    at = vae.embed(*given(vae, query)).flatten(1)
    best: list[tuple[float, dict[str, Any], Tensor]] = []
    stream = stream_for(run, vae, data)
    for block in with_bar(stream, "searching"):
        z = vae.embed(*given(vae, block.images)).flatten(1)
        distances = (z - at).norm(dim=1).tolist()  # exact, where cdist goes by products
        rows = zip(block.paths, block.splits, block.labels, strict=True)
        found = [
            (distance, {"distance": distance, "path": p, "split": s, "label": label}, pixels)
            for distance, (p, s, label), pixels in zip(
                distances, rows, block.images.pixels, strict=True
            )
        ]
        best = sorted(best + found, key=lambda each: each[0])[:number]
    shown = torch.stack([query.pixels[0], *(pixels for *_, pixels in best)])
    captions = ["asked for", *(_caption(row) for _, row, _ in best)]
    title = f"nearest images in latent space · {run.title}"
    pictures.save(out, pictures.grid(shown.float() / 255, title, captions=captions))
    return [row for _, row, _ in best]


def _caption(row: dict[str, Any]) -> str:
    return f"{row['label'] or Path(row['path']).name}  {row['distance']:.2f}"


# ---- what all of them do ---------------------------------------------------------------------


def opened(path: str | Path | Run, device: str) -> tuple[Run, LatentModel]:
    """A run, and its model on a device."""
    run = path if isinstance(path, Run) else Run.open(path)
    return run, load_model(run.path).to(resolve_device(device))


def stream_for(
    run: Run, vae: LatentModel, data: Any = None, splits: Sequence[str] = SPLITS
) -> Stream:
    """Images for a run's model: any data, or where none are named the run's own in its splits.

    Args:
        splits: of named data, of the run's own and of data with splits of their own, which of them.
    """
    source = run.record["data"]["source"]
    its_own = data is not None and source != IN_MEMORY and is_own(run, data)
    if data is None or (its_own and (source in NAMES or tuple(splits) != SPLITS)):
        return stream_of_data_set(data_of(run), splits)
    names = run.record["data"]["classes"] or run.record["data"].get("attributes") or ()
    binarisation, crop = run.config.data.binarisation, run.record["data"].get("crop")
    if isinstance(data, str) and data in NAMES:
        found = load_data(data, binarisation=binarisation)
        check_shape(found.train.shape, vae.image_shape, data)
        return stream_of_data_set(found, splits, names)
    return stream_images(
        data,
        vae.image_shape,
        names,
        binarisation,
        crop,
        run.config.data.value_range,
        splits,
        indexed=vae.label_embedding is not None,
    )


def given(vae: LatentModel, images: Images) -> tuple[Tensor, Tensor | None]:
    """Images as the model takes them, and their labels where it depends on them."""
    x = images.unit().to(vae.device)
    if vae.label_embedding is None:
        return x, None
    y = None if images.labels is None else images.labels.to(vae.device)
    if y is not None and y.dim() != vae.label_embedding.unknown(1).dim():
        y = None  # classes where the model knows attributes, or the reverse
    if y is not None and (y >= 0).all():
        return x, y
    guess = likeliest_condition(vae, x)
    return x, guess if y is None or guess is None else torch.where(y < 0, guess, y)


def mean_and_deviation(vae: LatentModel, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    """μ and σ of q(z|x), `[N, *Z]`: mu and sigma."""
    with OwnNoise(seeds_of(x, 0), x.device):  # by which σ of a flow is estimated
        q = vae.encode(x, y)
        return {"mu": q.mean, "sigma": q.stddev}


def _rows(values: Tensor) -> np.ndarray:
    return values.flatten(1).cpu().numpy()


def with_bar(stream: Stream, what: str) -> Iterator[Block]:
    """The blocks of a stream, with a bar that counts their images; no gradients meanwhile."""
    with progress("images") as bar, torch.no_grad():
        task = bar.add_task(what, total=stream.count)
        for block in stream:
            yield block
            bar.advance(task, len(block.images))


def _written(out: Path, stream: Stream, columns_of: Any, what: str) -> Path:
    """A row for each image: path, split, label, and what a function gives for its block."""
    with table(out) as rows:
        for block in with_bar(stream, what):
            about = {"path": block.paths, "split": block.splits, "label": block.labels}
            rows.write(about | columns_of(block))
    return out
