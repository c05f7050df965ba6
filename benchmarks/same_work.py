"""The same network, batch and optimiser by each of the peers: images/s and peak memory."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
from timing import in_turn, ratio, spread, table

import latens
from latens import VAE
from latens.data import DataSet

MLP = {"recipe": "mlp", "hidden": "400", "latent_dim": 20}
Makers = dict[str, Callable[[DataSet], peers.Contender]]
MAKERS: dict[str, Makers] = {
    "MLP 784-400-20": {
        "PyTorch example": peers.pytorch_example,
        "pythae": peers.Pythae,
        "latens": lambda data: peers.Latens(data, **MLP, compile=False),
        "latens, compiled": lambda data: peers.Latens(data, **MLP, compile=True),
    },
    "CNN 32-64-512": {
        "eager float32": peers.eager_cnn,
        "latens": lambda data: peers.Latens(data, cnn(), compile=False),
        "latens, compiled": lambda data: peers.Latens(data, cnn(), compile=True),
    },
}
IMAGES = {"MLP 784-400-20": 25_600, "CNN 32-64-512": 6_400}  # seen in a round


def cnn() -> VAE:
    """The peers' CNN as a VAE of latens."""
    return VAE(peers.CNNEncoder(), peers.CNNDecoder())


def measure(rounds: int) -> dict[str, Any]:
    """Print the tables; the figures, by network and peer."""
    found: dict[str, Any] = {}
    for network, makers in MAKERS.items():
        data = peers.part(latens.load_data("mnist"), IMAGES[network])
        contenders = {name: make(data) for name, make in makers.items()}
        train = in_turn({name: c.train for name, c in contenders.items()}, rounds)
        test = in_turn({name: c.evaluate for name, c in contenders.items()}, rounds)
        memory = {name: peak(network, name) for name in makers}
        first, rows = next(iter(makers)), []
        for name in makers:
            speed = [IMAGES[network] / s for s in train[name]]
            tested = [len(data.test) / s for s in test[name]]
            rows.append(
                (
                    name,
                    spread(speed),
                    spread(ratio(train[first], train[name]), ".2f"),
                    spread(tested),
                    spread(ratio(test[first], test[name]), ".2f"),
                    f"{memory[name]:,.0f}",
                )
            )
        head = ["", "training, images/s", "over the first", "evaluation, images/s"]
        head += ["over the first", "peak memory, MB"]
        table(f"{network}, batch {peers.BATCH}, Adam", head, rows)
        found[network] = {"train": train, "evaluate": test, "memory": memory, "images": IMAGES}
    return found


def peak(network: str, name: str) -> float:
    """Peak memory in MB of a process that trains and evaluates once."""
    command = [sys.executable, str(Path(__file__)), network, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-2]) / 1000


if __name__ == "__main__":
    network, name = sys.argv[1:]
    contender = MAKERS[network][name](peers.part(latens.load_data("mnist"), IMAGES[network]))
    contender.train()
    contender.evaluate()
    # Not getrusage's figure, which a process inherits from the one that started it
    print(*re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()), "kB")
