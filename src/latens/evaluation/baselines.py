"""What a model must beat: the cost of the mean image alone."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from latens.data import Images
from latens.model.parts import Likelihood

VALUES, IMAGES, TRAINING_IMAGES = 2**22, 1_000, 5_000  # at most
FITTED, FITTING_STEPS = 2**18, 50  # values that a decoder's other numbers are fitted to, at most


def mean_image_cost(likelihood: Likelihood, train: Images, test: Images) -> float:
    """−log p(x) of test images in nats, where the mean training image is all that is decoded.

    The scale of the likelihood, if it is learned, is fitted to it; so is what a decoder gives
    beside a mean, such as the scales of a mixture, as one number for all pixels.
    """
    count = min(IMAGES, max(1, VALUES // math.prod(test.shape)))
    x = test.some(count).unit()
    fitted = copy.deepcopy(likelihood).cpu()  # as the images are
    parameters = fitted.parameters_at(train.some(TRAINING_IMAGES).unit().mean(0))
    scale = [parameter.requires_grad_() for parameter in fitted.parameters()]
    shift, few = torch.zeros(()), x
    if len(parameters) > len(x[0]):  # a decoder that gives more than a mean
        shift = torch.zeros(len(parameters), 1, 1, requires_grad=True)
        few = test.some(max(1, FITTED // math.prod(test.shape))).unit()
        scale.append(shift)
    if scale:
        _fit(lambda: -fitted(parameters + shift).log_prob(few).mean(), scale)
    with torch.no_grad():
        return -fitted(parameters + shift).log_prob(x).mean().item()


@torch.enable_grad()
def _fit(loss_of: Callable[[], Tensor], scale: list[Tensor]) -> None:
    from scipy.optimize import minimize  # torch's would load its compiler

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(values).to(scale[0].dtype), scale)
        loss = loss_of()
        return loss.item(), parameters_to_vector(torch.autograd.grad(loss, scale)).double().numpy()

    first = parameters_to_vector(scale).detach().double().numpy()
    found = minimize(cost, first, jac=True, options={"maxiter": FITTING_STEPS})
    vector_to_parameters(torch.from_numpy(found.x).to(scale[0].dtype), scale)
