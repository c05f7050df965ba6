"""The aggregated posterior q(z) = E_x q(z|x) and its marginals, of diagonal Gaussian q(z|x)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal


def log_aggregated(
    z: Float[Tensor, "M D"],
    mean: Float[Tensor, "N D"],
    scale: Float[Tensor, "N D"],
    log_w: Float[Tensor, "#M N"],
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Log q(z_i) and Σ_d log q(z_id), q(z_i) = Σ_j w_ij N(z_i; μ_j, σ_j²), in nats.

    Args:
        mean, scale: of q(z|x_j).
        log_w: log w_ij, whose rows sum to one.
    """
    log_q_ij = Normal(mean, scale, validate_args=False).log_prob(z[:, None])  # [M, N, D]
    log_qz = (log_q_ij.sum(2) + log_w).logsumexp(1)
    log_qz_d = (log_q_ij + log_w[:, :, None]).logsumexp(1).sum(1)
    return log_qz, log_qz_d


def stratified_log_weights(batch: int, size: int, like: Tensor) -> Float[Tensor, "M M"]:
    """Log weights of q(z_i|x_j) in q(z_i): 1/N on the diagonal, the rest shares 1 − 1/N.

    Minibatch stratified sampling: Chen et al. 2018, "Isolating Sources of Disentanglement in
    Variational Autoencoders", appendix C.2. Row i sums to one; a batch drawn without replacement
    gives an estimate of q(z_i) without bias.

    Args:
        batch: M, images in the batch.
        size: N, images altogether.
        like: a tensor of the same kind and device.
    """
    if batch in (1, size):
        return like.new_full((batch, batch), -math.log(batch))
    rest = batch - 1  # M in the paper
    weights = like.new_full((batch, batch), 1 / rest)
    weights.fill_diagonal_(1 / size)
    row = torch.arange(batch)
    weights[row, (row + 1) % batch] = (size - rest) / (size * rest)
    return weights.log()
