"""An hour of training and of serving: are memory, file handles and threads flat?

`python tests/soak.py --minutes 60` trains `conv` on MNIST with a film, and meanwhile asks a service
of `mnist-2d` for samples and scores without pause. A table of both processes is printed, and the
growth from the second fifth of the time to the last.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

LATENS = Path(sys.executable).with_name("latens")
PORT = 8741
GROWTH = 1.05
KINDS = ("memory, MiB", "file handles", "threads")


def used(process):
    """MiB that are resident, file handles and threads of a process."""
    folder = Path("/proc", str(process.pid))
    pages = int((folder / "statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return memory, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


def asked(until):
    """Requests one after the other until the time is over, and how many."""
    count = 0
    file = io.BytesIO()
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(file, format="PNG")
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
        while time.monotonic() < until:
            client.post("/sample", json={"number": 4}).raise_for_status()
            files = {"images": ("eye.png", file.getvalue(), "image/png")}
            client.post("/score", files=files).raise_for_status()
            count += 2
    return count


def soak(minutes, every):
    """(what uses what, at each look at each process; requests answered)."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    commands = {
        "train": (
            *("train", "mnist", "--recipe", "conv", "--minutes", str(minutes + 1)),
            *("--epochs", "100000", "--out", str(folder / "run")),
        ),
        "serve": ("serve", "mnist-2d", "--port", str(PORT), "--rate", "0"),
    }
    processes = {
        name: subprocess.Popen(
            (LATENS, *command),
            stdout=(folder / f"{name}.txt").open("w"),
            stderr=subprocess.STDOUT,
        )
        for name, command in commands.items()
    }
    looks = {name: [] for name in commands}
    time.sleep(30)  # both have started by then
    until = time.monotonic() + minutes * 60
    with ThreadPoolExecutor(1) as pool:
        requests = pool.submit(asked, until)
        while time.monotonic() < until:
            for name, process in processes.items():
                looks[name].append(used(process))
            time.sleep(every)
    for process in processes.values():
        process.terminate()
        process.wait(60)
    return looks, requests.result()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=10, help="seconds between looks")
    arguments = parser.parse_args()
    looks, requests = soak(arguments.minutes, arguments.every)
    print("| process | | after a fifth | at the end | most |\n| --- | --- | --- | --- | --- |")
    grown = False
    for name, rows in looks.items():
        fifth = len(rows) // 5
        for kind, values in zip(KINDS, zip(*rows, strict=True), strict=True):
            before = statistics.median(values[fifth : 2 * fifth])
            after = statistics.median(values[-fifth:])
            grown |= after > GROWTH * before
            print(f"| {name} | {kind} | {before:.0f} | {after:.0f} | {max(values):.0f} |")
    print(f"{requests} requests answered; {len(rows)} looks in {arguments.minutes:g} minutes")
    raise SystemExit(int(grown))


if __name__ == "__main__":
    main()
