"""Programs for onnxruntime: parity on every recipe, noise from a seed, eight bits."""

import contextlib
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy import stats

import latens
from latens import deployment
from latens.cli import main
from latens.deployment import session
from latens.errors import LatensError
from latens.model.distributions import DiagonalMixture
from latens.model.flow_matching import FlowMatching
from latens.model.noise import SeededNoise, words
from latens.model.recipes import RECIPES, build

SHAPE = (1, 8, 8)
SMALL_FLOW = {"prior": {"transforms": 1, "flow_width": 16}}
FEW_LEVELS = {"network": {"levels": "2x1,4x1"}}  # each takes seconds to trace
# Each takes seconds: what a recipe shares with another one, such as mlp's prior, is not repeated
PARTS = [
    {"name": "mlp"},
    *({"name": name, "only": ("encoder", "decoder")} for name in ("conv", "unet")),
    {"name": "conditional", "only": ("encoder", "sampler")},  # a sampler decodes
    {"name": "semi_supervised", "only": ("classifier",)},
    {"name": "ladder", "options": FEW_LEVELS},
    {"name": "mlp", "posterior": "full", "only": "encoder"},
    {"name": "mlp", "posterior": "iaf", "only": "encoder"},
    {"name": "mlp", "prior": "mixture", "only": "sampler"},
    {"name": "mlp", "prior": "vamp", "only": "sampler"},
    {"name": "mlp", "prior": "flow", "only": "sampler", "options": SMALL_FLOW},
    {"name": "conv", "latent_map": 2, "likelihood": "discretised-logistic", "only": "decoder"},
    {
        "name": "ladder",
        "likelihood": "logistic-mixture",
        "prior": "mixture",
        "only": "sampler",
        "options": FEW_LEVELS,
    },
]


IDS = ("name", "prior", "posterior", "latent_map")


def model_of(name, **options):
    torch.manual_seed(0)
    shape = (3, 8, 8) if options.get("likelihood") == "logistic-mixture" else SHAPE
    model = build(name, shape, 4, labels=3, **options).eval()
    with torch.no_grad():  # away from the first weights, of which many are zero
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "options",
    PARTS,
    ids=lambda o: "-".join(str(value) for key, value in o.items() if key in IDS),
)
def test_every_recipe_and_part_can_be_exported(options, tmp_path):
    """`_write` compares each program with the model on another batch than it was traced with."""
    given = {name: options[name] for name in options if name != "only"}
    for program in deployment.programs_of(model_of(**given)):
        if program.name not in options.get("only", program.name):
            continue
        assert deployment._write(program, tmp_path) <= 1e-4
        written = onnx.load(tmp_path / f"{program.name}.onnx").graph
        dims = [each.type.tensor_type.shape.dim[0] for each in (*written.input, *written.output)]
        assert {dim.dim_param for dim in dims} == {"batch"}
        again = torch.export.load(tmp_path / f"{program.name}.pt2").module()(*program.batch(2))
        expected = program.module(*program.batch(2))
        for a, b in zip(_tuple(again), _tuple(expected), strict=True):
            assert (a - b).abs().max() < 1e-4


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def test_no_recipe_is_left_out():
    """A β-VAE is a conv."""
    assert {options["name"] for options in PARTS} == set(RECIPES) - {"beta"}


def test_a_program_that_differs_is_refused(tmp_path, monkeypatch):
    program = deployment.programs_of(model_of("mlp"))[1]
    deployment._write(program, tmp_path)
    with torch.no_grad():
        program.module.model.offset.add_(1)
    with pytest.raises(LatensError, match="differs from the model by"):
        deployment._difference(program, tmp_path / "decoder.onnx")


def test_a_program_whose_second_output_is_no_number_is_refused(tmp_path, monkeypatch):
    encoder = deployment.programs_of(model_of("mlp"))[0]
    with torch.no_grad():
        found = encoder.module(*encoder.batch(deployment.CHECKED))
    mean, deviation = (part.numpy() for part in found)
    broken = [mean, deviation * math.nan]
    monkeypatch.setattr(deployment, "session", lambda _path: lambda *_batch: broken)
    with pytest.raises(LatensError, match="differs from the model by nan"):
        deployment._difference(encoder, tmp_path / "encoder.onnx")


@pytest.mark.parametrize("sampler", [True, False])
def test_the_lines_open_the_programs_that_there_are(digits_run, tmp_path, sampler):
    """Of a model with a second stage no sampler is written."""
    vae = model_of("mlp")
    vae.sampler = None if sampler else FlowMatching(vae.latent_shape, 8, 1)
    programs = deployment.programs_of(vae)
    deployment._describe(digits_run, programs, {"encoder": 0.0}, None, tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)[1]
    assert ("sampler" in code) == sampler
    compile(code, "README.md", "exec")


# ---- noise -----------------------------------------------------------------------------------


def test_words_are_uniform_and_depend_on_seed_and_place():
    left, right = words(torch.arange(20_000), torch.arange(5))
    for word in (left, right):
        unit = word.double().flatten().numpy() / 2**31
        assert stats.kstest(unit, "uniform").pvalue > 0.001
        bits = (word[..., None] >> torch.arange(31)) & 1
        share = bits.double().mean((0, 1))
        assert (share - 0.5).abs().max() < 5 * 0.5 / math.sqrt(100_000)
    every = torch.cat([left, right]).double()
    related = torch.corrcoef(every) - torch.eye(len(every))
    assert related.abs().max() < 5 / math.sqrt(20_000)
    shifted = torch.corrcoef(torch.stack([left[0, 1:], left[0, :-1]]).double())[0, 1]
    assert abs(shifted) < 5 / math.sqrt(20_000)


def test_neighbouring_seeds_give_other_words():
    """One bit of the seed turned over changes half of the bits."""
    even = 2 * torch.arange(100)
    for a, b in zip(
        words(torch.arange(500), even), words(torch.arange(500), even + 1), strict=True
    ):
        changed = (((a ^ b)[..., None] >> torch.arange(31)) & 1).double().mean((0, 1))
        assert (changed - 0.5).abs().max() < 5 * 0.5 / math.sqrt(50_000)
    high = words(torch.arange(9), torch.tensor([1, 1 + 2**40, -3]))[0]
    assert len({tuple(row) for row in high.tolist()}) == 3


def test_noise_is_normal_and_the_same_in_any_batch():
    with SeededNoise(torch.arange(400)) as noise:
        first, second = torch.randn(400, 50), torch.normal(torch.zeros(400, 9), torch.ones(400, 9))
    assert noise.drawn == 59
    assert stats.kstest(first.flatten().numpy(), "norm").pvalue > 0.001
    assert abs(torch.corrcoef(torch.stack([first[:, 0], second[:, 0]]))[0, 1]) < 0.25
    with SeededNoise(torch.tensor([7])):
        assert (torch.randn(1, 50)[0] - first[7]).abs().max() < 1e-6


@pytest.mark.parametrize("expected", [1, 50, 59, 100])
def test_noise_is_the_same_however_much_is_expected(expected):
    def drawn(expected):
        with SeededNoise(torch.arange(5), expected):
            return torch.cat([torch.randn(5, 50), torch.rand(5, 3, 3).flatten(1)], 1)

    assert torch.equal(drawn(expected), drawn(0))


def test_a_program_holds_the_hash_once():
    program = next(p for p in deployment.programs_of(model_of("ladder")) if p.name == "sampler")
    assert program.module.numbers == sum(map(math.prod, program.module.model.level_shapes))


def test_components_are_chosen_as_often_as_their_weights_say():
    weights, places = torch.tensor([0.1, 0.6, 0.3]), 10 * torch.arange(3.0)[:, None]
    mixture = DiagonalMixture(weights.log(), places, torch.ones(3, 1))
    with SeededNoise(torch.arange(20_000)):
        z = mixture.sample((20_000,))
    counts = torch.bincount((z[:, 0] / 10).round().long().clamp(0, 2), minlength=3).numpy()
    assert stats.chisquare(counts, 20_000 * weights.numpy()).pvalue > 0.001


# ---- a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    options = {"recipe": "semi_supervised", "network": "mlp", "hidden": "64", "epochs": 8}
    options |= {"latent_dim": 4, "report": False, "film": False}
    return latens.train("digits", out=tmp_path_factory.mktemp("deployment") / "run", **options)


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The folder that the command writes, and what it prints."""
    folder, printed = tmp_path_factory.mktemp("exported") / "programs", io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["export", str(run.path), "--onnx", str(folder), "--quantise", "int8"])
    return folder, printed.getvalue()


def test_the_command_writes_programs_and_the_lines_that_use_them(exported):
    folder, printed = exported
    names = {"encoder", "decoder", "sampler", "classifier"}
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}{suffix}" for name in names for suffix in (".onnx", ".pt2")),
        *("encoder-int8.onnx", "decoder-int8.onnx", "metadata.json", "README.md"),
    }
    for name in names:
        onnx.checker.check_model(onnx.load(folder / f"{name}.onnx"), full_check=True)
    cost = float(re.search(r"int8: costs (-?[\d.]+) nats", printed)[1])
    assert abs(cost) < 3
    about = json.loads((folder / "metadata.json").read_text())
    assert about["int8 costs, nats per image"] == pytest.approx(cost, abs=0.005)
    assert about["classes"] == [str(digit) for digit in range(10)]
    properties = onnxruntime.InferenceSession(folder / "encoder.onnx").get_modelmeta()
    assert "pixels from 0" in properties.custom_metadata_map["input image"]
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    program = f"import sys\nsys.modules['torch'] = None\n{code}"  # it runs without torch
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(4, 4)")


def test_the_cost_is_measured_from_the_elbo_of_the_model(run, exported):
    """What the programs give in float32 is −ELBO as `evaluate` measures it."""
    test = latens.load_data("digits").test
    found = deployment.minus_elbo(run.vae, test, exported[0])
    figures = latens.evaluate(run)
    error = figures.errors["elbo"].sampling
    assert abs(found + figures.elbo) < 5 * error


def test_samples_of_the_sampler_look_like_the_models(run, exported):
    (images,) = session(exported[0] / "sampler.onnx")(torch.arange(1_000))
    own = run.vae.sample(1_000).numpy()
    error = np.sqrt((images.var(0) + own.var(0)) / 1_000)
    assert (np.abs(images.mean(0) - own.mean(0)) < 5 * error + 1e-4).all()
    assert (np.abs(images.std(0) - own.std(0)) < 0.05).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a folder"),
        (("--out", "a", "--onnx", "b"), "name a folder"),
        (("--out", "a", "--quantise", "int8"), "--quantise is for --onnx"),
        (("--onnx", "taken"), "exists already"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, run_latens, tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    result = run_latens("export", run.path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_package_is_named(run, run_latens, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run_latens("export", run.path, "--onnx", "programs")
    assert result.returncode == 2
    assert "pip install 'latens[onnx]'" in result.stderr


def test_a_ladder_has_no_cost_in_nats(run_latens):
    result = run_latens("export", "mnist-ladder", "--onnx", "ladder", "--quantise", "int8")
    assert result.returncode == 2
    assert "leave it out" in result.stderr


def test_a_second_stage_is_no_program(capsys):
    model = model_of("mlp")
    model.sampler = FlowMatching(model.latent_shape, 16, 1)
    assert [program.name for program in deployment.programs_of(model)] == ["encoder", "decoder"]
    assert "no sampler is written" in capsys.readouterr().err
