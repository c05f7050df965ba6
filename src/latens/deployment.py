"""A trained model as ONNX and `torch.export` programs, which run without latens.

Each program has the batch as a free dimension, is checked against the model when it is written, and
says in its metadata what goes in and what comes out.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import jinja2
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent

from latens import files
from latens.console import note
from latens.data import Images
from latens.errors import LatensError, one_line, required
from latens.model.composed import ComposedModel
from latens.model.distributions import FlowDistribution, diagonal_normal
from latens.model.ladder import Ladder
from latens.model.latent_model import LatentModel, load_model
from latens.model.latents import Draw, Latent
from latens.model.noise import SeededNoise
from latens.model.vae import VAE
from latens.run.data import data_of
from latens.run.directory import Run, refuse_existing

Quantise = Literal["int8"]
TOLERANCE = 1e-4  # between a program and the model, in units of its outputs
EXAMPLES, CHECKED = 3, 5  # images in a batch as it is traced, and as it is checked
MEASURED = 1_000  # test images that tell what whole numbers cost
METADATA, README = "metadata.json", "README.md"


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` wrote.

    Attributes:
        path: the folder.
        differences: the largest difference to the model, of each program.
        cost: what eight bits cost in nats per image of −ELBO; None where they were not asked for.
    """

    path: Path
    differences: dict[str, float]
    cost: float | None = None


def export_onnx(
    path: str | Path | Run, out: str | Path, quantise: Quantise | None = None, data: Any = None
) -> Exported:
    """Write the encoder, decoder, sampler and classifier of a run's model as programs.

    Each is a NAME.onnx and a NAME.pt2 (`torch.export`). With `quantise` there is a NAME-int8.onnx
    of encoder and decoder too, and what it costs in nats on test images is measured.

    Args:
        out: a folder that does not exist yet.
        data: the same data again, of a run whose data came from Python; only for `quantise`.

    Raises:
        LatensError: a run that cannot be used, `out` exists, packages that are missing, a part that
            cannot be exported, or a program that differs from the model.
    """
    run, out = path if isinstance(path, Run) else Run.open(path), Path(out)
    refuse_existing(out)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        required(name, "onnx", "ONNX")
    if quantise not in (None, "int8"):
        raise LatensError(f"quantise is {quantise}: int8")
    model = load_model(run.path)
    if quantise and not _has_elbo(model):
        raise LatensError(
            "--quantise measures its cost by μ and σ of one level of latents, and this model has "
            "others: leave it out"
        )
    test = data_of(run, data).test if quantise else None
    with files.building(out) as partial:
        programs = programs_of(model)
        differences = {program.name: _write(program, partial) for program in programs}
        cost = None if test is None else _quantised(model, test.some(MEASURED), partial)
        _describe(run, programs, differences, cost, partial)
    return Exported(out, differences, cost)


# ---- programs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """One function of a model, as a module whose forward is the whole of it.

    Attributes:
        name: of its file.
        about: what it does.
        module: the function.
        inputs: by name, an example and what it is.
        outputs: by name, what each is.
    """

    name: str
    about: str
    module: nn.Module
    inputs: dict[str, tuple[Tensor, str]]
    outputs: dict[str, str]

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Inputs of so many images."""
        return tuple(
            torch.cat([example] * -(-size // len(example)))[:size]
            for example, _ in self.inputs.values()
        )


def programs_of(model: LatentModel) -> list[Program]:
    """The functions of a model that other programs want."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(CHECKED, *model.image_shape, generator=generator)
    z = torch.randn(CHECKED, *model.latent_shape, generator=generator)
    channels, height, width = model.image_shape
    image = f"[batch, {channels}, {height}, {width}], pixels from 0 (black) to 1"
    latent = f"[batch, {', '.join(map(str, model.latent_shape))}]"
    label = _label_input(model)
    inputs = {"image": (x, image), **label}
    mean = {"mean": f"{latent}, μ of q(z|x)"}
    with torch.no_grad():
        is_flow = isinstance(model.encode(x, *(y for y, _ in label.values())), FlowDistribution)
    outputs = mean if is_flow else mean | {"stddev": f"{latent}, σ of q(z|x)"}
    of_decoder = {"image": f"{image}, the mean of p(x|z)"}
    if isinstance(model, VAE):
        of_decoder["parameters"] = "[batch, P, height, width], the parameters of p(x|z)"
    of_latents = {"z": (z, f"{latent}, latents")}
    programs = [
        Program("encoder", "q(z|x) of images", _Encoder(model, is_flow), inputs, outputs),
        Program("decoder", "images of latents", _Decoder(model), of_latents | label, of_decoder),
    ]
    if isinstance(model, ComposedModel) and model.sampler is not None:
        note("no sampler is written: a second stage by flow matching is too long for a program")
    else:
        seeds = {"seed": (torch.arange(CHECKED), "[batch] int64, a seed for each image")}
        about = "new images, the same for the same seed"
        programs.append(Program("sampler", about, _Sampler(model), seeds | label, {"image": image}))
    if isinstance(model, VAE) and model.classifier is not None:
        of_classifier = {"probability": "[batch, classes], or [batch, attributes]"}
        about, classifier = "p(y|z) of latents, such as μ of the encoder", _Classifier(model)
        programs.append(Program("classifier", about, classifier, of_latents, of_classifier))
    return programs


def _label_input(model: LatentModel) -> dict[str, tuple[Tensor, str]]:
    embedding = model.label_embedding
    if embedding is None:
        return {}
    y = torch.zeros_like(embedding.unknown(CHECKED)).long()
    if embedding.exclusive:
        return {"label": (y, "[batch] int64, the index of a class; −1 where unknown")}
    return {"label": (y, "[batch, attributes] int64, 1, 0, or −1 where unknown")}


class _Encoder(nn.Module):
    def __init__(self, model: LatentModel, is_flow: bool):
        super().__init__()
        self.model, self.is_flow = model, is_flow

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        q = self.model.encode(image, label)
        return (q.mean,) if self.is_flow else (q.mean, q.stddev)


class _Decoder(nn.Module):
    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        if not isinstance(model, VAE):
            return (model.decode(z, label).mean.clamp(0, 1),)
        parameters = model.decoder(z, label) + model.offset
        return model.likelihood(parameters).mean.clamp(0, 1), parameters


class _Classifier(nn.Module):
    def __init__(self, model: VAE):
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        p = self.model.classify(z)
        return cast("Any", p.base_dist if isinstance(p, Independent) else p).probs


class _Sampler(nn.Module):
    def __init__(self, model: LatentModel):
        super().__init__()
        self.model = model
        embedding = model.label_embedding
        label = None if embedding is None else embedding.unknown(EXAMPLES)
        with torch.no_grad(), SeededNoise(torch.arange(EXAMPLES)) as noise:
            self._images(EXAMPLES, label)
        self.numbers = noise.drawn  # that an image takes

    def forward(self, seed: Tensor, label: Tensor | None = None) -> Tensor:
        with SeededNoise(seed, self.numbers):
            return self._images(seed.shape[0], label)

    def _images(self, count: int, label: Tensor | None) -> Tensor:
        model = self.model
        z = model.sample_prior(count, label)
        if isinstance(model, Ladder):
            return model.images_at([z[None]], [1.0] * len(model.level_shapes))
        return model.decode(z, label).mean.clamp(0, 1)


# ---- files -----------------------------------------------------------------------------------


def _write(program: Program, folder: Path) -> float:
    """Write a program as .pt2 and .onnx; returns the largest difference to the model.

    Raises:
        LatensError: it cannot be exported, or differs.
    """
    batch = torch.export.Dim("batch")
    dynamic = {name: {0: batch} for name in program.inputs}
    module = program.module.eval().requires_grad_(False)
    try:
        with _quiet(), torch.no_grad():
            traced = torch.export.export(
                module, program.batch(EXAMPLES), dynamic_shapes=dynamic, strict=False
            )
            for node in traced.graph.nodes:  # which tell where the code lies on this machine
                node.meta.pop("stack_trace", None)
            torch.export.save(traced, folder / f"{program.name}.pt2")
            written = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=list(program.inputs),
                output_names=list(program.outputs),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises whatever its parts raise
        raise LatensError(f"the {program.name} cannot be exported: {one_line(error)}") from error
    assert written is not None, "a program is returned where no file is named"
    proto = written.model_proto
    _call_batch(proto)
    for key, value in _metadata(program).items():
        proto.metadata_props.add(key=key, value=value)
    path = folder / f"{program.name}.onnx"
    files.write_bytes(path, proto.SerializeToString())
    return _difference(program, path)


def _call_batch(proto: Any) -> None:
    """Name the free dimension of inputs, outputs and values, which the exporter numbers."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    free = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"


def _difference(program: Program, path: Path) -> float:
    """The largest difference between a program and the model, on another batch size.

    Raises:
        LatensError: it is above `TOLERANCE`.
    """
    batch = program.batch(CHECKED)
    found = session(path)(*batch)
    with torch.no_grad():
        expected = program.module(*batch)
    expected = expected if isinstance(expected, tuple) else (expected,)
    each = [np.abs(a - b.numpy()).max() for a, b in zip(found, expected, strict=True)]
    worst = float(np.max(each))  # NaN if one of them is, where Python's max may drop it
    if not worst <= TOLERANCE:
        raise LatensError(
            f"{path.name} differs from the model by {worst:.2g}, more than {TOLERANCE:g}"
        )
    return worst


def session(path: Path) -> Callable[..., list[np.ndarray]]:
    """A function of tensors, in the order of a program's inputs, that onnxruntime computes."""
    onnxruntime = required("onnxruntime", "onnx", "ONNX")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in running.get_inputs()]
    return lambda *batch: running.run(
        None, {name: part.numpy() for name, part in zip(names, batch, strict=True)}
    )


@contextmanager
def _quiet(name: str | None = "torch.onnx") -> Iterator[None]:
    """Without what an exporter says of its own parts, by a logger's name; None: by the root's."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# ---- eight bits ------------------------------------------------------------------------------


def _has_elbo(model: LatentModel) -> bool:
    """Whether −ELBO follows from what encoder and decoder give."""
    x = torch.zeros(1, *model.image_shape)
    y = None if model.label_embedding is None else model.label_embedding.unknown(1)
    with torch.no_grad():
        return isinstance(model, VAE) and isinstance(model.encode(x, y), Independent)


def _quantised(model: LatentModel, test: Images, folder: Path) -> float:
    """Write encoder and decoder in eight bits; returns what that costs in nats per image."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet(None):
        for name in ("encoder", "decoder"):
            exact, coarse = (folder / f"{name}{suffix}.onnx" for suffix in ("", "-int8"))
            quantize_dynamic(exact, coarse, weight_type=QuantType.QUInt8)
    vae = cast("VAE", model)
    as_trained, in_bits = (minus_elbo(vae, test, folder, suffix) for suffix in ("", "-int8"))
    return in_bits - as_trained


@torch.no_grad()
def minus_elbo(vae: VAE, test: Images, folder: Path, suffix: str = "") -> float:
    """−ELBO of images in nats, q(z|x) and p(x|z) by the programs of a folder, with fixed noise."""
    encoder, decoder = (session(folder / f"{n}{suffix}.onnx") for n in ("encoder", "decoder"))
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for block in test.batches(100):
        x = block.unit()
        y = () if vae.label_embedding is None else (_labels(vae, block),)
        mean, stddev = map(torch.from_numpy, encoder(x, *y))
        z = mean + stddev * torch.randn(mean.shape, generator=generator)
        latent = Latent(diagonal_normal(mean, stddev, mean.dim() - 1), vae.prior_given(*y), z[None])
        parameters = torch.from_numpy(decoder(z, *y)[1])
        draw = Draw((latent,), vae.likelihood(parameters[None]).log_prob(x))
        total += float((draw.kl - draw.log_px_z.mean(0)).sum())
    return total / len(test)


def _labels(vae: VAE, block: Images) -> Tensor:
    embedding = cast("Any", vae.label_embedding)
    return embedding.unknown(len(block)) if block.labels is None else block.labels


# ---- words -----------------------------------------------------------------------------------


def _metadata(program: Program) -> dict[str, str]:
    ins = {f"input {name}": text for name, (_, text) in program.inputs.items()}
    return {"about": program.about} | ins | {f"output {n}": t for n, t in program.outputs.items()}


def _preprocessing(run: Run) -> str:
    """What becomes of pixels before the programs take them, as it was in training."""
    data, options = run.record["data"], run.config.data
    steps = []
    if data.get("crop"):
        steps.append(f"cut out the central square of {data['crop']:g} of the width")
        steps.append(f"resize to {data['shape'][1]}x{data['shape'][2]}")
    if options.value_range is not None:
        low, high = options.value_range
        steps.append(
            f"x = (pixel − {low:g}) / {high - low:g}, clipped to [0, 1] and rounded to 256 levels "
            "(for pixels of 8 bits in colour: divide by 255)"
        )
    else:
        steps.append("divide 8-bit pixels by 255")
    if options.binarisation == "threshold":
        steps.append("1 where that is 128/255 or more, else 0")
    elif options.binarisation != "none":
        steps.append("draw each pixel as 0 or 1 with that as the probability of 1")
    colours = ", RGB" if data["shape"][0] == 3 else ""
    return f"{'; '.join(steps)}; channels first{colours}"


def _describe(
    run: Run,
    programs: list[Program],
    differences: dict[str, float],
    cost: float | None,
    folder: Path,
) -> None:
    data, preprocessing = run.record["data"], _preprocessing(run)
    about = {
        "programs": {program.name: _metadata(program) for program in programs},
        "largest difference to the model": differences,
        "int8 costs, nats per image": cost,
        "preprocessing": preprocessing,
        "image (channels, height, width)": data["shape"],
        "classes": data["classes"],
        "attributes": data.get("attributes", []),
        "figures": run.figures,
    }
    files.write_bytes(folder / METADATA, f"{files.json_text(about, indent=2)}\n".encode())
    template = resources.files("latens").joinpath("templates/onnx.md.j2").read_text("utf-8")
    text = jinja2.Template(template, trim_blocks=True, lstrip_blocks=True).render(
        title=run.title,
        preprocessing=preprocessing,
        programs=programs,
        labels="label" in programs[0].inputs,
        shape=data["shape"],
        latent_shape=list(run.latent_shape),
        attributes=len(data.get("attributes", [])),
        differences=differences,
        cost=cost,
    )
    files.write_bytes(folder / README, text.encode())
