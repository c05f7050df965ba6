"""Tensors and models on disk: safetensors and JSON, no pickle; and the card beside a model."""

import json
import zlib
from collections.abc import Collection, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latens.config import TrainConfig
from latens.errors import LatensError
from latens.files import read_json, write_bytes, write_json
from latens.model.noise import forked_rng
from latens.model.parts import Part, counted, from_config, to_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CHECKSUM = "crc32"  # among the metadata of a file
NAMES_WITHOUT_CHECKSUM = {"format", "state"}
SCALE = "scale of "  # before the name of a tensor of whole numbers
BLOCK = 64  # weights of a row that share a scale in 8 bits
SLACK = 2  # a part may make weights and replace them
WeightBits = Literal[8, 16, 32]
# Data whose terms also bind what is learned from them, as a model's card says.
RESTRICTED = {
    "celeba": "CelebA is for non-commercial research, and so is what was learned from it."
}


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file at once."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata | {CHECKSUM: _checksum(plain, metadata)})
    write_bytes(path, _in_order(content))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata in order, which the library leaves to chance."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Of all that a file holds. It finds damage, and says nothing of who wrote the file."""
    about = [[name, str(of.dtype), list(of.shape)] for name, of in sorted(tensors.items())]
    found = zlib.crc32(json.dumps([about, sorted(metadata.items())]).encode())
    for _, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        LatensError: no such file, a truncated one, or one of another format, pickle among them.
    """
    if not path.is_file():
        raise LatensError(f"{path.parent} has no {path.name}")
    try:
        tensors, metadata = _content(path)
    except (SafetensorError, OSError, ValueError) as error:
        if _is_pickle(path):
            raise LatensError(
                f"{path} is a pickle, which can run any code when it is opened: latens reads "
                "safetensors only"
            ) from error
        raise LatensError(f"{path} is truncated or no safetensors file: {error}") from error
    written = metadata.pop(CHECKSUM, None)
    if written is None:  # as latens 0.1.0 wrote it, unless the checksum's own name is damaged
        whole = metadata.keys() <= NAMES_WITHOUT_CHECKSUM
    else:
        whole = written == _checksum(tensors, metadata)
    if not whole:
        raise LatensError(f"{path} is damaged: its content is not what was written")
    return tensors, metadata


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of one file: safetensors opens it twice by name, and a training may replace it in between."""
    while True:
        before = path.stat()
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        after = path.stat()
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            return tensors, metadata


def _is_pickle(path: Path) -> bool:
    """Whether a file that is no safetensors file starts like a pickle, or like torch's zip of one.

    A safetensors file can start with the same two bytes: the length of its header.
    """
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


# ---- models ----------------------------------------------------------------------------------


def write_model(
    folder: Path,
    model: Part,
    about: dict[str, Any],
    bits: WeightBits = 32,
    in_16: Collection[str] = (),
) -> None:
    """Write `config.json` (the architecture, and `about`) and `model.safetensors`.

    Args:
        bits: of a weight, which is read into 32. 16 is a float; 8 a whole number for each weight
            of a matrix or a convolution, with one scale for each `BLOCK` of a row, and 16 for
            vectors.
        in_16: names of weights that have 16 where the others have 8.
    """
    tensors = model.state_dict()
    if bits < 32:
        tensors = dict(
            item
            for name, tensor in tensors.items()
            for item in _in_bits(name, tensor, 16 if name in in_16 else bits)
        )
    write_json(folder / CONFIG, {"model": to_config(model)} | about)
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def _in_bits(name: str, tensor: Tensor, bits: WeightBits) -> Iterator[tuple[str, Tensor]]:
    if not tensor.is_floating_point():
        yield name, tensor
    elif bits == 16 or tensor.dim() < 2:
        yield name, tensor.half()
    else:
        blocks = _blocks(tensor)
        whole, scale = quantised(blocks.flatten(0, 1), bits)
        whole = whole.to(torch.int8).reshape(len(tensor), -1)[:, : tensor.shape[1:].numel()]
        yield name, whole.reshape(tensor.shape)
        yield SCALE + name, scale.reshape(blocks.shape[:2])


def rounded(tensor: Shaped[Tensor, "R ..."], bits: WeightBits) -> Shaped[Tensor, "R ..."]:
    """A weight as it is read again after `write_model`."""
    return _in_32_bits(dict(_in_bits("weight", tensor.detach(), bits)))["weight"].to(tensor.dtype)


def _blocks(tensor: Shaped[Tensor, "R ..."]) -> Shaped[Tensor, "R K b"]:
    """A tensor's rows in blocks, the last one filled up with zeros."""
    rows = tensor.flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))


def _in_32_bits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `_in_bits` has left of the weights."""
    plain = {name: value for name, value in tensors.items() if not name.startswith(SCALE)}
    for name, scale in tensors.items():
        whole = plain.get(name.removeprefix(SCALE))
        if not name.startswith(SCALE) or whole is None or whole.dim() < 2:
            continue
        if whole.shape[:1] == scale.shape:  # one for each row, as it was once
            plain[name.removeprefix(SCALE)] = scale.reshape(-1, *[1] * (whole.dim() - 1)) * whole
        elif scale.shape == (blocks := _blocks(whole)).shape[:2]:
            rows = (scale[:, :, None] * blocks).flatten(1)[:, : whole.shape[1:].numel()]
            plain[name.removeprefix(SCALE)] = rows.reshape(whole.shape)
        else:
            raise LatensError(f"{name} has the shape {tuple(scale.shape)}, which fits no weights")
    return plain


def quantised(value: Float[Tensor, "..."], bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers of so many bits, and for each row the size of one step, so that value ≈ q · s.

    Symmetric about zero, one scale for each output of a layer (Nagel et al. 2021, "A White Paper
    on Neural Network Quantization", section 2.2).
    """
    rows = value.reshape(len(value), -1) if value.dim() > 1 else value.reshape(1, -1)
    scale = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-12)
    return (rows / scale).round(), scale


def read_model(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model that `write_model` wrote, in evaluation mode, and what it said about it.

    Raises:
        LatensError: files that are missing, damaged, foreign, or do not fit together.
    """
    about = read_json(folder / CONFIG)
    if not isinstance(about, dict) or "model" not in about:
        raise LatensError(f"{folder / CONFIG} does not describe a latens model")
    described = about.pop("model")
    tensors = _in_32_bits(read_tensors(folder / WEIGHTS)[0])
    there = sum(tensor.numel() for tensor in tensors.values())

    def check(weights: int) -> None:
        if weights > SLACK * there:
            raise LatensError(
                f"{folder / WEIGHTS} does not fit the architecture beside it, which has more than "
                f"{weights:,} weights: there are {there:,}"
            )

    try:
        # The weights drawn here are thrown away: leave the user's random numbers alone.
        with forked_rng(), counted(check):
            model = from_config(described)
    except LatensError as error:
        raise LatensError(f"{folder / CONFIG}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise LatensError(f"{folder / CONFIG} describes a {type(model).__name__}, not a model")
    load_tensors(model, tensors, folder / WEIGHTS)
    return model.eval(), about


def load_tensors(model: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors read from `path` into a model.

    Raises:
        LatensError: names or shapes that are not the model's.
    """
    strange = [name for name, of in tensors.items() if not torch.isfinite(of).all()]
    if strange:
        raise LatensError(f"{path} holds weights that are NaN or infinite: {strange[0]}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise LatensError(f"{path} does not fit the architecture beside it: {first}") from error


def model_card(model: Part, about: dict[str, Any]) -> str:
    """A model card, in Markdown: architecture, what it was trained on, and its figures."""
    from huggingface_hub import ModelCard, ModelCardData

    learned_from = about.get("training", {}).get("data", {}).get("name")
    data = ModelCardData(
        library_name="latens",
        license="other" if learned_from in RESTRICTED else "mit",
        tags=["vae", "image-generation"],
    )
    training = about.get("training", {})
    options = TrainConfig.from_record(training.get("options", {})).options()
    template = files("latens").joinpath("templates/card.md.j2").read_text("utf-8")
    card = ModelCard.from_template(
        data,
        template_str=template,
        about=about,
        model=model,
        options=options,
        terms=RESTRICTED.get(learned_from),
    )
    return str(card)
