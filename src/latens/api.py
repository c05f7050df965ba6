"""What `import latens` offers: train, resume, load and evaluate, in one line each."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latens import recipes
from latens.config import AUTO_BATCH, AUTO_EPOCHS, AUTO_IMAGES, TrainConfig
from latens.data import DataSet, Images, find_images, load_data, read_files
from latens.errors import LatensError
from latens.evaluation import Evaluation
from latens.evaluation import evaluate as measure
from latens.likelihoods import Bernoulli, Gaussian
from latens.messages import stderr
from latens.parts import Likelihood
from latens.runs import Run, next_path, versions
from latens.training import (
    Trainer,
    note_clipping,
    resolve_device,
    resolve_precision,
    warn_of_collapse,
    warn_of_overfitting,
)
from latens.vae import VAE, load_vae

RUNS = Path("runs")


def train(data: str | Path = "digits", *, out: str | Path | None = None, **options: Any) -> Run:
    """Train a VAE and leave a run directory.

    Args:
        data: a named data set, a folder of images, a `.npy` or a `.npz`.
        out: the run directory, which must not exist; None takes `runs/DATA-RECIPE-NUMBER`.
        **options: those of `latens.TrainConfig`, such as `recipe="conv"` or `epochs=5`.

    Raises:
        LatensError: an option, data or images that cannot be used; nothing is written then.
        latens.training.Diverged: the loss became NaN or infinite.
        latens.training.Interrupted: Ctrl-C; the run is saved.
    """
    config = TrainConfig.of(options)
    path = Path(out) if out else next_path(RUNS, str(data), config.recipe)
    if path.exists():
        raise LatensError(f"{path} exists already: choose another --out, or --resume it")
    images = load_data(data, **data_options(config))
    command = config.command(str(data))
    config = resolve(config, images)
    vae = build(config, images)
    run = Run.create(path, _record(command, config, images, vae))
    return _fit(run, vae, images, config)


def resume(path: str | Path) -> Run:
    """Go on with a run from its last full state, as if it had never stopped.

    Raises:
        LatensError: no run directory, or its data are no longer what they were.
    """
    run = Run.open(path)
    images = data_of(run)
    return _fit(run, build(run.config, images), images, run.config)


def load(path: str | Path) -> VAE:
    """The trained VAE of a run directory, or of any folder that `save_pretrained` wrote.

    It is in evaluation mode, on the CPU, and its outputs are equal to the bit to those of the
    model that was saved. No pickle is opened.

    Raises:
        LatensError: no such folder, or files that are missing, damaged or foreign.
    """
    path = Path(path)
    if not path.is_dir():
        raise LatensError(f"no such run directory: {path}")
    return load_vae(path)


def evaluate(
    run: Run | str | Path,
    data: str | Path | None = None,
    split: str = "test",
    importance_samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Measure the model of a run on its own data, or on others.

    Args:
        run: what `train` returned, or the path of a run directory.
        data: as in `train`; None takes the data that the run was trained on.
        split: train, validation, test or all.
        importance_samples: K for `nll`; None leaves it out.
        seed: of the samples of z.

    Raises:
        LatensError: run, data or split that cannot be used.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    vae = run.vae.to(resolve_device(device))
    images = data_of(run) if data is None else data_like(run, data)
    return measure(vae, images.split(split), importance_samples, seed)


def report(path: str | Path) -> Path:
    """Write the pictures and the page of a run anew; returns the page's path.

    Raises:
        LatensError: no run directory, a damaged one, or one without a finished epoch.
    """
    from latens.report import write_report

    run = Run.open(path)
    return write_report(run, data_of(run))


def sample_picture(
    path: str | Path, number: int, out: Path, temperature: float = 1.0, seed: int = 0
) -> Path:
    """Draw `number` new images from a run's model into the PNG `out`; returns its path.

    Raises:
        LatensError: a run, a number or a temperature that cannot be used.
    """
    from latens.pictures import save_grid

    if number < 1:
        raise LatensError(f"cannot draw {number} images: ask for 1 or more")
    if not temperature > 0:
        raise LatensError(f"temperature is {temperature}: it must be above 0")
    run = Run.open(path)
    _check_png(out)
    torch.manual_seed(seed)
    save_grid(out, run.vae.sample(number, temperature=temperature), f"samples · {run.title}")
    return out


def reconstruction_picture(path: str | Path, images: list[Path], number: int, out: Path) -> Path:
    """Show images above their reconstructions in the PNG `out`; returns its path.

    Args:
        images: image files and folders of them; empty takes the first `number` test images.

    Raises:
        LatensError: a run or images that cannot be used.
    """
    from latens.pictures import save_pairs

    run = Run.open(path)
    _check_png(out)
    if images:
        channels, height, width = run.vae.image_shape
        pixels = read_files(find_images(*images), (height, width), channels)
        x = Images(torch.from_numpy(pixels)).unit()
    elif number < 1:
        raise LatensError(f"cannot show {number} images: ask for 1 or more")
    else:
        x = data_of(run).test.take(slice(0, number)).unit()
    save_pairs(out, x, run.vae.reconstruct(x), f"reconstructions · {run.title}")
    return out


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise LatensError(f"--out {out} must end in .png")
    if not out.parent.is_dir():
        raise LatensError(f"there is no folder {out.parent} for --out {out}: create it")


def data_of(run: Run) -> DataSet:
    """The data that a run was trained on, in the same splits.

    Raises:
        LatensError: they are not there, or have changed since.
    """
    data = load_data(run.record["data"]["source"], **data_options(run.config))
    if data.fingerprint() != run.record["data"]["fingerprint"]:
        raise LatensError(
            f"the images of {data.name} have changed since {run.path} was trained: put the old "
            "ones back, or name the new ones with --data"
        )
    return data


def data_like(run: Run, data: str | Path) -> DataSet:
    """Other data, brought to the size and channels that the run's model reads."""
    channels, height, width = run.record["data"]["shape"]
    options = data_options(run.config)
    options.update(validation=None)
    if Path(data).is_dir():
        options.update(size=(height, width), grey=channels == 1)
    else:
        options.update(size=None, grey=False)
    return load_data(data, **options)


# ---- from options to a training --------------------------------------------------------------


def data_options(config: TrainConfig) -> dict[str, Any]:
    """The options of `load_data` in a configuration."""
    return {
        "size": config.image_size,
        "grey": config.grey,
        "binarisation": config.binarisation,
        "validation": config.validation,
        "split_seed": config.split_seed,
    }


def resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    """The configuration with every `auto` and None decided.

    Raises:
        LatensError: a batch larger than the data, or a device that is not here.
    """
    images = len(data.train)
    batch_size = config.batch_size or min(images, _within(AUTO_BATCH, images // 10))
    if batch_size > images:
        raise LatensError(
            f"a batch of {batch_size} is larger than the {images} training images: "
            f"use --batch-size {images} or less"
        )
    epochs = config.epochs
    if epochs is None and config.minutes is None:
        epochs = _within(AUTO_EPOCHS, math.ceil(AUTO_IMAGES / images))
    likelihood = config.likelihood
    if likelihood == "auto":
        likelihood = "bernoulli" if data.binary or data.shape[0] == 1 else "gaussian"
    if config.sigma is not None and likelihood != "gaussian":
        raise LatensError(f"sigma is for the gaussian likelihood, and this one is {likelihood}")
    device = resolve_device(config.device)
    return replace(
        config,
        batch_size=batch_size,
        epochs=epochs,
        likelihood=likelihood,
        device=device,
        precision=resolve_precision(config.precision, device),
    )


def _within(bounds: tuple[int, int], value: int) -> int:
    return max(bounds[0], min(bounds[1], value))


def build(config: TrainConfig, data: DataSet) -> VAE:
    """The untrained VAE of a resolved configuration; the same seed gives the same weights.

    Raises:
        LatensError: an unknown recipe, or images it cannot work with.
    """
    likelihood: Likelihood = (
        Bernoulli() if config.likelihood == "bernoulli" else Gaussian(config.sigma)
    )
    torch.manual_seed(config.seed)
    vae = recipes.build(config.recipe, data.shape, config.latent_dim, likelihood)
    vae.start_from(_mean_image(data))
    return vae


def _mean_image(data: DataSet) -> torch.Tensor:
    batches = data.train.batches(10_000)
    sums = [batch.pixels.sum(0, dtype=torch.float64) for batch in batches]
    return (torch.stack(sums).sum(0) / (255 * len(data.train))).float()


def _record(command: str, config: TrainConfig, data: DataSet, vae: VAE) -> dict[str, Any]:
    """What config.yaml holds."""
    return {
        "command": command,
        "options": config.as_dict(),
        "data": {
            "name": data.name,
            "source": data.source,
            "shape": list(data.shape),
            "splits": data.sizes(),
            "classes": list(data.classes),
            "binary": data.binary,
            "fingerprint": data.fingerprint(),
        },
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "versions": versions(),
    }


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record travels with the model: not where the data lie on this machine."""
    data = {name: value for name, value in record["data"].items() if name != "source"}
    return record | {"data": data}


def _fit(run: Run, vae: VAE, data: DataSet, config: TrainConfig) -> Run:
    """Train, measure once on the test images, and write the report."""
    from latens.report import write_report  # matplotlib: not needed before there is a picture

    vae.about = {"training": _public(run.record)}
    stderr.print(describe(run))
    trainer = Trainer(run, vae, data, config)
    evaluation = trainer.fit()
    warn_of_collapse(evaluation, config)
    warn_of_overfitting(run.metrics, config)
    note_clipping(run.metrics, config)
    model = run.vae
    figures = measure(model.to(config.device), data.test).as_dict() | {"split": "test"}
    model.about |= {"figures": figures}
    run.save_model(model)
    run.save_figures(figures)
    write_report(run, data)
    return run


def describe(run: Run) -> str:
    """What is trained on what, in two lines."""
    config, data = run.config, run.record["data"]
    channels, height, width = data["shape"]
    splits = ", ".join(f"{count:,} {name}" for name, count in data["splits"].items())
    length = f"{config.epochs} epochs" if config.epochs else f"{config.minutes:g} minutes"
    return (
        f"{config.recipe} with {config.latent_dim} latent dimensions, β {config.beta:g}, "
        f"{config.likelihood} likelihood, {run.record['parameters']:,} parameters\n"
        f"{data['name']}: {height}x{width}x{channels}, {splits}; {length} on {config.device} "
        f"in {config.precision}"
    )
