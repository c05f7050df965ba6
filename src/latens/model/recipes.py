"""Named compositions of parts: the models people know, each with its source.

A recipe takes a `Setting` and returns a `VAE`. A new one is a function here with a row in
`RECIPES`, a row in the tests and a row in the docs.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from latens.model.classifiers import MLPClassifier
from latens.errors import LatensError, unknown
from latens.model.networks import (
    ConditionalDecoder,
    ConditionalEncoder,
    ConvDecoder,
    ConvEncoder,
    FourierDecoder,
    LabelEmbedding,
    MLPDecoder,
    MLPEncoder,
    NoisyEncoder,
    UNetDecoder,
    UNetEncoder,
)
from latens.model.parts import Decoder, Encoder, Likelihood, Prior
from latens.model.vae import VAE

NETWORKS: dict[str, tuple[Callable[..., Encoder], Callable[..., Decoder]]] = {
    "mlp": (MLPEncoder, MLPDecoder),
    "conv": (ConvEncoder, ConvDecoder),
    "unet": (UNetEncoder, UNetDecoder),
}
# With so few latents a decoder sees waves of them: see `FourierDecoder`.
FEW_DIMS, OCTAVES = 3, 2


@dataclass(frozen=True)
class Setting:
    """What a recipe composes for.

    Attributes:
        image_shape: (C, H, W).
        latent_dim: D.
        likelihood: p(x|z).
        prior: p(z); N(0, I) unless given.
        labels: how many classes or attributes the images have; 0 is none.
        exclusive: an image has one of the labels, a class; otherwise any of them, attributes.
        network: a key of `NETWORKS`.
        decoder_network: the decoder's, where it is another one.
        options: of these networks, such as `channels`; each takes what it knows.
        octaves: of waves of z for the decoder; None: 2 for up to three dims, else none.
        input_noise: σ of the noise on the encoder's images while it learns.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    likelihood: Likelihood
    prior: Prior | None = None
    labels: int = 0
    exclusive: bool = True
    network: str = "conv"
    decoder_network: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    octaves: int | None = None
    input_noise: float = 0.0

    def encoder(self) -> Encoder:
        """Of the network chosen."""
        network = NETWORKS[self.network][0]
        encoder = network(self.image_shape, **self._options_of(network))
        return NoisyEncoder(encoder, self.input_noise) if self.input_noise else encoder

    def decoder(self, embedding: LabelEmbedding | None = None) -> Decoder:
        """Of the network chosen; it sees the label too if there is an embedding."""
        octaves = self.octaves
        if octaves is None:
            octaves = OCTAVES if self.latent_dim <= FEW_DIMS else 0
        inputs = self.latent_dim * (1 + 2 * octaves) + (embedding.width if embedding else 0)
        planes = self.likelihood.planes(self.image_shape[0])
        network = NETWORKS[self.decoder_network or self.network][1]
        options = self._options_of(network)
        if "hidden" in options:  # the mirror of the encoder
            options["hidden"] = options["hidden"][::-1]
        decoder = network(inputs, self.image_shape, planes=planes, **options)
        decoder = ConditionalDecoder(decoder, embedding) if embedding else decoder
        return FourierDecoder(decoder, octaves) if octaves else decoder

    def _options_of(self, network: Callable[..., Any]) -> dict[str, Any]:
        known = inspect.signature(network).parameters
        return {name: value for name, value in self.options.items() if name in known}

    def check(self) -> None:
        """Raise a LatensError for a network that does not exist, or an option that none has."""
        names = {self.network, self.decoder_network or self.network}
        for name in names - NETWORKS.keys():
            raise unknown("network", name, NETWORKS)
        known = {o for name in names for o in inspect.signature(NETWORKS[name][0]).parameters}
        for option in self.options:
            if option not in known:
                raise LatensError(
                    f"{option} is no option of the network {' and '.join(sorted(names))}: leave "
                    "it out"
                )


def plain(setting: Setting) -> VAE:
    """An encoder and its mirror, with a diagonal Gaussian posterior."""
    return VAE(setting.encoder(), setting.decoder(), setting.likelihood, setting.prior)


def mlp(setting: Setting) -> VAE:
    """Fully connected layers on each side.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", appendix C (there: one layer).
    """
    return plain(setting)


def conv(setting: Setting) -> VAE:
    """Residual convolutions at half resolution and below, mirrored in the decoder.

    The convolutional VAE of Salimans et al. 2015, "Markov Chain Monte Carlo and Variational
    Inference: Bridging the Gap", section 6, with sub-pixel convolutions (Shi et al. 2016).
    """
    return plain(setting)


def unet(setting: Setting) -> VAE:
    """A U-Net without skips: every bit of an image passes through z.

    Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    with residual blocks (He et al. 2016) at the bottleneck.
    """
    return plain(setting)


def beta(setting: Setting) -> VAE:
    """The KL weighs more than in the ELBO: fewer, more independent latents, and blurrier images.

    Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework", equation 4.
    """
    return plain(setting)


def conditional(setting: Setting) -> VAE:
    """Encoder and decoder see the label, so z holds what the label does not tell.

    Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
    Models", section 4.
    """
    return VAE(
        ConditionalEncoder(setting.encoder(), LabelEmbedding(setting.labels, setting.exclusive)),
        setting.decoder(LabelEmbedding(setting.labels, setting.exclusive)),
        setting.likelihood,
        setting.prior,
    )


def semi_supervised(setting: Setting) -> VAE:
    """A classifier on z learns beside the decoder; images without a label are used too.

    After Kingma et al. 2014, "Semi-supervised Learning with Deep Generative Models", model M1
    with its classifier trained jointly (equation 9 weighs the label's term).
    """
    return VAE(
        setting.encoder(),
        setting.decoder(),
        setting.likelihood,
        setting.prior,
        classifier=MLPClassifier((setting.latent_dim,), setting.labels, setting.exclusive),
    )


@dataclass(frozen=True)
class Recipe:
    """A composition, and what it assumes.

    Attributes:
        compose: the function.
        network: the one it is about; None leaves the choice open (conv unless told).
        defaults: options of a training that it sets unless the user does.
        needs_labels: it is nothing without labels.
    """

    compose: Callable[[Setting], VAE]
    network: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_labels: bool = False


RECIPES = {
    "mlp": Recipe(mlp, "mlp"),
    "conv": Recipe(conv, "conv"),
    # Without it the decoder may learn to do without z in its first steps, and stay so.
    "unet": Recipe(unet, "unet", {"beta_warmup": 0.1}),
    "beta": Recipe(beta, defaults={"beta": 4.0}),
    "conditional": Recipe(conditional, needs_labels=True),
    "semi_supervised": Recipe(semi_supervised, defaults={"label_weight": 20.0}, needs_labels=True),
}


def build(
    name: str,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    likelihood: Likelihood,
    **choices: Any,
) -> VAE:
    """The VAE of the recipe `name`, with weights drawn from torch's global generator.

    Args:
        **choices: further fields of a `Setting`.

    Raises:
        LatensError: a recipe, network or option that does not exist, labels that are missing, or
            images or latents it cannot work with.
    """
    recipe = find(name)
    network = choices.pop("network", None) or recipe.network or Setting.network
    if recipe.network not in (None, network):
        raise LatensError(f"the recipe {name} is a {recipe.network}: leave out --network {network}")
    setting = Setting(image_shape, latent_dim, likelihood, network=network, **choices)
    setting.check()
    if recipe.needs_labels and not setting.labels:
        raise LatensError(
            f"the recipe {name} needs labels, and these images have none: put them into one "
            "sub-folder per class, or use another recipe"
        )
    try:
        return recipe.compose(setting)
    except RuntimeError as error:  # torch's words for sizes beyond all memory
        reason = str(error).splitlines()[0]
        raise LatensError(f"{name} cannot be built at this size: {reason}") from error


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        LatensError: there is none.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def describe(name: str) -> tuple[str, str]:
    """What a recipe is, and its source: the two paragraphs of its docstring, each on one line."""
    summary, _, source = inspect.cleandoc(find(name).compose.__doc__ or "").partition("\n\n")
    return " ".join(summary.split()), " ".join(source.split())
