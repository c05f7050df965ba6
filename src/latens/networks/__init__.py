"""Encoders and decoders: images to features, latents to the likelihood's planes."""

from latens.networks.conv import ConvDecoder, ConvEncoder
from latens.networks.mlp import MLPDecoder, MLPEncoder

__all__ = ["ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder"]
