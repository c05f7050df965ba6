import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latens import ELBO, LatensError
from latens.config import TrainConfig
from latens.model.noise import seed_noise
from latens.training.devices import resolve_compile
from latens.training.learner import (
    LIMIT,
    NORM,
    Learner,
    step_seeds,
)
from latens.training.optimiser import AdamW, adamw_, adamw_rates
from latens.training.processes import Processes
from latens.training.setup import prepare
from latens.training.trainer import learner_of

PROGRAMS = Path(__file__).parent.parent / "programs"
sys.path.insert(0, str(PROGRAMS))
from learning import learner, small_setup


def test_a_step_is_one_of_adam_on_the_mean_elbo(digits):
    """Beside it: the same network, its loss and torch's Adam, written out."""
    one, other = learner(digits), learner(digits)
    optimizer = torch.optim.Adam(other.model.parameters(), lr=1e-3)
    for seed, batch in enumerate(digits.train.take(slice(0, 160)).batches(32)):
        found = one.step(batch, 32, {"beta": 0.7}, 1e-3, seed)
        seed_noise(seed, torch.device("cpu"))
        draw = other.model(batch.unit())
        loss = -draw.log_px_z[0] + 0.7 * draw.kl
        optimizer.zero_grad()
        loss.mean().backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in other.model.parameters()))
        optimizer.step()
        assert found["loss"].item() == pytest.approx(loss.sum().item(), rel=1e-5)
        assert found[NORM].item() == pytest.approx(norm, rel=1e-4)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_the_average_is_the_published_recursion(digits):
    t = learner(digits, ema=0.9)
    parameter, average = t.parameters[0], next(t.averaged.parameters())
    expected = average.detach().clone()
    for n in range(1, 20):
        with torch.no_grad():
            parameter.copy_(torch.randn_like(parameter))
        t.average(1, n)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * parameter.detach()
        torch.testing.assert_close(average, expected)


def test_averaging_over_many_steps_is_averaging_after_each_where_nothing_moves(digits):
    one, many = learner(digits, ema=0.9), learner(digits, ema=0.9)
    for t in (one, many):
        with torch.no_grad():
            for parameter in t.parameters:
                parameter.add_(1.0)
    for n in range(93, 101):
        one.average(1, n)
    many.average(8, 100)
    for a, b in zip(one.averaged.parameters(), many.averaged.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_clipped_to_a_multiple_of_the_usual_norm(digits):
    t = learner(digits)

    def after(norm):
        return tuple(value.item() for value in t._limit(torch.tensor(norm)))

    assert after(10.0) == (math.inf, 10)
    assert after(500.0) == (40, 40)
    # an outlier counts as what it was clipped to
    assert after(1.0) == (pytest.approx(4 * (10 + 30 / 100)), 1)


def test_gradients_are_clipped_to_the_users_norm(digits):
    t = learner(digits, clip=1e-3)
    found = t.step(digits.train.take(slice(0, 32)), 32, {"beta": 1.0}, 1e-3, 0)
    norm, limit = found[NORM].item(), found[LIMIT].item()
    assert limit == pytest.approx(1e-3)
    assert norm > limit
    moment = torch.cat([m.flatten() for k, m in t.tensors().items() if k.endswith(".exp_avg")])
    assert moment.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_everything_is_on_the_device_that_trains(digits):
    """By torch's device without memory, which stands for any but the processor."""
    setup = small_setup(digits, weight_decay=0.0)
    t = learner_of(setup, Processes(torch.device("meta")))
    tensors = t.tensors() | {f"loss.{name}": value for name, value in t.loss.named_buffers()}
    assert {value.device.type for value in tensors.values()} == {"meta"}
    assert all(p.device.type == "meta" for p in t.parameters)


def test_every_step_draws_its_own_noise():
    seeds = {
        value
        for seed in range(10)
        for epoch in range(5)
        for process in range(2)
        for value in step_seeds(seed, epoch, process, 100)
    }
    assert len(seeds) == 10 * 5 * 2 * 100


def test_a_seed_of_noise_is_that_of_torch():
    seed_noise(7, torch.device("cpu"))
    one = torch.randn(5)
    torch.manual_seed(7)
    assert torch.equal(one, torch.randn(5))


def test_jitter_reaches_the_images(digits):
    pixels, seen = digits.train.take(slice(0, 4)).pixels, []
    t = learner(digits, jitter=1.0)
    t.model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    t.loss(pixels, None, 4)
    assert not torch.allclose(seen[0], pixels.float() / 255)
    assert seen[0].shape == pixels.shape


def test_mirrored_images_reach_the_encoder(digits):
    pixels, seen = digits.train.take(slice(0, 40)).pixels, []
    t = learner(digits, mirror=True)
    t.model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    t.loss(pixels, None, 40)
    x = pixels.float() / 255
    same = (seen[0] == x).flatten(1).all(1)
    assert 5 < same.sum() < 35
    assert torch.equal(seen[0][~same], x.flip(-1)[~same])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_weights_of_the_loss_move_without_being_rounded(digits, precision):
    t = learner(digits, precision=precision)
    batch = digits.train.take(slice(0, 8))
    for beta in (0.0, 0.3, 1.1):
        found = t.step(batch, 8, {"beta": beta}, 1e-3, 0)
        loss, reconstruction, kl = (found[n].item() for n in ("loss", "reconstruction", "kl"))
        assert loss == pytest.approx(reconstruction + beta * kl, rel=1e-6)


def test_a_gradient_that_is_no_number_changes_nothing(digits):
    t = learner(digits)
    batch = digits.train.take(slice(0, 32))
    t.step(batch, 32, {"beta": 1.0}, 1e-3, 0)
    with torch.no_grad():
        t.parameters[0].fill_(math.nan)
    before = {name: value.clone() for name, value in t.tensors().items()}
    assert not t.step(batch, 32, {"beta": 1.0}, 1e-3, 1)[NORM].isfinite()
    for name, value in t.tensors().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_gradient_of_zero_changes_nothing(digits):
    """With the user's clipping, by which it was divided."""
    t = learner(digits, clip=1.0)
    with torch.no_grad():  # nothing that the loss sees depends on a parameter
        for parameter in t.parameters:
            parameter.zero_()
    t.loss.objective = ELBO(beta=0.0)
    t.model.likelihood.forward = lambda output: type(t.model.likelihood).forward(
        t.model.likelihood, output.detach() + 0 * output
    )
    found = t.step(digits.train.take(slice(0, 32)), 32, {"beta": 0.0}, 1e-3, 0)
    assert found[NORM] == 0
    for name, value in t.tensors().items():
        assert value.isfinite().all(), name


def test_frozen_parameters_stay_and_the_rest_goes_on_from_what_was_saved(digits):
    def frozen():
        setup = small_setup(digits)
        setup.model.encoder.requires_grad_(False)
        return learner_of(setup, Processes(torch.device("cpu")))

    one, other = frozen(), frozen()
    before = {name: value.clone() for name, value in one.model.encoder.state_dict().items()}
    batches = list(digits.train.take(slice(0, 128)).batches(32))
    for i in range(2):
        one.step(batches[i], 32, {"beta": 1.0}, 1e-3, i)
    saved = {name: value.clone() for name, value in one.tensors().items()}
    other.restore(saved, Path("checkpoint"), begun=True)
    for t in (one, other):
        for i in (2, 3):
            t.step(batches[i], 32, {"beta": 1.0}, 1e-3, i)
            t.average(1, i)
    for name, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name
    for name, value in one.model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_without_anything_to_train_is_refused(digits):
    setup = small_setup(digits)
    setup.model.requires_grad_(False)
    with pytest.raises(LatensError, match="every parameter of the model is frozen"):
        learner_of(setup, Processes(torch.device("cpu")))


# ---- compiled ----------------------------------------------------------------------------------


def test_a_compiled_step_is_the_step():
    """In a process of its own: what checks shapes in the tests cannot be compiled."""
    program = PROGRAMS / "compiled.py"
    known = os.environ | {"TORCHINDUCTOR_VEC_ISA_OK": "1"}  # no trial of what the processor says
    words = [sys.executable, program]
    done = subprocess.run(words, env=known, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "the same\n"


def test_a_step_that_cannot_be_compiled_is_made_without(digits, capsys, monkeypatch):
    from torch._dynamo.exc import Unsupported

    def refuse(self, *_arguments):
        raise Unsupported("a graph break")

    monkeypatch.setattr(Learner, "_compiled_step", refuse)
    one, other = learner(digits), learner(digits, compile=True)
    for i, batch in enumerate(digits.train.take(slice(0, 384)).batches(128)):
        for t in (one, other):
            t.step(batch, 128, {"beta": 1.0}, 1e-3, i)
    assert not other.compiles
    assert capsys.readouterr().err.count("cannot be compiled (a graph break)") == 1
    for name, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name


def test_adamw_is_torchs():
    """Both ways of a step, eager and as it is compiled, beside torch's class."""
    weights = torch.randn(5, 3)
    eager, compiled, other = (weights.clone().requires_grad_() for _ in range(3))
    ours = AdamW({"x": eager}, weight_decay=0.1, fused=True)
    torchs = torch.optim.AdamW([other], lr=0.01, weight_decay=0.1, fused=True)
    moments = {"exp_avg": torch.zeros(5, 3), "exp_avg_sq": torch.zeros(5, 3)}
    moments["step"] = torch.zeros(())
    for n in range(1, 11):
        eager.grad = other.grad = torch.randn(5, 3)
        ours.step(0.01, eager.grad.norm())
        adamw_(compiled, eager.grad, moments, adamw_rates(0.01, 0.1, n))
        torchs.step()
    assert torch.equal(eager, other)
    torch.testing.assert_close(compiled, other)


def test_without_a_compiler_the_step_is_not_compiled_and_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not resolve_compile(True, "cpu", 1, False)
    assert "no C++ compiler (no-such-compiler)" in capsys.readouterr().err


def test_a_long_training_is_compiled_and_a_short_one_is_not(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    assert resolve_compile(None, "cpu", 1, True)
    assert not resolve_compile(None, "cpu", 1, False)
    assert not resolve_compile(None, "cpu", 2, True)
    assert not resolve_compile(False, "cpu", 1, True)
    with pytest.raises(LatensError, match="for one device"):
        resolve_compile(True, "cpu", 2, False)


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ({"epochs": 3000}, {"epochs": 300}),
        ({"minutes": 10}, {"minutes": 9}),
        ({"epochs": 3000, "minutes": 20}, {"epochs": 3000, "minutes": 9}),
    ],
)
def test_images_and_minutes_say_whether_a_training_is_long(long, short, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    for options, compiled in ((long, True), (short, False)):
        config = TrainConfig.from_options(recipe="mlp", device="cpu", **options)
        assert prepare("digits", config).config.run.compile == compiled
