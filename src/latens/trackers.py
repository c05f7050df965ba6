"""Callbacks that keep a training in the tools that people have: `--log tensorboard mlflow`."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from latens.console import warn
from latens.errors import LatensError, required, unknown
from latens.files import write_bytes
from latens.run.directory import PICTURES, REPORT, Run
from latens.training.callbacks import Callback

CSV = "metrics.csv"


def trackers_of(names: Sequence[str]) -> list[Callback]:
    """The trackers of these names, ready.

    Raises:
        LatensError: no such tracker, or its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
    return [Guarded(name, TRACKERS[name]()) for name in dict.fromkeys(names)]


def scalars(row: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """Each number of a row of `metrics.jsonl`, such as validation/elbo; lists are left out."""
    found: dict[str, int | float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


class Guarded(Callback):
    """A tracker that must answer when a training begins, and costs a warning if it fails later.

    Args:
        name: of the tracker.
    """

    def __init__(self, name: str, tracker: Callback):
        self.name, self.tracker = name, tracker
        self.has_begun = self.has_failed = False

    def on_begin(self, run: Run) -> None:
        """Open what it writes to; of a training that begins again after a collapse too.

        Raises:
            LatensError: it cannot be written to, the first time.
        """
        if self.has_begun:
            self.has_failed = False
            self._try(self.tracker.on_begin, run)
            return
        try:
            self.tracker.on_begin(run)
        except LatensError:
            raise
        except Exception as error:
            raise LatensError(f"--log {self.name}: {error}") from error
        self.has_begun = True

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Log each number."""
        self._try(self.tracker.on_epoch, run, row)

    def on_end(self, run: Run) -> None:
        """Log what there is when the training has ended."""
        self._try(self.tracker.on_end, run)

    def _try(self, tell: Callable[..., None], *about: Any) -> None:
        if self.has_failed:  # what does not answer may take minutes to say so, at each epoch
            return
        try:
            tell(*about)
        except Exception as error:  # of any tool: none is worth a training
            warn(f"--log {self.name} failed, and the training goes on without: {error}")
            self.has_failed = True


def _required(package: str) -> Any:
    return required(package, package, f"--log {package}")


class CSVLog(Callback):
    """`metrics.csv` in the run directory: a row for each epoch, a column for each number."""

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Write all rows anew, so that a resumed training has each once."""
        rows = [scalars(each) for each in run.metrics]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for each in rows for name in each)))
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(run.path / CSV, text.getvalue().encode())


class TensorBoardLog(Callback):
    """Scalars in `tensorboard/` of the run directory; pictures and films when the training ends."""

    def __init__(self) -> None:
        _required("tensorboard")
        self.writer: Any = None

    def on_begin(self, run: Run) -> None:
        """Open a file of events."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is not None:
            with suppress(OSError):  # its file went with a training that collapsed
                self.writer.close()
        self.writer = SummaryWriter(str(run.path / "tensorboard"))

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Add a point to each curve."""
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def on_end(self, run: Run) -> None:
        """Add test figures, pictures and films, which it plays as GIFs."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        writer = self.writer
        for name, value in scalars(run.figures or {}).items():
            writer.add_scalar(f"test/{name}", value, run.metrics[-1]["epoch"])
        folder = run.path / PICTURES
        for path in sorted([*folder.glob("*.png"), *folder.glob("*.gif")]):
            with Image.open(path) as image:
                width, height = image.size
            content = path.read_bytes()
            shown = Summary.Image(height=height, width=width, encoded_image_string=content)
            summary = Summary(value=[Summary.Value(tag=path.stem, image=shown)])
            writer.file_writer.add_summary(summary, run.metrics[-1]["epoch"])
        writer.close()


class MLflowLog(Callback):
    """A run in MLflow: options, metrics, and pictures and report as artifacts.

    It goes where `MLFLOW_TRACKING_URI` points, or into the folder `mlruns` here.
    """

    def __init__(self) -> None:
        self.mlflow = _required("mlflow")
        self.client: Any = None
        self.id = ""

    def on_begin(self, run: Run) -> None:
        """Create a run, and log its options."""
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:  # the only store here that mlflow-skinny has
            place = Path("mlruns").absolute().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "latens")
        try:
            if self.client is not None:  # of a training that collapsed
                self.client.set_terminated(self.id, "KILLED")
            self.client = self.mlflow.MlflowClient(place)
            found = self.client.get_experiment_by_name(name)
            of = found.experiment_id if found else self.client.create_experiment(name)
            self.id = self.client.create_run(of, run_name=run.path.name).info.run_id
            for option, value in run.config.options().items():
                self.client.log_param(self.id, option, value)
            self.client.set_tag(self.id, "command", run.record["command"])
        except self.mlflow.MlflowException as error:
            raise LatensError(f"MLflow at {place} does not answer: {error}") from error

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Log each number."""
        for name, value in scalars(row).items():
            self.client.log_metric(self.id, name, value, step=row["epoch"])

    def on_end(self, run: Run) -> None:
        """Log test figures, pictures and the report, and close the run."""
        client = self.client
        for name, value in scalars(run.figures or {}).items():
            client.log_metric(self.id, f"test/{name}", value)
        for path in (run.path / PICTURES, run.path / REPORT):
            if path.exists():
                client.log_artifact(self.id, str(path))
        client.set_terminated(self.id, "FINISHED" if run.figures else "KILLED")


class WandbLog(Callback):
    """A run in Weights & Biases; offline where `WANDB_MODE=offline`."""

    def __init__(self) -> None:
        self.wandb = _required("wandb")
        self.run: Any = None

    def on_begin(self, run: Run) -> None:
        """Create a run with the options."""
        if self.run is not None:  # of a training that collapsed
            self.run.finish(exit_code=1)
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "latens"),
            name=run.path.name,
            dir=str(run.path),
            config=run.config.options(),
            settings=self.wandb.Settings(silent=True),
        )

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """Log each number."""
        self.run.log(scalars(row), step=row["epoch"])

    def on_end(self, run: Run) -> None:
        """Log test figures, pictures and films, and close the run."""
        open_run = self.run
        for name, value in scalars(run.figures or {}).items():
            open_run.summary[f"test/{name}"] = value
        paths = sorted((run.path / PICTURES).glob("*.png"))
        films = sorted((run.path / PICTURES).glob("*.gif"))
        shown = {path.stem: self.wandb.Image(str(path)) for path in paths}
        shown |= {path.stem: self.wandb.Video(str(path), format="gif") for path in films}
        if shown:
            open_run.log(shown)
        open_run.finish()


TRACKERS: dict[str, type[Callback]] = {
    "csv": CSVLog,
    "tensorboard": TensorBoardLog,
    "mlflow": MLflowLog,
    "wandb": WandbLog,
}
