"""Named compositions of parts: the models people know, each with its source.

A recipe takes a `ModelSpec` and returns a `VAE`. A new one is a function here with a row in
`RECIPES`, a row in the tests and a row in the docs.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from latens import catalogue
from latens.errors import LatensError, one_line, unknown
from latens.model.classifiers import MLPClassifier
from latens.model.ladder import Ladder
from latens.model.latent_model import LatentModel
from latens.model.networks import (
    ConditionalDecoder,
    ConditionalEncoder,
    ConvMapDecoder,
    ConvMapEncoder,
    FourierDecoder,
    LabelEmbedding,
    LadderEncoder,
    NoisyEncoder,
)
from latens.model.networks.conv import MOST_CHANNELS, Geometry
from latens.model.networks.ladder import Levels
from latens.model.parts import Decoder, Encoder, Likelihood, Posterior, Prior
from latens.model.posteriors import default_posterior
from latens.model.vae import VAE

# With so few latents a decoder sees Fourier features of them: see `FourierDecoder`.
FEW_DIMS, OCTAVES = 3, 2
LADDER = "ladder"  # a network that has levels of latents, and the recipe that is made for it


@dataclass(frozen=True)
class ModelSpec:
    """What a recipe composes: shapes, and which parts with which options.

    Attributes:
        image_shape: (C, H, W).
        latent_dim: D.
        latent_map: channels of a map of latents at the coarsest resolution of the network conv;
            None: a vector of D latents.
        labels: how many classes or attributes the images have; 0 is none.
        exclusive: an image has one of the labels, a class; otherwise any of them, attributes.
        network, posterior, prior, likelihood: names of parts, see `latens.catalogue`.
        decoder_network: the decoder's, where it is another one.
        options: of each of these kinds, by name, such as `{"network": {"channels": 16}}`.
        octaves: of Fourier features of z for the decoder; None: 2 for up to three dims, else none.
        input_noise: σ of the noise on the encoder's images while it learns.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    latent_map: int | None = None
    labels: int = 0
    exclusive: bool = True
    network: str = "conv"
    decoder_network: str | None = None
    posterior: str = "gaussian"
    prior: str = "normal"
    likelihood: str = "bernoulli"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    octaves: int | None = None
    input_noise: float = 0.0

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Z: `(D,)`, or `(channels, h, w)` of a map; of a ladder that of its topmost level."""
        if self.network == LADDER:
            levels = self.options.get("network", {}).get("levels")
            return Levels(levels, *self.image_shape[1:]).all[0].shape
        if self.latent_map is None:
            return (self.latent_dim,)
        channels = self.options.get("network", {}).get("channels", 32)
        return (self.latent_map, *Geometry(*self.image_shape[1:], channels).coarse)

    def make_likelihood(self) -> Likelihood:
        """The likelihood chosen."""
        return catalogue.build("likelihood", self.likelihood, self._given("likelihood"))

    def make_prior(self) -> Prior:
        """The prior chosen, for latents of this shape."""
        return catalogue.build(
            "prior",
            self.prior,
            self._given("prior"),
            event_shape=self.latent_shape,
            image_shape=self.image_shape,
            count=self.labels,
            exclusive=self.exclusive,
        )

    def make_posterior(self, encoder: Encoder) -> Posterior:
        """The posterior chosen, on the features of this encoder.

        Raises:
            LatensError: one that has no map of latents.
        """
        if self.posterior == "gaussian":
            return default_posterior(encoder, self.latent_shape)
        if self.latent_map is not None:
            raise LatensError(
                f"the posterior {self.posterior} is for a vector of latents: leave out latent_map"
            )
        return catalogue.build(
            "posterior",
            self.posterior,
            self._given("posterior"),
            features=encoder.features,
            latent_dim=self.latent_dim,
        )

    def make_encoder(self) -> Encoder:
        """Of the network chosen."""
        network = ConvMapEncoder if self.latent_map else _class("network", self.network)
        encoder = network(self.image_shape, **self._options_of(network))
        return NoisyEncoder(encoder, self.input_noise) if self.input_noise else encoder

    def make_decoder(self, embedding: LabelEmbedding | None = None) -> Decoder:
        """Of the network chosen; it sees the label too if there is an embedding."""
        out_channels = self.make_likelihood().decoder_channels(self.image_shape[0])
        if self.latent_map:
            options = self._options_of(ConvMapDecoder)
            decoder = ConvMapDecoder(
                self.latent_shape, self.image_shape, out_channels=out_channels, **options
            )
            return ConditionalDecoder(decoder, embedding) if embedding else decoder
        octaves = self.octaves
        if octaves is None:
            octaves = OCTAVES if self.latent_dim <= FEW_DIMS else 0
        inputs = self.latent_dim * (1 + 2 * octaves) + (embedding.width if embedding else 0)
        network = _class("decoder", self.decoder_network or self.network)
        options = self._options_of(network)
        if "hidden" in options:  # the mirror of the encoder
            options["hidden"] = options["hidden"][::-1]
        decoder = network(inputs, self.image_shape, out_channels=out_channels, **options)
        decoder = ConditionalDecoder(decoder, embedding) if embedding else decoder
        return FourierDecoder(decoder, octaves) if octaves else decoder

    def _given(self, kind: str) -> Mapping[str, Any]:
        return self.options.get(kind, {})

    def _options_of(self, network: Callable[..., Any]) -> dict[str, Any]:
        known = inspect.signature(network).parameters
        return {name: value for name, value in self._given("network").items() if name in known}

    def check(self) -> None:
        """Raise a LatensError for parts that do not exist, or options that none of them has."""
        names = {self.network, self.decoder_network or self.network}
        if self.latent_map and (names != {"conv"} or self.octaves):
            raise LatensError(
                "latent_map is for the network conv, without octaves: add --network conv, or "
                "leave it out"
            )
        known = {o for name in names for o in catalogue.find("network", name).options}
        if self._given("network").get("channels", 0) > MOST_CHANNELS:
            raise LatensError(
                f"channels is {self._given('network')['channels']:,}: no level of the network has "
                f"more than {MOST_CHANNELS}"
            )
        for option in self._given("network"):
            if option not in known:
                raise LatensError(
                    f"{option} is no option of the network {' and '.join(sorted(names))}: leave "
                    "it out"
                )


def _class(kind: str, name: str) -> Callable[..., Any]:
    """The encoder ("network") or the decoder of that name."""
    return catalogue.find(kind, name).load()


def plain(spec: ModelSpec, **parts: Any) -> VAE:
    """An encoder and its mirror around the posterior, prior and likelihood chosen.

    Args:
        **parts: encoder, decoder or classifier in place of the plain ones.
    """
    encoder = parts.pop("encoder", None) or spec.make_encoder()
    decoder = parts.pop("decoder", None) or spec.make_decoder()
    posterior = spec.make_posterior(encoder)
    return VAE(encoder, decoder, spec.make_likelihood(), spec.make_prior(), posterior, **parts)


def mlp(spec: ModelSpec) -> VAE:
    """Fully connected layers on each side.

    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", appendix C (there: one layer).
    """
    return plain(spec)


def conv(spec: ModelSpec) -> VAE:
    """Residual convolutions at half resolution and below, mirrored in the decoder.

    The convolutional VAE of Salimans et al. 2015, "Markov Chain Monte Carlo and Variational
    Inference: Bridging the Gap", section 6, with sub-pixel convolutions (Shi et al. 2016).
    """
    return plain(spec)


def unet(spec: ModelSpec) -> VAE:
    """A U-Net without skips: every bit of an image passes through z.

    Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    with residual blocks (He et al. 2016) at the bottleneck.
    """
    return plain(spec)


def beta(spec: ModelSpec) -> VAE:
    """The KL weighs more than in the ELBO: fewer, more independent latents, and blurrier images.

    Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework", equation 4.
    """
    return plain(spec)


def conditional(spec: ModelSpec) -> VAE:
    """Encoder and decoder see the label, so z holds what the label does not tell.

    Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative
    Models", section 4.
    """
    return plain(
        spec,
        encoder=ConditionalEncoder(
            spec.make_encoder(), LabelEmbedding(spec.labels, spec.exclusive)
        ),
        decoder=spec.make_decoder(LabelEmbedding(spec.labels, spec.exclusive)),
    )


def semi_supervised(spec: ModelSpec) -> VAE:
    """A classifier on z learns beside the decoder; images without a label are used too.

    After Kingma et al. 2014, "Semi-supervised Learning with Deep Generative Models", model M1
    with its classifier trained jointly (equation 9 weighs the label's term).
    """
    classifier = MLPClassifier(spec.latent_shape, spec.labels, spec.exclusive)
    return plain(spec, classifier=classifier)


def ladder(spec: ModelSpec) -> Ladder:
    """A hierarchy of latent maps, inferred and sampled on one way from coarse to fine.

    Sønderby et al. 2016, "Ladder Variational Autoencoders", with the blocks of Child 2021, "Very
    Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images".
    """
    for name, value in (
        ("posterior", spec.posterior != "gaussian"),
        ("the prior conditional", spec.prior == "conditional"),
        ("decoder_network", spec.decoder_network),
        ("octaves", spec.octaves),
        ("input_noise", spec.input_noise),
    ):
        if value:
            raise LatensError(f"{name} is for models of one level of latents: leave it out")
    encoder = LadderEncoder(spec.image_shape, **spec.options.get("network", {}))
    return Ladder(encoder, spec.make_likelihood(), spec.make_prior())


@dataclass(frozen=True)
class Recipe:
    """A composition, and what it assumes.

    Attributes:
        compose: the function.
        network: the one it is about; None leaves the choice open (conv by default).
        defaults: options of a training that it sets unless the user does.
        needs_labels: it is nothing without labels.
        photographs: the likelihood of 8-bit photographs, unless the user names one.
        eager: on a processor a step is as fast uncompiled: many convolutions, little between them.
    """

    compose: Callable[[ModelSpec], LatentModel]
    network: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_labels: bool = False
    photographs: str = "discretised-logistic"
    eager: bool = False


RECIPES = {
    "mlp": Recipe(mlp, "mlp"),
    "conv": Recipe(conv, "conv"),
    # Without it the decoder may learn to do without z in its first steps, and stay so.
    "unet": Recipe(unet, "unet", {"beta_warmup": 0.1}),
    "beta": Recipe(beta, defaults={"beta": 4.0}),
    "conditional": Recipe(conditional, needs_labels=True),
    "semi_supervised": Recipe(semi_supervised, defaults={"label_weight": 20.0}, needs_labels=True),
    "ladder": Recipe(ladder, LADDER, photographs="logistic-mixture", eager=True),
}


def build(
    name: str,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    network: str | None = None,
    **choices: Any,
) -> LatentModel:
    """The model of the recipe `name`, with weights drawn from torch's global generator.

    Args:
        network: None leaves it to the recipe.
        **choices: further fields of a `ModelSpec`.

    Raises:
        LatensError: a recipe, part or option that does not exist, labels that are missing, or
            images or latents it cannot work with.
    """
    recipe = find(name)
    network = network or recipe.network or ModelSpec.network
    if recipe.network not in (None, network):
        raise LatensError(f"the recipe {name} is a {recipe.network}: leave out --network {network}")
    spec = ModelSpec(image_shape, latent_dim, network=network, **choices)
    if LADDER in (network, spec.decoder_network) and recipe.network != LADDER:
        raise LatensError("the network ladder has several levels of latents: add --recipe ladder")
    spec.check()
    if recipe.needs_labels and not spec.labels:
        raise LatensError(
            f"the recipe {name} needs labels, and these images have none: put them into one "
            "sub-folder per class, or use another recipe"
        )
    try:
        return recipe.compose(spec)
    except RuntimeError as error:  # torch's words for sizes beyond all memory
        raise LatensError(f"{name} cannot be built at this size: {one_line(error)}") from error


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
