"""What `import latens` offers, and what the commands do: train, resume, load, evaluate, show."""

import copy
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from latens import files
from latens.analysis.generation import temperatures_of
from latens.config import FittedPrior, TrainConfig, check_names, check_seed
from latens.console import stderr, warn
from latens.data import IN_MEMORY, SPLITS, DataSet, Images, load_alike, load_split
from latens.errors import LatensError
from latens.evaluation.findings import Finding
from latens.evaluation.full import FullEvaluation
from latens.evaluation.labels import label_statistics, neighbour_accuracy
from latens.evaluation.metrics import Evaluation
from latens.evaluation.metrics import evaluate as measure
from latens.evaluation.proposals import PosteriorName
from latens.evaluation.rounding import sensitive_weights
from latens.hub import check_upload, is_address, upload
from latens.model.latent_model import LatentModel, load_model
from latens.model.noise import forked_rng
from latens.model.priors import GaussianMixture
from latens.model.serialization import WeightBits
from latens.run.data import data_of, is_own
from latens.run.directory import (
    PICTURES,
    Checkpoint,
    Run,
    check_out,
    locate,
    refuse_existing,
)
from latens.run.private import command_without_folders, without_folders
from latens.training.callbacks import Callback
from latens.training.devices import resolve_device, resolve_precision
from latens.training.objectives import Objective
from latens.training.processes import Processes
from latens.training.progress import comment
from latens.training.setup import (
    TrainingSetup,
    begin_again,
    options_of_own,
    prepare,
    reopen,
    restart,
)

RUNS = Path("runs")
CARD_PICTURES = ("samples.png", "reconstructions-validation.png", "latent-space.png")
CARD_PICTURES += ("manifold.png", "curves.png")


def train(
    data: Any = "digits",
    *,
    model: LatentModel | None = None,
    objective: Objective | str | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Run:
    """Train a VAE and leave a run directory.

    Args:
        data: a named data set, a folder of images, a `.npy` or a `.npz`; or images themselves:
            an array or a tensor, a pair of images and labels, or a data set that gives images by
            index, such as torchvision's and Hugging Face's.
        model: a model of one's own parts, which is trained in place of a recipe's.
        objective: what is minimised, such as `latens.IWAE(samples=8)`, or its name.
        out: the run directory, which must not exist; None takes `runs/DATA-RECIPE-NUMBER`.
        callbacks: told of each epoch and of the end, see `latens.Callback`; trackers by name are
            `latens.trackers.trackers_of(["tensorboard"])`.
        **options: those of `latens train`, such as `recipe="conv"` or `epochs=5`.

    Raises:
        LatensError: an option, data or images that cannot be used; nothing is written then.
        latens.training.trainer.Diverged: the loss became NaN or infinite.
        latens.training.trainer.Interrupted: Ctrl-C; the run is saved.
    """
    check_names(options)
    if isinstance(objective, str):
        options, objective = options | {"objective": objective}, None
    options = options_of_own(model, objective, options)
    config = TrainConfig.from_options(**options)
    if out:
        refuse_existing(Path(out))
    from latens.training.trainer import Collapsed

    with torch.random.fork_rng():
        setup = prepare(data, config, model, objective)
        processes = Processes.launch(setup.config.run.device, setup.config.run.devices)
        with processes.together():
            run = _created(Path(out) if out else None, setup, processes, callbacks)
            try:
                return _fit(run, setup, processes, callbacks=callbacks)
            except Collapsed as collapsed:
                setup = begin_again(setup, collapsed.seconds)
                if processes.is_main:
                    shutil.rmtree(run.path)
                run = _created(run.path, setup, processes, callbacks)
                return _fit(run, setup, processes, callbacks=callbacks)


def resume(path: str | Path, data: Any = None, callbacks: Sequence[Callback] = ()) -> Run:
    """Go on with a run from its last full state, as if it had never stopped.

    Args:
        data: the same data again, of a run whose data came from Python.
        callbacks: as in `train`.

    Raises:
        LatensError: no run directory, none that can be gone on with, or changed data.
    """
    run = Run.open(path)
    checkpoint = run.last_checkpoint() if run.has_begun else None
    images = data_of(run, data)
    with torch.random.fork_rng():
        setup = restart(run, images) if checkpoint is None else reopen(run, images)
        processes = Processes.launch(setup.config.run.device, setup.config.run.devices)
        with processes.together():
            if processes.is_main:
                _begin(callbacks, run)
            return _fit(run, setup, processes, checkpoint, callbacks)


def load(path: str | Path) -> LatentModel:
    """The trained model of a run directory or of a folder that `save_pretrained` wrote, or by name.

    `latens.load("mnist-2d")` is a model that comes with latens; `latens recipes` lists them.

    It is in evaluation mode, on the CPU, and its outputs are equal to the bit to those of the
    model that was saved. No pickle is opened.

    Raises:
        LatensError: no such folder, or files that are missing, damaged or foreign.
    """
    return load_model(locate(path))


def evaluate(
    model: Run | LatentModel | str | Path,
    data: Any = None,
    split: str | None = None,
    importance_samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    neighbours: int | None = None,
    refine: int = 0,
    precision: str = "float32",
    posterior: PosteriorName = "encoder",
    cells: int | None = None,
) -> Evaluation:
    """Measure a model on the data it was trained on, or on others.

    Args:
        model: what `train` returned, the path of a run directory, the name of a pretrained model,
            or a model.
        data: as in `train`, or `Images`, or a tensor of floats in [0, 1]; None takes the data of
            the run.
        split: train, validation, test or all. None is the test split; of a user's own images
            that have none, it is all of them.
        importance_samples: K for `nll`; None leaves it out.
        seed: of the samples of z.
        neighbours: how many training images, nearest in latent space, vote for the class of each
            image; None leaves it out.
        refine: steps by which q(z|x) of each image is improved after the encoder; the gain is the
            amortisation gap (see `latens.evaluation.proposals.refined`).
        precision: of the networks: float32, bf16, or auto for bf16 where the processor has it.
        posterior: which q(z|x) the figures are of: the encoder's, or for up to three latents
            "grid", nearly the model's true posterior (see `latens.model.grid`).
        cells: of the grid along each axis; None: 4,096 for one latent, 512 for two, 128 for three.

    Raises:
        LatensError: model, data or split that cannot be used, or a grid over more latents.
    """
    check_seed(seed)
    run = None
    if not isinstance(model, LatentModel):
        run = model if isinstance(model, Run) else Run.open(model)
        model = load_model(run.path).to(resolve_device(device))
    given = data
    if not isinstance(data, Images) and not _is_batch(data):
        data, split = _images_for(model, run, data, split)
    precision = resolve_precision(precision, model.device.type)
    figures = measure(
        model,
        data,
        importance_samples,
        seed,
        refine=refine,
        precision=precision,
        posterior=posterior,
        cells=cells,
    )
    figures = replace(figures, split=split)
    if neighbours is None:
        return figures
    if run is None or not isinstance(data, Images):
        raise LatensError("neighbours are training images: give the run that the model is from")
    train = data_of(run, given if _in_memory(run) else None).train
    with forked_rng(model.device, seed):  # of bits that are drawn anew each time
        right = neighbour_accuracy(model, train, data, neighbours)
    return replace(figures, neighbour_accuracy=right)


def evaluate_all(
    path: str | Path | Run, data: Any = None, seed: int = 0, device: str = "auto"
) -> "FullEvaluation":
    """Measure everything that applies to a run's model, with errors where they are known.

    Args:
        path: a run, its directory, or a pretrained model by name.
        data: other data of the same size, or the same again where they came from Python; None
            takes the run's own.
        seed: of all noise.

    Raises:
        LatensError: a run or data that cannot be used.
    """
    from latens.evaluation.full import evaluate_fully

    check_seed(seed)
    run = path if isinstance(path, Run) else Run.open(path)
    own = data is None or _in_memory(run) or is_own(run, data)
    vae = load_model(run.path).to(resolve_device(device))
    if own:
        found = data_of(run, data if _in_memory(run) else None)
    else:
        found = load_alike(data, vae.image_shape, **_reading(vae))
        found = replace(found, **{s: _of_its_kind(vae, found.split(s)) for s in SPLITS})
    if found.train.shape != vae.image_shape:
        raise LatensError(f"the model reads {vae.image_shape}, and {data} has {found.train.shape}")
    return evaluate_fully(run, vae, found, seed)


def doctor(path: str | Path | Run, data: Any = None, device: str = "auto") -> list[Finding]:
    """What is wrong with a run's model, each with what was measured and the option that fixes it.

    Args:
        data: the same data again, of a run whose data came from Python.

    Returns:
        The findings, the serious first; see `latens.evaluation.doctor`.

    Raises:
        LatensError: a run that cannot be used, or one without a finished epoch.
    """
    from latens.evaluation.doctor import examine

    run = path if isinstance(path, Run) else Run.open(path)
    if not run.metrics:
        raise LatensError(f"{run.path} has no finished epoch: train it first")
    return examine(run, load_model(run.path).to(resolve_device(device)), data_of(run, data))


def _images_for(
    vae: LatentModel, run: Run | None, data: Any, split: str | None
) -> tuple[Images, str | None]:
    """The images to measure, and which split they are where that is known."""
    if run is not None and (data is None or is_own(run, data)):
        own = data_of(run) if data is None or not _in_memory(run) else _if_its_own(run, data)
        if own is not None:
            split = split or "test"
            return own.split(split), split
    if data is None:
        raise LatensError("a VAE alone does not know its data: name some, or give images")
    return _of_its_kind(vae, load_split(data, split, vae.image_shape, **_reading(vae))), split


def _of_its_kind(vae: LatentModel, images: Images) -> Images:
    """Without labels, where they are classes and the model's are attributes, or the reverse."""
    known = vae.about.get("training", {}).get("data", {})
    dims = 2 if known.get("attributes") else 1 if known.get("classes") else None
    other = images.labels is not None and dims is not None and images.labels.dim() != dims
    return replace(images, labels=None) if other else images


def _reading(vae: LatentModel) -> dict[str, Any]:
    """How other data are read so that they are what the model's training images were."""
    training = vae.about.get("training", {})
    known = training.get("data", {})
    options = TrainConfig.from_record(training.get("options", {})).data
    return {
        "binarisation": options.binarisation,
        "names": tuple(known.get("classes") or known.get("attributes") or ()),
        "value_range": options.value_range,
        "crop": known.get("crop"),
    }


def _in_memory(run: Run) -> bool:
    """Whether the run's data came from Python, and cannot be read again."""
    return run.record["data"]["source"] == IN_MEMORY


def _if_its_own(run: Run, data: Any) -> DataSet | None:
    """The data given, if they are those that the run was trained on."""
    try:
        return data_of(run, data)
    except LatensError:
        return None


def _is_batch(data: Any) -> bool:
    """Images as a model takes them: floats `[N, C, H, W]`."""
    return isinstance(data, Tensor) and data.is_floating_point() and data.dim() == 4


def report(
    path: str | Path,
    out: str | Path | None = None,
    projection: str = "pca",
    attribute: str | None = None,
    plane: tuple[int, int] | None = None,
    data: Any = None,
) -> Path:
    """Write the pictures and the page of a run anew; returns the page's path.

    Args:
        out: the folder to write into; None is the run's own, and for a pretrained model one of
            its name.
        projection: of the latent plane of more than two dimensions: pca, tsne or umap.
        attribute: what the latent plane is coloured by, where images have attributes.
        plane: the two latent dimensions along which a plane is decoded; None: of the largest KL.
        data: the same data again, of a run whose data came from Python.

    Raises:
        LatensError: no run directory, a damaged one, or one without a finished epoch.
    """
    from latens.report.run_report import write_report

    run = Run.open(path)
    folder = Path(out or run.home)
    if folder.resolve() != run.path.resolve():
        check_out(folder)
    return write_report(run, data_of(run, data), folder, projection, attribute, plane)


def export(
    path: str | Path,
    out: str | Path,
    data: Any = None,
    bits: WeightBits = 16,
    temperature: float | Sequence[float] | None = None,
) -> Run:
    """Write a run's model with weights in few bits, its card and its figures, ready to be shared.

    The test figures are measured anew, with these weights.

    Args:
        out: a folder that does not exist yet.
        data: the same data again, of a run whose data came from Python.
        bits: of a weight: 16, 8 or all 32; see `latens.model.serialization.write_model`. With 8,
            layers that it would cost too much have 16: `evaluation.rounding.sensitive_weights`.
        temperature: of samples where none is asked for: the model's own from then on. Of a ladder
            one for all levels, or one for each. None leaves it as it is, mostly 1.

    Raises:
        LatensError: no run directory, `out` exists, another number of bits, or a temperature that
            is not above 0.
    """
    run, out = Run.open(path), Path(out)
    if bits not in get_args(WeightBits):
        raise LatensError(f"bits is {bits}: 8, 16 or 32")
    refuse_existing(out)
    data = data_of(run, data)
    record = _without_paths(run, data.name)
    with files.building(out) as partial:
        exported = Run.fill(partial, record, run.metrics)
        vae = load_model(run.path)
        if temperature is not None:
            vae.about["temperature"] = vae.temperatures(temperatures_of(temperature))
        if "training" in vae.about:
            known = vae.about["training"]
            known |= {name: record[name] for name in ("command", "options") if name in known}
        in_16 = sensitive_weights(vae, data.train) if bits == 8 else ()
        exported.save_model(vae, bits, in_16)
        vae = load_model(partial)  # with the rounded weights
        figures = measure(vae, data.test).as_dict() | {"split": "test"}
        vae.about["figures"] = figures
        exported.save_model(vae, bits, in_16)
        exported.save_figures(figures)
        files.write_bytes(partial / "README.md", vae.card().encode())
    return Run(out, record)


def push(
    path: str | Path, name: str, private: bool = False, data: Any = None, bits: WeightBits = 16
) -> str:
    """Put a run's model on the Hugging Face Hub, with its card, figures and pictures.

    `latens.load("hf://USER/NAME")` is the same model again, and every command takes that name.

    Args:
        name: USER/NAME.
        private: who may see it, where it does not exist yet.
        data, bits: as in `export`.

    Returns:
        The address of its page.

    Raises:
        LatensError: a run that cannot be used, no connection, or no right to write.
    """
    run = Run.open(path)
    check_upload(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        export(path, folder, data, bits)
        shown = [file for file in CARD_PICTURES if (run.path / PICTURES / file).is_file()]
        for file in shown:
            (folder / PICTURES).mkdir(exist_ok=True)
            shutil.copy(run.path / PICTURES / file, folder / PICTURES / file)
        card = folder / "README.md"
        text = card.read_text("utf-8").replace("USER/MODEL", name)
        pictures = "\n".join(f"![{Path(file).stem}]({PICTURES}/{file})" for file in shown)
        card.write_text(f"{text}\n\n{pictures}\n" if shown else text, "utf-8")
        return upload(folder, name, private)


def fit_prior(
    path: str | Path,
    out: str | Path | None = None,
    minutes: float | None = None,
    seed: int = 0,
    data: Any = None,
    prior: FittedPrior = "flow-matching",
    device: str = "auto",
    levels: int = 1,
    **options: int | None,
) -> Run:
    """Fit a prior to the latents of a trained model, and write both as a run of its own.

    Encoder and decoder stay as they are. By flow matching a second stage is added, which new
    images are drawn from; the figures stay those of the model's own p(z). A mixture takes the
    place of p(z), and the figures on the test images are measured again. See
    `latens.training.second_stage.fit_prior`.

    Args:
        out: a folder that does not exist yet; None: the run's with `-prior` at its end.
        minutes: how long; None: a million latents.
        data: the same data again, of a run whose data came from Python.
        prior: flow-matching or mixture.
        levels: of a ladder, how many from the topmost on; below them each has its own p.
        **options: `flow_width` and `layers` of the flow's transformer, `components` of the mixture.

    Raises:
        LatensError: a run or an option that cannot be used, or `out` exists.
    """
    from latens.training.second_stage import fit_prior as fit
    from latens.training.second_stage import fittable, options_of

    check_seed(seed)
    chosen = options_of(prior, options)
    run = Run.open(path)
    home = run.home if run.home.name.strip(".") else run.home.resolve()
    out = Path(out or home.with_name(f"{home.name}-prior"))
    refuse_existing(out)
    vae = fittable(load_model(run.path)).to(resolve_device(device))
    images = data_of(run, data)
    found = fit(vae, images.train, images.validation, prior, minutes, seed, levels, **chosen)
    if found.is_worse:
        remedy = "more --minutes" + (" or fewer --components" if prior == "mixture" else "")
        warn(f"what was fitted is further from the latents than p(z): give it {remedy}")
    told = {"prior": prior, **chosen, "seed": seed, "minutes": minutes}
    fitting = _fitting_command(told | ({"levels": levels} if levels > 1 else {}))
    record = run.record | {"command": f"{run.record['command']} && {fitting}"}
    figures = run.figures
    if isinstance(found.prior, GaussianMixture):
        vae.prior, vae.sampler = found.prior, None
        record["options"] = run.config.with_prior(prior, chosen).as_dict()
        record["parameters"] = sum(parameter.numel() for parameter in vae.parameters())
        figures = measure(vae, images.test).as_dict() | {"split": "test"}
        vae.about["figures"] = figures
    else:
        vae.sampler = found.prior
    vae.about["training"] = vae.about.get("training", {}) | _public(record)
    numbers = {field.name: getattr(found, field.name) for field in fields(found)}
    del numbers["prior"]
    before = vae.about.get("second_stage", {})
    replaces = prior == "mixture" or before.get("replaces_prior", before.get("prior") == "mixture")
    vae.about["second_stage"] = {
        "prior": prior,
        "levels": levels,
        "replaces_prior": replaces,
    } | numbers
    with files.building(out) as partial:
        fitted = Run.fill(partial, record, run.metrics)
        fitted.save_model(vae)
        if figures is not None:
            fitted.save_figures(figures)
    return Run(out, record)


def _fitting_command(options: Mapping[str, Any]) -> str:
    words = (f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value)
    return " ".join(["latens fit-prior RUN", *words])


# ---- a training and what follows it ----------------------------------------------------------


def _created(
    path: Path | None, setup: TrainingSetup, processes: Processes, callbacks: Sequence[Callback]
) -> Run:
    """A new run directory, which the first process makes and all open.

    Raises:
        LatensError: a tracker that cannot be written to; nothing is left then.
    """
    created = None
    if processes.is_main:
        record = setup.record()
        created = Run.create(path, record) if path else Run.create_next(RUNS, record)
        try:
            _begin(callbacks, created)
        except LatensError:
            shutil.rmtree(created.path)
            raise
    return Run.open(processes.from_main(str(created and created.path)))


def _begin(callbacks: Sequence[Callback], run: Run) -> None:
    for callback in callbacks:
        callback.on_begin(run)


def _fit(
    run: Run,
    setup: TrainingSetup,
    processes: Processes,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train, measure once on the test images, and write the report."""
    from latens.training.trainer import Collapsed, Trainer

    setup.model.about = {"training": _public(run.record)}
    stderr.print(describe(run), markup=False)
    begins_again = False
    try:
        with run.held() if processes.is_main else nullcontext():
            Trainer(run, setup, processes, checkpoint, callbacks).fit()
            if processes.is_main:
                _finish(run, setup)
    except Collapsed:
        begins_again = True
        raise
    finally:
        if processes.is_main and not begins_again:
            for callback in callbacks:
                callback.on_end(run)
    processes.wait()
    return run


def _finish(run: Run, setup: TrainingSetup) -> None:
    """What follows a training: figures on the test images, where labels lie, the report."""
    data, config = setup.data, setup.config
    torch.manual_seed(config.run.seed)  # the same figures after a training that was resumed
    trained = load_model(run.path)  # the weights that were kept
    evaluation = measure(trained.to(config.run.device), data.test)
    comment(run.metrics, evaluation, config, run.latent_dims)
    figures = evaluation.as_dict() | {"split": "test"}
    trained.about |= {"figures": figures}
    trained.about["training"]["minutes"] = round(run.metrics[-1]["seconds"] / 60, 1)
    names, exclusive = data.classes or data.attributes, not data.attributes
    statistics = label_statistics(trained, data.train, names, exclusive)
    if statistics is not None:
        trained.about["labels"] = statistics.as_dict()
    run.save_model(trained)
    run.save_figures(figures)
    if config.run.report:
        from latens.report.run_report import write_report

        write_report(run, data)


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record travels with the model: not where files lie on this machine."""
    data = {name: value for name, value in record["data"].items() if name != "source"}
    command, options = (
        command_without_folders(record["command"]),
        without_folders(record["options"]),
    )
    return record | {"data": data, "command": command, "options": options}


def _without_paths(run: Run, name: str) -> dict[str, Any]:
    """A run's record without where its data, and the model it began at, lie on this machine."""
    record, start = copy.deepcopy(run.record), run.config.model.init_from
    names = {record["data"]["source"]: name}
    if start is not None and not is_address(start):
        names[start] = record["options"]["model"]["init_from"] = Path(start).resolve().name
    for path, short in names.items():
        word = rf"(?<!\S)({re.escape(shlex.quote(path))}|{re.escape(path)})(?!\S)"
        record["command"] = re.sub(word, lambda _, short=short: short, record["command"])
    record["command"] = command_without_folders(record["command"])
    record["data"]["source"] = name
    return record


def describe(run: Run) -> str:
    """What is trained on what, in two lines."""
    config, data = run.config, run.record["data"]
    channels, height, width = data["shape"]
    dims = "×".join(map(str, run.latent_shape))
    latents = f"{run.levels} levels of latents" if run.levels > 1 else f"{dims} latent dimensions"
    splits = ", ".join(f"{count:,} {name}" for name, count in data["splits"].items())
    limits = config.run
    count, unit = limits.epochs or limits.minutes, "epoch" if limits.epochs else "minute"
    length = f"{count:g} {unit}{'' if count == 1 else 's'}"
    return (
        f"{config.model.recipe} with {latents}, {run.objective}, "
        f"{config.model.likelihood} likelihood, {run.record['parameters']:,} parameters\n"
        f"{data['name']}: {height}x{width}x{channels}, {splits}; {length} on {limits.device} "
        f"in {limits.precision}"
    )
