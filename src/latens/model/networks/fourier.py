"""Fourier features of z, for a decoder of few latents."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latens.errors import LatensError
from latens.model.parts import Decoder


class FourierDecoder(Decoder):
    """A decoder that sees z beside sin(2^k z) and cos(2^k z), k = 0, 1, … up to some octave.

    In two dimensions images change within a few hundredths of z's range, and a network learns such
    high-frequency functions of few inputs slowly (Tancik et al. 2020, "Fourier Features Let
    Networks Learn High Frequency Functions in Low Dimensional Domains", section 3).

    Args:
        decoder: of D (1 + 2 octaves) inputs.
        octaves: how many frequencies, each twice the one before.

    Raises:
        LatensError: a decoder whose inputs are not that many.
    """

    def __init__(self, decoder: Decoder, octaves: int):
        super().__init__()
        self.decoder = decoder
        self.octaves = octaves
        inputs = decoder.latent_shape[0] if len(decoder.latent_shape) == 1 else 0
        if octaves < 1 or inputs < 1 or inputs % (1 + 2 * octaves):
            raise LatensError(
                f"a decoder of latents {decoder.latent_shape} cannot take z and {octaves} octaves "
                "of it"
            )
        self.latent_shape = (inputs // (1 + 2 * octaves),)
        self.image_shape = decoder.image_shape
        self.out_channels = decoder.out_channels
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2.0 ** torch.arange(octaves), persistent=False)

    def forward(
        self, z: Float[Tensor, "N D"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z)."""
        angles = (z[:, :, None] * self.frequencies).flatten(1)
        return self.decoder(torch.cat((z, angles.sin(), angles.cos()), dim=1), y)
