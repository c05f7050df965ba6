"""The command line: from arguments to the functions of the package.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict

from latens import __version__, catalogue
from latens.config import RENAMED, SECTIONS, Device, Precision, TrainConfig, check_names
from latens.console import IS_MAIN
from latens.errors import LatensError
from latens.help import EVERY, Help
from latens.options import TrainOptions, given

Split = Literal["train", "validation", "test", "all"]
RunPath = Annotated[
    Path,
    Parameter(
        help="A run directory, as `latens train` prints it, a pretrained model by name, or "
        "hf://USER/NAME."
    ),
]
Number = Parameter(name=["--number", "-n"])
Seed = Annotated[int, Parameter(help="Decides the noise.")]
Density = Annotated[
    Literal["mixture", "gaussian"],
    Parameter(help="Of a class in latent space: a mixture of Gaussians, or one N(μ, diag σ²)."),
]
Confidence = Annotated[
    float | None,
    Parameter(
        help="The least probability of the class given z, from 0 to 1; none: 0.8 of a class that "
        "is asked for."
    ),
]
JudgeOption = Annotated[
    str,
    Parameter(
        help="The independent classifier that says how many images show their class: a run with a "
        "classifier; data for one trained at once on the run's data; auto for the one that comes "
        "with latens, else data; none."
    ),
]
Temperature = Annotated[
    str,
    Parameter(
        help="Factor on z, above 0; below 1 gives more typical images. Of a ladder one for all "
        "levels, or one for each, such as 1,0.9,0.8."
    ),
]
Log = Annotated[
    tuple[Literal["csv", "tensorboard", "mlflow", "wandb"], ...],
    Parameter(
        help="Keep the training in these tools too: csv is metrics.csv in the run directory; the "
        "others are extras, such as latens[mlflow].",
        consume_multiple=True,
        negative=(),
    ),
]
DeviceOption = Annotated[Device, Parameter(help="Where to compute.")]
Scores = Annotated[
    tuple[Literal["-elbo", "nll", "reconstruction", "displacement", "regret", "typicality"], ...],
    Parameter(
        help="Which: -elbo; nll, −log p(x) by importance sampling; reconstruction, "
        "−E log p(x|z); displacement, by how many pixels the image would have to be distorted to "
        "become its reconstruction; regret, what a q(z|x) of the image's own gains over the "
        "encoder's; typicality, how far -elbo is from its mean over training images; none: all but "
        "regret, which takes long.",
        consume_multiple=True,
        negative=(),
        allow_leading_hyphen=True,
    ),
]
ImportanceSamples = Annotated[int, Parameter(help="K, of nll.")]
Steps = Annotated[int, Parameter(help="For the q(z|x) of each image, of regret.")]


# What is on by default, or in a file, is taken back by --no-NAME
Options = Annotated[TrainOptions, Parameter(name="*", negative=None, negative_bool="no-")]


def _before_parsing(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options from `--config FILE`, and leave no fraction to be cut off unseen."""
    argument = arguments.get("--config", default=None)
    if argument is not None and argument.tokens:
        path = argument.tokens[-1].value
        options = Dict(_options_in(Path(path)), source=path, use_commands_as_keys=False)
        options(app, commands, arguments)
    for argument in arguments:
        if int in (argument.hint, *get_args(argument.hint)):
            for token in argument.tokens:
                if not token.value.strip().lstrip("+-").isdecimal():
                    raise LatensError(
                        f"{argument.name} is {token.value}: it must be a whole number"
                    )


def _options_in(path: Path) -> dict[str, Any]:
    """The options in a YAML file, or in a run's config.yaml, by the names of their flags."""
    from latens.run.directory import read_yaml

    options = read_yaml(path)
    options = options.get("options", options)
    if not isinstance(options, dict):
        raise LatensError(f"{path} is no run's config.yaml: its options are no names and values")
    if SECTIONS.keys() & options.keys() and all(map(SECTIONS.__contains__, options)):
        options = TrainConfig.from_record(options).options()
        options = {
            n: ",".join(map(str, v)) if isinstance(v, tuple) else v for n, v in options.items()
        }
    check_names(str(name).replace("-", "_") for name in options)
    return {
        f"{RENAMED.get(str(name), str(name))}".replace("_", "-"): value
        for name, value in options.items()
        if value is not None
    }


help_ = Help()
app = App(
    name="latens",
    help="Variational autoencoders on images: train, measure, look inside.",
    help_epilogue=f"All options, and all of each: latens COMMAND {EVERY}",
    help_formatter=help_,
    version=__version__,
    config=_before_parsing,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # it would end without a word
)


app.register_install_completion_command(help="Complete commands and options in this shell.")


@app.command
def train(
    data: str = "digits",
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    seeds: int = 1,
    log: Log = (),
    options: Options = TrainOptions(),  # noqa: B008
) -> None:
    """Train a VAE, measure it on the test images and write a report.

    The last line printed is the run directory.

    Parameters
    ----------
    data
        A name (see `latens data`), a folder of images, a .npy, a .npz, Parquet or tar files.
    out
        The run directory, which must not exist yet; none: runs/DATA-RECIPE-NUMBER.
    resume
        Go on with this run directory, from its last full state and with its own options.
    config
        A YAML file of options, or a run's config.yaml; the command line goes before it.
    seeds
        So many trainings, from --seed on; prints a table of their mean and standard deviation. The
        same command again goes on.
    """
    if seeds != 1:
        if log:
            raise LatensError("--log is for one training: leave out --seeds")
        if resume:
            raise LatensError("--seeds goes on by the same command again, not by --resume")
        _sweep((data,), out, None, seeds, given(options))
        return
    from latens import api
    from latens.trackers import trackers_of
    from latens.training.trainer import Interrupted

    try:
        if resume:
            if (data, out, config, options) != ("digits", None, None, TrainOptions()):
                raise LatensError(
                    f"--resume takes data and options from {resume}/config.yaml: give no others"
                )
            run = api.resume(resume, callbacks=trackers_of(log))
        else:
            run = api.train(data, out=out, callbacks=trackers_of(log), **given(options))
    except Interrupted as stop:
        if IS_MAIN:
            print(
                f"stopped; go on with: latens train --resume {shlex.quote(str(stop))}",
                file=sys.stderr,
            )
            print(stop)
        sys.exit(130)
    if not IS_MAIN:
        return
    print(_sentence(run.figures or {}))
    if run.config.run.report:
        print(f"report: {run.path / 'report.html'}")
    print(run.path)


@app.command
def evaluate(
    run: RunPath,
    /,
    *,
    data: str | None = None,
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
        Other data than the run was trained on: a name, a folder, a .npy or a .npz.
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
        Every figure that applies, each with its error, in minutes: all splits, −log p(x), the parts
        of the KL, the amortisation gap, samples, and what latents tell. The other options but
        --data, --seed, --device and --json stay out.
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
        print(json.dumps(full) if as_json else full_table(full))
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
    print(json.dumps(figures) if as_json else figures_table(figures))


@app.command
def doctor(
    run: RunPath,
    /,
    *,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Say what is wrong with a trained model, and which option mends it.

    Parameters
    ----------
    as_json
        Print a JSON list.
    """
    from dataclasses import asdict

    from latens import api

    findings = api.doctor(run, device=device)
    if as_json:
        print(json.dumps([asdict(finding) | {"page": finding.page} for finding in findings]))
        return
    for finding in findings:
        print(f"{'!' if finding.serious else '-'} {finding.name}: {finding.figure}.")
        print(f"  {finding.why}\n  {finding.remedy}. More: {finding.page}")
    print(f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}; ! is serious")


@app.command
def sample(
    run: RunPath,
    /,
    *,
    number: Annotated[int, Number] = 64,
    label: str | None = None,
    with_labels: bool = False,
    out: Path = Path("samples.png"),
    temperature: Temperature = "1",
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
        Image files or folders of them; none: the first test images.
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
    least: Annotated[float, Parameter(name="--from")] = -2.0,
    most: Annotated[float, Parameter(name="--to")] = 2.0,
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
        attribute apart from those without.
    most
        Its largest amount.
    label
        The class to go to, in place of an attribute.
    steps
        How many pictures from one end to the other.
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
    temperature: Temperature = "1",
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


@app.command
def embed(
    run: RunPath,
    data: str | None = None,
    /,
    *,
    out: Path,
    levels: int | None = None,
    device: DeviceOption = "auto",
) -> None:
    """Write the latents of each image to a file: path, split, label, μ and σ of each dimension.

    Parameters
    ----------
    data
        A name, a folder, a .npy or a .npz; none: the run's own, in its splits.
    out
        A .csv, .parquet or .npz file.
    levels
        Of a ladder, how many levels from the topmost on stand in a row, without σ; none: the
        topmost.
    """
    from latens.features import embed

    print(embed(run, data, out=out, levels=levels, device=device))


@app.command
def score(
    run: RunPath,
    data: str | None = None,
    /,
    *,
    out: Path,
    scores: Scores = (),
    importance_samples: ImportanceSamples = 100,
    steps: Steps = 50,
    seed: Seed = 0,
    device: DeviceOption = "auto",
) -> None:
    """Write to a file how unusual each image is to a model: scores, larger if more so.

    Parameters
    ----------
    data
        A name, a folder, a .npy or a .npz; none: the run's own, in its splits.
    out
        A .csv or .parquet file.
    """
    from latens.features import score

    options = {"importance_samples": importance_samples, "steps": steps, "seed": seed}
    print(score(run, data, out=out, scores=scores or None, device=device, **options))


@app.command
def anomaly(
    run: RunPath,
    /,
    *,
    good: str,
    bad: str,
    out: Path = Path("anomaly"),
    scores: Scores = (),
    false_positive_rate: float = 0.05,
    number: Annotated[int, Number] = 12,
    importance_samples: ImportanceSamples = 100,
    steps: Steps = 50,
    seed: Seed = 0,
    device: DeviceOption = "auto",
) -> None:
    """Say how well a model trained on good images finds bad ones: AUROC, a threshold, error maps.

    Parameters
    ----------
    good
        Good images that the model was not trained on: a folder, a .npy, or a name (its test split).
    bad
        Bad ones.
    out
        The folder for the page, scores.csv and anomaly.json.
    false_positive_rate
        At which the threshold is set: the share of good images that may lie above it.
    number
        How many of the most unusual images are shown.
    """
    from latens.detection import anomaly, rows_of

    options = {"importance_samples": importance_samples, "steps": steps, "seed": seed}
    found = anomaly(
        run,
        good,
        bad,
        out=out,
        scores=scores or None,
        false_positive_rate=false_positive_rate,
        number=number,
        device=device,
        **options,
    )
    for row in rows_of(found.scores):
        print("  ".join(f"{name} {text}" for name, text in row.items()))
    print(found.path)


@app.command
def search(
    run: RunPath,
    image: Path,
    data: str | None = None,
    /,
    *,
    out: Path = Path("nearest.png"),
    number: Annotated[int, Number] = 12,
    device: DeviceOption = "auto",
) -> None:
    """Find the images that are nearest to one in latent space, and show them in a PNG.

    Parameters
    ----------
    image
        An image file.
    data
        Where to search: a name, a folder, a .npy or a .npz; none: the run's own data.
    number
        Of images.
    """
    from latens.features import search

    for row in search(run, image, data, out=out, number=number, device=device):
        words = (row["path"], row["split"], row["label"])
        print("  ".join([f"{row['distance']:.4f}", *filter(None, words)]))
    print(out)


@app.command
def export(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    bits: Literal[8, 16, 32] = 16,
    onnx: Path | None = None,
    quantise: Literal["int8"] | None = None,
) -> None:
    """Write a run's model to be shared, or as programs for ONNX that run without latens.

    Parameters
    ----------
    out
        The folder, which must not exist yet, for the weights in few bits, the card and the figures.
    bits
        Of a weight. The figures are measured anew, with the weights as they are written.
    onnx
        The folder, which must not exist yet, for encoder, decoder, sampler and classifier, as .onnx
        and as .pt2 for torch.export, with the lines that use them.
    quantise
        Write encoder and decoder in 8 bits too, and measure what that costs in nats.
    """
    if (out is None) == (onnx is None):
        raise LatensError("name a folder, by --out for the model or by --onnx for programs")
    if quantise and onnx is None:
        raise LatensError("--quantise is for --onnx; for --out there is --bits 8")
    if onnx is None:
        from latens import api

        print(api.export(run, out or "", bits=bits).path)
        return
    from latens.deployment import export_onnx

    written = export_onnx(run, onnx, quantise)
    for name, difference in written.differences.items():
        print(f"{name}: differs from the model by {difference:.1g} at most")
    if written.cost is not None:
        print(f"int8: costs {written.cost:.2f} nats of −elbo per test image")
    print(written.path)


@app.command
def push(
    run: RunPath,
    name: str,
    /,
    *,
    private: bool = False,
    bits: Literal[8, 16, 32] = 16,
) -> None:
    """Put a run's model on the Hugging Face Hub, with its card, figures and pictures.

    hf://USER/NAME can then be used wherever a run directory can.

    Parameters
    ----------
    name
        USER/NAME.
    private
        Only for you to see, where it does not exist yet.
    bits
        Of a weight.
    """
    from latens import api

    print(api.push(run, name, private, bits=bits))


@app.command
def serve(
    run: RunPath,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    images: int = 64,
    megabytes: float = 16.0,
    rate: int = 100,
    batch_size: int = 256,
    device: DeviceOption = "auto",
) -> None:
    """Answer HTTP requests for samples, reconstructions, latents, scores and interpolations.

    Prints the address; /docs there says what can be asked. Ends with Ctrl-C or SIGTERM, when
    requests that have begun are answered.

    Parameters
    ----------
    host
        Where to listen; 0.0.0.0: at every address of this machine.
    port
        Of the address; 0: any that is free.
    images
        That one request may send or ask for.
    megabytes
        That one request may have.
    rate
        Requests in a second from one address; 0: any number.
    batch_size
        Images of several requests that are computed at once.
    """
    from latens.serving.limits import Limits
    from latens.serving.server import serve

    limits = Limits(images, megabytes, rate)
    serve(run, host, port, batch_size=batch_size, limits=limits, device=device)


@app.command
def fit_prior(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    minutes: float | None = None,
    flow_width: int = 192,
    layers: int = 6,
    seed: Seed = 0,
    device: DeviceOption = "auto",
) -> None:
    """Fit a second stage to a run's latents, so that samples come from where images lie.

    The last line printed is a new run directory, with the same model; `sample` and `report` there
    draw z from the second stage.

    Parameters
    ----------
    out
        The new run directory, which must not exist yet; none: the run's with -prior at its end.
    minutes
        How long; none: until a million latents have been seen.
    flow_width
        Of the transformer that learns the flow.
    layers
        Of the same.
    """
    from latens import api

    fitted = api.fit_prior(
        run, out, minutes, seed, flow_width=flow_width, layers=layers, device=device
    )
    figures = fitted.vae.about["second_stage"]
    print(
        f"squared distance (MMD) from the latents of validation images: samples of p(z) "
        f"{figures['mmd_before']:.4f}, of the second stage {figures['mmd_after']:.4f}"
    )
    print(fitted.path)


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
def sweep(
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: Path | None = None,
    jobs: int | None = None,
    seeds: int = 1,
) -> None:
    """Train a model for each value of one or two options, and show them over the values.

    latens sweep mnist --recipe conditional --latent-dim 2 --beta 1 5 8 20 --epochs 3

    Films of the latent space and of what it decodes to, a plot of rate and distortion, a table.
    The same command again keeps what has ended and goes on with the rest.

    Parameters
    ----------
    words
        The data as in `latens train`, then its options (see `latens train --help`), one or two of
        them with several values.
    out
        The folder; none: sweeps/DATA-OPTION.
    jobs
        Trainings at a time; none: one for every four processor cores.
    seeds
        Trainings for each value, from --seed on: the table shows mean and standard deviation.
    """
    data = () if not words or words[0].startswith("--") else words[:1]
    _sweep(data, out, jobs, seeds, _swept(words[len(data) :]))


def _sweep(
    data: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    seeds: int,
    options: Mapping[str, Any],
) -> None:
    """Train, and print the table and the path of the page."""
    from latens import sweeps

    path = sweeps.sweep(*data, out=out, jobs=jobs, seeds=seeds, **options)
    print((path.parent / "table.md").read_text("utf-8"))
    print(path)


def _swept(words: tuple[str, ...]) -> dict[str, Any]:
    """Options with their values as a training's own command line reads them; lists of several."""
    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given.setdefault(name, []).extend([value] if equals else [])
        elif given:
            given[list(given)[-1]].append(word)
        else:
            raise LatensError(f"{word} belongs to no option: latens sweep DATA --beta 1 5 8")
    parse = App(config=_before_parsing, default_parameter=app.default_parameter)

    @parse.default
    def options(*, options: Options = TrainOptions()) -> Any:  # noqa: B008
        return options

    def read(name: str, *value: str) -> Any:
        config = parse(
            [name, *value], exit_on_error=False, print_error=False, result_action="return_value"
        )
        option = name.removeprefix("--no-").removeprefix("--").replace("-", "_")
        return getattr(config, RENAMED.get(option, option))

    found = {}
    for name, values in given.items():
        option = name.removeprefix("--no-").removeprefix("--").replace("-", "_")
        check_names([option])
        option = RENAMED.get(option, option)
        several = [read(name, value) for value in values]
        found[option] = several if len(several) > 1 else (several or [read(name)])[0]
    return found


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


@app.command
def recipes() -> None:
    """List the models with their sources and figures, and the parts with their options."""
    from latens.model.recipes import RECIPES
    from latens.model.recipes import describe as about
    from latens.run.directory import Run, pretrained

    runs = [Run.open(name) for name in pretrained()]
    for name in RECIPES:
        summary, source = about(name)
        print(f"{name:<16} {summary}\n{'':<16} {source}")
        for run in runs:
            if run.config.model.recipe == name:
                print(f"{'':<16} {run.path.name}: {_sentence(run.figures or {})}")
        print()
    for kind in catalogue.KINDS:
        print(f"--{kind}")
        for choice in catalogue.choices(kind).values():
            flags = [f"--{name.replace('_', '-')}" for name in choice.options]
            print(f"  {choice.name:<22} {choice.summary}")
            if flags:
                print(f"  {'':<22} {', '.join(flags)}")
        print()


@app.command
def data() -> None:
    """List the named data sets, and what else a training takes."""
    from latens.data import NAMES
    from latens.data.sources import data_folder

    for name, about in NAMES.items():
        print(f"{name:<16} {about}")
    print(
        f"{'PATH':<16} a folder of images (sub-folders are classes), of IDX, Parquet or tar files, "
        "a .npy, a .npz"
    )
    print(f"{'URL':<16} tar files on a server, such as https://example.org/set-{{000..099}}.tar")
    print(f"\nDownloads are kept in {data_folder()} (LATENS_DATA chooses another folder).")


# ---- what is printed -------------------------------------------------------------------------


def _sentence(figures: dict[str, Any]) -> str:
    parts = [
        f"−elbo {-figures['elbo']:.2f} = reconstruction {figures['reconstruction']:.2f} + kl "
        f"{figures['kl']:.2f} nats per image ({figures['kind']})"
    ]
    if figures.get("bits_per_dim") is not None:
        parts.append(f"{figures['bits_per_dim']:.3f} bits per dim")
    if figures.get("mse") is not None:
        parts.append(f"mean squared error {figures['mse']:.5f}")
    parts.append(f"{figures['active_units']} active latent dimensions")
    if figures.get("accuracy") is not None:
        parts.append(f"classifier {figures['accuracy']:.2%} right")
    return f"{figures['split']}: {', '.join(parts)}"


# ---- errors ----------------------------------------------------------------------------------


def _fail(message: str, status: int = 2) -> NoReturn:
    if IS_MAIN:
        print(f"latens: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except CycloptsError as error:
        _fail(str(error))
    except LatensError as error:
        _fail(str(error), status=1 if type(error).__name__ == "Diverged" else 2)
    except MemoryError:
        _fail("out of memory: use a smaller --size, --batch-size or --latent-dim")
    except BrokenPipeError:  # `latens data | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(f"cannot read or write{where}: {error.strerror or error}")
    except KeyboardInterrupt:
        _fail("stopped", 130)


def main(argv: list[str] | None = None) -> None:
    """The command `latens`.

    A user's mistake ends in one line on stderr and exit status 2.
    """
    words = sys.argv[1:] if argv is None else argv
    help_.every = EVERY in words
    argv = ["--help" if word == EVERY else word for word in words]
    with _errors_in_one_line():
        app(argv, exit_on_error=False, print_error=False, result_action="return_value")
