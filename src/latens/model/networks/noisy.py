"""Input noise for an encoder in training mode."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latens.errors import LatensError
from latens.model.parts import Encoder


class NoisyEncoder(Encoder):
    """An encoder whose images are noisy in training mode, and clean otherwise.

    An encoder that overfits its training images errs on others, and with few latents a small error
    of z is another image. Noise regularises it (Shu et al. 2018,
    "Amortized Inference Regularization", section 3; Im et al. 2017, "Denoising Criterion for
    Variational Auto-Encoding Framework"). The likelihood is of the clean image all the same.

    Args:
        encoder: what sees the noisy images.
        scale: σ of the Gaussian noise on each pixel, for pixels in [0, 1].

    Raises:
        LatensError: a negative scale.
    """

    def __init__(self, encoder: Encoder, scale: float):
        super().__init__()
        if not scale >= 0:
            raise LatensError(f"the scale of the noise is {scale}: it must be 0 or more")
        self.encoder = encoder
        self.scale = scale
        self.image_shape = encoder.image_shape
        self.features = encoder.features
        self.feature_map = encoder.feature_map

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        if self.training:
            x = x + self.scale * torch.randn_like(x)
        return self.encoder(x, y)
