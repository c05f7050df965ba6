"""Encoders and decoders: images to features, latents to the parameters of p(x|z)."""

from latens.model.networks.conv import ConvDecoder, ConvEncoder, ConvMapDecoder, ConvMapEncoder
from latens.model.networks.fourier import FourierDecoder
from latens.model.networks.labels import ConditionalDecoder, ConditionalEncoder, LabelEmbedding
from latens.model.networks.ladder import LadderEncoder
from latens.model.networks.mlp import MLPDecoder, MLPEncoder
from latens.model.networks.noisy import NoisyEncoder
from latens.model.networks.unet import UNetDecoder, UNetEncoder

__all__ = [
    "ConditionalDecoder",
    "ConditionalEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "ConvMapDecoder",
    "ConvMapEncoder",
    "FourierDecoder",
    "LabelEmbedding",
    "LadderEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "NoisyEncoder",
    "UNetDecoder",
    "UNetEncoder",
]
