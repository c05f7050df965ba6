"""Where to compute, and in which number format."""

import os
import platform
import shutil
from pathlib import Path

import torch

from latens.console import note
from latens.errors import LatensError
from latens.training.processes import LAUNCHED, number_of_launcher


def resolve_device(device: str) -> str:
    """The device meant by `auto`, or the one named.

    Raises:
        LatensError: a device this machine does not have.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, available in here.items() if available)
    if not here.get(device):
        names = ", ".join(name for name, available in here.items() if available)
        raise LatensError(f"device {device} is not available here; there are: {names}")
    return device


def available_device(device: str) -> str:
    """The device of that name; where this machine has none, the one meant by `auto`."""
    try:
        return resolve_device(device)
    except LatensError:
        return resolve_device("auto")


def resolve_precision(precision: str, device: str) -> str:
    """The precision meant by `auto`: bf16 where the processor computes in it, else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "mps":
        return "float32"
    cpu = torch.cpu.get_capabilities()
    return (
        "bf16" if any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
    )


def resolve_devices(devices: int, device: str) -> int:
    """How many devices of this machine train together; `torchrun` has decided where it is used.

    Raises:
        LatensError: more than there are, or several of a kind that cannot.
    """
    if LAUNCHED in os.environ:
        here = LAUNCHED if "LOCAL_WORLD_SIZE" not in os.environ else "LOCAL_WORLD_SIZE"
        devices = number_of_launcher(here)
    most = {"cuda": torch.cuda.device_count(), "cpu": os.cpu_count() or 1}.get(device, 1)
    if devices > most:
        raise LatensError(f"{devices} devices are not available here: of {device} there are {most}")
    return devices


def resolve_compile(
    wanted: bool | None, device: str, devices: int, long: bool, uncompiled: str | None = None
) -> bool:
    """Whether the training step is compiled: on request, or where the training is long enough.

    Several processes exchange gradients in the middle of a step, which then is no single graph.
    Without a C++ compiler a processor's step is not compiled, and if it was wanted a line says so.

    Args:
        long: the training gains more by it than compiling takes.
        uncompiled: the objective's name, where no graph can hold it.

    Raises:
        LatensError: wanted with several devices, or with such an objective.
    """
    if uncompiled is not None:
        if wanted:
            raise LatensError(f"the objective {uncompiled} cannot be compiled: leave out compile")
        return False
    if devices > 1:
        if wanted:
            raise LatensError(f"compile is for one device, and there are {devices}: leave it out")
        return False
    if wanted is None:
        wanted = device != "mps" and long
    compiler = os.environ.get("CXX", "g++")
    if wanted and device == "cpu" and shutil.which(compiler) is None:
        note(f"there is no C++ compiler ({compiler}), so the training step is not compiled")
        return False
    return wanted


def machine(device: str) -> str:
    """What computes there, in words: a card, or a processor and how many of its cores are used."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")  # Linux's
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    cores = torch.get_num_threads()
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"
