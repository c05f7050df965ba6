"""What `import latens` offers, and what the commands do: train, resume, load, evaluate, show."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latens.model import recipes
from latens.config import (
    AUTO_BATCH,
    AUTO_EPOCHS,
    AUTO_IMAGES,
    AUTO_LEAST_PATIENCE,
    TrainConfig,
    check_seed,
)
from latens.data import (
    DataSet,
    Images,
    load_data,
    load_split,
    source_of,
)
from latens.training.devices import (
    machine,
    resolve_compile,
    resolve_device,
    resolve_devices,
    resolve_precision,
)
from latens.errors import LatensError
from latens.evaluation.metrics import Evaluation
from latens.evaluation.metrics import evaluate as measure
from latens.evaluation.labels import label_statistics, neighbour_accuracy
from latens.model.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian
from latens.console import stderr
from latens.model.parts import Likelihood, Prior
from latens.model.priors import GaussianMixture, StandardNormal
from latens.training.recorder import SHORT
from latens.run.directory import (
    CHECKPOINTS,
    Checkpoint,
    Run,
    check_out,
    locate,
    next_path,
    refuse_existing,
    versions,
)
from latens.model.vae import VAE, load_vae
from latens.training.progress import comment

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RUNS = Path("runs")


def train(
    data: str | Path = "digits",
    *,
    model: VAE | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Run:
    """Train a VAE and leave a run directory.

    Args:
        data: a named data set, a folder of images, a `.npy` or a `.npz`.
        model: a VAE of one's own parts, which is trained in place of a recipe's.
        out: the run directory, which must not exist; None takes `runs/DATA-RECIPE-NUMBER`.
        **options: those of `latens.TrainConfig`, such as `recipe="conv"` or `epochs=5`.

    Raises:
        LatensError: an option, data or images that cannot be used; nothing is written then.
        latens.training.Diverged: the loss became NaN or infinite.
        latens.training.Interrupted: Ctrl-C; the run is saved.
    """
    if model is not None:
        options = _options_of(model, options)
    config = TrainConfig.of(options)
    path = Path(out) if out else next_path(RUNS, str(data), config.recipe)
    refuse_existing(path)
    command = (
        config.command(str(data)) if model is None else f"latens.train({str(data)!r}, model=…)"
    )
    with torch.random.fork_rng():
        images, config, vae = prepare(data, config, model)
        vae.start_from(_mean_image(images))
        fabric = _launch(config)
        path = Path(fabric.broadcast(str(path)))
        if fabric.is_global_zero:
            Run.create(path, _record(command, config, images, vae))
        fabric.barrier()
        return _fit(Run.open(path), vae, images, config, fabric)


def prepare(
    data: str | Path, config: TrainConfig, model: VAE | None = None
) -> tuple[DataSet, TrainConfig, VAE]:
    """All that a training needs, and every check that can be made before it; writes nothing.

    Draws the first weights from torch's global generator, set to the configuration's seed.

    Args:
        model: in place of the recipe's.

    Returns:
        The images, the configuration with every `auto` decided, and the model.

    Raises:
        LatensError: data or options that cannot be used, or that do not fit together.
    """
    if model is None:
        recipes.find(config.recipe)
        for name in ("likelihood", "prior"):
            if getattr(config, name) == "own":
                raise LatensError(f"{name} own is a model's that Python gives: name another")
    images = load_data(data, **data_options(config))
    config = resolve(config, images)
    torch.manual_seed(config.seed)
    vae = model or _build(config, images)
    if config.label_weight and vae.classifier is None:
        raise LatensError("label_weight is for a model with a classifier: semi_supervised")
    if vae.image_shape != images.shape:
        raise LatensError(
            f"the model reads images of (C, H, W) {vae.image_shape}, and {data} has {images.shape}"
        )
    return images, config, vae


def resume(path: str | Path) -> Run:
    """Go on with a run from its last full state, as if it had never stopped.

    Raises:
        LatensError: no run directory, none that can be gone on with, or changed data.
    """
    run = Run.open(path)
    checkpoint = run.last_checkpoint()
    images = data_of(run)
    config = resolve(run.config, images)
    with torch.random.fork_rng():
        return _fit(run, load_vae(run.path), images, config, _launch(config), checkpoint)


def load(path: str | Path) -> VAE:
    """The trained VAE of a run directory or of a folder that `save_pretrained` wrote, or by name.

    `latens.load("mnist-2d")` is a model that comes with latens; `latens recipes` lists them.

    It is in evaluation mode, on the CPU, and its outputs are equal to the bit to those of the
    model that was saved. No pickle is opened.

    Raises:
        LatensError: no such folder, or files that are missing, damaged or foreign.
    """
    return load_vae(locate(path))


def evaluate(
    model: Run | VAE | str | Path,
    data: str | Path | Images | Tensor | None = None,
    split: str | None = None,
    importance_samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    neighbours: int | None = None,
    refine: int = 0,
    precision: str = "float32",
) -> Evaluation:
    """Measure a model on the data it was trained on, or on others.

    Args:
        model: what `train` returned, the path of a run directory, the name of a pretrained model,
            or a VAE.
        data: as in `train`, or images themselves; None takes the data of the run.
        split: train, validation, test or all. None is the test split; of a user's own images
            that have none, it is all of them.
        importance_samples: K for `nll`; None leaves it out.
        seed: of the samples of z.
        neighbours: how many training images, nearest in latent space, vote for the class of each
            image; None leaves it out.
        refine: steps by which q(z|x) of each image is improved after the encoder; the gain is the
            amortisation gap (see `latens.evaluation.metrics.refined`).
        precision: of the networks: float32, bf16, or auto for bf16 where the processor has it.

    Raises:
        LatensError: model, data or split that cannot be used.
    """
    check_seed(seed)
    run = None
    if not isinstance(model, VAE):
        run = model if isinstance(model, Run) else Run.open(model)
        model = load_vae(run.path).to(resolve_device(device))
    if not isinstance(data, Images | Tensor):
        data = _images_for(model, run, data, split)
    precision = resolve_precision(precision, model.device.type)
    figures = measure(model, data, importance_samples, seed, refine=refine, precision=precision)
    if neighbours is None:
        return figures
    if run is None or not isinstance(data, Images):
        raise LatensError("neighbours are training images: give the run that the model is from")
    train = data_of(run).train
    right = neighbour_accuracy(model, train, data, neighbours)
    return replace(figures, neighbour_accuracy=right)


def _images_for(vae: VAE, run: Run | None, data: str | Path | None, split: str | None) -> Images:
    if data is None and run is None:
        raise LatensError("a VAE alone does not know its data: name some, or give images")
    if run is not None and (data is None or source_of(data) == run.record["data"]["source"]):
        return data_of(run).split(split or "test")
    binarisation = "none" if run is None else run.config.binarisation
    known = vae.about.get("training", {}).get("data", {})
    names = tuple(known.get("classes") or known.get("attributes") or ())
    return load_split(str(data), split, vae.image_shape, binarisation, names)


def report(
    path: str | Path,
    out: str | Path | None = None,
    projection: str = "pca",
    attribute: str | None = None,
    plane: tuple[int, int] | None = None,
) -> Path:
    """Write the pictures and the page of a run anew; returns the page's path.

    Args:
        out: the folder to write into; None is the run's own, and for a pretrained model one of
            its name.
        projection: of the latent plane of more than two dimensions: pca, tsne or umap.
        attribute: what the latent plane is coloured by, where images have attributes.
        plane: the two latent dimensions along which a plane is decoded; None: of the largest KL.

    Raises:
        LatensError: no run directory, a damaged one, or one without a finished epoch.
    """
    from latens.report.run_report import write_report

    run = Run.open(path)
    folder = Path(out or (run.path.name if run.is_pretrained else run.path))
    if folder.resolve() != run.path.resolve():
        check_out(folder)
    return write_report(run, data_of(run), folder, projection, attribute, plane)


def export(path: str | Path, out: str | Path) -> Run:
    """Write a run's model with 16-bit weights, its card and its figures, ready to be shared.

    The test figures are measured anew, with these weights.

    Args:
        out: a folder that does not exist yet.

    Raises:
        LatensError: no run directory, or `out` exists.
    """
    run, out = Run.open(path), Path(out)
    refuse_existing(out)
    data = data_of(run)
    record = run.record | {"data": run.record["data"] | {"source": data.name}}
    exported = Run.create(out, record, run.metrics)
    vae = load_vae(run.path)
    exported.save_model(vae, half=True)
    vae = load_vae(out)  # with the rounded weights
    figures = measure(vae, data.test).as_dict() | {"split": "test"}
    vae.about["figures"] = figures
    exported.save_model(vae, half=True)
    exported.save_figures(figures)
    vae.generate_model_card().save(out / "README.md")
    (out / CHECKPOINTS).rmdir()  # there is none to go on from
    return exported


def data_of(run: Run) -> DataSet:
    """The data that a run was trained on, in the same splits.

    Raises:
        LatensError: they are not there, or have changed since.
    """
    data = load_data(run.record["data"]["source"], **data_options(run.config))
    if data.fingerprint() != run.record["data"]["fingerprint"]:
        raise LatensError(
            f"the images of {data.name} have changed since {run.path} was trained, so its splits "
            "cannot be found again: put the old ones back"
        )
    return data


# ---- from options to a training --------------------------------------------------------------


def data_options(config: TrainConfig) -> dict[str, Any]:
    """The options of `load_data` in a configuration."""
    return {
        "size": config.image_size,
        "grey": config.grey,
        "binarisation": config.binarisation,
        "validation": config.validation,
        "split_seed": config.split_seed,
        "labels": config.labels,
        "skip_bad": config.skip_bad,
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
    epochs, patience = config.epochs, config.early_stopping
    if epochs is None and config.minutes is None:
        epochs = _within(AUTO_EPOCHS, math.ceil(AUTO_IMAGES / images))
        patience = max(AUTO_LEAST_PATIENCE, epochs // 10) if patience is None else patience
    likelihood = config.likelihood
    if likelihood == "auto":
        likelihood = "bernoulli" if data.binary or data.shape[0] == 1 else "gaussian"
    if config.sigma is not None and likelihood != "gaussian":
        raise LatensError(f"sigma is for the gaussian likelihood, and this one is {likelihood}")
    device = resolve_device(config.device)
    devices = resolve_devices(config.devices, device)
    if batch_size < devices:
        raise LatensError(f"a batch of {batch_size} cannot be shared out to {devices} devices")
    defaults = {"beta": 1.0, "beta_warmup": 0.0, "label_weight": 0.0}
    if config.recipe in recipes.RECIPES:
        defaults |= recipes.RECIPES[config.recipe].defaults
    chosen = {name: getattr(config, name) for name in defaults}
    return replace(
        config,
        **{name: defaults[name] if value is None else value for name, value in chosen.items()},
        batch_size=batch_size,
        epochs=epochs,
        early_stopping=patience or 0,
        likelihood=likelihood,
        film=(epochs or 0) <= SHORT if config.film is None else config.film,
        device=device,
        devices=devices,
        precision=resolve_precision(config.precision, device),
        compile=resolve_compile(config.compile, device, devices, (epochs or 0) * images),
    )


def _within(bounds: tuple[int, int], value: int) -> int:
    return max(bounds[0], min(bounds[1], value))


def _build(config: TrainConfig, data: DataSet) -> VAE:
    """The VAE that a configuration describes, for images of this shape and with such labels."""
    likelihoods: dict[str, Callable[[], Likelihood]] = {
        "bernoulli": Bernoulli,
        "gaussian": lambda: Gaussian(config.sigma),
        "discretised-logistic": DiscretisedLogistic,
    }
    return recipes.build(
        config.recipe,
        data.shape,
        config.latent_dim,
        likelihoods[config.likelihood](),
        prior=_prior(config),
        labels=len(data.classes or data.attributes) if data.train.labels is not None else 0,
        exclusive=not data.attributes,
        network=None if config.network == "auto" else config.network,
        decoder_network=None if config.decoder_network == "auto" else config.decoder_network,
        octaves=config.octaves,
        input_noise=config.input_noise,
        options=config.network_options,
    )


def _prior(config: TrainConfig) -> Prior | None:
    """The prior that a configuration names; None is N(0, I)."""
    if config.prior == "normal":
        if config.components is not None:
            raise LatensError("components are a mixture's: add --prior mixture")
        return None
    if config.free_bits:
        raise LatensError(
            "free_bits need the KL of each latent dimension, and to a mixture there is only one of "
            "all: leave out one of the two"
        )
    options = {} if config.components is None else {"components": config.components}
    return GaussianMixture((config.latent_dim,), **options)


def _options_of(model: VAE, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a training whose model is given, what the model decides among them."""
    for name in ("recipe", "latent_dim", "likelihood", "sigma", "prior", "components"):
        if name in options:
            raise LatensError(f"{name} is the model's: leave it out where a model is given")
    names = {Bernoulli: "bernoulli", Gaussian: "gaussian"}
    names[DiscretisedLogistic] = "discretised-logistic"
    priors = {StandardNormal: "normal", GaussianMixture: "mixture"}
    return options | {
        "recipe": "own",
        "latent_dim": math.prod(model.latent_shape),
        "likelihood": names.get(type(model.likelihood), "own"),
        "prior": priors.get(type(model.prior), "own"),
    }


def _mean_image(data: DataSet) -> torch.Tensor:
    total = torch.zeros(data.shape, dtype=torch.int64)
    for block in data.train.blocks():
        total += block.pixels.sum(0)
    return (total.double() / (255 * len(data.train))).float()


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
            "attributes": list(data.attributes),
            "binary": data.binary,
            "crop": data.crop,
            "fingerprint": data.fingerprint(),
        },
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "machine": machine(config.device),
        "versions": versions(),
    }


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record travels with the model: not where the data lie on this machine."""
    data = {name: value for name, value in record["data"].items() if name != "source"}
    return record | {"data": data}


def _launch(config: TrainConfig) -> "Fabric":
    from latens.training.trainer import launch  # takes a second to import, and other commands do without

    return launch(config)


def _fit(
    run: Run,
    vae: VAE,
    data: DataSet,
    config: TrainConfig,
    fabric: "Fabric",
    checkpoint: Checkpoint | None = None,
) -> Run:
    """Train, measure once on the test images, and write the report."""
    from latens.training.trainer import Trainer

    vae.about = {"training": _public(run.record)}
    stderr.print(describe(run), markup=False)
    evaluation = Trainer(run, vae, data, config, checkpoint, fabric).fit()
    if fabric.is_global_zero:
        _finish(run, data, config, evaluation)
    fabric.barrier()
    return run


def _finish(run: Run, data: DataSet, config: TrainConfig, evaluation: Evaluation) -> None:
    """What follows a training: figures on the test images, where labels lie, the report."""
    from latens.report.run_report import write_report

    comment(run.metrics, evaluation, config)
    trained = load_vae(run.path)
    figures = measure(trained.to(config.device), data.test).as_dict() | {"split": "test"}
    trained.about |= {"figures": figures}
    trained.about["training"]["minutes"] = round(run.metrics[-1]["seconds"] / 60, 1)
    names, exclusive = data.classes or data.attributes, not data.attributes
    statistics = label_statistics(trained, data.train, names, exclusive)
    if statistics is not None:
        trained.about["labels"] = statistics.as_dict()
    run.save_model(trained)
    run.save_figures(figures)
    write_report(run, data)


def describe(run: Run) -> str:
    """What is trained on what, in two lines."""
    config, data = run.config, run.record["data"]
    channels, height, width = data["shape"]
    splits = ", ".join(f"{count:,} {name}" for name, count in data["splits"].items())
    length = f"{config.epochs} epochs" if config.epochs else f"{config.minutes:g} minutes"
    return (
        f"{config.recipe} with {config.latent_dim} latent dimensions, β {run.beta}, "
        f"{config.likelihood} likelihood, {run.record['parameters']:,} parameters\n"
        f"{data['name']}: {height}x{width}x{channels}, {splits}; {length} on {config.device} "
        f"in {config.precision}"
    )
