"""What commands make of a trained model: pictures, edited images, a labelled data set."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from latens import pictures
from latens.analysis.generation import (
    Samples,
    along_attribute,
    draw,
    likeliest_condition,
    towards_class,
)
from latens.config import check_seed
from latens.console import note, progress
from latens.data import Images, Target, decode, find_images
from latens.errors import LatensError
from latens.evaluation.labels import LabelStatistics
from latens.report.sections.common import unique_names
from latens.report.sections.reconstructions import STEPS, interpolation
from latens.run.data import data_of
from latens.run.directory import Run

FORBIDDEN = '/\\:*?"<>|'  # in a folder's name, on one system or another
LONGEST_NAME = 60  # characters, of up to four bytes
DEVICES = {"CON", "PRN", "AUX", "NUL"} | {
    f"{port}{i}" for port in ("COM", "LPT") for i in range(10)
}
AT_ONCE = 1_000  # images drawn at a time where thousands are asked for


def sample_picture(
    path: str | Path,
    number: int,
    out: Path,
    temperature: float = 1.0,
    seed: int = 0,
    label: str | None = None,
    with_labels: bool = False,
) -> Path:
    """Draw `number` new images from a run's model into the PNG `out`; returns its path.

    Args:
        label: only images of this class, or with this attribute.
        with_labels: write below each image its class, and a classifier's confidence in it.

    Raises:
        LatensError: a run, a number, a temperature or a label that cannot be used.
    """
    check_seed(seed)
    _check_number(number)
    if not 0 < temperature < math.inf:
        raise LatensError(f"temperature is {temperature}: it must be a number above 0")
    run = Run.open(path)
    _check_png(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        samples = draw(run.vae, number, label, temperature)
    captions = _captions(run, samples) if with_labels else ()
    what = "samples" if label is None else f"samples of {label}"
    image = pictures.grid(samples.images, f"{what} · {run.title}", captions=captions)
    return _written(image, out)


def _captions(run: Run, samples: Samples) -> list[str]:
    """The class of each image, and a classifier's confidence in it."""
    if samples.labels is None:
        raise LatensError(
            f"{run.path} cannot tell the class of a sample: train by the recipe semi_supervised "
            "or conditional on images with classes, or name a --label"
        )
    names = LabelStatistics.of(run.vae).names
    found = [names[label] for label in samples.labels.tolist()]
    if samples.confidence is None:
        return found
    confidence = samples.confidence.tolist()
    return [f"{name}  {p:.0%}" for name, p in zip(found, confidence, strict=True)]


def reconstruction_picture(
    path: str | Path, images: list[Path], number: int, out: Path, errors: bool = False
) -> Path:
    """Show images above their reconstructions in the PNG `out`; returns its path.

    Args:
        images: image files and folders of them; empty takes the first `number` test images.
        errors: add below each pair where the two differ.

    Raises:
        LatensError: a run or images that cannot be used.
    """
    run = Run.open(path)
    _check_png(out)
    if images:
        shown = _read(run, images)
    else:
        _check_number(number)
        shown = data_of(run).test.take(slice(0, number))
    x = shown.unit()
    y = likeliest_condition(run.vae, x) if shown.labels is None else shown.labels
    again = run.vae.reconstruct(x, y)
    title = f"reconstructions · {run.title}"
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
    _check_png(out)
    if images:
        shown = _read(run, images)
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
    bounds: tuple[float, float] = (-2.0, 2.0),
    steps: int = 9,
) -> Path:
    """Show images with less and more of an attribute, or on the way to another class, in a PNG.

    Args:
        images: image files and folders of them; each is a row.
        attribute: which; 1 adds what sets images with it apart from those without.
        label: the class to go to, in place of an attribute.
        bounds: the least and the most of the attribute.
        steps: pictures from one bound to the other.

    Raises:
        LatensError: a run or images that cannot be used, or an attribute or class that the model
            does not know.
    """
    if (attribute is None) == (label is None):
        raise LatensError("give either --attribute or --label: what the images shall become")
    if steps < 2:
        raise LatensError(f"{steps} steps: at least 2 are needed")
    if not all(math.isfinite(bound) for bound in bounds):
        raise LatensError(f"--from {bounds[0]} --to {bounds[1]}: they must be finite numbers")
    run = Run.open(path)
    _check_png(out)
    x = _read(run, images).unit()
    if attribute is not None:
        amounts = torch.linspace(*bounds, steps)
        edited = along_attribute(run.vae, x, attribute, amounts)
        names = [f"{a:+.2g}".replace("-", "−") if a else "0" for a in amounts.tolist()]
    else:
        edited = towards_class(run.vae, x, label or "", steps)
        names = ["output", *[""] * (edited.shape[1] - 2), f"{label}"]
    sheet = torch.cat((x[:, None], edited), dim=1)
    title = f"{attribute or f'to {label}'} · {run.title}"
    return _written(pictures.table(sheet, title, ["input", *names]), out)


def _written(image: Image.Image, out: Path) -> Path:
    pictures.save(out, image)
    return out


def generate(path: str | Path, number: int, out: Path, seed: int = 0) -> Path:
    """Write `number` new images as PNG files into a folder per class; returns the folder.

    That is the form `train` reads. The class is the one given to a conditional model, the one
    that a classifier tells, or that of the class's Gaussian in latent space, z ~ N(μ, σ²). A
    model that knows no classes writes into one folder.

    Args:
        out: a folder that does not exist yet; it takes its name when all images are written.

    Raises:
        LatensError: a run or a number that cannot be used, or `out` exists.
    """
    check_seed(seed)
    _check_number(number)
    run = Run.open(path)
    if out.exists():
        raise LatensError(f"{out} exists already: choose another --out")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _write_images(run, number, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write_images(run: Run, number: int, folder: Path) -> None:
    digits = len(str(number - 1))
    with ThreadPoolExecutor() as pool, progress("images") as bar:

        def write(i: int, name: str, image: Tensor) -> None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(pixels).save(folder / name / f"{i:0{digits}d}.png")

        task, done = bar.add_task("writing", total=number), 0
        for samples, names in _in_blocks(run, number):
            last = done + len(names)
            list(pool.map(write, range(done, last), names, samples.images))
            done = last
            bar.update(task, completed=done)


def _in_blocks(run: Run, number: int) -> Iterator[tuple[Samples, list[str]]]:
    """New images, and the folder of each; classes in turn where the model takes them."""
    vae, classes = run.vae, run.record["data"]["classes"]
    folders = folder_names(classes)
    if not classes:
        note(f"{run.path} knows no classes: all images go into one folder")
    elif run.vae.classifier is None:  # it is given its class: as many of each
        counts = [number // len(classes) + (i < number % len(classes)) for i in range(len(classes))]
        for label, (folder, count) in enumerate(zip(folders, counts, strict=True)):
            for start in range(0, count, AT_ONCE):
                samples = draw(vae, min(AT_ONCE, count - start), label)
                yield samples, [folder] * len(samples.images)
        return
    for start in range(0, number, AT_ONCE):
        samples = draw(vae, min(AT_ONCE, number - start))
        labels = [] if samples.labels is None else samples.labels.tolist()
        names = [folders[label] for label in labels]
        yield samples, names or ["."] * len(samples.images)


def folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each class: inside `--out`, and of its own where case is ignored too."""
    names = []
    for label in labels:
        plain = "".join("-" if c in FORBIDDEN or not c.isprintable() else c for c in label)
        plain = plain.strip(" .")[:LONGEST_NAME].rstrip(" .")  # "..", and what Windows cuts off
        names.append(f"class-{plain}" if plain.split(".")[0].strip().upper() in DEVICES else plain)
    return unique_names([name or "class" for name in names])


def _read(run: Run, images: list[Path]) -> Images:
    """Image files, brought to what the model's training images were brought to."""
    channels, height, width = run.vae.image_shape
    crop = run.record["data"].get("crop")  # as its training images were
    pixels, _ = decode(find_images(*images), Target((height, width), channels, crop))
    return Images(torch.from_numpy(pixels))


def _check_number(number: int) -> None:
    if number < 1:
        raise LatensError(f"cannot make {number} images: ask for 1 or more")


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise LatensError(f"--out {out} must end in .png")
    if not out.parent.is_dir():
        raise LatensError(f"there is no folder {out.parent} for --out {out}: create it")
