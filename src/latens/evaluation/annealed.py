"""Log p(x) by annealed importance sampling, and from above on samples of the model itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from latens.console import progress
from latens.errors import LatensError
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.model.vae import VAE

SIGMOID = 4.0  # δ of the temperatures (Wu et al. 2017, section 5.1): dense at both ends
FIRST_STEP = 0.1  # of the leapfrog integrator, in units of z, before it is adapted
LEAST_STEP, LARGEST_STEP = 1e-3, 0.5
ACCEPTED, FACTOR = 0.65, 1.1  # the share that is aimed at, and how fast a step's size follows
OWN_NOISE = 1_000_003  # added to the seed of model samples: chains must not start at their z
CHAINS_IN_BLOCK = 2_000  # images times chains


@dataclass(frozen=True)
class AnnealedEstimate:
    """Log p(x) of B images, bracketed where they are samples of the model.

    Attributes:
        lower: log mean w over the chains; its expectation is at most log p(x), `[B]`, nats.
        upper: −log mean 1/w over chains that run the other way, from the z that an image was made
            of; its expectation is at least log p(x), `[B]`. None for images that come from
            elsewhere: no exact sample of their p(z|x) is at hand.
        accepted: the share of moves accepted; about 0.65 is aimed at.
    """

    lower: Float64[Tensor, " B"]
    upper: Float64[Tensor, " B"] | None
    accepted: float


def annealed_log_prob(
    vae: LatentModel,
    x: Float[Tensor, "B C H W"],
    y: Int64[Tensor, "B *A"] | None = None,
    z: Float[Tensor, "B *Z"] | None = None,
    temperatures: int = 200,
    chains: int = 8,
    leaps: int = 5,
    seed: int = 0,
) -> AnnealedEstimate:
    """Log p(x) by chains from p(z) to p(z|x) through p(z) p(x|z)^β, β from 0 to 1.

    It needs no q(z|x), so it holds where the encoder fails. Neal 2001, "Annealed Importance
    Sampling"; Wu et al. 2017, "On the Quantitative Analysis of Decoder-Based Generative Models",
    section 3: Hamiltonian moves at each β. Step sizes are adapted in chains of their own
    beforehand, so that those that count leave each density as it is. With z, the bound from the
    other side (Grosse et al. 2015, "Sandwiching the marginal likelihood using bidirectional Monte
    Carlo").

    Args:
        y: labels, of a conditional model.
        z: what each image was made of: x ~ p(x|z), z ~ p(z).
        temperatures: T, values of β; the bounds close in as T grows.
        chains: for each image and direction.
        leaps: of the leapfrog integrator in a move.
        seed: of the chains; the user's random numbers are left alone.

    Raises:
        LatensError: a hierarchy, images of another shape, or a number below 1.
    """
    if not isinstance(vae, VAE):
        raise LatensError("annealed importance sampling is for models of one level of latents")
    if tuple(x.shape[1:]) != vae.image_shape:
        raise LatensError(f"the model reads {vae.image_shape}, and these are {tuple(x.shape[1:])}")
    for name, number in (("temperatures", temperatures), ("chains", chains), ("leaps", leaps)):
        if number < 1:
            raise LatensError(f"{name} is {number}: 1 or more are needed")
    at_once = max(1, CHAINS_IN_BLOCK // chains)
    bounds = []
    with forked_rng(vae.device, seed), progress("moves") as bar:
        runs = 2 if z is None else 3
        task = bar.add_task("annealing", total=runs * temperatures * math.ceil(len(x) / at_once))
        for first in range(0, len(x), at_once):
            rows = slice(first, first + at_once)
            part, of, start = (None if v is None else v[rows].to(vae.device) for v in (x, y, z))
            assert part is not None
            path = _Path(vae, part, of, temperatures, leaps, lambda: bar.advance(task))
            bounds.append(path.bounds(chains, start))
    lower, upper, accepted = zip(*bounds, strict=True)
    return AnnealedEstimate(
        torch.cat(lower), None if z is None else torch.cat(upper), sum(accepted) / len(accepted)
    )


@torch.no_grad()
def model_samples(
    vae: LatentModel, n: int, y: Int64[Tensor, "n *A"] | None = None, seed: int = 0
) -> tuple[Float[Tensor, "n C H W"], Float[Tensor, "n *Z"]]:
    """Images x ~ p(x|z) with their z ~ p(z): what the two bounds can bracket.

    Raises:
        LatensError: a hierarchy, or a likelihood that cannot be sampled.
    """
    if not isinstance(vae, VAE):
        raise LatensError("annealed importance sampling is for models of one level of latents")
    with forked_rng(vae.device, seed + OWN_NOISE):
        z = vae.draw_prior(n, y)
        try:
            return vae.decode(z, y).sample(), z
        except NotImplementedError:
            raise LatensError("this likelihood cannot be sampled, only its mean") from None


class _Path:
    """Densities f_β(z) ∝ p(z) p(x|z)^β of B images, and chains along them."""

    def __init__(
        self,
        vae: VAE,
        x: Tensor,
        y: Tensor | None,
        temperatures: int,
        leaps: int,
        advance: Callable[[], object],
    ):
        self.vae, self.x, self.y, self.leaps, self.advance = vae, x, y, leaps, advance
        self.prior = vae.prior_given(y)
        ends = torch.linspace(-SIGMOID, SIGMOID, temperatures + 1, dtype=torch.float64).sigmoid()
        self.betas = ((ends - ends[0]) / (ends[-1] - ends[0])).tolist()

    def bounds(self, chains: int, z: Tensor | None) -> tuple[Tensor, Tensor | None, float]:
        """From below, from above if these images' z are known, and the share accepted."""
        steps, _ = self._up(max(2, chains // 2), None)
        _, (log_w, accepted) = self._up(chains, steps)
        lower = log_w.logsumexp(0) - math.log(chains)
        if z is None:
            return lower, None, accepted
        log_w = self._down(z.expand(chains, *z.shape), steps)
        return lower, math.log(chains) - (-log_w).logsumexp(0), accepted

    def _up(
        self, chains: int, steps: list[Tensor] | None
    ) -> tuple[list[Tensor], tuple[Tensor, float]]:
        """Chains from p(z) on; `steps` are the sizes for each β, and adapted where None."""
        shape = (chains,) if self.prior.batch_shape else (chains, len(self.x))
        z = self.prior.sample(torch.Size(shape))
        log_w = torch.zeros(chains, len(self.x), dtype=torch.float64)
        size, sizes, moved = torch.full_like(z.flatten(2)[0, :, 0], FIRST_STEP), [], 0.0
        for i, beta in enumerate(self.betas[1:]):
            log_w += (beta - self.betas[i]) * self._log_px(z).cpu().double()
            size = size if steps is None else steps[i]
            z, accepted = self._move(z, beta, size)
            share = accepted.double().mean(0)
            moved += share.mean().item() / (len(self.betas) - 1)
            if steps is None:
                sizes.append(size)
                larger = (share > ACCEPTED).to(size)
                size = size * torch.where(larger > 0, FACTOR, 1 / FACTOR)
                size = size.clamp(LEAST_STEP, LARGEST_STEP)
            self.advance()
        return sizes, (log_w, moved)

    def _down(self, z: Tensor, steps: list[Tensor]) -> Tensor:
        """Log w of chains from exact samples of p(z|x) down to p(z)."""
        log_w = torch.zeros(len(z), len(self.x), dtype=torch.float64)
        for i in range(len(self.betas) - 2, -1, -1):
            z, _ = self._move(z, self.betas[i + 1], steps[i])
            log_w += (self.betas[i + 1] - self.betas[i]) * self._log_px(z).cpu().double()
            self.advance()
        return log_w

    @torch.no_grad()
    def _log_px(self, z: Float[Tensor, "K B *Z"]) -> Float[Tensor, "K B"]:
        return self.vae.decode(z, self.y).log_prob(self.x)

    @torch.enable_grad()
    def _energy(self, z: Tensor, beta: float) -> tuple[Float[Tensor, "K B"], Tensor]:
        """−log f_β(z) and its gradient."""
        z = z.detach().requires_grad_()
        log_f = self.prior.log_prob(z) + beta * self.vae.decode(z, self.y).log_prob(self.x)
        return -log_f.detach(), -torch.autograd.grad(log_f.sum(), z)[0]

    def _move(self, z: Tensor, beta: float, size: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """A Hamiltonian move that leaves f_β as it is (Neal 2011), and which were accepted."""
        step = size.reshape(1, -1, *[1] * (z.dim() - 2))
        momentum = torch.randn_like(z)
        energy, gradient = self._energy(z, beta)
        before = energy + 0.5 * momentum.square().flatten(2).sum(2)
        moved, after = z, before
        for _ in range(self.leaps):
            momentum = momentum - 0.5 * step * gradient
            moved = moved + step * momentum
            energy, gradient = self._energy(moved, beta)
            momentum = momentum - 0.5 * step * gradient
        after = energy + 0.5 * momentum.square().flatten(2).sum(2)
        accepted = torch.rand_like(before).log() < before - after  # a NaN is refused
        return torch.where(
            accepted.reshape(*accepted.shape, *[1] * (z.dim() - 2)), moved, z
        ), accepted
