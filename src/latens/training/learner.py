"""One step of a training: the loss of a batch, its gradient, and what it changes."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from latens.console import note
from latens.data import Images, jittered, mirrored, unit_pixels
from latens.errors import LatensError, one_line
from latens.model.latent_model import LatentModel
from latens.model.noise import seed_noise
from latens.model.serialization import load_tensors
from latens.training.objectives import Objective
from latens.training.optimiser import AdamW, adamw_, adamw_rates
from latens.training.processes import Processes
from latens.training.schedules import ema_decay

# The scale of gradients depends on pixels and likelihood; an outlier is one beside its neighbours.
CLIP_FACTOR, CLIP_MEMORY = 4.0, 100
# Steps between two averagings of the weights, each of which walks through all of them twice.
AVERAGE_EVERY = 8
LEAST_NORM = 1e-30  # of a gradient that is divided by it
NORM, LIMIT = "gradient_norm", "clip_limit"  # beside the terms of the loss


class TrainingLoss(nn.Module):
    """uint8 pixels in, nats per image out: one module, so that one wrapper holds all of it.

    Args:
        model: what is trained.
        objective: what is minimised; its `moving` arguments are replaced at each step.
        stochastic_binarize: grey levels are probabilities, and each visit draws bits.
        jitter: of `jittered`, in pixels.
        mirror: half of the images are `mirrored`.
        processes: that train together.
        moving: names of the objective's arguments that a schedule moves.

    Attributes:
        moved: their values. A number would be compiled in, and an argument of `forward` would be
            rounded to the precision of the networks.
    """

    moved: Float[Tensor, " M"]

    def __init__(
        self,
        model: LatentModel,
        objective: Objective,
        stochastic_binarize: bool,
        jitter: float,
        mirror: bool,
        processes: Processes,
        moving: tuple[str, ...] = (),
    ):
        super().__init__()
        self.model = model
        self.objective = objective
        self.stochastic_binarize = stochastic_binarize
        self.jitter = jitter
        self.mirror = mirror
        self.processes = processes
        self.moving = moving
        self.register_buffer("moved", torch.ones(len(moving)), persistent=False)

    def forward(
        self,
        pixels: UInt8[Tensor, "B C H W"],
        y: Int64[Tensor, "B *A"] | None,
        global_batch_size: int,
    ) -> dict[str, Float[Tensor, " B"]]:
        """The loss of each image, and its terms, by name."""
        x = unit_pixels(pixels, self.stochastic_binarize and not self.jitter)
        if self.mirror:
            x = mirrored(x)
        if self.jitter:
            x = jittered(x, self.jitter)
            x = torch.bernoulli(x) if self.stochastic_binarize else x
        draw = self.model(x, y, self.objective.samples)
        if self.processes.count > 1:
            joint = self.processes.joint(global_batch_size)
            draw = replace(draw, joint=joint, own=self.processes.own)
        loss = self._objective_now()(draw)
        return {"loss": loss.per_image} | loss.terms

    def _objective_now(self) -> Objective:
        if not self.moving:
            return self.objective
        return replace(self.objective, **dict(zip(self.moving, self.moved, strict=True)))


@dataclass(frozen=True)
class StepOptions:
    """What a step depends on besides the model and the objective.

    Attributes:
        weight_decay: AdamW's.
        clip: the largest norm of a gradient; None: relative to the usual one.
        ema: decay per step of the averaged weights.
        compile: one graph for a whole step.
        batch_size: images of a full batch; others are not compiled.
        bf16: the networks compute in bfloat16.
    """

    weight_decay: float = 0.0
    clip: float | None = None
    ema: float = 0.999
    compile: bool = False
    batch_size: int = 128
    bf16: bool = False


class Learner:
    """Weights, their average and the optimiser: all that a step changes.

    Nothing here looks at a number on its way: to look at one that an accelerator computes is to
    wait for it.

    Args:
        training_loss: of the model, which is trained in place.
        options: of the steps.
        processes: that train together; each has a share of every batch.
    """

    def __init__(self, training_loss: TrainingLoss, options: StepOptions, processes: Processes):
        self.processes, self.options = processes, options
        device = processes.device
        self.training_loss = training_loss.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.model = training_loss.model
        self.model.train()
        self.averaged = copy.deepcopy(self.model)
        trainable: dict[str, Tensor] = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad
        }
        if not trainable:
            raise LatensError("every parameter of the model is frozen: there is nothing to train")
        self.parameters = list(trainable.values())
        self.optimizer = AdamW(trainable, options.weight_decay, fused=device.type != "mps")
        self.loss: nn.Module = processes.wrap(training_loss)
        self.usual_norm = torch.zeros((), device=device)  # 0 before the first step
        self.steps = 0
        self.compiles = options.compile
        self._compiled: Callable[..., dict[str, Tensor]] | None = None

    def step(
        self,
        batch: Images,
        global_batch_size: int,
        moved: Mapping[str, float],
        rate: float,
        seed: int,
    ) -> dict[str, Float[Tensor, ""]]:
        """Learn from a batch.

        Args:
            batch: this process's share of the images.
            global_batch_size: how many images all processes have together.
            moved: the objective's moving arguments, by name.
            rate: the learning rate.
            seed: of the noise.

        Returns:
            The terms of the loss summed over this process's images; the gradient's norm, and the
            largest that was let through.
        """
        device = self.processes.device
        seed_noise(seed, device)
        pixels = batch.pixels.to(device, non_blocking=True)
        labels = None if batch.labels is None else batch.labels.to(device)
        if moved:
            self.training_loss.moved.copy_(torch.tensor([*moved.values()]))
        self.steps += 1
        alone = self.processes.count == 1  # a graph has no room for what processes exchange
        full = global_batch_size == self.options.batch_size
        if self.compiles and alone and self.steps > 1 and full:
            try:
                return self._compiled_step(pixels, labels, rate)
            except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore[reportAttributeAccessIssue]
                # Raised before anything has changed
                reason = one_line(error)
                note(f"this model's step cannot be compiled ({reason}): going on without")
                self.compiles = False
                seed_noise(seed, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bf16):
            terms = self.loss(pixels, labels, global_batch_size)
        # Processes average their gradients: so that it is the mean over all images, whatever
        # the share of each
        (terms["loss"].sum() * (self.processes.count / global_batch_size)).backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        limit, clipped = self._limit(norm)
        if device.type != "cpu" or norm > limit:  # on a CPU looking costs nothing
            torch._foreach_mul_(gradients, clipped / norm.clamp(min=LEAST_NORM))  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step(rate, norm)
        for parameter in self.parameters:  # zero_grad, without what it tells a profiler
            parameter.grad = None
        return _sums(terms) | {NORM: norm, LIMIT: limit}

    def _limit(self, norm: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The largest norm let through, the user's or relative to the usual; the norm within it."""
        known = self.usual_norm > 0
        if self.options.clip is None:
            limit = torch.where(known, CLIP_FACTOR * self.usual_norm, math.inf)
        else:
            limit = torch.full_like(norm, self.options.clip)
        clipped = torch.minimum(norm, limit)
        moved = torch.lerp(self.usual_norm, clipped, 1 / CLIP_MEMORY)
        usual = torch.where(known, moved, clipped)
        self.usual_norm.copy_(torch.where(norm.isfinite(), usual, self.usual_norm))
        return limit, clipped

    def _compiled_step(self, pixels: Tensor, y: Tensor | None, rate: float) -> dict[str, Tensor]:
        if self._compiled is None:
            torch._dynamo.config.trace_autograd_ops = True  # the gradient in the same graph
            # A parameter that the first step has left alone has no moments: nothing depends on it
            self._moments = list(self.optimizer.moments.values())
            self._touched = [self.optimizer.parameters[name] for name in self.optimizer.moments]
            self._compiled = torch.compile(self._whole_step, dynamic=False, fullgraph=True)
        rates = adamw_rates(rate, self.options.weight_decay, self.steps)
        return self._compiled(pixels, y, rates.to(self.processes.device))

    def _whole_step(self, pixels: Tensor, y: Tensor | None, rates: Tensor) -> dict[str, Tensor]:
        """What `step` does, as one graph: nothing between its parts goes through Python."""
        device = self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.options.bf16):
            terms = self.training_loss(pixels, y, len(pixels))
        gradients = torch.autograd.grad(terms["loss"].mean(), self._touched)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        limit, clipped = self._limit(norm)
        share = clipped / norm.clamp(min=LEAST_NORM)
        # A gradient that is NaN or infinite changes no weight
        finite = norm.isfinite()
        keep, step, root = rates
        rates = torch.stack([torch.where(finite, keep, 1.0), torch.where(finite, step, 0.0), root])
        for parameter, gradient, moments in zip(
            self._touched, gradients, self._moments, strict=True
        ):
            adamw_(parameter, torch.where(finite, gradient * share, 0.0), moments, rates)
        return _sums(terms) | {NORM: norm, LIMIT: limit}

    @torch.no_grad()
    def average(self, steps: int, all_steps: int) -> None:
        """Move the averaged weights towards the weights, as if at each of the last `steps` steps.

        Args:
            all_steps: since the training began.
        """
        decay = ema_decay(self.options.ema, all_steps)
        averages: list[Tensor] = [p for p in self.averaged.parameters() if p.requires_grad]
        torch._foreach_lerp_(averages, self.parameters, 1 - decay**steps)  # pyright: ignore[reportPrivateImportUsage]
        for average, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    # ---- its state -----------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averaged weights, the optimiser's moments and the usual norm, by name."""
        return {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{f"average.{name}": value for name, value in self.averaged.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()},
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
        load_tensors(self.model, parts.get("model", {}), path)
        load_tensors(self.averaged, parts.get("average", {}), path)
        try:
            self.usual_norm.copy_(parts["usual_norm"][""])
            if begun:
                self.steps = self.optimizer.restore(parts["optimizer"])
        except (KeyError, RuntimeError) as error:
            raise LatensError(f"{path} holds a checkpoint of another kind: {error}") from error


@torch.no_grad()
def _sums(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each term summed over the images."""
    sums = torch.stack([values.detach() for values in terms.values()]).sum(1)
    return dict(zip(terms, sums, strict=True))


def step_seeds(seed: int, epoch: int, process: int, steps: int) -> list[int]:
    """The seed of each step's noise in an epoch, so that a resumed run repeats it exactly."""
    return np.random.SeedSequence([seed, epoch, process]).generate_state(steps).tolist()
