"""`Draw`: the one record of everything that is sampled from a model, in nats per image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latens.model.distributions import kl


@dataclass(frozen=True)
class Latent:
    """One level of latents: its q, its p and K samples of z for each of B images.

    Z is the shape of one latent, `(D,)` for a vector or `(D, h, w)` for a map. In a hierarchy q
    and p of a level depend on a sample of the levels above, and have the batch `[K, B]`.

    Attributes:
        q: q(z|x), batch `[B]` or `[K, B]`, event `[*Z]`.
        p: p(z), batch `[]`, `[B]` or `[K, B]`, event `[*Z]`.
        z: the samples, `[K, B, *Z]`.
        known_log_q: log q(z|x) where sampling gave it, `[K, B]`; else None.
    """

    q: Distribution
    p: Distribution
    z: Float[Tensor, "K B *Z"]
    known_log_q: Float[Tensor, "K B"] | None = None

    @classmethod
    def sample(cls, q: Distribution, p: Distribution, samples: int | None = None) -> "Latent":
        """Z ~ q, with gradients through z where q is reparametrised.

        Args:
            samples: K, where q has the batch `[B]`; None where it has `[K, B]`.
        """
        shape = torch.Size() if samples is None else torch.Size((samples,))
        together = getattr(q, "rsample_and_log_prob", None)
        if together is None:
            return cls(q, p, q.rsample(shape))
        return cls(q, p, *together(shape))  # a flow: its density is costly anywhere else

    @property
    def log_q(self) -> Float[Tensor, "K B"]:
        """Log q(z|x), computed where it is asked for."""
        return self.q.log_prob(self.z) if self.known_log_q is None else self.known_log_q

    @property
    def log_p(self) -> Float[Tensor, "K B"]:
        """Log p(z), computed where it is asked for."""
        return self.p.log_prob(self.z)

    @property
    def kl(self) -> Float[Tensor, "B *Z"] | None:
        """KL(q ‖ p) for each latent dimension, averaged over K; None without a closed form."""
        per_dim = kl(self.q, self.p)
        if per_dim is None or len(self.q.batch_shape) < 2:
            return per_dim
        return per_dim.mean(0)


@dataclass(frozen=True)
class Draw:
    """Everything drawn from a model for B images and K samples of each, in nats per image.

    Attributes:
        latents: the levels, the topmost first; a flat model has one.
        log_px_z: log p(x|z), `[K, B]`.
        extras: what further parts add: "log_py_z", log p(y|z) `[K, B]`, of a classifier; it is 0
            for an image without a label; "encoder_elbo" `[B]`, the ELBO of the encoder's
            q(z|x) where z is from another q: the encoder learns by it.
        joint: from a value for each image `[B, ...]` to those of the whole batch, of which each
            of several processes has a share; the same values where there is one process.
            Gradients flow through it. Statistics over a batch are taken of `joint(values)`.
        own: back from values of the whole batch to those of this draw's images.
    """

    latents: tuple[Latent, ...]
    log_px_z: Float[Tensor, "K B"]
    extras: dict[str, Tensor] = field(default_factory=dict)
    joint: Callable[[Tensor], Tensor] = lambda values: values
    own: Callable[[Tensor], Tensor] = lambda values: values

    @property
    def log_pz(self) -> Float[Tensor, "K B"]:
        """Log p(z), summed over the levels."""
        return _sum(latent.log_p for latent in self.latents)

    @property
    def log_qz_x(self) -> Float[Tensor, "K B"]:
        """Log q(z|x), summed over the levels."""
        return _sum(latent.log_q for latent in self.latents)

    @property
    def kl_per_dim(self) -> Float[Tensor, "B D"] | None:
        """KL of each latent dimension of all levels in a row; None without a closed form."""
        kls = [latent.kl for latent in self.latents]
        known = [value.flatten(1) for value in kls if value is not None]
        if len(known) < len(kls):
            return None
        return known[0] if len(known) == 1 else torch.cat(known, 1)

    @property
    def kl_per_level(self) -> Float[Tensor, "B L"]:
        """KL(q ‖ p) of each level: closed form, else a Monte Carlo estimate."""
        return torch.stack([_kl_of(latent) for latent in self.latents], 1)

    @property
    def kl(self) -> Float[Tensor, " B"]:
        """KL(q(z|x) ‖ p(z)), summed over the levels: closed form, else a Monte Carlo estimate."""
        return _sum(_kl_of(latent) for latent in self.latents)

    @property
    def log_weights(self) -> Float[Tensor, "K B"]:
        """Log w = log p(x|z) + log p(z) − log q(z|x); the mean of w over z ~ q is p(x)."""
        return self.log_px_z + self.log_pz - self.log_qz_x


def _kl_of(latent: Latent) -> Float[Tensor, " B"]:
    """KL(q ‖ p) of one level, `[B]`."""
    per_dim = latent.kl
    if per_dim is None:
        return (latent.log_q - latent.log_p).mean(0)
    return per_dim.flatten(1).sum(1)


def _sum(values: Iterable[Tensor]) -> Tensor:
    first, *rest = values
    for value in rest:
        first = first + value
    return first
