"""Named compositions of parts: the models people know, each with its source.

A recipe takes the shape of the images, the number of latent dimensions and a likelihood, and
returns a `VAE`. A new one is a function here, a row in the tests and a row in the docs.
"""

import inspect
from collections.abc import Callable

from latens.errors import LatensError, unknown
from latens.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from latens.parts import Likelihood
from latens.vae import VAE

Shape = tuple[int, int, int]


def mlp(image_shape: Shape, latent_dim: int, likelihood: Likelihood) -> VAE:
    """Two fully connected layers of 512 on each side.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", appendix C (there: one layer).
    """
    planes = likelihood.planes(image_shape[0])
    return VAE(
        encoder=MLPEncoder(image_shape),
        decoder=MLPDecoder(latent_dim, image_shape, planes=planes),
        likelihood=likelihood,
    )


def conv(image_shape: Shape, latent_dim: int, likelihood: Likelihood) -> VAE:
    """Residual convolutions at half resolution and below, mirrored in the decoder.

    The convolutional VAE of Salimans et al. 2015, "Markov Chain Monte Carlo and Variational
    Inference: Bridging the Gap", section 6, with sub-pixel convolutions (Shi et al. 2016).
    """
    planes = likelihood.planes(image_shape[0])
    return VAE(
        encoder=ConvEncoder(image_shape),
        decoder=ConvDecoder(latent_dim, image_shape, planes=planes),
        likelihood=likelihood,
    )


RECIPES: dict[str, Callable[[Shape, int, Likelihood], VAE]] = {"mlp": mlp, "conv": conv}


def build(name: str, image_shape: Shape, latent_dim: int, likelihood: Likelihood) -> VAE:
    """The VAE of the recipe `name`, with weights drawn from torch's global generator.

    Raises:
        LatensError: a recipe that does not exist, or images or latents it cannot work with.
    """
    check(name)
    try:
        return RECIPES[name](image_shape, latent_dim, likelihood)
    except RuntimeError as error:  # torch's words for sizes beyond all memory
        reason = str(error).splitlines()[0]
        raise LatensError(f"{name} cannot be built at this size: {reason}") from error


def check(name: str) -> None:
    """Raise a LatensError if there is no such recipe."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)


def describe(name: str) -> tuple[str, str]:
    """What a recipe is, and its source: the two paragraphs of its docstring, each on one line."""
    summary, _, source = inspect.cleandoc(RECIPES[name].__doc__ or "").partition("\n\n")
    return " ".join(summary.split()), " ".join(source.split())
