"""What is asked and answered, as JSON."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

LARGEST_SEED = 2**62
MOST_LEVELS = 1_000  # of temperatures


class SampleRequest(BaseModel, extra="forbid"):
    """Which new images."""

    number: int = Field(1, ge=1, description="How many.")
    label: str | None = Field(None, description="Only of this class, or with this attribute.")
    temperature: Annotated[list[float], Field(max_length=MOST_LEVELS)] | float | None = Field(
        None,
        description="Below 1 gives more typical images; of a ladder one, or one for each level; "
        "none: the model's own, mostly 1.",
    )
    seed: int = Field(0, ge=0, lt=LARGEST_SEED, description="Image i has the noise of seed + i.")


class Figures(BaseModel):
    """What the model is."""

    title: str
    image_shape: list[int] = Field(description="Channels, height, width.")
    latent_shape: list[int] = Field(description="Of the topmost level.")
    levels: int
    classes: list[str]
    attributes: list[str]
    figures: dict[str, Any] | None = Field(description="On test images, in nats per image.")
    limits: dict[str, float]


class Health(BaseModel):
    """That the service answers, and how many requests it has computed in how many batches."""

    status: str
    requests: int
    batches: int


class NewImages(BaseModel):
    """Images as PNG files in base64, with their labels where the model knows them."""

    images: list[str]
    labels: list[str] | None = None
    probability: list[float] | None = Field(None, description="Of the label given z.")


class Reconstructions(BaseModel):
    """Images as PNG files in base64."""

    images: list[str]
    mean_squared_error: list[float] = Field(description="Of pixels in [0, 1], for each image.")


class Latents(BaseModel):
    """q(z|x) of each image."""

    mu: list[list[float]]
    sigma: list[list[float]]


class Scores(BaseModel):
    """How unusual each image is, larger if more so: displacement in pixels, the others in nats."""

    scores: dict[str, list[float]]


class Interpolation(BaseModel):
    """Images on the way, as PNG files in base64."""

    images: list[str]
