"""A linear-Gaussian model whose log p(x) is exact: probabilistic PCA (Tipping & Bishop 1999).

p(x) = N(b, W Wᵀ + σ² I); the posterior is N(M⁻¹ Wᵀ (x − b), σ² M⁻¹) with M = Wᵀ W + σ² I, diagonal
for orthogonal columns of W.
"""

import math

import numpy as np
import torch
from scipy import stats
from torch import nn

from latens import VAE, Decoder, Encoder, Gaussian, Posterior
from latens.model.distributions import diagonal_normal

SHAPE, D, SIGMA = (1, 3, 4), 2, 0.3


class Flat(Encoder):
    """Features are the pixels."""

    def __init__(self):
        super().__init__()
        self.image_shape, self.features = SHAPE, math.prod(SHAPE)

    def forward(self, x, y=None):
        return x.flatten(1)


class LinearDecoder(Decoder):
    """x = W z; the VAE's own offset is b."""

    def __init__(self):
        super().__init__()
        self.image_shape, self.out_channels, self.latent_shape = SHAPE, SHAPE[0], (D,)
        columns = torch.linalg.qr(torch.randn(math.prod(SHAPE), D)).Q
        self.weight = nn.Parameter(columns * torch.tensor([0.9, 0.5]))

    def forward(self, z, y=None):
        return (z @ self.weight.T).unflatten(1, SHAPE)


class LinearPosterior(Posterior):
    """The exact posterior, its mean shifted and its scale stretched to make it wrong."""

    def __init__(self, decoder: Decoder, shift: float = 0.0, stretch: float = 1.0):
        super().__init__()
        self.event_shape = (D,)
        self.decoder, self.shift, self.stretch = [decoder], shift, stretch
        self.offset = torch.zeros(math.prod(SHAPE))

    def forward(self, features):
        w = self.decoder[0].weight
        m = (w**2).sum(0) + SIGMA**2  # the diagonal of M
        mean = (features - self.offset) @ w / m + self.shift
        scale = (SIGMA / m.sqrt() * self.stretch).expand_as(mean)
        return diagonal_normal(mean, scale, 1)


def model(shift=0.0, stretch=1.0):
    torch.manual_seed(1)
    decoder = LinearDecoder()
    posterior = LinearPosterior(decoder, shift, stretch)
    vae = VAE(Flat(), decoder, likelihood=Gaussian(SIGMA), posterior=posterior)
    with torch.no_grad():
        vae.offset.copy_(torch.rand(SHAPE))
    posterior.offset = vae.offset.detach().flatten()
    return vae.eval()


def exact_log_prob(vae, x):
    w, b = vae.decoder.weight.detach().numpy(), vae.offset.detach().flatten().numpy()
    covariance = w @ w.T + SIGMA**2 * np.eye(len(b))
    return stats.multivariate_normal(b, covariance).logpdf(x.flatten(1).numpy())


def exact_kl(vae, x):
    q = vae.encode(x)
    mean, var = q.mean.detach(), q.variance.detach()
    return (0.5 * (mean**2 + var - 1 - var.log())).sum(1).mean().item()
