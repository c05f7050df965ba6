"""AdamW: the moments of each weight, and two ways to take a step with them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    torch's function does the work. Its class would load torch's compiler for the first step, which
    takes as long as loading torch.

    Args:
        parameters: by name.
        weight_decay: λ.
        fused: one kernel for all weights, where the device has it.

    Attributes:
        moments: step, exp_avg and exp_avg_sq of each weight that a gradient has come to.
    """

    def __init__(self, parameters: dict[str, Tensor], weight_decay: float, fused: bool):
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.fused = fused
        self.moments: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, rate: float, norm: Float[Tensor, ""]) -> None:
        """Move every weight that has a gradient, unless their norm is NaN or infinite.

        Args:
            rate: the learning rate.
            norm: of all gradients together.
        """
        # The fused kernel skips a step by itself, without a look
        found_inf = (~norm.isfinite()).float() if self.fused else None
        if not self.fused and not norm.isfinite():
            return
        touched = {name: p for name, p in self.parameters.items() if p.grad is not None}
        for name, parameter in touched.items():
            if name not in self.moments:
                self.moments[name] = self._fresh(parameter)
        moments = [self.moments[name] for name in touched]
        adamw(
            list(touched.values()),
            [p.grad for p in touched.values() if p.grad is not None],
            [of["exp_avg"] for of in moments],
            [of["exp_avg_sq"] for of in moments],
            [],
            [of["step"] for of in moments],
            fused=self.fused,
            found_inf=found_inf,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), device=parameter.device if self.fused else None)
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        return {"step": step} | moments

    def tensors(self) -> dict[str, Tensor]:
        """The moments, by weight and name."""
        found = self.moments.items()
        return {f"{name}.{key}": value for name, of in found for key, value in of.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> int:
        """Put back what `tensors` gave; returns the steps that were taken.

        Raises:
            KeyError: a weight has some of its moments only.
            RuntimeError: moments of another shape.
        """
        steps = 0
        for name, parameter in self.parameters.items():
            if f"{name}.step" not in tensors:  # no gradient had come to it
                continue
            # In the weight's own memory layout: the fused kernel walks both in parallel
            self.moments[name] = self._fresh(parameter)
            for key, value in self.moments[name].items():
                value.copy_(tensors[f"{name}.{key}"])
            steps = max(steps, int(self.moments[name]["step"]))
        return steps


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
    """A step of one weight in place, in the terms of torch's own, which cannot be compiled."""
    keep, step, root = rates
    mean, square = moments["exp_avg"], moments["exp_avg_sq"]
    moments["step"].add_(1)
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient * gradient, 1 - BETAS[1])
    parameter.mul_(keep).sub_(step * mean / (square.sqrt() * root + EPSILON))
