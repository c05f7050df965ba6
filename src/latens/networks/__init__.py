"""Encoders and decoders: images to features, latents to the likelihood's planes."""

from latens.networks.conv import ConvDecoder, ConvEncoder
from latens.networks.fourier import FourierDecoder
from latens.networks.labels import ConditionalDecoder, ConditionalEncoder, LabelEmbedding
from latens.networks.mlp import MLPDecoder, MLPEncoder
from latens.networks.noisy import NoisyEncoder
from latens.networks.unet import UNetDecoder, UNetEncoder

__all__ = [
    "ConditionalDecoder",
    "ConditionalEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "FourierDecoder",
    "LabelEmbedding",
    "MLPDecoder",
    "MLPEncoder",
    "NoisyEncoder",
    "UNetDecoder",
    "UNetEncoder",
]
