"""Commands that draw: sample, reconstruct, interpolate, edit, generate."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from latens.cli.annotations import (
    Confidence,
    Density,
    JudgeOption,
    Number,
    RunPath,
    Seed,
    Temperature,
)
from latens.cli.app import app


@app.command
def sample(
    run: RunPath,
    /,
    *,
    number: Annotated[int, Number] = 64,
    label: str | None = None,
    with_labels: bool = False,
    out: Path = Path("samples.png"),
    temperature: Temperature = None,
    density: Density = "mixture",
    confidence: Confidence = None,
    judge: JudgeOption = "auto",
    seed: Seed = 0,
) -> None:
    """Draw new images from a trained model into one PNG.

    Parameters
    ----------
    number
        How many images.
    label
        Only images of this class, or with this attribute: as the model's condition, else from
        the density of the label's training images in latent space.
    with_labels
        Write below each image its class, and the probability of it given z.
    out
        The PNG file.
    """
    from latens import commands

    options = (temperature, seed, label, with_labels, density, confidence, judge)
    print(commands.sample_picture(run, number, out, *options))


@app.command
def reconstruct(
    run: RunPath,
    images: list[Path] | None = None,
    /,
    *,
    number: Annotated[int, Number] = 24,
    errors: bool = False,
    levels: int | None = None,
    out: Path = Path("pairs.png"),
) -> None:
    """Show images with their reconstructions below, in one PNG.

    Parameters
    ----------
    images
        Image files or folders of them, of which 200 are shown; none: test images.
    number
        How many test images, where no files are given.
    errors
        Add below each pair where the two differ, from black to white.
    levels
        Of a ladder: how many levels, from the topmost on, keep the image's latents; the others are
        sampled.
    out
        The PNG file.
    """
    from latens import commands

    print(commands.reconstruction_picture(run, images or [], number, out, errors, levels))


@app.command
def interpolate(
    run: RunPath,
    images: list[Path] | None = None,
    /,
    *,
    number: Annotated[int, Number] = 6,
    steps: int = 11,
    spherical: bool = False,
    out: Path = Path("interpolation.png"),
    seed: Seed = 0,
) -> None:
    """Show the way from one image to another through latent space, in one PNG.

    Each row is A, its reconstruction, the steps between, B's reconstruction, B.

    Parameters
    ----------
    images
        A and B: image files or folders of them, each two a row; none: random test images.
    number
        How many rows, where no files are given.
    steps
        Images from one reconstruction to the other, both included.
    spherical
        Along a great circle of latent space, in place of a straight line.
    out
        The PNG file.
    """
    from latens import commands

    print(commands.interpolation_picture(run, images or [], out, number, steps, spherical, seed))


@app.command
def edit(
    run: RunPath,
    images: list[Path],
    /,
    *,
    attribute: str | None = None,
    least: Annotated[float | None, Parameter(name="--from")] = None,
    most: Annotated[float | None, Parameter(name="--to")] = None,
    label: str | None = None,
    steps: int = 9,
    judge: JudgeOption = "auto",
    out: Path = Path("edit.png"),
) -> None:
    """Show images with less and more of an attribute, or on the way to another class, in one PNG.

    Parameters
    ----------
    images
        Image files or folders of them; each is a row.
    attribute
        What to change, by a name from the training data, such as Bald of CelebA.
    least
        The attribute's least amount; 0 leaves an image as it is, 1 adds what sets images with the
        attribute apart from those without; none: -2.
    most
        Its largest amount; none: 2.
    label
        The class to go to, in place of an attribute.
    steps
        How many pictures from one end to the other; of a conditional model and --label two.
    out
        The PNG file.
    """
    from latens import commands

    bounds = (least, most)
    print(commands.edit_picture(run, images, out, attribute, label, bounds, steps, judge))


@app.command
def generate(
    run: RunPath,
    /,
    *,
    number: Annotated[int, Number] = 1_000,
    out: Path,
    label: str | None = None,
    temperature: Temperature = None,
    density: Density = "mixture",
    confidence: Confidence = None,
    judge: JudgeOption = "auto",
    seed: Seed = 0,
) -> None:
    """Write a new data set of PNG files, one folder per class, which `latens train` reads.

    Its labels.csv has for each file the label, the probability of it given z, and the label that
    an independent classifier finds.

    Parameters
    ----------
    number
        How many images.
    out
        The folder, which must not exist yet.
    label
        Only images of this class, or with this attribute; none: of all classes.
    """
    from latens import commands

    options = (seed, label, temperature, density, confidence, judge)
    print(commands.generate(run, number, out, *options))
