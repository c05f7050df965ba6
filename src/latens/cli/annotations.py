"""The types of arguments that several commands have, with their help."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from latens.config import Device
from latens.options import TrainOptions

Split = Literal["train", "validation", "test", "all"]
RunPath = Annotated[
    Path,
    Parameter(
        help="A run directory, as `latens train` prints it, a pretrained model by name, or "
        "hf://USER/NAME."
    ),
]
DataPath = str | Path  # always text; but for the path a shell would not complete files
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
        "is asked for, but with --density gaussian."
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
    str | None,
    Parameter(
        help="Factor on z, above 0; below 1 gives more typical images. Of a ladder one for all "
        "levels, or one for each, such as 1,0.9,0.8. None: the model's own, mostly 1."
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
    str | None,
    Parameter(
        help="Which, such as -elbo,nll: -elbo; nll, −log p(x) by importance sampling; "
        "reconstruction, −E log p(x|z); displacement, by how many pixels the image would have to "
        "be distorted to become its reconstruction; regret, what a q(z|x) of the image's own gains "
        "over the encoder's; typicality, how far -elbo is from its mean over training images; "
        "none: all but regret, which takes long.",
        allow_leading_hyphen=True,
    ),
]
ImportanceSamples = Annotated[int, Parameter(help="K, of nll.")]
Steps = Annotated[int, Parameter(help="For the q(z|x) of each image, of regret.")]
# What is on by default, or in a file, is taken back by --no-NAME
Options = Annotated[TrainOptions, Parameter(name="*", negative=None, negative_bool="no-")]
