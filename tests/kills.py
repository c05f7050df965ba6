"""A training is killed before each of its file operations, and begun or gone on with again.

`python tests/kills.py` prints how often, and each time that anything differs from a training that
nobody disturbed: weights, metrics, film, figures, or what is left behind.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import latens

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
OPTIONS = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 3, "report": False}


def train(out: Path, film: bool) -> None:
    """Begin, or go on with what is there."""
    if out.exists():
        latens.resume(out)
    else:
        latens.train("digits", out=out, film=film, **OPTIONS)


def killed_before(operation: int, folder: Path, action: Callable[[], None]) -> bool:
    """Whether a process of its own was killed before its so manieth file operation in a folder."""
    child = os.fork()
    if child == 0:
        count = itertools.count()

        def watch(event: str, arguments: tuple) -> None:
            if event == "open":
                path, _, flags = arguments
                changes = bool(flags and flags & WRITES)
            else:
                path, changes = (arguments or [""])[0], event in CHANGES
            inside = isinstance(path, str | os.PathLike) and str(path).startswith(str(folder))
            if changes and inside and next(count) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.addaudithook(watch)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"ended with an error, killed before operation {operation}")
    return os.WIFSIGNALED(status)


def left(folder: Path) -> dict[str, str]:
    """What lies in a folder, as digests; of metrics without times."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{**row, "seconds": 0} for row in rows]).encode()
        if path.name in ("config.json", "figures.json"):  # without times
            content = re.sub(rb'"(minutes|seconds)": [0-9.e-]+', b"", content)
        if "checkpoints" in name or path.name == "config.yaml":
            content = b""  # they tell times too; that they are there is what counts
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def inject(film: bool, most: int | None = None, step: int = 1) -> tuple[int, list[str]]:
    """How many kills, and what went wrong."""
    kills, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "first", film)  # imports what the children then have
        there = folder / "there"  # figures and the model's card know the path
        there.mkdir()
        killed_before(10**9, there, lambda: train(there / "run", film))
        expected = left(there)
        shutil.rmtree(there)
        for operation in range(0, most or 10_000, step):
            there.mkdir()

            def action(out: Path = there / "run") -> None:
                train(out, film)

            if not killed_before(operation, there, action):
                break
            kills += 1
            try:
                killed_before(10**9, there, action)
                found = left(there)
                differs = sorted(n for n in expected | found if expected.get(n) != found.get(n))
                if differs:
                    wrong.append(f"operation {operation}: {', '.join(differs)}")
            except RuntimeError as error:
                wrong.append(f"operation {operation}: {error}")
            shutil.rmtree(there)
    return kills, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="kill before every so manieth")
    options = parser.parse_args()
    defects = 0
    for film in (False, True):
        kills, wrong = inject(film, step=options.step)
        what = "training with a film" if film else "training"
        print(f"{what}: {kills} kills, {len(wrong)} defects")
        print("\n".join(wrong))
        defects += len(wrong)
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
