"""Commands that measure: evaluate, doctor, compare, report."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from latens.cli.annotations import DataPath, DeviceOption, RunPath, Seed, Split
from latens.cli.app import app
from latens.config import Precision
from latens.errors import LatensError
from latens.files import json_text


@app.command
def evaluate(
    run: RunPath,
    /,
    *,
    data: DataPath | None = None,
    split: Split | None = None,
    importance_samples: int | None = None,
    neighbours: int | None = None,
    refine: int = 0,
    posterior: Literal["encoder", "grid"] = "encoder",
    cells: int | None = None,
    seed: Seed = 0,
    device: DeviceOption = "auto",
    precision: Precision = "float32",
    every: Annotated[bool, Parameter(name="--all")] = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure a trained model, in nats per image.

    Parameters
    ----------
    data
        Other data than the run was trained on: a name, a folder, a .npy, a .npz, Parquet or tar
        files.
    split
        Which images; none: the test split, or all of one's own images that have none.
    importance_samples
        K, how many z per image estimate −log p(x) ("nll"); none: it is left out.
    neighbours
        How many training images, nearest in latent space, vote for each image's class; none: it
        is left out.
    refine
        Steps by which q(z|x) of each image is improved after the encoder: the gain is what one
        encoder for all images loses, the amortisation gap.
    posterior
        Which q(z|x) the figures are of: the encoder's, or for up to three latents one tabulated on
        a grid, which is nearly the model's true posterior.
    cells
        Of the grid along each axis; none: 4,096 for one latent, 512 for two, 128 for three.
    precision
        Of the networks: bf16 is faster, and may move the second decimal.
    every
        Every figure that applies, with its error where one is known, in minutes: all splits,
        −log p(x), the parts of the KL, the amortisation gap, samples, and what latents tell. The
        other options but --data, --seed, --device and --json stay out.
    as_json
        Print one JSON object.
    """
    from latens import api
    from latens.evaluation.tables import figures_table, full_table

    if every:
        others = (split, importance_samples, neighbours, refine, cells)
        if any(others) or posterior != "encoder" or precision != "float32":
            raise LatensError("--all chooses all else: leave out the other options")
        full = api.evaluate_all(run, data, seed, device).as_dict() | {"run": str(run)}
        print(json_text(full) if as_json else full_table(full))
        return
    figures = api.evaluate(
        run,
        data,
        split,
        importance_samples,
        seed,
        device,
        neighbours,
        refine,
        precision,
        posterior,
        cells,
    ).as_dict()
    figures |= {"run": str(run), "data": data}
    print(json_text(figures) if as_json else figures_table(figures))


@app.command
def doctor(
    run: RunPath,
    /,
    *,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Say what is wrong with a trained model, and which option fixes it.

    Parameters
    ----------
    as_json
        Print a JSON list.
    """
    from dataclasses import asdict

    from latens import api

    findings = api.doctor(run, device=device)
    if as_json:
        print(json_text([asdict(finding) | {"page": finding.page} for finding in findings]))
        return
    for finding in findings:
        print(f"{'!' if finding.serious else '-'} {finding.name}: {finding.figure}.")
        print(f"  {finding.why}\n  {finding.remedy}. More: {finding.page}")
    print(f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}; ! is serious")


@app.command
def report(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    projection: Literal["pca", "tsne", "umap"] = "pca",
    attribute: str | None = None,
    plane: tuple[int, int] | None = None,
) -> None:
    """Write the pictures, films and report.html of a run anew, and print the page's path.

    Parameters
    ----------
    projection
        How more than two latent dimensions are brought onto a plane; umap needs umap-learn.
    attribute
        What colours the latent plane of images that have attributes, such as Male of CelebA.
    plane
        The two latent dimensions along which a plane is decoded, such as 3 7; none: those of the
        largest KL.
    out
        The folder to write into; none: the run's own, or for a pretrained model one of its name.
    """
    from latens import api

    print(api.report(run, out, projection, attribute, plane))


@app.command
def compare(
    runs: list[Path],
    /,
    *,
    out: Path = Path("comparison"),
    importance_samples: int | None = None,
    posterior: Literal["encoder", "grid"] | None = None,
    table: Annotated[
        Literal["markdown", "latex", "csv", "json"], Parameter(name="--format")
    ] = "markdown",
) -> None:
    """Put runs side by side: figures, paired differences, curves, the same images and noise.

    Prints a table, ranked where the figures are of one kind, and the path of a page. Runs that
    differ in their seed alone are one row.

    Parameters
    ----------
    runs
        Two or more run directories, or pretrained models by name.
    out
        The folder for the page, its pictures and the table in each format.
    importance_samples
        Rank by −log p(x), estimated with so many samples of z for each image.
    posterior
        Measure all with this q(z|x); none: with the one of their figures, the same for all.
    table
        Which table to print; others than markdown are printed alone.
    """
    from latens.report import comparison

    path = comparison.compare(runs, out, importance_samples, posterior)
    print((path.parent / comparison.TABLES[table]).read_text("utf-8"), end="")
    if table == "markdown":
        print(f"\n{path}")
