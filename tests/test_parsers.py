"""Whatever a reader of text or of bytes is given, it reads it or refuses it by a LatensError."""

import gzip
import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from cyclopts import CycloptsError
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

import latens
from latens import LatensError, hub, limits
from latens.analysis.generation import temperatures_of
from latens.cli.training import _swept
from latens.config import TrainConfig
from latens.data import celeba, shards, sources
from latens.data.files import open_npy
from latens.model.networks.ladder import Levels
from latens.model.parts import from_config, to_config
from latens.model.serialization import read_tensors
from latens.run.directory import read_yaml
from latens.run.schemas import Figures, Record, Row, check
from latens.training.state import TrainingState

LONG = "9" * 5000
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, True])
WORDS = st.text(max_size=40) | st.sampled_from(["", "1e999", "nan", "0", LONG, "\x1b[31m", "\0"])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(WORDS, v, max_size=4), max_leaves=8
)
DIGITS = st.text("0123456789x,.-e ", max_size=12)


def read_or_refused(read, *arguments):
    """What it read; None where it refused in a few words."""
    try:
        return read(*arguments)
    except LatensError as error:
        refusal = str(error)
    assert refusal, "a refusal says what is wrong"
    return None


# ---- words of a command ----------------------------------------------------------------------


@given(DIGITS | WORDS)
@example("7x1000000000")
@example("1x1,7x99999999999")
def test_levels(text):
    found = read_or_refused(Levels, text, 28, 28)
    assert found is None or 0 < len(found.all) <= limits.limits().tensors


@given(st.text("{}0123456789.ab", max_size=20) | WORDS)
@example("{0..99999}{0..99999}.tar")
@example("{0..9}" * 400 + ".tar")
@example("{0.." + LONG + "}.tar")
def test_shards_with_numbers(text):
    found = read_or_refused(shards._numbered, text)
    assert found is None or 0 < len(found) <= limits.limits().shards


@given(DIGITS | WORDS | st.floats() | st.lists(st.floats(), max_size=3))
def test_temperatures(value):
    found = read_or_refused(temperatures_of, value)
    assert found is None or min(found) > 0


@given(st.sampled_from(["image_pixels=", "shards=", "", "x="]), WORDS | DIGITS)
def test_limits_of_the_environment(name, value):
    with pytest.MonkeyPatch.context() as patch:
        text = (name + value).replace("\0", "")
        patch.setenv(limits.VARIABLE, text.encode("utf-8", "ignore").decode())
        found = read_or_refused(limits.limits)
    assert found is None or min(vars(found).values()) > 0


@given(WORDS)
def test_addresses_on_the_hub(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.snapshot_download", lambda name, **_: name)
        found = read_or_refused(hub.fetch, f"hf://{text}")
    assert found is None or (str(found) in text and len(found.parts) == 2)


@given(st.lists(st.sampled_from(["--beta", "--hidden", "--no-film"]) | WORDS | DIGITS, max_size=5))
def test_words_of_a_sweep(words):
    with suppress(CycloptsError):  # which the command line prints as one line
        found = read_or_refused(_swept, tuple(words))
        assert found is None or set(found) <= {"beta", "hidden", "film"}


# ---- options and descriptions ----------------------------------------------------------------

OPTIONS = ["size", "range", "hidden", "latent_dim", "beta", "epochs", "network", "seed", "crop"]
OPTIONS += ["validation", "learning_rate", "levels", "own", "prior", "precision", "minutes"]


@given(st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=4))
@example({"epochs": 10**400})
@example({"size": float("inf")})
@example({"size": [None, None]})
@example({"range": [10**400, 1]})
@example({"hidden": [float("inf")]})
def test_options_of_a_training(options):
    found = read_or_refused(lambda of: TrainConfig.from_options(**of), options)
    assert found is None or TrainConfig.from_options(**found.options()) == found


PART = to_config(latens.load("mnist-2d"))


@given(st.data())
def test_config_json(data):
    """A model's description with values of any kind in its parts."""
    config = json.loads(json.dumps(PART))
    part = config
    while isinstance(part[key := data.draw(st.sampled_from(sorted(part)))], dict):
        part = part[key]
    part[key] = data.draw(VALUES)
    with torch.device("meta"):
        found = read_or_refused(from_config, config)
    assert found is None or to_config(found).keys() <= config.keys()


@given(VALUES)
def test_descriptions_of_nothing(value):
    with torch.device("meta"):
        assert read_or_refused(from_config, value) is None


# ---- what a run's files hold -----------------------------------------------------------------


@given(st.sampled_from([Record, Row, Figures]), VALUES)
def test_contents(kind, value):
    read_or_refused(check, value, kind, Path("file"))


@given(st.dictionaries(st.sampled_from(["epoch", "sums", "best_loss"]) | WORDS, VALUES, max_size=3))
@example({"sums": [1, 2, 3]})
@example({"sums": [1.0, "x", 0.0, 0.0]})
def test_states_of_a_training(values):
    found = read_or_refused(TrainingState.from_dict, values)
    assert found is None or isinstance(found.as_dict()["sums"], dict)


# ---- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "file"


def reading(read):
    """A test that gives a reader a file of any bytes, or of those of a strategy."""

    def test(path, content):
        path.write_bytes(content)
        read_or_refused(read, path)

    return test


def packed(save_to, *arrays):
    file = io.BytesIO()
    save_to(file, *arrays)
    return file.getvalue()


NPY = packed(np.save, np.arange(60, dtype=np.uint8).reshape(5, 3, 4))
IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(range(8))
SAFETENSORS = save({"a": torch.zeros(2), "b": torch.ones(3)}, {"format": "pt"})


def spoilt(content):
    """Bytes near to those of a file: any piece of it replaced by any bytes."""
    places = st.integers(0, len(content) - 1)
    return st.binary(max_size=60) | st.builds(
        lambda at, length, piece: content[:at] + piece + content[at + length :],
        places,
        st.integers(0, 12),
        st.binary(max_size=12),
    )


LINES = st.lists(st.sampled_from(["a.jpg", "1", "-1", "0", "2"]) | WORDS, max_size=4).map(" ".join)
ROWS = st.lists(LINES, max_size=5).map(lambda rows: "\n".join(rows).encode("utf-8", "ignore"))

test_npy = given(content=spoilt(NPY))(reading(open_npy))
test_idx = given(content=spoilt(IDX))(reading(lambda path: sources._read_idx(path, 3)))
test_weights = given(content=spoilt(SAFETENSORS))(reading(read_tensors))
test_attributes = given(content=ROWS)(reading(celeba._read_attributes))
test_partitions = given(content=ROWS)(reading(celeba._read_partition))
TEXTS = VALUES.map(lambda value: repr(value).encode("utf-8", "ignore"))
test_yaml = given(content=st.binary(max_size=60) | TEXTS)(reading(read_yaml))


@given(content=spoilt(gzip.compress(IDX, mtime=0)))
def test_packed_idx(path, content):
    packed_path = path.with_name("file.gz")
    packed_path.write_bytes(content)
    found = read_or_refused(sources._read_idx, packed_path, 3)
    assert found is None or gzip.decompress(content).endswith(found.tobytes())
