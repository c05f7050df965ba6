"""Commands are killed before each of their file operations, and called again or gone on with.

`python tests/kills.py` prints how often, and each time that anything differs from a command that
nobody disturbed: weights, metrics, film, pictures, or what is left behind.
"""

import argparse
import contextlib
import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import re
import shutil
import signal
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import latens
from latens import api, commands, sweeps
from latens.data.sources import Source, fetch
from latens.run.directory import Run
from resumes import stopped_at

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
OPTIONS = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 3, "report": False}
IMAGES = 1_000  # from which decoded images are cached
Action = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A command in a folder `there`, where its kills are.

    Attributes:
        prepare: what is there before it.
        action: the command, and the same again for what was killed.
    """

    prepare: Callable[[Path], object]
    action: Callable[[Path], object]


# ---- commands --------------------------------------------------------------------------------


def train(there: Path, **options: Any) -> None:
    """Begin, or go on with what is there."""
    out = there / "run"
    if out.exists():
        latens.resume(out)
    else:
        latens.train("digits", out=out, **OPTIONS | options)


def stopped(out: Path) -> None:
    """A training that is stopped within its second epoch."""
    with contextlib.redirect_stderr(io.StringIO()):
        stopped_at(15, OPTIONS | {"batch_size": 128, "film": True}, out)


def unless_there(name: str, write: Callable[[Path], object]) -> Callable[[Path], None]:
    """A command that refuses what it has finished already."""

    def action(there: Path) -> None:
        if not (there / name).exists():
            write(there / name)

    return action


def sweep(there: Path) -> None:
    """Of two trainings; those that a killed sweep has left end before it goes on."""
    for run in there.glob("sweep/*=*"):
        while True:
            try:
                with Run.open(run).held():
                    break
            except latens.LatensError:
                time.sleep(0.1)
    swept = OPTIONS | {"latent_dim": [2, 3], "film": False, "epochs": 1}
    sweeps.sweep("digits", out=there / "sweep", **swept)


def build_cache(folder: Path, there: Path) -> None:
    """Of decoded images."""
    os.environ["LATENS_CACHE"] = str(there / "cache")
    data = latens.load_data(folder)
    if int(data.split("all").pixels.sum()) != int(photos().sum()):
        raise RuntimeError("other pixels than were written")


def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), np.uint8)


def download(source: Source, there: Path) -> None:
    """A file from a server on this machine."""
    os.environ["LATENS_DATA"] = str(there)
    fetch(source, "file")


@contextmanager
def served(folder: Path) -> Iterator[Source]:
    """A data set of one file, by HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    content = np.random.default_rng(0).bytes(300_000)
    (folder / "file").write_bytes(content)
    handler = functools.partial(Quiet, directory=str(folder))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        mirror = f"http://127.0.0.1:{server.server_address[1]}/"
        yield Source("", lambda _: latens.load_data("digits"), 0, "set", (mirror,), {"file": md5})
        server.shutdown()


@contextmanager
def cases(folder: Path) -> Iterator[dict[str, Case]]:
    """Each command, by its name."""
    trained = latens.train("digits", out=folder / "trained", film=True, **OPTIONS).path
    (folder / "photos").mkdir()
    for i, pixels in enumerate(photos()):
        Image.fromarray(pixels).save(folder / "photos" / f"{i:04d}.bmp")

    def generate(out: Path) -> None:
        commands.generate(trained, 20, out)

    def nothing(_: Path) -> None:
        pass

    (folder / "served").mkdir()
    with served(folder / "served") as source:
        yield {
            "train": Case(nothing, functools.partial(train, film=False)),
            "train, film": Case(nothing, functools.partial(train, film=True)),
            "train, page": Case(nothing, functools.partial(train, film=False, report=True)),
            "resume": Case(
                lambda there: stopped(there / "run"),
                lambda there: latens.resume(there / "run"),
            ),
            "report": Case(
                lambda there: shutil.copytree(trained, there / "run"),
                lambda there: api.report(there / "run"),
            ),
            "export": Case(nothing, unless_there("out", lambda out: api.export(trained, out))),
            "generate": Case(nothing, unless_there("out", generate)),
            "sweep": Case(nothing, sweep),
            "cache": Case(nothing, functools.partial(build_cache, folder / "photos")),
            "download": Case(nothing, functools.partial(download, source)),
        }


# ---- kills -----------------------------------------------------------------------------------


def killed_before(operation: int, folder: Path, action: Action) -> bool:
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
        except BaseException as error:
            (folder.parent / "error").write_text(f"{type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError((folder.parent / "error").read_text())
    return os.WIFSIGNALED(status)


def left(folder: Path) -> dict[str, str]:
    """What lies in a folder, as digests; without times."""
    found = {}
    older = {path for of in folder.rglob("checkpoints") for path in sorted(of.glob("[0-9]*"))[:-1]}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in older):
        content = path.read_bytes()
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{**row, "seconds": 0} for row in rows]).encode()
        if path.suffix in (".json", ".html", ".md", ".csv"):
            content = re.sub(rb'"(minutes|seconds)": [0-9.e-]+', b"", content)
        timed = path.name in ("config.yaml", "README.md") or "curves" in path.name
        if "checkpoints" in name or timed or path.suffix in (".html", ".md"):
            content = b""  # they tell times; that they are there is what counts
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def inject(case: Case, most: int = 10_000, step: int = 1) -> tuple[int, list[str]]:
    """How many kills of a command, and what went wrong."""
    kills, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        there = Path(name) / "there"  # figures and the model's card know the path

        def begin() -> None:
            shutil.rmtree(there, ignore_errors=True)
            there.mkdir()
            case.prepare(there)

        def action() -> None:
            case.action(there)

        begin()
        killed_before(10**9, there, action)
        expected = left(there)
        for operation in range(0, most, step):
            begin()
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
    return kills, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="kill before every so manieth")
    parser.add_argument("--only", nargs="*", help="these commands")
    options = parser.parse_args()
    defects = 0
    with tempfile.TemporaryDirectory() as name, cases(Path(name)) as every:
        api.report(Path(name) / "trained")  # imports what the children then have
        shutil.rmtree(Path(name) / "trained" / "pictures")
        (Path(name) / "trained" / "report.html").unlink()
        for what in options.only or every:
            kills, wrong = inject(every[what], step=options.step)
            print(f"{what}: {kills} kills, {len(wrong)} defects", flush=True)
            print("".join(f"{line}\n" for line in wrong), end="", flush=True)
            defects += len(wrong)
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
