"""`latens serve`: requests in a second, one at a time and many at once, in turn."""

import asyncio
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image

MODELS = {"mnist-2d": (1, 28), "celeba-unet-64": (3, 64)}
REQUESTS, AT_ONCE = 200, 32
Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def measure(rounds: int) -> dict[str, Any]:
    """Medians over rounds, in which the two ways take turns on one server."""
    found = {}
    for model, (channels, side) in MODELS.items():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # a core for the server, one for us
        command = [sys.executable, "-m", "latens", "serve", model, "--port", "0", "--rate", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            found[model] = asyncio.run(_compared(address, _asks(channels, side), rounds))
        finally:
            server.terminate()
            server.wait()
    print(f"\n| model, request of one image | one at a time | {AT_ONCE} at once | ratio |")
    print("|---|---|---|---|")
    for model, rows in found.items():
        for name, (alone, together) in rows.items():
            ratio = together / alone
            print(f"| {model}, {name} | {alone:.0f} /s | {together:.0f} /s | {ratio:.1f} |")
    return found


def _asks(channels: int, side: int) -> dict[str, Ask]:
    file = io.BytesIO()
    shape = (side, side) if channels == 1 else (side, side, channels)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(file, "PNG")
    upload = {"files": {"images": ("image.png", file.getvalue(), "image/png")}}
    return {
        "embed": lambda client: client.post("/embed", **upload),
        "reconstruct": lambda client: client.post("/reconstruct", **upload),
        "score, K = 20": lambda client: client.post(
            "/score", data={"importance_samples": 20}, **upload
        ),
        "sample": lambda client: client.post("/sample", json={"number": 1}),
    }


async def _compared(
    address: str, asks: dict[str, Ask], rounds: int
) -> dict[str, tuple[float, float]]:
    """Requests in a second of each kind: one at a time, and many at once."""
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        found = {}
        for name, ask in asks.items():
            await _rate(client, ask, AT_ONCE)  # not counted: what a first request prepares
            rates = [[await _rate(client, ask, n) for n in (1, AT_ONCE)] for _ in range(rounds)]
            alone, together = (statistics.median(each) for each in zip(*rates, strict=True))
            found[name] = (alone, together)
        return found


async def _rate(client: httpx.AsyncClient, ask: Ask, at_once: int) -> float:
    turn = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with turn:
            (await ask(client)).raise_for_status()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(REQUESTS)))
    return REQUESTS / (time.perf_counter() - began)
