"""Multilayer perceptrons over the pixels as one vector."""

import math
from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor, nn

from latens.errors import LatensError
from latens.model.parts import Decoder, Encoder

OUTPUT_GAIN = 0.1  # the decoder starts close to the mean image, and does not have to find it


def kaiming_init(network: nn.Module) -> None:
    """Weights for layers that follow a ReLU, biases at zero: He et al. 2015, equation 10.

    Torch's default has a sixth of this variance: signals fade from layer to layer, and a first
    epoch goes by before z is used.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_sizes(**sizes: int) -> None:
    """Raise a LatensError for a width or number that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise LatensError(f"{name} is {size}: it must be above 0")


def start_as_identity(flow: nn.Module) -> None:
    """Set what a flow's transforms depend on to zero: each of them does nothing at first.

    That is the last layer of each of its networks, or, of a single dimension, a list of parameters.
    """
    for module in flow.modules():
        last = module[-1] if isinstance(module, nn.Sequential) else module
        if isinstance(module, nn.Sequential | nn.ParameterList) and isinstance(last, nn.Module):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)


def layers(widths: Sequence[int], dropout: float = 0.0, gated: bool = False) -> nn.Sequential:
    """Linear layers of these widths, each with a ReLU or a gate, and dropout if there is any."""
    activation, after = nn.GLU if gated else nn.ReLU, (nn.Dropout(dropout),) if dropout else ()
    return nn.Sequential(
        *(
            layer
            for a, b in pairwise(widths)
            for layer in (nn.Linear(a, 2 * b if gated else b), activation(), *after)
        )
    )


class MLPEncoder(Encoder, name="mlp"):
    """Fully connected layers over the pixels.

    Args:
        image_shape: (C, H, W), any.
        hidden: widths of the layers, from the pixels inwards, such as 512,256; the last one is F.
        dropout: the probability that an output of a hidden layer is dropped in training
            (Srivastava et al. 2014).
        gated: (W x + b) ⊙ sigmoid(V x + c) in place of a ReLU (Dauphin et al. 2017, "Language
            Modeling with Gated Convolutional Networks", equation 1), as in Tomczak & Welling 2018.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        hidden: tuple[int, ...] = (512, 512),
        dropout: float = 0.0,
        gated: bool = False,
    ):
        super().__init__()
        self.image_shape = image_shape
        self.hidden = tuple(hidden)
        self.dropout = dropout
        self.gated = gated
        self.features = self.hidden[-1]
        self.layers = layers((math.prod(image_shape), *hidden), dropout, gated)
        kaiming_init(self)

    def forward(
        self, x: Float[Tensor, "B C H W"], y: Int[Tensor, "B *A"] | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of images in [0, 1]."""
        return self.layers(x.flatten(1) - 0.5)  # pixels centred on zero


class MLPDecoder(Decoder, name="mlp"):
    """The mirror of `MLPEncoder`.

    Args:
        latent_dim: D.
        image_shape: (C, H, W), any.
        hidden: the widths of the layers, from the latent side.
        dropout, gated: as in `MLPEncoder`.
        out_channels: P, what the likelihood needs; C unless given.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        hidden: tuple[int, ...] = (512, 512),
        dropout: float = 0.0,
        out_channels: int | None = None,
        gated: bool = False,
    ):
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.latent_shape = (latent_dim,)
        self.image_shape = image_shape
        self.hidden = tuple(hidden)
        self.dropout = dropout
        self.gated = gated
        self.out_channels = out_channels or self.image_shape[0]
        self.layers = layers((latent_dim, *hidden), dropout, gated)
        self.output = nn.Linear(
            self.hidden[-1], self.out_channels * math.prod(self.image_shape[1:])
        )
        kaiming_init(self)
        self.output.weight.data.mul_(OUTPUT_GAIN)

    def forward(
        self, z: Float[Tensor, "N D"], y: Int[Tensor, "N *A"] | None = None
    ) -> Float[Tensor, "N P H W"]:
        """The parameters of p(x|z)."""
        output = self.output(self.layers(z))
        return output.reshape(-1, self.out_channels, *self.image_shape[1:])
