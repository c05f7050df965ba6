"""The same network, batch and optimiser by each of the peers, each in a process of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
from timing import alternately, ratio, spread, table

import latens
from latens import VAE
from latens.data import DataSet

MLP = {"recipe": "mlp", "hidden": "400", "latent_dim": 20}
Makers = dict[str, Callable[[DataSet], peers.Contender]]


def mlp(**options: Any) -> Callable[[DataSet], peers.Contender]:
    """A training of the example's network by latens."""
    return lambda data: peers.Latens(data, **MLP, **options)


def cnn(**options: Any) -> Callable[[DataSet], peers.Contender]:
    """A training of the CNN of tutorials by latens."""
    return lambda data: peers.Latens(data, VAE(peers.CNNEncoder(), peers.CNNDecoder()), **options)


FLOAT32 = {"precision": "float32"}
MAKERS: dict[str, Makers] = {
    "MLP 784-400-20": {
        "PyTorch example": peers.pytorch_example,
        "pythae": peers.Pythae,
        "latens": mlp(compile=False),
        "latens, compiled": mlp(compile=True),
        "latens, float32": mlp(compile=False, **FLOAT32),
        "latens, float32, compiled": mlp(compile=True, **FLOAT32),
    },
    "CNN 32-64-512": {
        "eager float32": peers.eager_cnn,
        "latens": cnn(compile=False),
        "latens, compiled": cnn(compile=True),
        "latens, float32": cnn(compile=False, **FLOAT32),
        "latens, float32, compiled": cnn(compile=True, **FLOAT32),
    },
}
IMAGES = {"MLP 784-400-20": 55_000, "CNN 32-64-512": 6_400}  # seen in a round
# As on a processor that has no more. torch takes what it compiled for another one from its cache,
# and the step becomes infinite: so this has a cache of its own.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
AVX2 |= {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / "compiled-for-avx2")}
HEAD = ["", "training, images/s", "over the first", "evaluation, images/s", "over the first"]


def measure(rounds: int) -> dict[str, Any]:
    """Print the tables; the figures, by network and peer."""
    found: dict[str, Any] = {}
    for network, makers in MAKERS.items():
        found[network] = _side_by_side(network, list(makers), {}, rounds)
        plain = [name for name in makers if "latens" not in name or "float32" in name]
        title = f"{network}, held to AVX2"
        found[title] = _side_by_side(network, plain, AVX2, rounds)
    return found


def _side_by_side(
    network: str, names: list[str], environment: dict[str, str], rounds: int
) -> dict[str, list[dict[str, float]]]:
    results = alternately(
        {name: lambda n=name: alone(network, n, environment) for name in names}, rounds
    )
    rows = []
    for name, each in results.items():
        row = [name]
        for what in ("train", "evaluate"):
            seconds = [one[what] for one in each]
            speed = [one["images" if what == "train" else "tested"] / one[what] for one in each]
            first = [one[what] for one in results[names[0]]]
            row += [spread(speed), spread(ratio(first, seconds), ".2f")]
        rows.append((*row, spread([one["memory"] for one in each])))
    held = ", held to AVX2" if environment else ""
    table(f"{network}, batch {peers.BATCH}, Adam{held}", [*HEAD, "peak memory, MB"], rows)
    return results


def alone(network: str, name: str, environment: dict[str, str]) -> dict[str, float]:
    """What a contender measures of itself, in a process of its own."""
    command = [sys.executable, str(Path(__file__)), network, name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(network: str, name: str) -> None:
    """Train and evaluate twice, the first time uncounted; print the seconds."""
    warnings.simplefilter("ignore")
    data = peers.part(latens.load_data("mnist"), IMAGES[network])
    contender = MAKERS[network][name](data)
    seconds = {}
    for _ in range(2):
        for what in ("train", "evaluate"):
            began = time.perf_counter()
            getattr(contender, what)()
            seconds[what] = time.perf_counter() - began
    # Not getrusage's figure, which a process inherits from the one that started it
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    memory = int(peak[1]) / 1000 if peak else 0
    sizes = {"images": len(data.train), "tested": len(data.test), "memory": memory}
    print(json.dumps(seconds | sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
