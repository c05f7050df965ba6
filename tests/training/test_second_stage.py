"""The second stage: its flow against Gaussians whose velocity is known, and runs that have one."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import latens
from latens import LatensError
from latens.model.flow_matching import FlowMatching
from latens.model.recipes import build
from latens.report.context import ReportContext
from latens.report.explorer import explorer_of
from latens.report.sections.samples import sample_pictures
from latens.run.comparison import configurations, named
from latens.run.data import data_of
from latens.training import second_stage
from latens.training.objectives import mmd
from latens.training.second_stage import fit_prior

MEAN, SCALE = 1.5, 0.4


def exact_velocity(z, t):
    """E[z₁ − ε | z_t = z] for z₁ ~ N(m, s²) and ε ~ N(0, 1): both are Gaussian."""
    t = t[:, None, None]
    variance = (1 - t) ** 2 + (t * SCALE) ** 2
    slope = (t * SCALE**2 - (1 - t)) / variance
    return MEAN + slope * (z - t * MEAN)


@pytest.fixture
def flow(monkeypatch):
    """A flow of one latent that has learned exactly."""
    flow = FlowMatching((1,), 8, 1)
    monkeypatch.setattr(flow, "velocity", exact_velocity)
    return flow


def test_samples_of_the_exact_velocity_are_the_gaussian(flow):
    for steps, tolerance in ((25, 0.01), (100, 0.01)):
        z = flow.sample(40_000, steps)
        assert z.mean().item() == pytest.approx(MEAN, abs=tolerance)
        assert z.std().item() == pytest.approx(SCALE, abs=tolerance)


def test_the_loss_of_the_exact_velocity_is_what_cannot_be_known(flow):
    """E Var[z₁ − ε | z_t] over t, by numerical integration."""
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    between = (1 - t) ** 2 + (t * SCALE) ** 2
    expected = (1 + SCALE**2 - (t * SCALE**2 - (1 - t)) ** 2 / between).mean().item()
    z = MEAN + SCALE * torch.randn(200_000, 1)
    found = flow(z)
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / math.sqrt(len(z))


@pytest.mark.parametrize("shape", [(5,), (3, 2, 4)])
def test_latents_of_any_shape(shape):
    flow = FlowMatching(shape, 16, 2)
    z = 7 + 3 * torch.randn(200, *shape)
    flow.standardise(z)
    loss = flow(z)
    assert loss.shape == (200,)
    loss.sum().backward()
    assert all(p.grad is not None for p in flow.parameters())
    assert flow.sample(4).shape == (4, *shape)
    assert flow.sample(50, 2).mean().item() == pytest.approx(7, abs=3)


@pytest.fixture(scope="session")
def two_groups():
    """A model whose latents lie in two groups far from N(0, I), and its images."""
    torch.manual_seed(0)
    images = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    images[200:] = 255
    images[:, :, 2:6, 2:6] = torch.randint(0, 255, (400, 1, 4, 4), dtype=torch.uint8)
    vae = latens.VAE(latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(2, (1, 8, 8), (16,)))
    return vae.eval(), latens.Images(images)


def test_its_samples_are_nearer_to_the_latents_than_those_of_the_prior(two_groups, monkeypatch):
    monkeypatch.setattr(second_stage, "LATENTS", 60_000)
    vae, images = two_groups
    with torch.no_grad():
        vae.posterior.parameters_of_q.weight.mul_(20)
        vae.posterior.parameters_of_q.bias[2:].fill_(-4)
    fit = fit_prior(vae, images, images, flow_width=32, layers=2)
    assert fit.latents >= 60_000
    assert fit.mmd_after < 0.2 * fit.mmd_before
    mean = vae.embed(images.unit())
    vae.sampler = fit.prior
    assert mmd(vae.sample_prior(400) / mean.std(0), mean / mean.std(0)) < 0.2 * fit.mmd_before
    assert not vae.has_unit_prior


def test_a_mixture_reaches_the_best_prior(two_groups, monkeypatch):
    """One Gaussian q(z|x) of all images is the best prior, and the KL to it is 0."""
    monkeypatch.setattr(second_stage, "LATENTS", 200_000)
    vae, images = copy.deepcopy(two_groups[0]), two_groups[1]
    mean, scale = torch.tensor([1.5, -0.5]), torch.tensor([0.4, 0.8])
    with torch.no_grad():
        vae.posterior.parameters_of_q.weight.zero_()
        vae.posterior.parameters_of_q.bias.copy_(torch.cat((mean, 2 * scale.log())))
    q = vae.encode(images.unit()[:1])
    torch.testing.assert_close((q.mean[0], q.stddev[0]), (mean, scale), rtol=0, atol=0.01)
    expected = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).sum().item()
    fit = fit_prior(vae, images, images, "mixture", components=5)
    assert fit.gain == pytest.approx(expected, abs=0.12)  # of 400 samples of z
    before = latens.evaluate(vae, images)
    vae.prior = fit.prior
    after = latens.evaluate(vae, images)
    assert before.kl == pytest.approx(expected, abs=1e-4)
    assert abs(after.kl) < 0.08  # its sampling error is 0.015
    assert after.reconstruction == pytest.approx(before.reconstruction, rel=1e-3)


def test_a_mixture_is_not_measured_by_the_noise_that_it_was_fitted_to(two_groups, monkeypatch):
    """Of a collapsed model the KL is 0, and no noise makes it less."""
    monkeypatch.setattr(second_stage, "LATENTS", 100_000)
    torch.manual_seed(1)
    images = two_groups[1]
    vae = latens.VAE(latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(20, (1, 8, 8), (16,)))
    with torch.no_grad():
        vae.posterior.parameters_of_q.weight.zero_()
    fit = fit_prior(vae.eval(), images, images, "mixture", seed=0, components=300)
    assert fit.gain < 0.05
    vae.prior = fit.prior
    same, other = (latens.evaluate(vae, images, seed=seed).kl for seed in (0, 1))
    assert same == pytest.approx(other, abs=0.1)
    assert same > -0.1


@pytest.mark.whole
@pytest.mark.usefixtures("few_frames")
def test_a_run_with_a_fitted_mixture(run_latens, tmp_path, monkeypatch):
    """It takes the place of p(z): the figures are measured again, and all else is as it was."""
    monkeypatch.setattr(second_stage, "LATENTS", 100_000)
    options = ("--recipe", "mlp", "--latent-dim", 2, "--hidden", 32, "--epochs", 8)
    options += ("--no-report", "--no-film")
    run_latens("train", "digits", *options, "--prior", "flow", "--transforms", 1, "--out", "run")
    done = run_latens("fit-prior", "run", "--prior", "mixture", "--components", 20)
    assert done.returncode == 0, done.stderr
    one, two = (latens.Run.open(tmp_path / name) for name in ("run", "run-prior"))
    gain = two.vae.about["second_stage"]["gain"]
    assert gain > -0.1  # of a p(z) that was learned along with q(z|x)
    told = f"is {abs(gain):.2f} nats {'less' if round(gain, 2) >= 0 else 'more'} under the mixture"
    assert told in done.stdout
    for name, value in one.vae.state_dict().items():
        if not name.startswith("prior."):
            assert torch.equal(two.vae.state_dict()[name], value), name
    assert two.vae.prior.components == 20
    assert two.config.model.prior == "mixture"
    assert two.config.model.options["components"] == 20
    assert "transforms" not in two.config.model.options
    assert two.record["command"].endswith(
        " && latens fit-prior RUN --prior mixture --components 20"
    )
    assert two.record["parameters"] == sum(p.numel() for p in two.vae.parameters())
    again = latens.evaluate(two.path)
    assert two.figures["elbo"] == pytest.approx(again.elbo, abs=0.2)
    assert two.vae.about["figures"] == two.figures
    assert two.figures["reconstruction"] == pytest.approx(one.figures["reconstruction"], abs=0.2)
    assert run_latens("sample", "run-prior", "-n", 4).returncode == 0
    assert run_latens("report", "run-prior", "--out", "page").returncode == 0
    text = (tmp_path / "page" / "report.html").read_text("utf-8")
    data = re.search(r'id="explorer-data"[^>]*>(.*?)</script>', text, re.S)
    assert json.loads(data[1])["contours"]
    small = {"recipe": "mlp", "latent_dim": 2, "hidden": "32", "epochs": 1}
    unit = latens.train("digits", out=tmp_path / "unit", report=False, film=False, **small)
    assert not explorer_of(ReportContext(unit, data_of(unit)), {})["contours"]
    for words, reason in (
        (("--prior", "mixture", "--layers", 2), "layers is an option of --prior flow-matching"),
        (("--components", 2), "components is an option of --prior mixture"),
        (("--prior", "mixture", "--components", 0), "a mixture of 0 components"),
    ):
        done = run_latens("fit-prior", "run", "--out", "no", *words)
        assert done.returncode == 2
        assert reason in " ".join(done.stderr.split())
        assert not (tmp_path / "no").exists()


@pytest.mark.whole
def test_a_run_with_a_second_stage(run_latens, tmp_path, monkeypatch):
    monkeypatch.setattr(second_stage, "LATENTS", 4_000)
    options = ("--recipe", "conv", "--latent-map", 2, "--channels", 4, "--epochs", 1)
    run_latens("train", "digits", *options, "--no-report", "--out", "run")
    fit = ("fit-prior", "run", "--flow-width", 16, "--layers", 1)
    done = run_latens(*fit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "run-prior"
    assert "of the second stage" in done.stdout
    one, two = (latens.load(tmp_path / name) for name in ("run", "run-prior"))
    assert one.sampler is None
    assert two.sampler is not None
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value), name
    figures = [
        json.loads(run_latens("evaluate", name, "--json").stdout) for name in ("run", "run-prior")
    ]
    assert figures[0]["elbo"] == figures[1]["elbo"]
    assert run_latens("sample", "run-prior", "-n", 4).returncode == 0
    runs = [latens.Run.open(tmp_path / name) for name in ("run", "run-prior")]
    assert [*configurations(named(runs))] == ["run", "run-prior"], "they are no two seeds of one"
    for run, source in zip(runs, ("z ~ p(z)", "z of the second stage"), strict=True):
        context = ReportContext(run, data_of(run))
        assert next(sample_pictures(context)).caption == f"The mean of p(x|z) for {source}."
        z = context.sample_of_prior(10_000)
        assert z.std().item() == pytest.approx(1, abs=0.02), "p(z) stays N(0, I)"
    for words, reason in (
        (fit, "exists already"),
        ((*fit, "--out", "no", "--minutes", 0), "minutes is 0"),
        (("fit-prior", "run", "--out", "no", "--layers", 0), "layers is 0"),
        (("fit-prior", "mnist-conditional-2d", "--out", "no"), "depends on no label"),
    ):
        done = run_latens(*words)
        assert done.returncode == 2
        assert reason in " ".join(done.stderr.split())
        assert not (tmp_path / "no").exists()


def test_of_a_ladder_the_topmost_level_gets_it(two_groups, tmp_path, monkeypatch):
    """Where q of that level is one Gaussian for all images, the best prior is known."""
    monkeypatch.setattr(second_stage, "LATENTS", 200_000)
    pixels = two_groups[1].pixels[:, 0].numpy()
    options = {"recipe": "ladder", "levels": "2x1,4x1", "channels": 4, "report": False}
    run = latens.train(pixels, epochs=1, film=False, out=tmp_path / "run", **options)
    vae, images = run.vae, data_of(run, pixels)
    top = vae.levels[0].posterior.conv2
    with torch.no_grad():
        top.weight.zero_()
        top.bias.copy_(torch.tensor([1.5, -0.5]))  # of μ, and of what softplus makes σ of
    run.save_model(vae)
    q = vae.encode(images.test.unit()[:1])
    expected = kl_divergence(q.base_dist, Normal(0.0, 1.0)).sum().item()
    before = latens.evaluate(vae, images.test)
    assert before.kl_per_level[0] == pytest.approx(expected, abs=1e-4)
    mixture = {"prior": "mixture", "components": 5}
    fitted = latens.api.fit_prior(run.path, tmp_path / "m", data=pixels, **mixture)
    after = latens.evaluate(fitted.vae, two_groups[1])
    assert abs(after.kl_per_level[0]) < 0.15  # its sampling error is 0.04
    assert fitted.vae.about["second_stage"]["gain"] > 0.8 * expected
    assert fitted.figures["kl"] == pytest.approx(before.kl - expected, abs=0.5)  # of 40 images
    monkeypatch.setattr(second_stage, "LATENTS", 30_000)
    flow = {"flow_width": 16, "layers": 1}
    vae = latens.api.fit_prior(run.path, tmp_path / "f", data=pixels, **flow).vae
    assert vae.sample_prior(500).mean().item() == pytest.approx(1.5, abs=0.2)
    assert vae.draw_prior(500).mean().item() == pytest.approx(0, abs=0.2)
    assert vae.sample(3, temperature=[1.0, 0.5]).shape == (3, 1, 8, 8)
    assert latens.evaluate(vae, images.test).kl == pytest.approx(before.kl, abs=1e-4)


def test_the_first_levels_of_a_ladder_are_one_map_and_back():
    torch.manual_seed(0)
    options = {"network": {"levels": "2x2x3,4x1x2,8x1", "channels": 8}}
    ladder = build("ladder", (1, 16, 16), 20, options=options).eval()
    x = torch.rand(5, 1, 16, 16)
    assert ladder.packed_shape(3) == (3 + 3 + 4 * 2, 2, 2)
    torch.manual_seed(1)
    packed = ladder.first_levels(3, 7, x)
    torch.manual_seed(1)
    drawn = ladder.draw(x, samples=7).latents[:3]
    assert packed.shape == (7, 5, 14, 2, 2)
    parts = ladder.unpacked(packed.flatten(0, 1))
    assert len(parts) == 3
    for part, latent in zip(parts, drawn, strict=True):
        assert torch.equal(part, latent.z.flatten(0, 1))
    assert torch.equal(ladder.unpacked(parts[0])[0], parts[0])
    assert ladder.first_levels(4, 6).shape == (6, 1, 14 + 16, 2, 2)
    given = [part[None] for part in parts]
    torch.manual_seed(2)
    images = ladder.sample_given(packed.flatten(0, 1))
    torch.manual_seed(2)
    assert torch.equal(images, ladder.images_at(given, [1.0] * 4))
    tempered = ladder.unpacked(ladder._tempered(packed.flatten(0, 1), [1.0, 0.5, 0.0, 1.0]))
    for part, again, temperature in zip(parts, tempered, (1.0, 0.5, 0.0), strict=True):
        assert torch.equal(again, temperature * part)


@pytest.mark.usefixtures("few_frames")
def test_the_first_levels_together_get_a_second_stage(tmp_path, run_latens):
    options = {"recipe": "ladder", "levels": "2x1,4x2", "channels": 4, "epochs": 1}
    latens.train("digits", out=tmp_path / "run", report=False, film=False, **options)
    words = ("--flow-width", 8, "--layers", 1, "--minutes", 0.01)
    done = run_latens("fit-prior", "run", *words, "--levels", 2, "--out", "two")
    assert done.returncode == 0, done.stderr
    run = latens.Run.open(tmp_path / "two")
    assert run.record["command"].endswith("--levels 2")
    assert run.vae.sampler.event_shape == (1 + 4, 2, 2)
    assert run.vae.sample(3, temperature=[1.0, 1.0, 0.5]).shape == (3, 1, 8, 8)
    assert run_latens("sample", "two", "-n", 4).returncode == 0
    assert latens.api.report(tmp_path / "two", tmp_path / "page").is_file()
    for wrong, reason in (
        (("--levels", 4), "4 levels: this model has 3"),
        (("--levels", 2, "--prior", "mixture"), "leave out --levels"),
    ):
        done = run_latens("fit-prior", "run", *wrong, "--out", "three")
        assert done.returncode == 2
        assert reason in " ".join(done.stderr.split())
        assert not (tmp_path / "three").exists()


def test_a_short_fit_forgets_its_first_weights(two_groups, monkeypatch):
    """After 100 steps the averaged weights are nearer to the last ones than to the first."""
    weights, average = torch.zeros(1), torch.zeros(1)
    for step in range(1, 101):
        weights += 0.01
        second_stage._average([average], [weights], torch.tensor(step))
    assert 0.8 < average.item() < 1.0
    monkeypatch.setattr(second_stage, "LATENTS", 60 * second_stage.BATCH)
    vae, images = two_groups
    fit = fit_prior(vae, images, images, "mixture", components=4)
    z = vae.encode(images.unit()).sample()
    torch.manual_seed(0)
    first = second_stage._mixture_at(z, 4)
    with torch.no_grad():
        assert fit.prior(vae.encode).log_prob(z).mean() > first(vae.encode).log_prob(z).mean()


def test_a_fit_that_is_worse_is_said_to_be(run_latens, tmp_path, monkeypatch):
    monkeypatch.setattr(second_stage, "LATENTS", 1)
    monkeypatch.setitem(second_stage.RATES, "mixture", (10.0, 0.0))  # far from everything
    run_latens("train", "digits", "--recipe", "mlp", "--epochs", 1, "--no-report", "--out", "run")
    monkeypatch.chdir(tmp_path / "run")
    done = run_latens("fit-prior", ".", "--prior", "mixture")
    assert done.returncode == 0, done.stderr
    assert "than p(z): give it more --minutes or fewer --components" in done.stderr
    assert "nats more under the mixture" in done.stdout
    assert (tmp_path / "run-prior" / "model.safetensors").exists()


def test_a_width_that_the_heads_do_not_divide():
    with pytest.raises(LatensError, match="flow_width is 30: it must be a multiple of 4"):
        FlowMatching((2,), 30, 1)


def test_one_validation_image_and_a_prior_fitted_twice(run_latens, tmp_path, monkeypatch):
    monkeypatch.setattr(second_stage, "LATENTS", 2_000)
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 255, (24, 8, 8), np.uint8))
    options = {"recipe": "mlp", "hidden": "8", "latent_dim": 2, "epochs": 1, "validation": 1}
    latens.train(tmp_path / "few.npy", out=tmp_path / "run", report=False, film=False, **options)
    done = run_latens("fit-prior", "run", "--prior", "mixture", "--components", 2, "--out", "a")
    assert done.returncode == 0, done.stderr
    assert "MMD" not in done.stdout
    done = run_latens("fit-prior", "a", "--flow-width", 8, "--layers", 1, "--out", "b")
    assert done.returncode == 0, done.stderr
    run = latens.Run.open(tmp_path / "b")
    assert ReportContext(run, data_of(run)).prior_was_replaced
    assert not [found for found in latens.doctor(run) if found.name == "prior"]
