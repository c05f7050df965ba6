"""The KL taken apart: what z tells of x, how its dimensions hang together, and the rest."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from latens.data import Images
from latens.errors import LatensError
from latens.evaluation.metrics import StandardError, standard_error
from latens.evaluation.proposals import rows_of
from latens.model.aggregated import log_aggregated, stratified_log_weights
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.model.vae import VAE

IMAGES_AT_ONCE = 500
VALUES_AT_ONCE = 2**20  # of log q(z_id|x_j): larger ones the system maps anew each time


@dataclass(frozen=True)
class KLParts:
    """E_x KL(q(z|x) ‖ p(z)) = mutual information + total correlation + dimension-wise KL, in nats.

    Hoffman & Johnson 2016, "ELBO surgery"; Chen et al. 2018, "Isolating Sources of Disentanglement
    in Variational Autoencoders", equation 2. q(z) is the mean of q(z|x) over these images.

    Attributes:
        mutual_information: I(x; z) of an image's index and its z, log N at most.
        total_correlation: KL(q(z) ‖ ∏_d q(z_d)).
        dimension_kl: Σ_d KL(q(z_d) ‖ p(z_d)); with a prior that does not factorise, what is left.
        marginal_kl: KL(q(z) ‖ p(z)), the sum of the last two: how far the latents of images lie
            from where samples are drawn.
        errors: standard errors by name; each image has one z, so both causes are in `images`.
        exact: whether q(z) sums over all images; else a stratified estimate over batches.
        images: how many.
    """

    mutual_information: float
    total_correlation: float
    dimension_kl: float
    marginal_kl: float
    errors: dict[str, StandardError]
    exact: bool
    images: int


@torch.no_grad()
def decompose_kl(
    vae: LatentModel, images: Images | Float[Tensor, "N C H W"], exact: bool = True, seed: int = 0
) -> KLParts:
    """The parts of the KL, from one z ~ q(z|x) of each image.

    Args:
        exact: sum q(z) over all images, N² D terms; else over batches of 500 by stratified
            weights (Chen et al. 2018, appendix C.2), whose logarithm is biased.
        seed: of z.

    Raises:
        LatensError: a hierarchy, a posterior that is no diagonal Gaussian, or a p(z|y).
    """
    mean, scale, log_ratio, z = _latents(vae, images, seed)
    log_qz, log_qz_d = (_exact if exact else _stratified)(z, mean, scale)
    log_qz_x, log_pz = log_ratio
    parts = {
        "mutual_information": log_qz_x - log_qz,
        "total_correlation": log_qz - log_qz_d,
        "dimension_kl": log_qz_d - log_pz,
        "marginal_kl": log_qz - log_pz,
    }
    return KLParts(
        **{name: values.mean().item() for name, values in parts.items()},
        errors={name: standard_error(values, None) for name, values in parts.items()}
        if len(z) > 1
        else {},
        exact=exact,
        images=len(z),
    )


def _latents(
    vae: LatentModel, images: Images | Tensor, seed: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """μ, σ, (log q(z|x), log p(z)) and z of each image, in float64."""
    if not isinstance(vae, VAE):
        raise LatensError("the KL of one level of latents is taken apart, and this is a hierarchy")
    parts = []
    with forked_rng(vae.device, seed):
        for first in range(0, len(images), IMAGES_AT_ONCE):
            rows = slice(first, first + IMAGES_AT_ONCE)
            x, y = rows_of(images, None, rows, vae.device)
            q = vae.encode(x, y)
            if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
                raise LatensError("the KL is taken apart for a diagonal Gaussian q(z|x) only")
            z = q.sample()
            p = vae.prior_given(y)
            if p.batch_shape:
                raise LatensError("the KL is taken apart for one p(z), and this one is of a label")
            log_p = p.log_prob(z)
            parts.append(
                (q.mean.flatten(1), q.stddev.flatten(1), q.log_prob(z), log_p, z.flatten(1))
            )
    mean, scale, log_q, log_p, z = (torch.cat(v).double().cpu() for v in zip(*parts, strict=True))
    return mean, scale, (log_q, log_p), z


def _exact(z: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Log q(z) and Σ_d log q(z_d), over all images."""
    size = max(1, VALUES_AT_ONCE // mean.numel())
    log_w = z.new_full((1, len(mean)), -torch.tensor(len(mean)).log().item())
    parts = [log_aggregated(part, mean, scale, log_w) for part in z.split(size)]
    log_qz, log_qz_d = zip(*parts, strict=True)
    return torch.cat(log_qz), torch.cat(log_qz_d)


def _stratified(z: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same over batches, each of which stands for all images."""
    size = max(1, min(IMAGES_AT_ONCE, int((VALUES_AT_ONCE / z.shape[1]) ** 0.5)))
    log_qz, log_qz_d = z.new_empty(len(z)), z.new_empty(len(z))
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    for rows in order.split(size):  # not in a row, where images of one class may lie
        log_w = stratified_log_weights(len(rows), len(z), z)
        log_qz[rows], log_qz_d[rows] = log_aggregated(z[rows], mean[rows], scale[rows], log_w)
    return log_qz, log_qz_d
