"""Anomaly detection: how well a model's scores tell bad images from good ones, on a page."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latens import files, pictures
from latens.config import check_seed
from latens.data.images import Images
from latens.data.streaming import Block
from latens.errors import LatensError
from latens.evaluation.scores import REGRET_STEPS, UNITS
from latens.evaluation.separation import Separation, separation
from latens.features import Scorer, given, opened, stream_for, with_bar
from latens.model.latent_model import LatentModel
from latens.report.context import Picture, Section
from latens.report.html import draw_pictures, page
from latens.run.directory import PICTURES, REPORT, Run, check_out
from latens.table_files import table

SCORES, FIGURES = "scores.csv", "anomaly.json"
SETS = ("good", "bad")
TOO_FEW = "none: too few good images"


@dataclass(frozen=True)
class Detection:
    """What `anomaly` found.

    Attributes:
        path: of the page.
        scores: by name: AUROC, average precision, threshold; the best AUROC first.
    """

    path: Path
    scores: dict[str, Separation]

    @property
    def best(self) -> str:
        """The score with the largest AUROC on these images."""
        return next(iter(self.scores))


def anomaly(
    path: str | Path | Run,
    good: Any,
    bad: Any,
    *,
    out: str | Path = "anomaly",
    scores: Sequence[str] | None = None,
    false_positive_rate: float = 0.05,
    number: int = 12,
    importance_samples: int = 100,
    steps: int = REGRET_STEPS,
    seed: int = 0,
    device: str = "auto",
) -> Detection:
    """Score good and bad images, and write a page with figures, curves and error maps.

    Beside the page lie `scores.csv`, a row for each image, and `anomaly.json`.

    Args:
        path: a run, its directory, or a pretrained model by name, trained on good images.
        good, bad: images that the model was not trained on: a folder, a `.npy`, or as in
            `latens.train`; of named data the test split.
        out: the folder for the page.
        scores: which of `latens.evaluation.scores.SCORES`; None: as in `latens.score`.
        false_positive_rate: of the threshold.
        number: how many of the most unusual images are shown.
        importance_samples, steps, seed: as in `latens.score`.

    Raises:
        LatensError: a run, images or an option that cannot be used.
    """
    check_seed(seed)
    if not 0 < false_positive_rate < 1:
        raise LatensError(f"the false-positive rate is {false_positive_rate}: between 0 and 1")
    if number < 1:
        raise LatensError(f"cannot show {number} images: ask for 1 or more")
    run, vae = opened(path, device)
    out = Path(out)
    check_out(out, SCORES, FIGURES)
    scorer = Scorer(run, vae, scores, importance_samples, steps, seed)
    sets = {"good": good, "bad": bad}
    streams = {name: stream_for(run, vae, data, ["test"]) for name, data in sets.items()}
    out.mkdir(parents=True, exist_ok=True)
    scored = Scored(run, vae, scorer.names, number)
    with table(out / SCORES) as rows:
        for name, stream in streams.items():
            for block in with_bar(stream, f"scoring {name} images"):
                found = scorer(block)
                rows.write({"path": block.paths, "set": [name] * len(block.paths), **found})
                scored.add(name, block, found)
    scored.separate(false_positive_rate, seed)
    figures = {
        name: asdict(each) | {"threshold": each.threshold if each.has_threshold else None}
        for name, each in scored.separations.items()
    }
    files.write_json(out / FIGURES, figures | {"run": str(run.path), "images": scored.counts})
    return Detection(_page(scored, out), scored.separations)


@dataclass
class Scored:
    """Scores of good and bad images, and the most unusual images by each score.

    Attributes:
        run, vae: the model.
        names: of the scores.
        number: how many images are kept for each.
        values: of each set and score, in blocks.
        worst: for each score (value, set, image), the largest value first.
        separations: by score, the best AUROC first.
    """

    run: Run
    vae: LatentModel
    names: list[str]
    number: int
    values: dict[str, dict[str, list[np.ndarray]]] = field(init=False)
    worst: dict[str, list[tuple[float, str, Images]]] = field(init=False)
    separations: dict[str, Separation] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {of: {name: [] for name in self.names} for of in SETS}
        self.worst = {name: [] for name in self.names}

    def add(self, of: str, block: Block, found: dict[str, np.ndarray]) -> None:
        """Scores of a block of the good or of the bad images."""
        for name, values in found.items():
            self.values[of][name].append(values)
            top = np.argsort(-values)[: self.number].tolist()
            rows = [(float(values[i]), of, _alone(block.images, i)) for i in top]
            every = self.worst[name] + rows
            self.worst[name] = sorted(every, key=lambda row: -row[0])[: self.number]

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A score of all good and of all bad images."""
        good, bad = (np.concatenate(self.values[of][name]) for of in SETS)
        return good, bad

    @property
    def counts(self) -> dict[str, int]:
        """How many images of each set were scored."""
        return dict(zip(SETS, map(len, self.of(self.names[0])), strict=True))

    def separate(self, false_positive_rate: float, seed: int) -> None:
        """Work out AUROC, average precision and threshold of each score."""
        found = {n: separation(*self.of(n), false_positive_rate, seed) for n in self.names}
        best_first = sorted(found.items(), key=lambda item: -item[1].auroc)
        self.separations = dict(best_first)


# ---- the page --------------------------------------------------------------------------------


def _page(scored: Scored, out: Path) -> Path:
    (out / PICTURES).mkdir(exist_ok=True)
    chapters = draw_pictures(SECTIONS, scored, out / PICTURES)
    rows = rows_of(scored.separations)
    first = next(iter(scored.separations.values()))
    text = page(
        "anomaly.html.j2",
        chapters,
        ["page.js"],
        title=f"Anomaly detection by {scored.run.path.resolve().name}",
        columns=list(rows[0]),
        rows=rows,
        comment=f"{scored.counts['good']:,} good and {scored.counts['bad']:,} bad images. An "
        "interval of 95 % over images follows each figure. Found: the share of bad images above "
        f"the threshold, which one more good image passes with a probability of at most "
        f"{first.false_positive_rate:g}.",
    )
    files.write_bytes(out / REPORT, text.encode())
    return out / REPORT


def rows_of(separations: dict[str, Separation]) -> list[dict[str, str]]:
    """Rows of a table, a score each."""

    def with_interval(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"

    return [
        {
            "score": name,
            "AUROC": with_interval(each.auroc, each.auroc_interval),
            "average precision": with_interval(
                each.average_precision, each.average_precision_interval
            ),
            "threshold": _in_units(each.threshold, name) if each.has_threshold else TOO_FEW,
            "found": f"{each.found:.1%}" if each.has_threshold else "–",
        }
        for name, each in separations.items()
    ]


def _in_units(value: float, score: str) -> str:
    unit = UNITS[score]
    return f"{value:,.1f} {unit}" if unit == "nats" else f"{value:.3f} {unit}"


def _separation(scored: Scored) -> Iterator[Picture]:
    values = {name: scored.of(name) for name in scored.separations}
    thresholds = {name: each.threshold for name, each in scored.separations.items()}
    title = f"scores of good and bad images · {scored.run.title}"
    yield Picture(
        "scores",
        [pictures.score_histograms(values, thresholds, UNITS, title)],
        "A histogram of each score, of good and of bad images, with its threshold",
        "Each score, larger for the more unusual; the dashed line is its threshold.",
    )
    yield Picture(
        "roc",
        [pictures.roc_curves(values, f"receiver operating characteristic · {scored.run.title}")],
        "For each score the share of bad images found over that of good images flagged",
        "The area under each curve is its AUROC; the dotted line is guessing.",
    )


def _alone(images: Images, i: int) -> Images:
    """A copy of one image, so that its block is not kept."""
    one = images.take(slice(i, i + 1))
    return replace(one, array=one.pixels.clone(), rows=None)


def _worst(scored: Scored) -> Iterator[Picture]:
    name = next(iter(scored.separations))
    rows = scored.worst[name]
    x, y = zip(*(given(scored.vae, image) for *_, image in rows), strict=True)  # as was scored
    x, y = torch.cat(x), None if y[0] is None else torch.cat(y)
    numbers = [_in_units(value, name).split()[0].replace("-", "−") for value, *_ in rows]
    words = [f"{of}  {number}" for number, (_, of, *_) in zip(numbers, rows, strict=True)]
    title = f"the most unusual images by {name} · {scored.run.title}"
    again = scored.vae.reconstruct(x, y)
    yield Picture(
        "worst",
        [pictures.pairs(x.cpu(), again.cpu(), title, errors=True, captions=words)],
        "The most unusual images, each above its reconstruction and where the two differ",
        f"The {len(rows)} images with the largest {name}, the score with the largest AUROC here: "
        "input, reconstruction, and their difference (white is 1); below each whether it is good "
        "or bad, and its score. "
        f"{sum(of == 'bad' for _, of, *_ in rows)} of them are bad.",
    )


SECTIONS = (
    Section(
        "Scores",
        "Look for two hills that hardly overlap. Where they do, another score or a model that was "
        "trained longer may tell them apart.",
        _separation,
    ),
    Section(
        "The most unusual images",
        "Look for errors that lie where the image is wrong. Good images among these are what the "
        "model has seen too little of.",
        _worst,
    ),
)
