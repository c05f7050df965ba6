"""One step of a training: the loss of a batch, its gradient, and what it changes."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn

from latens.config import TrainConfig
from latens.data import Images, jittered, unit_pixels
from latens.errors import LatensError
from latens.training.objectives import ELBO
from latens.model.serialization import load_tensors
from latens.model.vae import VAE

TERMS = ("loss", "reconstruction", "kl", "label")
# The scale of gradients depends on pixels and likelihood; an outlier is one beside its neighbours.
CLIP_FACTOR, CLIP_MEMORY = 4.0, 100
# Steps between two averagings of the weights, each of which walks through all of them twice.
AVERAGE_EVERY = 8
BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's


class TrainingLoss(nn.Module):
    """uint8 pixels in, nats per image out: one module, so that Fabric wraps all of it at once.

    Args:
        vae: what is trained.
        free_bits: λ of the objective, in nats per latent dimension.
        draw_bits: grey levels are probabilities, and each visit draws bits.
        jitter: of `jittered`, in pixels.

    Attributes:
        weights: β and the label's α. They move, and a number would be compiled in; an argument
            would be rounded to the precision of the networks.
    """

    weights: Float[Tensor, "2"]

    def __init__(self, vae: VAE, free_bits: float, draw_bits: bool, jitter: float = 0.0):
        super().__init__()
        self.vae = vae
        self.free_bits = free_bits
        self.draw_bits = draw_bits
        self.jitter = jitter
        self.register_buffer("weights", torch.ones(2), persistent=False)

    def forward(
        self, pixels: UInt8[Tensor, "B C H W"], y: Int64[Tensor, "B *A"] | None
    ) -> Float[Tensor, "4 B"]:
        """The terms of each image's loss, in the order of `TERMS`."""
        x = unit_pixels(pixels, self.draw_bits and not self.jitter)
        if self.jitter:
            x = jittered(x, self.jitter)
            x = torch.bernoulli(x) if self.draw_bits else x
        beta, alpha = self.weights
        loss = ELBO(beta, self.free_bits, alpha)(self.vae(x, y))
        return torch.stack((loss.per_image, loss.reconstruction, loss.kl, loss.label))


class Learner:
    """Weights, their average and the optimiser: all that a step changes.

    Nothing here looks at a number on its way: to look at one that an accelerator computes is to
    wait for it.

    Args:
        fabric: device, precision and processes; each has a share of every batch.
        vae: what is trained, in place.
        draw_bits: as in `TrainingLoss`.
        config: resolved.
    """

    def __init__(self, fabric: Fabric, vae: VAE, draw_bits: bool, config: TrainConfig):
        self.fabric, self.config = fabric, config
        self.vae = vae.to(fabric.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.averaged = copy.deepcopy(self.vae)
        self.training_loss = TrainingLoss(vae, config.free_bits, draw_bits, config.jitter)
        self.training_loss.to(fabric.device)
        self.optimizer = torch.optim.AdamW(
            vae.parameters(),
            lr=config.learning_rate,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=config.weight_decay,
            fused=config.device != "mps",
        )
        self.loss: nn.Module = self.training_loss
        if fabric.world_size > 1:  # its wrapper costs a small network a tenth of a step
            self.loss = fabric.setup_module(self.training_loss)
        self.parameters: list[Tensor] = list(vae.parameters())
        self.usual_norm = torch.zeros((), device=fabric.device)  # 0 before the first step
        self.steps = 0
        self._compiled: Callable[..., Tensor] | None = None

    def step(
        self, batch: Images, of: int, beta: float, label_weight: float, rate: float, seed: int
    ) -> Float[Tensor, "6"]:
        """Learn from a batch.

        Args:
            batch: this process's share of the images.
            of: how many images all processes have together.
            beta, label_weight: of the objective.
            rate: the learning rate.
            seed: of the noise.

        Returns:
            `TERMS` summed over this process's images; the gradient's norm, and the largest that
            was let through.
        """
        seed_noise(seed, self.fabric.device)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pixels = batch.pixels.to(self.fabric.device, non_blocking=True)
        labels = None if batch.labels is None else batch.labels.to(self.fabric.device)
        self.training_loss.weights.copy_(torch.tensor([beta, label_weight]))
        self.steps += 1
        alone = self.fabric.world_size == 1  # a graph has no room for what processes exchange
        if self.config.compile and alone and self.steps > 1 and of == self.config.batch_size:
            return self._compiled_step(pixels, labels, rate)
        with self.fabric.autocast():
            terms = self.loss(pixels, labels)  # [T, B]
        # Processes average their gradients: so that it is the mean over all images, whatever
        # the share of each
        self.fabric.backward(terms[0].sum() * (self.fabric.world_size / of))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        limit, clipped = self._limit(norm)
        if self.fabric.device.type != "cpu" or norm > limit:  # on a CPU looking costs nothing
            torch._foreach_mul_(gradients, clipped / norm)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        for parameter in self.parameters:  # zero_grad, without what it tells a profiler
            parameter.grad = None
        return torch.cat((terms.detach().sum(1), torch.stack((norm, limit))))

    def _limit(self, norm: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The largest norm let through, the user's or relative to the usual; the norm within it."""
        known = self.usual_norm > 0
        if self.config.clip is None:
            limit = torch.where(known, CLIP_FACTOR * self.usual_norm, math.inf)
        else:
            limit = torch.full_like(norm, self.config.clip)
        clipped = torch.minimum(norm, limit)
        moved = torch.lerp(self.usual_norm, clipped, 1 / CLIP_MEMORY)
        self.usual_norm.copy_(torch.where(known, moved, clipped))
        return limit, clipped

    def _compiled_step(self, pixels: Tensor, y: Tensor | None, rate: float) -> Tensor:
        if self._compiled is None:
            torch._dynamo.config.trace_autograd_ops = True  # the gradient in the same graph
            self._moments = [self.optimizer.state[p] for p in self.parameters]
            self._compiled = torch.compile(self._whole_step, dynamic=False, fullgraph=True)
        rates = adamw_rates(rate, self.config.weight_decay, self.steps)
        return self._compiled(pixels, y, rates.to(self.fabric.device))

    def _whole_step(self, pixels: Tensor, y: Tensor | None, rates: Tensor) -> Tensor:
        """What `step` does, as one graph: nothing between its parts goes through Python."""
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=bf16):
            terms = self.training_loss(pixels, y)
        gradients = torch.autograd.grad(terms[0].mean(), self.parameters)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        limit, clipped = self._limit(norm)
        for parameter, gradient, moments in zip(
            self.parameters, gradients, self._moments, strict=True
        ):
            adamw_(parameter, gradient * (clipped / norm), moments, rates)
        return torch.cat((terms.detach().sum(1), torch.stack((norm, limit))))

    @torch.no_grad()
    def average(self, steps: int, all_steps: int) -> None:
        """Move the averaged weights towards the weights, as if at each of the last `steps` steps.

        An exponential moving average with the decay per step min(decay, (1 + n) / (10 + n)), which
        forgets its first steps: TensorFlow's `ExponentialMovingAverage(num_updates=n)`.

        Args:
            all_steps: n, since the training began.
        """
        decay = min(self.config.ema, (1 + all_steps) / (10 + all_steps))
        averages: list[Tensor] = list(self.averaged.parameters())
        torch._foreach_lerp_(averages, self.parameters, 1 - decay**steps)  # pyright: ignore[reportPrivateImportUsage]
        for average, buffer in zip(self.averaged.buffers(), self.vae.buffers(), strict=True):
            average.copy_(buffer)

    # ---- its state -----------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights, the optimiser's moments and the usual norm, by name."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.vae.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return {
            **{f"model.{name}": value for name, value in self.vae.state_dict().items()},
            **{f"average.{name}": value for name, value in self.averaged.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in moments.items()},
            "usual_norm.": self.usual_norm,
        }

    def restore(self, tensors: dict[str, Tensor], path: Path, begun: bool) -> None:
        """Put back what `tensors` gave.

        Args:
            path: where they are from, for messages.
            begun: a step has been made, so that there are moments.

        Raises:
            LatensError: tensors of something else.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        load_tensors(self.vae, parts.get("model", {}), path)
        load_tensors(self.averaged, parts.get("average", {}), path)
        try:
            self.usual_norm.copy_(parts["usual_norm"][""])
            if begun:
                self._restore_moments(parts["optimizer"])
        except (KeyError, RuntimeError) as error:
            raise LatensError(f"{path} holds a checkpoint of another kind: {error}") from error

    def _restore_moments(self, moments: dict[str, Tensor]) -> None:
        state = {}
        for i, (name, parameter) in enumerate(self.vae.named_parameters()):
            values = {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for key in ("exp_avg", "exp_avg_sq"):
                # In the parameter's own memory layout: the fused step walks both in parallel
                values[key] = torch.empty_like(parameter).copy_(values[key])
            self.steps = int(values["step"])
            state[i] = values
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def adamw_rates(rate: float, weight_decay: float, n: int) -> Float[Tensor, "3"]:
    """What the n-th step of AdamW multiplies by: weights, their step, the root of the squares.

    Once for all weights: a compiler would work it out anew for every few of them.
    """
    step = rate / (1 - BETAS[0] ** n)
    return torch.tensor((1 - rate * weight_decay, step, (1 - BETAS[1] ** n) ** -0.5))


@torch.no_grad()
def adamw_(
    parameter: Tensor, gradient: Tensor, moments: dict[str, Tensor], rates: Float[Tensor, "3"]
) -> None:
    """A step of AdamW in place, in the terms of torch's own, whose fused one cannot be compiled.

    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """
    keep, step, root = rates
    mean, square = moments["exp_avg"], moments["exp_avg_sq"]
    moments["step"].add_(1)
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient * gradient, 1 - BETAS[1])
    parameter.mul_(keep).sub_(step * mean / (square.sqrt() * root + EPSILON))


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the generators that a step draws from.

    `torch.manual_seed` asks every kind of accelerator that there is, and takes longer than the
    forward pass of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def step_seeds(seed: int, epoch: int, process: int, steps: int) -> list[int]:
    """The seed of each step's noise in an epoch, so that a resumed run repeats it exactly."""
    return np.random.SeedSequence([seed, epoch, process]).generate_state(steps).tolist()
