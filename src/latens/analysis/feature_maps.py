"""Feature maps: the outputs of every convolution, from an image to its reconstruction."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from latens.model.latent_model import LatentModel


@torch.no_grad()
def feature_maps(
    vae: LatentModel, x: Float[Tensor, "1 C H W"], y: Int64[Tensor, "1 *A"] | None = None
) -> dict[str, Float[Tensor, "channels h w"]]:
    """The output of every convolution of encoder and decoder for one image, from x to x̂.

    Of a convolution that a pixel-shuffle follows it is what the pixel-shuffle makes of it: before
    that, neighbours in the image are channels. The names are those of the layers in the model, such
    as `encoder.levels.0.1`.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps[name] = output[0].float().cpu()

        return hook

    def replace(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps[list(maps)[-1]] = output[0].float().cpu()

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in vae.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    hooks += [
        module.register_forward_hook(replace)
        for module in vae.modules()
        if isinstance(module, nn.PixelShuffle)
    ]
    try:
        vae.reconstruct(x.to(vae.device), None if y is None else y.to(vae.device))
    finally:
        for hook in hooks:
            hook.remove()
    return maps
