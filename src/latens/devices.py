"""Where to compute, and in which number format."""

import platform
from pathlib import Path

import torch

from latens.errors import LatensError


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
        raise LatensError(f"device {device} is not to be had here; there are: {names}")
    return device


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


def machine(device: str) -> str:
    """What computes there, in words: a card, or a processor and how many of its cores are used."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")  # Linux's
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} cores"
