"""Readers of files under coverage-guided fuzzing, by hand and for as long as it is let.

`pip install atheris`, then `python tests/fuzz.py corpus -max_total_time=600`: small whole files are
put into the folder `corpus`, and inputs that reach new code are kept there. The first byte of an
input chooses its reader. Anything but a LatensError ends the search, with the input in `crash-*`.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["latens", "PIL", "yaml", "numpy.lib", "zipfile"]):
    from faults import IMAGE_SUFFIXES, archives, image_bytes, read_image
    from latens import LatensError, load_data
    from latens.data import celeba, sources
    from latens.data.files import open_npy
    from latens.model.serialization import read_tensors
    from latens.run.directory import read_yaml
from test_parsers import IDX, SAFETENSORS

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
READERS = [(f"x{suffix}", read_image) for suffix in IMAGE_SUFFIXES]
READERS += [(f"x{suffix}", load_data) for suffix in (".npz", ".npy", ".tar", ".tar.gz")]
READERS += [
    ("y.npy", open_npy),
    ("x-idx3-ubyte", lambda path: sources._read_idx(path, 3)),
    ("x.safetensors", read_tensors),
    ("x.yaml", read_yaml),
    ("list_attr_celeba.txt", celeba._read_attributes),
    ("list_eval_partition.txt", celeba._read_partition),
]


def wholes():
    """A whole file for each reader."""
    files = {path.name: path.read_bytes() for path in archives(FOLDER)}
    yield from (image_bytes(suffix) for suffix in IMAGE_SUFFIXES)
    yield from (files[name] for name in ("x.npz", "x.npy", "x.tar", "x.tar.gz", "x.npy"))
    yield from (IDX, SAFETENSORS, b"epochs: 3\nhidden: [4, 5]\nlevels: 7x4,14x4\n")
    yield from (b"2\nBald Smiling\na.jpg 1 -1\nb.jpg -1 1\n", b"a.jpg 0\nb.jpg 1\nc.jpg 2\n")


def test_one_input(content):
    if not content:
        return
    name, read = READERS[content[0] % len(READERS)]
    path = FOLDER / name
    path.write_bytes(content[1:])
    with contextlib.suppress(LatensError):
        read(path)


def main():
    os.environ["LATENS_CACHE"] = str(FOLDER / "cache")
    warnings.simplefilter("ignore")
    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    for i, content in enumerate(wholes()):
        (corpus / f"whole-{i}").write_bytes(bytes([i]) + content)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
