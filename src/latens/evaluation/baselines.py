"""What a model must beat: the cost of the mean image alone."""

import copy
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from latens.data import Images
from latens.model.parts import Likelihood

VALUES, IMAGES, TRAINING_IMAGES = 2**22, 1_000, 5_000  # at most


def mean_image_cost(likelihood: Likelihood, train: Images, test: Images) -> float:
    """−log p(x) of test images in nats, where the mean training image is all that is decoded.

    The scale of the likelihood, if it is learned, is fitted to it.
    """
    count = min(IMAGES, max(1, VALUES // math.prod(test.shape)))
    x = test.some(count).unit()
    fitted = copy.deepcopy(likelihood).cpu()  # as the images are
    parameters = fitted.parameters_at(train.some(TRAINING_IMAGES).unit().mean(0))
    scale = [parameter.requires_grad_() for parameter in fitted.parameters()]
    if scale:
        _fit(fitted, scale, parameters, x)
    with torch.no_grad():
        return -fitted(parameters).log_prob(x).mean().item()


@torch.enable_grad()
def _fit(
    likelihood: Likelihood, scale: list[Tensor], parameters: Tensor, x: Float[Tensor, "N C H W"]
) -> None:
    from scipy.optimize import minimize  # torch's would load its compiler

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(values).to(x.dtype), scale)
        loss = -likelihood(parameters).log_prob(x).mean()
        return loss.item(), parameters_to_vector(torch.autograd.grad(loss, scale)).double().numpy()

    found = minimize(cost, parameters_to_vector(scale).detach().double().numpy(), jac=True)
    vector_to_parameters(torch.from_numpy(found.x).to(x.dtype), scale)
