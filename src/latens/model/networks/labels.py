"""Labels as inputs: one embedding, and what lets any encoder or decoder see it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from latens.errors import LatensError
from latens.model.parts import Decoder, Encoder, Part


class LabelEmbedding(Part):
    """Labels as vectors, by a linear map that takes what is unknown to zero.

    Args:
        count: how many classes or attributes there are.
        exclusive: an image has one of `count` classes, and y is `[N]`; otherwise it has or lacks
            each of `count` attributes, and y is `[N, count]` of 0 and 1. −1 is unknown.
        width: E.

    Raises:
        LatensError: no classes or attributes at all.
    """

    def __init__(self, count: int, exclusive: bool = True, width: int = 32):
        super().__init__()
        if count < 1:
            raise LatensError("there are no labels to embed: at least one class is needed")
        self.count = count
        self.exclusive = exclusive
        self.width = width
        self.weight = nn.Parameter(torch.empty(count, width))
        nn.init.normal_(self.weight, std=1 if exclusive else count**-0.5)

    def forward(self, y: Int[Tensor, "N *A"] | None) -> Float[Tensor, "N E"]:
        """The vectors of labels.

        Raises:
            LatensError: no labels, or labels of the other sort.
        """
        if y is None:
            raise LatensError("this model is conditional: it needs a label for each image")
        if y.shape[1:] != (() if self.exclusive else (self.count,)):
            what = "one class" if self.exclusive else f"{self.count} attributes"
            raise LatensError(f"labels of shape {tuple(y.shape)}: {what} for each image is needed")
        known = (y >= 0).to(self.weight.dtype)
        if self.exclusive:
            return self.weight[y.clamp(min=0)] * known[:, None]
        return ((2 * y - 1) * known) @ self.weight

    def unknown(self, n: int) -> Int[Tensor, "n *A"]:
        """`n` labels that are not known."""
        shape = (n,) if self.exclusive else (n, self.count)
        return torch.full(shape, -1, device=self.weight.device)

    def draw(self, n: int) -> Int[Tensor, "n *A"]:
        """`n` labels, each class or combination of attributes as likely as the others."""
        shape, kinds = ((n,), self.count) if self.exclusive else ((n, self.count), 2)
        return torch.randint(kinds, shape, device=self.weight.device)


class ConditionalEncoder(Encoder):
    """q(z|x, y): an encoder whose features are mixed with the label.

    Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional
    Generative Models", section 4.

    Args:
        encoder: of the image, with a vector of features.
        labels: of the label.

    Raises:
        LatensError: an encoder with a map of features.
    """

    def __init__(self, encoder: Encoder, labels: LabelEmbedding):
        super().__init__()
        if encoder.feature_map is not None:
            raise LatensError("a map of latents cannot depend on labels: leave out the latent map")
        self.encoder = encoder
        self.labels = labels
        self.image_shape = encoder.image_shape
        self.features = encoder.features
        self.mix = nn.Linear(encoder.features + labels.width, encoder.features)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1] and their labels.

        Raises:
            LatensError: no labels.
        """
        return F.relu(self.mix(torch.cat((self.encoder(x), self.labels(y)), dim=1)))


class ConditionalDecoder(Decoder):
    """p(x|z, y): a decoder whose input is z and the label side by side.

    Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional
    Generative Models", section 4.

    Args:
        decoder: of D + E inputs.
        labels: of the label, E wide.

    Raises:
        LatensError: a decoder with no room for both.
    """

    def __init__(self, decoder: Decoder, labels: LabelEmbedding):
        super().__init__()
        self.decoder = decoder
        self.labels = labels
        inputs = decoder.latent_shape[0] if len(decoder.latent_shape) == 1 else 0
        if inputs <= labels.width:
            raise LatensError(
                f"a decoder of latents {decoder.latent_shape} has no room for z and a label of "
                f"{labels.width}"
            )
        self.latent_shape = (inputs - labels.width,)
        self.image_shape = decoder.image_shape
        self.out_channels = decoder.out_channels

    def forward(
        self, z: Float[Tensor, "N D"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z).

        Raises:
            LatensError: no labels.
        """
        return self.decoder(torch.cat((z, self.labels(y)), dim=1))
