"""Commands that train: train, sweep, fit-prior."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from latens.cli.annotations import DataPath, DeviceOption, Log, Options, RunPath, Seed
from latens.cli.app import app, before_parsing
from latens.cli.listing import sentence
from latens.config import RENAMED, FittedPrior, check_names
from latens.console import IS_MAIN
from latens.errors import LatensError
from latens.options import TrainOptions, given


@app.command
def train(
    data: DataPath = "digits",
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
        _sweep((str(data),), out, None, seeds, given(options))
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
    print(sentence(run.figures or {}))
    if run.config.run.report:
        print(f"report: {run.path / 'report.html'}")
    print(run.path)


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
    values: list[str] | None = None
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            if name in given:
                raise LatensError(f"{name} is given twice: name all its values at once")
            values = given[name] = [value] if equals else []
        elif values is not None:
            values.append(word)
        else:
            raise LatensError(f"{word} belongs to no option: latens sweep DATA --beta 1 5 8")
    parse = App(config=before_parsing, default_parameter=app.default_parameter)

    @parse.default
    def options(*, options: Options = TrainOptions()) -> Any:  # noqa: B008
        return options

    def read(flag: str) -> Any:
        config = parse([flag], exit_on_error=False, print_error=False, result_action="return_value")
        return getattr(config, option_of(flag.partition("=")[0]))

    def option_of(flag: str) -> str:
        option = flag.removeprefix("--no-").removeprefix("--").replace("-", "_")
        check_names([option])
        return RENAMED.get(option, option)

    found = {}
    for name, values in given.items():
        option = option_of(name)
        if option in found:
            raise LatensError(f"{name} and its opposite are given: --{option} true false")
        several = [read(f"{name}={value}") for value in values]  # of a switch: true, false
        found[option] = several if len(several) > 1 else (several or [read(name)])[0]
    return found


@app.command
def fit_prior(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    prior: FittedPrior = "flow-matching",
    minutes: float | None = None,
    flow_width: int | None = None,
    layers: int | None = None,
    components: int | None = None,
    levels: int = 1,
    seed: Seed = 0,
    device: DeviceOption = "auto",
) -> None:
    """Fit a prior to a trained model's latents, so that samples come from where images lie.

    The last line printed is a new run directory, with the same encoder and decoder; `sample` and
    `report` there draw z from what was fitted.

    Parameters
    ----------
    out
        The new run directory, which must not exist yet; none: the run's with -prior at its end.
    prior
        flow-matching: a second stage for samples alone; figures stay those of the model's p(z).
        mixture: Gaussians that take the place of p(z); −ELBO is measured again, and mostly less.
    minutes
        How long; none: until a million latents have been seen.
    flow_width
        Of the transformer that learns the flow; none: 192.
    layers
        Of the same; none: 6.
    components
        How many Gaussians; none: 500.
    levels
        Of a ladder, how many from the topmost on; below them each has its own p.
    """
    from latens import api

    options = {"flow_width": flow_width, "layers": layers, "components": components}
    fitted = api.fit_prior(
        run, out, minutes, seed, prior=prior, device=device, levels=levels, **options
    )
    figures = fitted.vae.about["second_stage"]
    what = "second stage" if figures["gain"] is None else "mixture"
    if figures["mmd_before"] is not None:  # as of a single validation image
        print(
            f"MMD² (unbiased) from the latents of validation images: samples of p(z) "
            f"{figures['mmd_before']:.4f}, of the {what} {figures['mmd_after']:.4f}"
        )
    if figures["gain"] is not None:
        gain = figures["gain"]
        more = "less" if round(gain, 2) >= 0 else "more"
        print(f"the KL of validation images is {abs(gain):.2f} nats {more} under the mixture")
        print(sentence(fitted.figures or {}))
    print(fitted.path)
