"""The run directory: everything a training leaves behind."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from latens import files, limits
from latens.config import LATENT_DIM, OWN, TrainConfig
from latens.console import warn
from latens.errors import LatensError
from latens.hub import as_given, fetch, is_address, is_of_hub, name_in_cache
from latens.model import serialization
from latens.model.latent_model import LatentModel, load_model
from latens.run import schemas

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
FIGURES = "figures.json"
CHECKPOINTS = "checkpoints"
FILM = "film"
DIVERGED = "diverged"
PICTURES = "pictures"
REPORT = "report.html"
CHECKPOINTS_KEPT = 2
PRETRAINED = Path(__file__).parent.parent / "pretrained"
PACKAGES = ("latens", "torch", "numpy", "safetensors", "scikit-learn", "pillow")

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the folder.
        record: what `config.yaml` holds: options, data, versions, command.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def create(cls, path: Path, record: dict[str, Any]) -> "Run":
        """A new run directory, complete from the start or not there at all.

        Raises:
            LatensError: something of that name exists.
            OSError: it cannot be written.
        """
        refuse_existing(path)
        with files.building(path) as partial:
            cls.fill(partial, record)
            (partial / CHECKPOINTS).mkdir()
        return cls(path, record)

    @classmethod
    def fill(
        cls, folder: Path, record: dict[str, Any], rows: Sequence[dict[str, Any]] = ()
    ) -> "Run":
        """A run directory in a folder that is there and empty.

        Args:
            rows: of metrics.jsonl, of a training that has been.

        Raises:
            OSError: it cannot be written.
        """
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
        files.write_bytes(folder / CONFIG, text.encode())
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_bytes(folder / METRICS, lines.encode())
        return cls(folder, record)

    @classmethod
    def create_next(cls, parent: Path, record: dict[str, Any]) -> "Run":
        """A new run directory with the next number that is free, also where others begin at once.

        Raises:
            OSError: it cannot be written.
        """
        recipe = record["options"]["model"]["recipe"]
        while True:
            path = next_path(parent, record["data"]["name"], recipe)
            try:
                return cls.create(path, record)
            except (LatensError, OSError):
                if not path.exists():
                    raise

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run directory at `path`, or the pretrained model of that name.

        Raises:
            LatensError: there is none, or its config.yaml is missing or damaged.
        """
        given, path = path, locate(path)
        if not (path / CONFIG).is_file():
            raise LatensError(f"{as_given(given)} is no run directory: there is no {CONFIG} in it")
        record = read_yaml(path / CONFIG)
        schemas.check_record(record, path / CONFIG)
        return cls(path, record)

    # ---- what is in it -----------------------------------------------------------------------

    @cached_property
    def config(self) -> TrainConfig:
        """The options of the training.

        Raises:
            LatensError: options that are not latens's.
        """
        return TrainConfig.from_record(self.record["options"])

    @property
    def is_pretrained(self) -> bool:
        """Whether it comes with latens or from the Hub, so nothing is written in its folder."""
        return self.path.parent == PRETRAINED or is_of_hub(self.path)

    @property
    def home(self) -> Path:
        """Where a report is written: the run's folder, or one of a pretrained model's name here."""
        if is_of_hub(self.path):
            return Path(name_in_cache(self.path))
        return Path(self.path.name) if self.is_pretrained else self.path

    @property
    def name(self) -> str:
        """The name of the data."""
        return self.record["data"]["name"]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of z: `(D,)`, or `(D, h, w)` of a map."""
        dims = self.config.model.latent_dim or LATENT_DIM
        return tuple(self.record.get("latent_shape") or (dims,))

    @property
    def latent_dims(self) -> int:
        """How many latent dimensions there are altogether."""
        return math.prod(self.latent_shape)

    @property
    def levels(self) -> int:
        """How many levels of latents there are."""
        return len(self.record.get("level_shapes") or (self.latent_shape,))

    @property
    def title(self) -> str:
        """Data, recipe, dimensions and objective: what every picture says of itself."""
        name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in self.name)
        dims = "×".join(map(str, self.latent_shape))
        latents = f"{self.levels} levels" if self.levels > 1 else f"{dims} dims"
        return f"{name}, {self.config.model.recipe}, {latents}, {self.objective}"

    @property
    def objective(self) -> str:
        """The objective in words: "β 1" of the ELBO, with its schedule; one's own by its class."""
        section = self.config.objective
        if section.name == OWN:
            return str(self.record.get("objective", {}).get("part", OWN))
        name, options = section.name, dict(section.options)
        words = [] if name == "elbo" else [name]
        if "samples" in options and options["samples"] > 1:
            words.append(f"{options['samples']} samples")
        if "beta" in options:
            words.append(f"β {self.beta}")
        return ", ".join(words) or name

    @property
    def beta(self) -> str:
        """β in words, with its schedule; empty for an objective without one."""
        section = self.config.objective
        if "beta" not in section.options:
            return ""
        words = f"{section.options['beta']:g}"
        if section.beta_step:
            words += f" + {section.beta_step:g} an epoch"
        if section.beta_warmup:
            words = f"0 → {words}"
        return words + (f", {section.beta_cycles} times" if section.beta_cycles > 1 else "")

    @cached_property
    def vae(self) -> LatentModel:
        """The trained model, in evaluation mode."""
        return load_model(self.path)

    @property
    def figures(self) -> dict[str, Any] | None:
        """The figures on the test set at the end of training; None before that."""
        path = self.path / FIGURES
        if not path.is_file():
            return None
        figures = files.read_json(path)
        schemas.check(figures, schemas.Figures, path)
        return figures

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row per epoch.

        Raises:
            LatensError: the file is missing or damaged.
        """
        path = self.path / METRICS
        if not path.is_file():
            raise LatensError(f"{self.path} has no {METRICS}")
        rows = []
        content = path.read_bytes()
        lines = content.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                if number == len(lines) and not content.endswith(b"\n"):
                    break  # it is being written, or its writer was killed
                raise LatensError(f"{path} is damaged: line {number} is not JSON") from None
            schemas.check(rows[-1], schemas.Row, path)
        return rows

    @property
    def frames(self) -> dict[int, Path]:
        """The files of what was recorded for films, by epoch; empty where nothing was."""
        paths = sorted((self.path / FILM).glob("[0-9]*.safetensors"))
        return {int(path.stem): path for path in paths if path.stem.isdecimal()}

    # ---- writing -----------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is trained: a lock, which ends with the process that has it.

        Raises:
            LatensError: another process trains it.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / CHECKPOINTS / "lock", blocking=False):
                written = (CHECKPOINTS, FILM, DIVERGED)
                files.clear_temporaries(self.path, *(self.path / name for name in written))
                yield
        except Timeout:
            raise LatensError(
                f"{self.path} is being trained by another process: wait until it has ended"
            ) from None

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def forget_metrics_after(self, epoch: int) -> None:
        """Drop the rows and frames of later epochs, and a last line that was cut short.

        Raises:
            LatensError: the file is missing, or not a run's.
        """
        path = self.path / METRICS
        lines = path.read_bytes().splitlines() if path.is_file() else []
        kept = []
        for line in lines[:epoch]:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            schemas.check(row, schemas.Row, path)
            kept.append(line + b"\n")
        if len(kept) < epoch:
            raise LatensError(f"{path} is damaged: it lacks epochs before the last checkpoint")
        files.write_bytes(path, b"".join(kept))
        for frame_epoch, frame in self.frames.items():
            if frame_epoch > epoch:
                frame.unlink()

    def save_frame(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Write what was recorded at an epoch."""
        (self.path / FILM).mkdir(exist_ok=True)
        serialization.write_tensors(self.path / FILM / f"{epoch:06d}.safetensors", tensors, {})

    def save_model(
        self,
        vae: LatentModel,
        bits: serialization.WeightBits = 32,
        in_16: Collection[str] = (),
    ) -> None:
        """Write config.json and model.safetensors, with so many bits for a weight."""
        serialization.write_model(self.path, vae, vae.about, bits, in_16)

    def save_figures(self, figures: dict[str, Any]) -> None:
        """Write the figures on the test set."""
        files.write_json(self.path / FIGURES, figures)

    def save_checkpoint(self, images: int, tensors: dict[str, Tensor], state: dict) -> None:
        """Write the full state after so many images, and keep the last two such files."""
        folder = self.path / CHECKPOINTS
        name = f"{images:012d}.safetensors"
        serialization.write_tensors(folder / name, tensors, {"state": json.dumps(state)})
        for old in sorted(folder.glob("[0-9]*.safetensors"))[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def save_divergence(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state that met a loss that is no number, and which images it was of."""
        (self.path / DIVERGED).mkdir(exist_ok=True)
        files.write_json(self.path / DIVERGED / "step.json", about)
        serialization.write_tensors(self.path / DIVERGED / "state.safetensors", tensors, {})

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to go on from: an epoch, or a checkpoint and the model."""
        metrics = self.path / METRICS
        if metrics.is_file() and metrics.stat().st_size:
            return True
        states = (self.path / CHECKPOINTS).glob("[0-9]*.safetensors")
        return any(states) and (self.path / serialization.WEIGHTS).is_file()

    def last_checkpoint(self) -> Checkpoint:
        """The newest checkpoint that is whole.

        Raises:
            LatensError: there is none.
        """
        for path in sorted((self.path / CHECKPOINTS).glob("[0-9]*.safetensors"), reverse=True):
            try:
                tensors, metadata = serialization.read_tensors(path)
                return tensors, dict(json.loads(metadata["state"]))
            except (LatensError, KeyError, TypeError, ValueError):
                warn(f"{path} is damaged: going on from the checkpoint before it")
        raise LatensError(f"{self.path} has no whole checkpoint to go on from: train anew")


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of metrics.jsonl whose averaged weights are kept: the best on validation images."""
    return min(rows, key=lambda row: row["validation"]["final_loss"])


def pretrained() -> list[str]:
    """The names of the models that come with latens."""
    return sorted(folder.name for folder in PRETRAINED.iterdir() if (folder / CONFIG).is_file())


def locate(path: str | Path) -> Path:
    """The folder of a run, of the pretrained model of this name, or of `hf://user/name`.

    Raises:
        LatensError: there is none.
    """
    if is_address(path):
        return fetch(path)
    known = str(path) in pretrained()
    if Path(path).is_dir() and not (known and not (Path(path) / CONFIG).exists()):
        return Path(path)  # and no report that a pretrained model has left under its own name
    if known:
        return PRETRAINED / path
    raise LatensError(
        f"no such run directory: {path}. Models that come with latens: {', '.join(pretrained())}"
    )


def check_out(out: Path, *names: str) -> None:
    """Raise a LatensError where `out` is no folder for a page, or holds what is not a page's.

    Args:
        names: of what else may lie there beside a page and its pictures.
    """
    if out.exists() and not out.is_dir():
        raise LatensError(f"{out} is a file, and a folder is needed: choose another --out")
    there = out.iterdir() if out.is_dir() else ()
    foreign = [path.name for path in there if not files.is_temporary(path)]
    foreign = sorted(set(foreign) - {REPORT, PICTURES, *names})
    if foreign:
        raise LatensError(
            f"{out} holds {foreign[0]}, and would be mixed with other files: choose another --out"
        )


def refuse_existing(path: Path) -> None:
    """Raise a LatensError if something is at `path`."""
    if path.exists():
        on = ", or go on with its training by --resume" if (path / CONFIG).is_file() else ""
        raise LatensError(f"{path} exists already: choose another folder{on}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        LatensError: no such file, or no mapping in it.
    """
    if not path.is_file():
        raise LatensError(f"no such file: {path}")
    limits.check("option_bytes", path.stat().st_size, f"{path} has")
    try:
        text = path.read_text("utf-8")
        _check_events(text, path)
        content = yaml.safe_load(text)
    except LatensError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LatensError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise LatensError(f"{path} holds no 'name: value' lines")
    for name in content:
        if not isinstance(name, str):
            raise LatensError(f"{path} has a name that is no text: {name}")
    return content


def _check_events(text: str, path: Path) -> None:
    """Raise a LatensError before a text is built that stands for gigabytes, or takes minutes."""
    aliases = depth = 0
    for event in yaml.parse(text):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        limits.check("aliases", aliases, f"{path} has")
        limits.check("nesting", depth, f"{path} has")


def next_path(parent: Path, data: str, recipe: str) -> Path:
    """runs/mnist-conv-1, or the next number that is free."""
    stem = f"{Path(data).stem or 'data'}-{recipe}"
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


def versions() -> dict[str, str]:
    """What the run was made with."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}
