"""From options to a training: every `auto` resolved and every check made before it begins."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latens import catalogue
from latens.config import AUTO, LATENT_DIM, OWN, RENAMED, ModelConfig, TrainConfig, replaced
from latens.console import note
from latens.data import IN_MEMORY, NAMES, DataSet, Images, can_be_resized, is_path, load_data
from latens.errors import LatensError
from latens.hub import is_address
from latens.model import recipes
from latens.model.composed import ComposedModel
from latens.model.latent_model import LatentModel, load_model
from latens.model.noise import forked_rng
from latens.model.parts import Configurable, counted, from_config, to_config
from latens.run.data import data_options
from latens.run.directory import PRETRAINED, Run, locate, versions
from latens.training.devices import (
    available_device,
    machine,
    resolve_compile,
    resolve_device,
    resolve_devices,
    resolve_precision,
)
from latens.training.objectives import Objective
from latens.training.schedules import BetaSchedule, LearningRateSchedule
from latens.training.sizing import check_memory, fitted

# What is taken where the user names none: so many images are seen, in so many epochs.
AUTO_IMAGES = 300_000
AUTO_EPOCHS = (10, 500)
AUTO_BATCH = (8, 128)
AUTO_LEAST_PATIENCE = 10
COMPILE_IMAGES, COMPILE_MINUTES = 3_000_000, 10.0  # the shortest training that is compiled
SHORT = 250  # epochs: trainings up to so long are recorded for films by default
START_IMAGES = 2_000  # from which parts set their first weights
# Pixels farther than this from mid-grey are black or white; from such a share on, images are mostly
# so: 0.87 of MNIST's pixels are, 0.05 of those of faces.
EXTREME, MOSTLY = 0.375, 0.8
# Of β, where a fixed scale of the likelihood makes an image cost so little that the KL outweighs it
FIXED_SCALE_WARMUP = 0.3
REMEDY_WARMUP = 0.5  # after a collapse; it is cured with it, where it was seen
CHECKED_IMAGES = 2  # that pass through model and objective before a training


@dataclass(frozen=True)
class TrainingSetup:
    """A training, resolved: made once by `prepare` or `reopen`, and handed on.

    Attributes:
        data: images in three splits.
        config: with every `auto` and None decided.
        model: what is trained, in place.
        objective: what is minimised.
        command: the command line, or the call, that says the same.
        begins_again: a training that has collapsed early in its time budget is begun again.
    """

    data: DataSet
    config: TrainConfig
    model: LatentModel
    objective: Objective
    command: str = ""
    begins_again: bool = False

    @property
    def batch_size(self) -> int:
        """Images in a step of all processes."""
        return self.config.optimiser.batch_size or 1

    # ---- what moves --------------------------------------------------------------------------

    def share(self, images: int, seconds: float) -> float:
        """How much of the training is done, in [0, 1], by images seen or by the clock."""
        run, shares = self.config.run, []
        if run.epochs:
            shares.append(images / (run.epochs * len(self.data.train)))
        if run.minutes:
            shares.append(seconds / (60 * run.minutes))
        return min(1.0, max(shares))

    def out_of_time(self, seconds: float) -> bool:
        """Whether the time budget is spent."""
        minutes = self.config.run.minutes
        return bool(minutes) and seconds >= 60 * (minutes or 0)

    def learning_rate(self, share: float) -> float:
        """The learning rate when `share` of the training is done."""
        optimiser = self.config.optimiser
        return LearningRateSchedule(optimiser.learning_rate, optimiser.warmup)(share)

    @property
    def beta_schedule(self) -> BetaSchedule | None:
        """How β moves; None for an objective without one."""
        return beta_schedule(self.config, getattr(self.objective, "beta", None))

    def moved(self, share: float, epoch: int, ended: bool = False) -> dict[str, float]:
        """The objective's arguments that a schedule moves, by name, at this point.

        Args:
            ended: after an epoch, not before the next one.
        """
        schedule = self.beta_schedule
        return {} if schedule is None else {"beta": schedule(share, epoch, ended)}

    def moved_at_last(self) -> dict[str, float]:
        """The same at the end: the loss that chooses the weights to keep has them."""
        schedule = self.beta_schedule
        return {} if schedule is None else {"beta": schedule.last(self.config.run.epochs or 1)}

    # ---- what is written of it ---------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What config.yaml holds."""
        data, levels = self.data, self.model.level_shapes
        frozen = [n for n, p in self.model.named_parameters() if not p.requires_grad]
        return {
            "command": self.command,
            "options": self.config.as_dict(),
            "objective": to_config(self.objective),
            **({"frozen": frozen} if frozen else {}),
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
            "latent_shape": list(self.model.latent_shape),
            **({"level_shapes": [list(level) for level in levels]} if len(levels) > 1 else {}),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "machine": machine(self.config.run.device),
            "versions": versions(),
        }


def beta_schedule(config: TrainConfig, beta: float | None) -> BetaSchedule | None:
    """How β moves over a training; None for an objective without one."""
    if beta is None:
        return None
    options = config.objective
    return BetaSchedule(beta, options.beta_warmup or 0.0, options.beta_cycles, options.beta_step)


def prepare(
    data: Any,
    config: TrainConfig,
    model: LatentModel | None = None,
    objective: Objective | None = None,
    loaded: bool = False,
) -> TrainingSetup:
    """All that a training needs, and every check that can be made before it; writes nothing.

    Draws the first weights from torch's global generator, set to the configuration's seed.

    Args:
        data: as in `latens.train`.
        model: in place of the recipe's.
        objective: in place of the one named.
        loaded: the data are a `DataSet` that the options of data have been applied to.

    Raises:
        LatensError: data or options that cannot be used, or that do not fit together.
    """
    command = _command(data, config, model, objective)
    begins_again = model is None and objective is None and _may_begin_again(config)
    if config.model.init_from is not None:
        model, config = _initialised(data, config)
        command = f"{_command_before(model, config)}{command}"
    if model is None:
        recipes.find(config.model.recipe)
        _refuse_own(config.model, "likelihood", "prior", "posterior")
        _refuse_two_sizes(config.model)
    config = _with_defaults(config)
    objective = objective or _make_objective(config)
    images = data if loaded else _load(data, config)
    config = resolve(config, images)
    if model is None:
        config = fitted(config, images, objective, build_model)
    torch.manual_seed(config.run.seed)
    model = model or build_model(config, images)
    if model.image_shape != images.shape:
        raise LatensError(
            f"the model reads images of (C, H, W) {model.image_shape}, and {images.name} has "
            f"{images.shape}"
        )
    if config.model.init_from is not None:
        _check_labels(model, images)
    _check(model, objective, images)
    if model.is_fresh:
        few = _some_images(images.train, config.run.seed)
        model.start_from(few, _mean_image(images))
        prone = _is_prone(config, model)
        if prone or images.source not in NAMES:
            model.prevent_collapse(few, quiet=prone)
    begins_again = begins_again and config.run.devices == 1
    return TrainingSetup(images, config, model, objective, command, begins_again)


def _initialised(data: Any, config: TrainConfig) -> tuple[LatentModel, TrainConfig]:
    """The model of `init_from`, and the configuration with its options.

    Images are read in its size. A second stage is left behind: it fits latents that will move.

    Raises:
        LatensError: no such model, or an option that it decides.
    """
    start = config.model.init_from
    model = load_model(locate(str(start)))
    if isinstance(model, ComposedModel):
        model.sampler = None
    described = model.about.get("training", {}).get("options")
    own = described or options_of_own(model, None, {})
    section = replace(TrainConfig.from_record(own).model, init_from=start)
    given, default, decided = map(_flat, (config.model, ModelConfig(init_from=start), section))
    for name, value in given.items():
        if value not in (default.get(name), decided.get(name)):
            raise LatensError(f"{name} is decided by the model of init_from: leave it out")
    channels, height, width = model.image_shape
    if config.data.grey and channels != 1:
        raise LatensError("the model of init_from reads images in colour: leave out grey")
    resized = is_path(data) and str(data) not in NAMES and can_be_resized(data)
    if resized and config.data.size is None:
        size = {"size": f"{height}x{width}", "grey": channels == 1}
        config = replaced(config, data=size)
    return model, replace(config, model=section)


def _command_before(model: LatentModel, config: TrainConfig) -> str:
    """What made the model that the training begins at, where its name alone does not tell."""
    start = str(config.model.init_from)
    made_by = model.about.get("training", {}).get("command")
    is_named = is_address(start) or locate(start).parent == PRETRAINED
    return "" if made_by is None or is_named else f"{made_by} && "


def _refuse_two_sizes(options: ModelConfig) -> None:
    """Refuse a number of latent dimensions beside what decides it; a record's default is none."""
    if options.latent_dim in (None, LATENT_DIM):
        return
    if options.latent_map is not None:
        raise LatensError("latent_map decides how many latent dimensions there are: no latent_dim")
    if options.recipe == recipes.LADDER:
        raise LatensError("a ladder has levels in place of one latent_dim: use --levels")


def _flat(section: ModelConfig) -> dict[str, Any]:
    """Names and values of a model's section, those of its parts among them."""
    values = asdict(section)
    return values | dict(values.pop("options"))


def begin_again(collapsed: TrainingSetup, seconds: float) -> TrainingSetup:
    """A training for what is left of the time budget, with the remedy against collapse.

    That is a longer warm-up of β, under which z is used before it is charged for, and other first
    weights.

    Args:
        seconds: that the collapsed one took.
    """
    config, objective = collapsed.config, collapsed.objective
    left = (config.run.minutes or 0.0) - seconds / 60
    config = replaced(
        config,
        objective={"beta_warmup": REMEDY_WARMUP},
        run={"minutes": max(round(left, 3), 0.001), "seed": config.run.seed + 1},
    )
    note(
        f"posterior collapse after {seconds:.0f} s: beginning again with --beta-warmup "
        f"{REMEDY_WARMUP:g} --seed {config.run.seed} for the {left:.1f} minutes left"
    )
    setup = prepare(collapsed.data, config, objective=objective, loaded=True)
    return replace(setup, command=collapsed.command)


def _may_begin_again(config: TrainConfig) -> bool:
    """There is a time budget, a β with no warm-up that the user has chosen, and random weights."""
    objective = config.objective
    return (
        config.model.init_from is None
        and bool(config.run.minutes)
        and objective.has_beta
        and objective.beta_warmup is None
    )


def _is_prone(config: TrainConfig, model: LatentModel) -> bool:
    """Where a decoder has been seen to do without z: see docs/architecture.md."""
    unet = "unet" in (config.model.recipe, config.model.network)
    weighed = config.objective.options.get("beta", 1.0) > 1
    prone = unet or weighed or config.model.has_fixed_scale
    return prone and math.prod(model.latent_shape) <= recipes.FEW_DIMS


def _load(data: Any, config: TrainConfig) -> DataSet:
    """The data; those that cannot be read again by their name and the options say so."""
    options = data_options(config)
    images = load_data(data, **options)
    if not isinstance(data, DataSet) or images.source == IN_MEMORY:
        return images
    try:
        again = load_data(images.source, **options).fingerprint()
    except LatensError:
        again = ""
    return images if again == images.fingerprint() else replace(images, source=IN_MEMORY)


def reopen(run: Run, data: DataSet) -> TrainingSetup:
    """The training of a run that was interrupted, with the weights of its model.

    A device that is not available here gives way to one that is.

    Raises:
        LatensError: options, model or objective that cannot be used.
    """
    config = run.config
    here = available_device(config.run.device)
    if here != config.run.device:
        note(f"device {config.run.device} is not available here: going on with {here}")
        config = replaced(config, run={"device": here, "precision": AUTO, "compile": None})
    config = resolve(_with_defaults(config), data)
    described = run.record.get("objective")
    objective = _make_objective(config) if described is None else from_config(described)
    if not isinstance(objective, Objective):
        raise LatensError(f"{run.path}/config.yaml describes no objective")
    model = load_model(run.path)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in run.record.get("frozen", ()))
    return TrainingSetup(data, config, model, objective, run.record["command"])


def restart(run: Run, data: DataSet) -> TrainingSetup:
    """The training of a run that was killed before its first checkpoint, from its beginning.

    Raises:
        LatensError: a model or an objective that Python gave, or as in `prepare`.
    """
    setup = prepare(data, run.config, loaded=True)
    return replace(setup, command=run.record["command"], begins_again=False)


def _command(
    data: Any, config: TrainConfig, model: LatentModel | None, objective: Objective | None
) -> str:
    """What trains in the same way: a command line where there is one, else a call."""
    by_name = isinstance(data, str) or hasattr(data, "__fspath__")
    if by_name and model is None and objective is None:
        return config.command(str(data))
    arguments = [repr(str(data)) if by_name else "…"]
    arguments += ["model=…"] if model is not None else []
    arguments += ["objective=…"] if objective is not None else []
    return f"latens.train({', '.join(arguments)})"


def _refuse_own(section: Any, *kinds: str) -> None:
    for kind in kinds:
        if getattr(section, kind) == OWN:
            raise LatensError(
                f"{kind} own stands for one that was given from Python: choose one that "
                "`latens recipes` lists"
            )


# ---- what is decided -------------------------------------------------------------------------


def _with_defaults(config: TrainConfig) -> TrainConfig:
    """The configuration with the defaults of its recipe and its objective filled in."""
    recipe = recipes.RECIPES.get(config.model.recipe)
    defaults = dict(recipe.defaults) if recipe else {}
    warmup = defaults.pop("beta_warmup", 0.0)
    if config.model.has_fixed_scale:
        warmup = FIXED_SCALE_WARMUP
    if config.model.init_from is not None:
        warmup = 0.0  # its z is of use already
    warmup = warmup if config.objective.has_beta else 0.0
    if config.objective.beta_warmup is not None:
        warmup = config.objective.beta_warmup
    options = dict(config.objective.options)
    if config.objective.name != OWN:
        known = catalogue.find("objective", config.objective.name).options
        own = {name: option.default for name, option in known.items()}
        recipe_own = {name: value for name, value in defaults.items() if name in known}
        options = own | recipe_own | options
    return replaced(
        config,
        model={"latent_dim": config.model.latent_dim or LATENT_DIM},
        objective={"beta_warmup": warmup, "options": options},
    )


def _make_objective(config: TrainConfig) -> Objective:
    if config.objective.name == OWN:
        raise LatensError(
            "objective own stands for one that was given from Python: choose one that `latens "
            "recipes` lists"
        )
    return catalogue.build("objective", config.objective.name, config.objective.options)


def resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    """The configuration with every `auto` and None decided.

    Raises:
        LatensError: a batch larger than the data, or a device that is not available.
    """
    images = len(data.train)
    batch_size = config.optimiser.batch_size or min(images, _within(AUTO_BATCH, images // 10))
    if batch_size > images:
        raise LatensError(
            f"a batch of {batch_size} is larger than the {images} training images: "
            f"use --batch-size {images} or less"
        )
    epochs, patience = config.run.epochs, config.run.early_stopping
    if epochs is None and config.run.minutes is None:
        epochs = _within(AUTO_EPOCHS, math.ceil(AUTO_IMAGES / images))
        patience = max(AUTO_LEAST_PATIENCE, epochs // 10) if patience is None else patience
    device = resolve_device(config.run.device)
    devices = resolve_devices(config.run.devices, device)
    if batch_size < devices:
        raise LatensError(f"a batch of {batch_size} cannot be shared out to {devices} devices")
    objective = config.objective.name
    compiles = objective != OWN and _make_objective(config).compiles
    wanted, recipe = config.run.compile, recipes.RECIPES.get(config.model.recipe)
    if wanted is None and device == "cpu" and recipe is not None and recipe.eager:
        wanted = False
    return replaced(
        config,
        model={"likelihood": _likelihood(config, data)},
        optimiser={"batch_size": batch_size},
        run={
            "epochs": epochs,
            "early_stopping": patience or 0,
            "film": (epochs or 0) <= SHORT if config.run.film is None else config.run.film,
            "device": device,
            "devices": devices,
            "precision": resolve_precision(config.run.precision, device),
            "compile": resolve_compile(
                wanted,
                device,
                devices,
                _is_long(epochs, config.run.minutes, images),
                None if compiles else objective,
            ),
        },
    )


def _is_long(epochs: int | None, minutes: float | None, images: int) -> bool:
    """Whether compiling, which takes up to half a minute, is a small part of a training."""
    of_images = epochs is None or epochs * images >= COMPILE_IMAGES
    return of_images and (minutes is None or minutes >= COMPILE_MINUTES)


def _likelihood(config: TrainConfig, data: DataSet) -> str:
    """The one chosen, or one that suits the pixels.

    Grey data sets by name are the field's, whose convention is the cross-entropy; it fits pixels
    that are mostly black or white, and no photograph.
    """
    if config.model.likelihood != AUTO:
        return config.model.likelihood
    if data.binary or (data.shape[0] == 1 and data.source in NAMES):
        return "bernoulli"
    few = _some_images(data.train, config.run.seed)
    extreme = ((few - 0.5).abs() > EXTREME).double().mean().item()
    if extreme > MOSTLY:
        return "bernoulli"
    return recipes.find(config.model.recipe).photographs


def _within(bounds: tuple[int, int], value: int) -> int:
    return max(bounds[0], min(bounds[1], value))


def build_model(config: TrainConfig, data: DataSet) -> LatentModel:
    """The model that a resolved configuration describes, for images and labels such as these.

    Raises:
        LatensError: a recipe, part or option that does not exist or does not fit.
    """
    options = config.model
    kinds = ("network", "posterior", "prior", "likelihood")
    with counted(partial(check_memory, config)):
        return recipes.build(
            options.recipe,
            data.shape,
            options.latent_dim or LATENT_DIM,
            None if options.network == AUTO else options.network,
            latent_map=options.latent_map,
            labels=len(data.classes or data.attributes) if data.train.labels is not None else 0,
            exclusive=not data.attributes,
            decoder_network=None if options.decoder_network == AUTO else options.decoder_network,
            posterior=options.posterior,
            prior=options.prior,
            likelihood=options.likelihood,
            options={kind: options.options_of(kind) for kind in kinds},
            octaves=options.octaves,
            input_noise=options.input_noise,
        )


def options_of_own(
    model: LatentModel | None, objective: Objective | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a training whose model or objective is given, what they decide among them.

    Raises:
        LatensError: an option that the model or the objective decides.
    """
    options = dict(options)
    own = set() if model is None else decided_by_model()
    if objective is not None:
        own |= {"objective", *_option_names("objective")}
    for name in own & options.keys():
        raise LatensError(f"{name} is decided by what is given: leave it out")
    if model is not None:
        options |= {"recipe": OWN, "latent_dim": math.prod(model.latent_shape)}
        for kind in ("likelihood", "prior", "posterior"):
            options[kind] = _name_of(kind, getattr(model, kind, None))
    if objective is not None:
        options["objective"] = OWN
    return options


def decided_by_model() -> set[str]:
    """The options of a training that a model has decided when it is given."""
    names = {
        "init_from",
        "recipe",
        "latent_dim",
        "latent_map",
        "decoder_network",
        "octaves",
        "input_noise",
    }
    for kind in ("network", "likelihood", "prior", "posterior"):
        names |= {kind, *_option_names(kind)}
    return names | {old for old, new in RENAMED.items() if new in names}


def _option_names(kind: str) -> set[str]:
    return {name for choice in catalogue.choices(kind).values() for name in choice.options}


def _name_of(kind: str, part: Configurable | None) -> str:
    """What the command line calls a part; "own" where it has no name there."""
    for choice in catalogue.choices(kind).values():
        if type(part).__name__ == choice.class_name and type(part).__module__ == choice.module:
            return choice.name
    return OWN


# ---- checks, and where a model begins --------------------------------------------------------


@torch.no_grad()
def _check(model: LatentModel, objective: Objective, data: DataSet) -> None:
    """Pass two images through model and objective, which say by themselves what does not fit."""
    if objective.label_weight and model.classifier is None:
        raise LatensError("label_weight is for a model with a classifier: semi_supervised")
    few = data.train.take(slice(0, min(CHECKED_IMAGES, len(data.train))))
    device = model.device
    with forked_rng(device):
        y = None if few.labels is None else few.labels.to(device)
        objective(model(few.unit().to(device), y, objective.samples))


def _check_labels(model: LatentModel, data: DataSet) -> None:
    """A model that knows labels learns on with as many of them."""
    known, found = model.label_embedding or model.classifier, data.classes or data.attributes
    count = getattr(known, "count", None)  # of a classifier of one's own none is told
    if count is not None and count != len(found):
        raise LatensError(
            f"the model of init_from knows {count} labels, and {data.name} has {len(found)}: give "
            "images with the same, or train from the beginning"
        )


def _mean_image(data: DataSet) -> Float[Tensor, "C H W"]:
    total = torch.zeros(data.shape, dtype=torch.int64)
    for block in data.train.blocks():
        total += block.pixels.sum(0)
    return (total.double() / (255 * len(data.train))).float()


def _some_images(images: Images, seed: int) -> Float[Tensor, "N C H W"]:
    """Training images drawn at random, by a generator of their own."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.take(order[:START_IMAGES].sort().values).unit()


def labelled_share(images: Images) -> float:
    """The share of images of which a label is known, in [0, 1]."""
    if images.labels is None:
        return 0.0
    return (images.labels >= 0).reshape(len(images), -1).any(1).double().mean().item()
