"""What the programs and the tests beside them build alike."""

from latens import TrainConfig
from latens.data import DataSet
from latens.training.learner import Learner
from latens.training.processes import Processes
from latens.training.setup import TrainingSetup, prepare
from latens.training.trainer import learner_of

SMALL = {"recipe": "mlp", "hidden": "32", "latent_dim": 3, "epochs": 3, "precision": "float32"}


def small_setup(digits: DataSet, **options) -> TrainingSetup:
    """A small training on a processor, whose weights are always the same at first."""
    return prepare(digits, TrainConfig.from_options(**SMALL | {"device": "cpu"} | options))


def learner(digits: DataSet, processes: Processes | None = None, **options) -> Learner:
    """What learns in it."""
    return learner_of(small_setup(digits, **options), processes or Processes.launch("cpu", 1))
