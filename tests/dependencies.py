"""Latens with the lowest versions that it declares, or with the newest: installed apart, and used.

`python tests/dependencies.py lowest` makes a virtual environment and runs the commands below in it;
to be run on a schedule, for it downloads much and what it finds comes from outside.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "train digits --recipe mlp --latent-dim 2 --epochs 2 --out run",
    "train digits --recipe conv --channels 8 --epochs 1 --prior flow --no-report --out flow",
    "evaluate run --all",
    "doctor run",
    "sample run --out sample.png",
    "reconstruct run --out reconstructions.png",
    "interpolate run --out path.png",
    "generate run -n 10 --out some",
    "embed run digits --out latents.csv",
    "score run digits --out scores.csv",
    "export run --out small",
    "compare run flow --out both",
    "train --resume run",
    "sample mnist-ladder --out ladder.png",
)


def pinned(requirement: str, which: str, kept: dict[str, str]) -> str:
    """A declared requirement such as "numpy>=2", at its lowest version or open upwards."""
    name, lowest = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
    if name in kept:
        return f"{name}=={kept[name]}"
    return f"{name}=={lowest}" if which == "lowest" else requirement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument("--keep", nargs="*", default=[], help="such as torch==2.13.0")
    options = parser.parse_args()
    kept = dict(pair.split("==") for pair in options.keep)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [pinned(each, options.which, kept) for each in project["dependencies"]]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *wanted], check=True)
        subprocess.run([*install, "--no-deps", ROOT], check=True)
        print(*wanted, sep=", ", flush=True)
        for command in COMMANDS:
            done = subprocess.run(
                [python, "-m", "latens", *command.split()],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            failed += bool(done.returncode)
            last = "" if not done.returncode else (done.stderr.strip().splitlines() or [""])[-1]
            print(f"{done.returncode} latens {command} {last}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
