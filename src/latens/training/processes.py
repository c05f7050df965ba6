"""Several processes that train together, over torch.distributed; one process is the usual case."""

import atexit
import gc
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latens.errors import LatensError

LAUNCHED = "WORLD_SIZE"  # in the environment of each process that torchrun or `launch` has started
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # and where they meet


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees it.

    Attributes:
        device: where this one computes.
        rank: its number, from 0.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @classmethod
    def launch(cls, device: str, devices: int) -> "Processes":
        """The processes that train together: from here on the program runs in each of them.

        With several devices this program is started anew for each further one, and runs there up
        to here, unless `torchrun` has started them all.

        Args:
            device: "cpu", "cuda" or "mps".
            devices: how many of this machine.

        Raises:
            LatensError: the environment of a launcher, of which a part is missing.
        """
        if devices > 1 and LAUNCHED not in os.environ:
            _start_others(devices)
        count = number_of_launcher(LAUNCHED) if LAUNCHED in os.environ else 1
        if count == 1:
            return cls(torch.device(device))
        _, local = number_of_launcher("RANK"), number_of_launcher("LOCAL_RANK")
        for name in ADDRESS:
            _of_launcher(name)
        if device == "cuda":
            torch.cuda.set_device(local)
        here = torch.device(device, local) if device == "cuda" else torch.device(device)
        if not dist.is_initialized():
            # Its functions have the group as a default argument: imported later, by the compiler
            # for one, they would hold it for good, and its threads may abort Python as it ends.
            importlib.import_module("torch.distributed.nn.functional")
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
            atexit.register(_leave_group)
        return cls(here, dist.get_rank(), count)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say in one line if another process ends in here, for which this one would wait.

        Raises:
            LatensError: another one has ended.
        """
        try:
            yield
        except RuntimeError as error:  # gloo has no class of its own, not even in a backward pass
            if self.count == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise LatensError(
                "another process of this training has ended: see above why; what was saved goes on "
                "by --resume"
            ) from error

    # ---- what they exchange ------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over the processes."""
        if self.count == 1:  # a wrapper costs a small network a tenth of a step
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor of one shape."""
        if self.count == 1:
            return values
        total = values.contiguous().to(self.device)  # gloo takes no notice of strides
        dist.all_reduce(total)
        return total.to(values.device)

    def any(self, holds: bool) -> bool:
        """Whether it holds in one of the processes."""
        return bool(self.sum(torch.tensor(float(holds))))

    def from_main(self, value: Any) -> Any:
        """The first process's value, in each."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def gather(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows of each process, one after the other, in all of them."""
        if self.count == 1:
            return terms
        return {name: self._gather(values) for name, values in terms.items()}

    def _gather(self, rows: Tensor) -> Tensor:
        """By a sum, since `dist.all_gather_object` pickles."""
        counts = torch.zeros(self.count, dtype=torch.long)
        counts[self.rank] = len(rows)
        counts = self.sum(counts).tolist()
        every = rows.new_zeros(sum(counts), *rows.shape[1:])
        every[sum(counts[: self.rank]) :][: len(rows)] = rows
        return self.sum(every)

    def joint(self, global_batch_size: int) -> Callable[[Tensor], Tensor]:
        """From a process's share of a batch `[B, ...]` to all of it, through which gradients flow.

        Args:
            global_batch_size: of all shares; this one has every `count`-th image from `rank` on.
        """
        if self.count == 1:
            return lambda values: values

        def gathered(values: Tensor) -> Tensor:
            every = values.new_zeros(global_batch_size, *values.shape[1:])
            every[self.rank :: self.count] = values
            return cast("Tensor", _Sum.apply(every))

        return gathered

    def own(self, values: Tensor) -> Tensor:
        """This process's share of values of a whole batch."""
        return values if self.count == 1 else values[self.rank :: self.count]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - torch passes it
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _Sum.forward(ctx, *grad_outputs)


def _of_launcher(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise LatensError(
            f"{LAUNCHED} is set, as torchrun does, and {name} is not: unset {LAUNCHED}, or start "
            "all processes by torchrun"
        )
    return value


def number_of_launcher(name: str) -> int:
    """A number that torchrun gives each process.

    Raises:
        LatensError: there is none.
    """
    value = _of_launcher(name)
    if not value.isdecimal():
        raise LatensError(f"{name} is {value}, and torchrun gives it a number: unset {LAUNCHED}")
    return int(value)


def _start_others(devices: int) -> None:
    """Start this program anew for each further device; they end with this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), LAUNCHED: str(devices)}
    others = []
    for rank in range(devices):
        own = common | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(devices),
        }
        if rank == 0:
            os.environ.update(own)
            continue
        words = [sys.executable, *sys.orig_argv[1:]]
        others.append(subprocess.Popen(words, env=os.environ | own))  # noqa: S603 - ourselves
    atexit.register(_end, others)


def _end(others: list[subprocess.Popen]) -> None:
    for process in others:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _leave_group() -> None:
    """Leave the other processes in order, or the group's threads may abort this one as it ends."""
    if dist.is_initialized():
        gc.collect()  # a wrapped module is part of a cycle, and holds the group's threads
        dist.destroy_process_group()
