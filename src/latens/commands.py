"""What commands make of a trained model: pictures, edited images, a labelled data set."""

import csv
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens import files, pictures
from latens.analysis.generation import (
    CONFIDENCE,
    Density,
    Edit,
    Samples,
    along_attribute,
    at_temperature,
    draw,
    likeliest_condition,
    temperatures_of,
    towards_class,
)
from latens.config import check_seed
from latens.console import note, progress
from latens.data import Images, decode, find_images, own_bits
from latens.data.arrays import GREY_OR_RGB
from latens.errors import LatensError
from latens.evaluation.judges import Judge, Verdict, judge_of
from latens.evaluation.labels import LabelStatistics
from latens.model.noise import forked_rng
from latens.report.sections.common import unique_names
from latens.report.sections.reconstructions import STEPS, interpolation
from latens.run.data import data_of, target_of
from latens.run.directory import Run

FORBIDDEN = '/\\:*?"<>|'  # in a folder's name, on one system or another
LONGEST_NAME = 60  # characters, of up to four bytes
DEVICES = {"CON", "PRN", "AUX", "NUL"} | {
    f"{port}{i}" for port in ("COM", "LPT") for i in range(10)
}
LABELS, COLUMNS = "labels.csv", ("file", "label", "probability", "judged")
MOST_SHOWN = 200  # images of one picture of reconstructions
AT_ONCE = 1_000  # images drawn at a time where thousands are asked for


def sample_picture(
    path: str | Path,
    number: int,
    out: Path,
    temperature: float | str | Sequence[float] | None = None,
    seed: int = 0,
    label: str | None = None,
    with_labels: bool = False,
    density: Density = "mixture",
    confidence: float | None = None,
    judge: str = "auto",
) -> Path:
    """Draw `number` new images from a run's model into the PNG `out`; returns its path.

    Args:
        label: only images of this class, or with this attribute.
        with_labels: write below each image its class, and the probability of it given z.
        density: of a class in latent space; see `latens.analysis.generation.draw`.
        confidence: the least probability of the class given z; None is the default of `draw`.
        judge: which independent classifier says how many images show their class; see
            `latens.evaluation.judges.judge_of`.

    Raises:
        LatensError: a run, a number, a temperature or a label that cannot be used.
    """
    check_seed(seed)
    _check_number(number)
    temperatures = temperatures_of(temperature)
    run = Run.open(path)
    check_png(out)
    with forked_rng(run.vae.device, seed):
        samples = draw(run.vae, number, label, temperatures, density, confidence)
    captions = _captions(run, samples) if with_labels else ()
    what = "samples" if label is None else f"samples of {label}"
    title = f"{what}{at_temperature(run.vae, temperatures)} · {run.title}"
    if (label is not None or with_labels) and samples.labels is not None:
        _tell_unsure(samples.unsure, label)
        title += _judged(run, samples.images, samples.labels, judge)
    return _written(pictures.grid(samples.images, title, captions=captions), out)


def _judged(run: Run, images: Tensor, labels: Tensor, judge: str) -> str:
    """What an independent classifier says of images with labels: on stderr, and for a title."""
    judge_ = judge_of(run, judge)
    if judge_ is None:
        return ""
    verdict = Verdict.on(judge_, images, labels)
    note(f"{verdict}")
    return f" · {verdict.share:.0%} right by {verdict.judge.name}"


def _tell_unsure(count: int, label: str | None) -> None:
    if count:
        of = "their class" if label is None else label
        note(
            f"{count} images are less sure to be {of} than asked for: hardly any z is. The surest "
            "ones were taken"
        )


def _captions(run: Run, samples: Samples) -> list[str]:
    """The class of each image, and its probability given z."""
    if samples.labels is None:
        if run.levels > 1:
            LabelStatistics.of(run.vae)  # which tells why a ladder has none
        raise LatensError(
            f"{run.home} cannot tell the class of a sample: train on images with classes, such "
            "as a folder for each"
        )
    names = LabelStatistics.of(run.vae).names
    found = [names[label] for label in samples.labels.tolist()]
    if samples.probability is None:
        return found
    probability = samples.probability.tolist()
    return [f"{name}  {p:.0%}" for name, p in zip(found, probability, strict=True)]


def reconstruction_picture(
    path: str | Path,
    images: list[Path],
    number: int,
    out: Path,
    errors: bool = False,
    levels: int | None = None,
) -> Path:
    """Show images above their reconstructions in the PNG `out`; returns its path.

    Args:
        images: image files and folders of them; empty takes `number` test images.
        errors: add below each pair where the two differ.
        levels: of a hierarchy, how many from the topmost on keep the image's latents; the others
            are sampled.

    Raises:
        LatensError: a run, images or levels that cannot be used.
    """
    run = Run.open(path)
    check_png(out)
    if images:
        shown = read_images(run, images)
        if len(shown) > MOST_SHOWN:
            note(f"{len(shown):,} images: the first {MOST_SHOWN} are shown")
            shown = shown.take(slice(0, MOST_SHOWN))
    else:
        _check_number(number)
        shown = data_of(run).test.some(number)
    x = shown.unit()
    y = likeliest_condition(run.vae, x) if shown.labels is None else shown.labels
    with forked_rng(run.vae.device, 0):  # of levels that are sampled
        again = run.vae.reconstruct(x, y, levels)
    kept = "" if levels is None else f", {levels} of {len(run.vae.level_shapes)} levels kept"
    title = f"reconstructions{kept} · {run.title}"
    return _written(pictures.pairs(x, again, title, errors=errors), out)


def interpolation_picture(
    path: str | Path,
    images: list[Path],
    out: Path,
    number: int = 6,
    steps: int = STEPS,
    spherical: bool = False,
    seed: int = 0,
) -> Path:
    """Show the way from one image to another through latent space in a PNG; returns its path.

    Args:
        images: A and B, image files or folders of them; of more, each two in turn are a pair.
            Empty takes `number` pairs of test images, drawn by `seed`.
        steps: images from one reconstruction to the other, both included.
        spherical: along a great circle of latent space, not a straight line.

    Raises:
        LatensError: a run or images that cannot be used, or an image without its second.
    """
    check_seed(seed)
    if steps < 2:
        raise LatensError(f"{steps} steps: at least 2 are needed")
    run = Run.open(path)
    check_png(out)
    if images:
        shown = read_images(run, images)
        if len(shown) % 2:
            raise LatensError(f"each row needs two images, A and B, and here are {len(shown)}")
    else:
        _check_number(number)
        test = data_of(run).test
        if len(test) < 2 * number:
            raise LatensError(
                f"{number} pairs need {2 * number} test images, and there are {len(test)}"
            )
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
        shown = test.take(order[: 2 * number])
    a, b = shown.take(slice(0, None, 2)), shown.take(slice(1, None, 2))
    how = "great circle" if spherical else "straight line"
    title = f"between images, on a {how} · {run.title}"
    return _written(interpolation(run.vae, a, b, title, steps, spherical), out)


def edit_picture(
    path: str | Path,
    images: list[Path],
    out: Path,
    attribute: str | None = None,
    label: str | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
    steps: int = 9,
    judge: str = "auto",
) -> Path:
    """Show images with less and more of an attribute, or on the way to another class, in a PNG.

    Args:
        images: image files and folders of them; each is a row.
        attribute: which; 1 adds what sets images with it apart from those without.
        label: the class to go to, in place of an attribute.
        bounds: the least and the most of the attribute; None: -2 and 2.
        steps: pictures from one bound to the other.
        judge: which independent classifier says how many images reached the class.

    Raises:
        LatensError: a run or images that cannot be used, or an attribute or class that the model
            does not know.
    """
    if (attribute is None) == (label is None):
        raise LatensError("give either --attribute or --label: what the images shall become")
    if steps < 2:
        raise LatensError(f"{steps} steps: at least 2 are needed")
    if label is not None and bounds != (None, None):
        raise LatensError("--from and --to are of an attribute: leave them out with --label")
    least, most = (
        usual if bound is None else bound for bound, usual in zip(bounds, (-2.0, 2.0), strict=True)
    )
    if not (math.isfinite(least) and math.isfinite(most)):
        raise LatensError(f"--from {least} --to {most}: they must be finite numbers")
    run = Run.open(path)
    check_png(out)
    x = read_images(run, images).unit()
    if attribute is not None:
        amounts = torch.linspace(least, most, steps)
        edited = along_attribute(run.vae, x, attribute, amounts)
        names = [f"{a:+.2g}".replace("-", "−") if a else "0" for a in amounts.tolist()]
        rows, title = (), f"{attribute} · {run.title}"
    else:
        edit = towards_class(run.vae, x, label or "", steps)
        edited, title = edit.images, f"to {label} · {run.title}"
        names = ["output", *[""] * (edited.shape[1] - 2), f"to {label}"]
        rows = ["" if reached else f"not {label}" for reached in edit.reached.tolist()]
        title += _tell_edit(run, edit, label or "", judge)
    sheet = torch.cat((x[:, None], edited), dim=1)
    return _written(pictures.table(sheet, title, ["input", *names], rows if any(rows) else ()), out)


def _tell_edit(run: Run, edit: Edit, label: str, judge: str) -> str:
    """How many images reached their class, by the model's account and by a judge's."""
    reached, count = int(edit.reached.sum()), len(edit.reached)
    if reached < count:
        note(f"{count - reached} of {count} images did not reach {label}")
    if not reached:
        return ""
    index = LabelStatistics.of(run.vae).index(label)
    arrived = edit.images[edit.reached, -1]
    return _judged(run, arrived, torch.full((reached,), index), judge)


def _written(image: Image.Image, out: Path) -> Path:
    pictures.save(out, image)
    return out


def generate(
    path: str | Path,
    number: int,
    out: Path,
    seed: int = 0,
    label: str | None = None,
    temperature: float | str | Sequence[float] | None = None,
    density: Density = "mixture",
    confidence: float | None = None,
    judge: str = "auto",
) -> Path:
    """Write `number` new images as PNG files into a folder per class; returns the folder.

    That is the form `train` reads. The class is the one given to a conditional model, the one
    that a classifier tells, or that of the density of the class in latent space. A model that
    knows no classes writes into one folder. `labels.csv` lists each file with its label, the
    probability of that given z, and the label that an independent classifier finds.

    Args:
        out: a folder that does not exist yet; it takes its name when all images are written.
        label: only images of this class, or with this attribute.
        density, confidence, judge: as in `sample_picture`.

    Raises:
        LatensError: a run, a number or a label that cannot be used, or `out` exists.
    """
    check_seed(seed)
    _check_number(number)
    temperatures = temperatures_of(temperature)
    run = Run.open(path)
    check_files(run.vae.image_shape[0])
    if out.exists():
        raise LatensError(f"{out} exists already: choose another --out")
    blocks = _in_blocks(run, number, label, temperatures, density, confidence)
    with files.building(out) as partial, forked_rng(run.vae.device, seed):
        _write_images(run, number, blocks, partial, judge_of(run, judge))
    return out


def _write_images(
    run: Run, number: int, blocks: Iterator[Samples], folder: Path, judge: Judge | None
) -> None:
    """Write images and `labels.csv`."""
    classes = run.record["data"]["classes"]
    digits, folders = len(str(number - 1)), folder_names(classes)
    rows, unsure = [], 0
    with ThreadPoolExecutor() as pool, progress("images") as bar:

        def write(name: str, pixels: np.ndarray) -> None:
            Image.fromarray(pixels).save(folder / name)

        task = bar.add_task("writing", total=number)
        for samples in blocks:
            count = len(samples.images)
            files = [f"{i:0{digits}d}.png" for i in range(len(rows), len(rows) + count)]
            labels = [] if samples.labels is None else samples.labels.tolist()
            if labels:
                files = [f"{folders[k]}/{name}" for k, name in zip(labels, files, strict=True)]
            for kind in {Path(name).parent for name in files}:
                (folder / kind).mkdir(parents=True, exist_ok=True)
            pixels = (samples.images * 255).round().byte().permute(0, 2, 3, 1).squeeze(3)
            written = pool.map(write, files, pixels.cpu().numpy())
            rows += _rows(files, samples, classes, judge)  # meanwhile
            list(written)
            unsure += samples.unsure
            bar.update(task, completed=len(rows))
    _write_csv(folder / LABELS, rows)
    _tell_unsure(unsure, None)
    judged = [row["judged"] == row["label"] for row in rows if row["judged"]]
    if judge and judged:
        note(f"{Verdict(sum(judged), len(judged), judge)}")


def _rows(
    files: list[str], samples: Samples, classes: list[str], judge: Judge | None
) -> list[dict[str, str]]:
    """What `labels.csv` says of these files."""
    blank = [""] * len(files)
    labels, probability, judged = blank, blank, blank
    if samples.labels is not None:
        labels = [classes[int(label)] for label in samples.labels]
        judged = judged if judge is None else [classes[int(k)] for k in judge(samples.images)]
    if samples.probability is not None:
        probability = [f"{p:.4f}" for p in samples.probability.tolist()]
    columns = (files, labels, probability, judged)
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _in_blocks(
    run: Run,
    number: int,
    label: str | None,
    temperature: Sequence[float] | None,
    density: Density,
    confidence: float | None,
) -> Iterator[Samples]:
    """New images, `AT_ONCE` or fewer; as many of each class, where it is not read off z."""
    vae, classes = run.vae, run.record["data"]["classes"]
    counts: dict[str | int | None, int] = {label: number}
    told = vae.classifier is not None or vae.label_embedding is not None
    if not classes or not (told or "labels" in vae.about):
        note(f"{run.home} knows no classes of its samples: all images go into one folder")
    elif label is None and (vae.classifier is None or vae.label_embedding is not None):
        each, more = divmod(number, len(classes))
        counts = {index: each + (index < more) for index in range(len(classes))}
    elif label is None and confidence is None:
        confidence = CONFIDENCE
    for wanted, count in counts.items():
        for start in range(0, count, AT_ONCE):
            few = min(AT_ONCE, count - start)
            yield draw(vae, few, wanted, temperature, density, confidence)


def folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each class: inside `--out`, and of its own where case is ignored too."""
    names = []
    for label in labels:
        plain = "".join("-" if c in FORBIDDEN or not c.isprintable() else c for c in label)
        plain = plain.strip(" .")[:LONGEST_NAME].rstrip(" .")  # "..", and what Windows cuts off
        names.append(f"class-{plain}" if plain.split(".")[0].strip().upper() in DEVICES else plain)
    return unique_names([name or "class" for name in names])


def read_images(run: Run, images: list[Path]) -> Images:
    """Image files, brought to what the model's training images were brought to.

    Raises:
        LatensError: a file that does not exist or cannot be read.
    """
    check_files(run.vae.image_shape[0])
    pixels, _ = decode(find_images(*images), replace(target_of(run), strict=True))
    return own_bits(Images(torch.from_numpy(pixels)), run.config.data.binarisation)


def _check_number(number: int) -> None:
    if number < 1:
        raise LatensError(f"cannot make {number} images: ask for 1 or more")


def check_files(channels: int) -> None:
    """Refuse image files where the model's images have other channels than they can hold.

    Raises:
        LatensError: neither grey nor RGB.
    """
    if channels not in GREY_OR_RGB:
        raise LatensError(
            f"the model's images have {channels} channels, and image files are grey or RGB: use "
            "latens.load(run) from Python, or latens embed and latens score with a .npy"
        )


def check_png(out: Path) -> None:
    """Refuse a file that could not be written, before the work.

    Raises:
        LatensError: no PNG, or no such folder.
    """
    if out.suffix.lower() != ".png":
        raise LatensError(f"--out {out} must end in .png")
    if not out.parent.is_dir():
        raise LatensError(f"there is no folder {out.parent} for --out {out}: create it")
