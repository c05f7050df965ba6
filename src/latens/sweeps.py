"""Sweeps: a training for each value of an option, then films, a plot and a table over all."""

import itertools
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latens import pictures
from latens.config import TrainConfig, short, word
from latens.console import note
from latens.errors import LatensError
from latens.model.noise import forked_rng
from latens.report.comparison import TABLES, rate_distortion, write_tables
from latens.report.context import Picture, ReportContext, Section
from latens.report.html import draw_pictures
from latens.report.sections.common import film
from latens.report.sections.latent_space import latent_plane_image
from latens.report.sections.manifolds import grid_points, manifold_image, manifolds_of
from latens.run.comparison import configurations, figures_of, ranking
from latens.run.data import data_of
from latens.run.directory import FIGURES, PICTURES, REPORT, Run, check_out
from latens.run.private import command_without_folders
from latens.signals import ENDS_WITH_PARENT
from latens.training.setup import prepare

SWEEPS = Path("sweeps")
MOST_SWEPT = 2
CORES_EACH = 4  # of a process, before a second one runs beside it


def sweep(
    data: str | Path = "digits",
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    seeds: int = 1,
    **options: Any,
) -> Path:
    """Train a model for each value of one or two options; returns the path of the page over all.

    What has ended is kept, and what was interrupted goes on, when the same sweep is called again.

    Args:
        data: as in `latens.train`.
        out: the folder; None takes `sweeps/DATA-OPTION`.
        jobs: trainings at a time, each a process; None: one for every four cores.
        seeds: trainings of each, from the seed among the options on; tables show their mean and
            standard deviation.
        **options: those of `latens train`; a list or tuple of values is swept, such as
            `beta=[1, 5, 8, 20]`.

    Raises:
        LatensError: nothing or too much to sweep, data without a name, an option that cannot be
            used, a folder of another sweep, or trainings that failed, by name.
    """
    if not isinstance(data, str | Path):
        raise LatensError(
            "each training of a sweep is a process of its own: give its data by name or path"
        )
    swept = {name: list(v) for name, v in options.items() if isinstance(v, list | tuple)}
    if seeds < 1:
        raise LatensError(f"seeds is {seeds}: it must be 1 or more")
    configs = combinations(options, swept, seeds)
    about = "-".join([*swept, *(["seeds"] if seeds > 1 else [])])
    out = Path(out) if out else SWEEPS / f"{Path(data).stem or 'data'}-{about}"
    paths = {name: out / name.replace("/", "-") for name in configs}
    if len({*paths.values()}) < len(paths):
        raise LatensError("two of these values have the same folder: name them otherwise")
    if jobs is not None and jobs < 1:
        raise LatensError(f"jobs is {jobs}: it must be 1 or more")
    mine = [*TABLES.values(), *(p.name for p in out.glob("*=*")), *(p.name for p in paths.values())]
    check_out(out, *mine)
    for name, path in paths.items():
        _check_same(path, configs[name], str(data))
    with forked_rng():
        for config in configs.values():  # what cannot be trained fails now, not after an hour
            prepare(data, config)
    try:
        _train_all(str(data), configs, paths, jobs or max(1, (os.cpu_count() or 1) // CORES_EACH))
    except KeyboardInterrupt:
        note("the sweep is stopped; the same command goes on with it")
        raise
    runs = {name: Run.open(path) for name, path in paths.items()}
    title = f"Sweep of {' and '.join(swept) or 'seeds'} on {Path(data).name}"
    return _write_page(out, title, runs, command(str(data), options, swept, seeds))


def _write_page(out: Path, title: str, runs: Mapping[str, Run], words: str) -> Path:
    """Films, a plot and a table over all runs; `words` is the command of the sweep."""
    groups = configurations(runs)
    shown = {name: every[0] for name, every in groups.items()}  # pictures are of the first seed
    shown = shown if len(shown) > 1 else runs
    contexts = {name: ReportContext(run, data_of(run)) for name, run in shown.items()}
    (out / PICTURES).mkdir(exist_ok=True)
    chapters = draw_pictures(SECTIONS, contexts, out / PICTURES)
    _, comment = ranking(runs)
    if not comment.startswith("Not"):
        comment = f"The least −elbo is that of {min(groups, key=lambda name: _cost(groups[name]))}."
    if len(groups) < len(runs):
        comment += " Figures of several seeds: their mean ± their standard deviation."
    shared = command_without_folders(words)
    return write_tables(out, title, groups, None, comment, chapters, shared)


def _cost(seeds: Sequence[Run]) -> float:
    """−ELBO, the mean over seeds."""
    return statistics.fmean(-figures_of(run.path.name, run)["elbo"] for run in seeds)


def combinations(
    options: Mapping[str, Any], swept: Mapping[str, Sequence[Any]], seeds: int = 1
) -> dict[str, TrainConfig]:
    """The configuration of each training under a name such as "beta=5" or "beta=5,seed=1".

    Raises:
        LatensError: no option with several values, too many of them, or a value twice.
    """
    if not swept and seeds == 1:
        raise LatensError("nothing to sweep: give an option several values, such as --beta 1 5 8")
    if len(swept) > MOST_SWEPT:
        raise LatensError(f"{', '.join(swept)}: at most two options can be swept at a time")
    if seeds > 1:
        if "seed" in swept:
            raise LatensError("both --seed and --seeds have several values: give one of them")
        first = options.get("seed", 0)
        swept = {**swept, "seed": range(first, first + seeds)}
    configs = {}
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        name = ",".join(f"{option}={short(value)}" for option, value in chosen.items())
        if name in configs:
            raise LatensError(f"{name} is given twice")
        configs[name] = TrainConfig.from_options(**{**options, **chosen})
    return configs


def command(
    data: str, options: Mapping[str, Any], swept: Mapping[str, Sequence[Any]], seeds: int = 1
) -> str:
    """The command line of a sweep, or the call in Python of one that no command line can tell."""
    if any(value is None for values in swept.values() for value in values):
        given = {**options, **({"seeds": seeds} if seeds > 1 else {})}
        return f"latens.sweep({data!r}, {', '.join(f'{k}={v!r}' for k, v in given.items())})"
    # An option may be one of another that is swept, and is valid only with it
    first = {name: values[0] for name, values in swept.items()}
    words = shlex.split(TrainConfig.from_options(**{**options, **first}).command(data))
    words = _without(words, swept)
    for name, values in swept.items():
        words += [f"--{name.replace('_', '-')}", *map(_shown, values)]
    words += ["--seeds", str(seeds)] if seeds > 1 else []
    return shlex.join([words[0], "sweep", *words[2:]])


def _without(words: Sequence[str], options: Iterable[str]) -> list[str]:
    """A command line without these options and their values."""
    flags = {f"--{no}{name.replace('_', '-')}" for name in options for no in ("", "no-")}
    kept, dropping = list[str](), False
    for word_ in words:
        dropping = word_ in flags or (dropping and not word_.startswith("--"))
        if not dropping:
            kept.append(word_)
    return kept


def _shown(value: Any) -> str:
    return word(value) if isinstance(value, bool | tuple) else short(value)


# ---- trainings -------------------------------------------------------------------------------


def _check_same(path: Path, config: TrainConfig, data: str) -> None:
    """Raise a LatensError where a run of other options lies in the way."""
    if not path.exists():
        return
    command = Run.open(path).record["command"].rpartition(" && ")[2]  # after that of --init-from
    if command != config.command(data):
        raise LatensError(
            f"{path} was trained with other options ({command}): choose another --out"
        )


def _has_ended(path: Path, config: TrainConfig) -> bool:
    """Nothing is left to do; a training killed while its page was drawn has its figures."""
    needed = [FIGURES, *([REPORT] if config.run.report else [])]
    return all((path / name).is_file() for name in needed)


def _train_all(
    data: str, configs: Mapping[str, TrainConfig], paths: Mapping[str, Path], jobs: int
) -> None:
    """Train what has not ended, `jobs` at a time.

    Raises:
        LatensError: trainings that failed; the others are kept.
    """
    ended = [name for name, path in paths.items() if _has_ended(path, configs[name])]
    if ended:
        note(f"kept, since they have ended: {'; '.join(ended)}")
    waiting = [name for name in configs if name not in ended]
    running: list[subprocess.Popen] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            done = pool.map(lambda n: _train(data, n, configs[n], paths[n], jobs, running), waiting)
            failed = [name for name, fine in zip(waiting, done, strict=True) if not fine]
        except BaseException:  # Ctrl-C, or SIGTERM, which is for this process alone
            pool.shutdown(wait=False, cancel_futures=True)
            for training in running:
                training.terminate()
            raise
    if failed:
        raise LatensError(
            f"these trainings failed: {'; '.join(failed)}. See above why; the others are kept, and "
            "the same command goes on"
        )


def _train(
    data: str,
    name: str,
    config: TrainConfig,
    path: Path,
    jobs: int,
    running: list[subprocess.Popen],
) -> bool:
    """Train one model in a process of its own, among those running; whether it ended well."""
    note(f"training {name}")
    if path.exists():
        words = ["latens", "train", "--resume", str(path)]
    else:
        words = [*shlex.split(config.command(data)), "--out", str(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {ENDS_WITH_PARENT: "1"}
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    training = subprocess.Popen(  # noqa: S603 - our own command, and no shell
        [sys.executable, "-P", "-m", *words],  # nothing is imported from where it is called
        env=environment,
        stdin=subprocess.PIPE,  # which closes when this process ends, and the training with it
        stdout=subprocess.DEVNULL,
    )
    running.append(training)
    with training:
        return training.wait() == 0


# ---- pictures --------------------------------------------------------------------------------


def _rates(contexts: Mapping[str, ReportContext]) -> Iterator[Picture]:
    runs = {name: context.run for name, context in contexts.items()}
    yield rate_distortion(runs, joined=is_a_scale(runs))
    rows = {name: context.rows for name, context in contexts.items()}
    yield Picture(
        "curves",
        [pictures.curves_of(rows, "validation")],
        "Loss, reconstruction and KL of each run over the images seen, on validation images",
        "On validation images, in nats per image; the loss is that of each run's own objective.",
    )


def is_a_scale(names: Iterable[str]) -> bool:
    """Whether one option alone was swept over numbers, so that each value follows another."""
    pairs = [name.partition("=") for name in names]
    try:
        return all(option != "seed" and math.isfinite(float(v)) for option, _, v in pairs)
    except ValueError:  # a word, or the second of two options
        return False


def _latent_spaces(contexts: Mapping[str, ReportContext]) -> Iterator[Picture]:
    limits = None
    if all(context.dims == 2 for context in contexts.values()):  # the same axes in all frames
        every = np.concatenate([context.plane[0] for context in contexts.values()])
        limits = pictures.plane_limits(every)
    frames = [
        latent_plane_image(context, context.title(f"latent space, {name}"), limits)
        for name, context in contexts.items()
    ]
    picture = film("latent-space", frames, "latent space over the sweep", list(contexts), "sweep")
    yield replace(picture, seconds=1.0)


def _manifolds(contexts: Mapping[str, ReportContext]) -> Iterator[Picture]:
    every = {name: manifolds_of(context) for name, context in contexts.items()}
    files = {tuple(file for file, _, _ in shown) for shown in every.values()}
    if len(files) > 1:  # some are given a class and some are not
        every = {name: [("manifold", None, "latent plane")] for name in contexts}
    for i, (file, label, what) in enumerate(next(iter(every.values()))):
        frames = [
            manifold_image(
                context,
                grid_points(context),
                label,
                context.title(f"{every[name][i][2]}, {name}"),
            )
            for name, context in contexts.items()
        ]
        over, detail = f"the {what} over the sweep", label is not None
        picture = film(file, frames, over, list(contexts), "sweep", detail)
        yield replace(picture, seconds=1.0)


SECTIONS = (
    Section(
        "Rate and distortion",
        "A larger β lowers the rate and raises the distortion. A model with a higher rate and a "
        "higher distortion than another is worse at any β.",
        _rates,
    ),
    Section(
        "Latent space",
        "With a larger β the clusters move towards the centre of the prior and overlap; when all "
        "of them coincide, the posterior has collapsed.",
        _latent_spaces,
    ),
    Section(
        "Manifold",
        "With a larger β the decoded images become fewer in kind, and blurrier.",
        _manifolds,
    ),
)
