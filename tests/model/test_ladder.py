"""The ladder: its levels against an integral over all of them, and what it draws."""

import itertools
import math

import pytest
import torch
from torch.distributions import Independent, Normal

import latens
from latens.errors import LatensError
from latens.evaluation.metrics import evaluate
from latens.model import recipes
from latens.model.latents import Latent
from latens.model.networks.ladder import Levels
from latens.serving.functions import Functions


def ladder(shape=(1, 8, 8), levels="2x1,4x2", channels=8, coarse_channels=None, **choices):
    torch.manual_seed(0)
    sizes = {"channels": channels, "coarse_channels": coarse_channels}
    options = {"network": {"levels": levels, **sizes}}
    model = recipes.build("ladder", shape, 20, options=options, **choices).eval()
    for name, parameter in model.named_parameters():  # what starts small is not small any more
        if "embed" in name or "prior" in name:
            parameter.data.mul_(3)
    return model


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (None, (28, 28), [(1, 7, 7)] * 4 + [(1, 14, 14)] * 4),
        ("7x1,14x2x3", (28, 28), [(1, 7, 7), (3, 14, 14), (3, 14, 14)]),
        ("1x2,4x1,32x1", (64, 64), [(1, 1, 1), (1, 1, 1), (1, 4, 4), (1, 32, 32)]),
        ("5x1,10x1", (20, 28), [(1, 5, 7), (1, 10, 14)]),
        ("3x1,12x1x2", (21, 45), [(1, 3, 6), (2, 12, 24)]),
        (None, (9, 8), [(1, 5, 4)] * 4),
    ],
)
def test_levels_are_halvings_of_the_image(text, size, expected):
    assert [level.shape for level in Levels(text, *size).all] == expected


@pytest.mark.parametrize("side", range(8, 129))
def test_any_size_has_levels_of_its_own(side):
    sides = [level.shape[1] for level in Levels(None, side, side + 3).all]
    assert sides == sorted(sides)
    assert 5 <= sides[0] <= 10 or side < 10
    factor = 2 * sides[-1] // sides[0]
    assert side <= 2 * sides[-1] < side + factor


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8x4", "have levels of 14, or 7-14, or 4-8-16, or 2-4-8-16, or 1-2-4-8-16"),
        ("14x4,7x4", "from coarse to fine"),
        ("7x4,7x4", "each resolution once"),
        ("7", "written 7x4,14x4"),
        ("7x0", "written 7x4,14x4"),
        ("7x4x1x1", "written 7x4,14x4"),
        ("axb", "written 7x4,14x4"),
        ("4x1,14x1", "have levels of 14, or 7-14"),
    ],
)
def test_levels_that_cannot_be_are_refused(text, reason):
    with pytest.raises(LatensError, match=reason):
        Levels(text, 28, 28)


def at(given):
    """The way down through z that is given at each level."""
    return lambda i, p, _q: Latent(p, p, given[i])


def test_log_p_is_the_integral_over_all_levels():
    """Two levels of one number each: p(x) by a sum over a grid, which knows no q."""
    model = ladder(levels="1x2")
    x = torch.rand(3, 1, 8, 8).round()
    points = torch.linspace(-6, 6, 121)
    step = (points[1] - points[0]).item()
    with torch.no_grad():
        log_p = []
        for upper in points:
            given = (upper.expand(121).reshape(1, 121, 1, 1, 1), points.reshape(1, 121, 1, 1, 1))
            latents, output = model.descend([None, None], at(given))
            log_px = model.likelihood(output[:, None]).log_prob(x)  # [121, 3]
            log_p.append(log_px + sum(latent.log_p[0] for latent in latents)[:, None])
        truth = torch.stack(log_p).flatten(0, 1).logsumexp(0) + 2 * math.log(step)
        found = model.log_prob(x, samples=20_000)
    torch.testing.assert_close(found, truth, atol=0.03, rtol=0)
    figures = evaluate(model, x, importance_samples=20_000)
    assert abs(figures.nll + truth.mean().item()) < max(0.01, 5 * figures.nll_stderr)


def test_log_p_rises_with_the_number_of_samples():
    model, x = ladder(), torch.rand(20, 1, 8, 8).round()
    torch.manual_seed(0)
    means = [
        torch.stack([model.log_prob(x, samples=k).mean() for _ in range(20)]) for k in (1, 8, 64)
    ]
    for fewer, more in itertools.pairwise(means):
        error = (fewer.std() + more.std()) / math.sqrt(20)
        assert more.mean() > fewer.mean() + 2 * error


def test_the_kl_of_each_level_is_that_of_its_samples():
    model, x = ladder(), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        draw = model.draw(x, samples=4000)
    assert [latent.z.shape[2:] for latent in draw.latents] == model.level_shapes
    assert draw.latents[0].q.batch_shape == (4,)
    assert draw.latents[1].q.batch_shape == draw.latents[1].p.batch_shape == (4000, 4)
    for i, latent in enumerate(draw.latents):
        difference = latent.log_q - latent.log_p
        error = difference.std(0) / math.sqrt(4000)
        assert ((difference.mean(0) - draw.kl_per_level[:, i]).abs() < 5 * error).all()
    torch.testing.assert_close(draw.kl, draw.kl_per_level.sum(1))
    figures = evaluate(model, x)
    assert sum(figures.kl_per_level) == pytest.approx(figures.kl, rel=1e-5)
    assert len(figures.kl_per_dim) == math.prod(model.latent_shape)


def test_inference_and_sampling_take_one_way():
    """With q in the place of p, what is drawn and what is decoded of it are the same."""
    model, x = ladder(), torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        draw = model.draw(x, samples=1)
        again, output = model.descend([None] * 3, at([latent.z for latent in draw.latents]))
        log_px = model.likelihood(output[None]).log_prob(x)
    torch.testing.assert_close(log_px, draw.log_px_z)
    for one, other in zip(draw.latents[1:], again[1:], strict=True):
        torch.testing.assert_close(one.p.mean, other.p.mean)


def test_kept_levels_are_the_image_s_and_others_are_sampled():
    model, x = ladder(), torch.rand(6, 1, 8, 8)
    every = model.reconstruct(x)
    torch.testing.assert_close(model.reconstruct(x, levels=3), every)
    assert not torch.equal(model.reconstruct(x, levels=2), model.reconstruct(x, levels=2))
    given, images_at = [], model.images_at
    model.images_at = lambda z, t=None: given.append(z) or images_at(z, t)
    model.reconstruct(x, levels=2)
    for kept, own in zip(given[0], model.latents(x)[:2], strict=True):
        torch.testing.assert_close(kept, own)
    assert model.reconstruct(x, levels=0).shape == x.shape
    with pytest.raises(LatensError, match="this model has 3"):
        model.reconstruct(x, levels=4)
    assert torch.equal(model.embed(x), model.encode(x).mean)
    torch.testing.assert_close(model.embed(x, levels=1), model.embed(x).flatten(1))
    assert model.embed(x, levels=3).shape == (6, 4 + 2 * 16)
    with pytest.raises(LatensError, match="levels is 0"):
        model.embed(x, levels=0)
    path = model.interpolate(x[:3], x[3:], steps=5)
    torch.testing.assert_close(path[:, 0], every[:3])
    torch.testing.assert_close(path[:, -1], every[3:])


def test_a_long_way_is_decoded_in_parts(monkeypatch):
    model, x = ladder(), torch.rand(6, 1, 8, 8)
    path = model.interpolate(x[:3], x[3:], steps=5)
    monkeypatch.setattr("latens.model.latent_model.VALUES_AT_ONCE", 4 * 64)
    decoded, images_at = [], model.images_at
    monkeypatch.setattr(
        model, "images_at", lambda given: decoded.append(given[0].shape[1]) or images_at(given)
    )
    torch.testing.assert_close(model.interpolate(x[:3], x[3:], steps=5), path)
    assert decoded == [4, 4, 4, 3]


def test_many_seeds_are_sampled_in_parts_each_as_alone(monkeypatch):
    functions = Functions(ladder())
    monkeypatch.setattr("latens.model.latent_model.VALUES_AT_ONCE", 3 * 64)
    seeds = torch.arange(7) + 40
    images = functions.sample(seeds, None, [1.0])["images"]
    assert images.shape == (7, 1, 8, 8)
    for i in (0, 4, 6):
        alone = functions.sample(seeds[i : i + 1], None, [1.0])["images"]
        torch.testing.assert_close(alone[0], images[i], atol=1e-5, rtol=1e-5)


def test_each_level_has_a_temperature():
    model = ladder()
    still = model.sample(50, temperature=[1e-6, 1e-6, 1e-6])
    torch.testing.assert_close(still[0], still[1], atol=1e-3, rtol=0)
    below = model.sample_given(torch.zeros(50, *model.latent_shape), temperature=[1.0, 1e-6, 1.0])
    spread = model.sample_given(torch.zeros(50, *model.latent_shape), temperature=[1.0, 1.0, 1.0])
    assert 0 < below.std(0).mean() < spread.std(0).mean()
    with pytest.raises(LatensError, match="2 temperatures for 3 levels"):
        model.sample(3, temperature=[1.0, 1.0])


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp", "flow"])
def test_any_prior_at_the_top(prior):
    model = ladder(prior=prior)
    x = torch.rand(7, 1, 8, 8)
    model.start_from(x, x.mean(0))
    draw = model.draw(x, samples=2)
    assert draw.log_weights.shape == (2, 7)
    draw.log_weights.sum().backward()
    assert all(p.grad is not None for p in model.prior.parameters())
    assert model.sample(3).shape == (3, 1, 8, 8)


def test_a_posterior_that_is_given_is_that_of_the_top():
    model, x = ladder(), torch.rand(4, 1, 8, 8)
    zeros = torch.zeros(4, *model.latent_shape)
    q = Independent(Normal(zeros, 1e-6 + zeros), 3)
    draw = model.draw(x, samples=3, posterior=q)
    assert draw.latents[0].z.abs().max() < 1e-4


def test_a_refined_posterior_costs_less():
    """Of weights as drawn, whose q is far from the best: several standard errors of the noise."""
    torch.manual_seed(0)
    model, x = ladder(), torch.rand(256, 1, 8, 8).round()
    plain, refined = (latens.evaluate(model, x, refine=steps) for steps in (0, 50))
    assert refined.elbo > plain.elbo + 4 * plain.errors["elbo"].sampling


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"posterior": "iaf"}, "posterior is for models of one level"),
        ({"prior": "conditional"}, "the prior conditional is for models of one level"),
        ({"latent_map": 2}, "latent_map is for the network conv"),
        ({"octaves": 2}, "octaves is for"),
    ],
)
def test_what_a_ladder_has_not_is_refused(choices, reason):
    with pytest.raises(LatensError, match=reason):
        recipes.build("ladder", (1, 8, 8), 20, **choices)


def test_coarse_features_have_more_channels():
    options = {"network": {"levels": "2x1,4x1,8x2", "channels": 4, "coarse_channels": 12}}
    model = recipes.build("ladder", (1, 16, 16), 20, options=options).eval()
    x = torch.rand(3, 1, 16, 16)
    assert [e.shape[1:] for e in model.encoder(x)] == [(12, 2, 2), (8, 4, 4), (4, 8, 8), (4, 8, 8)]
    assert [level.residual.conv1.in_channels for level in model.levels] == [12, 8, 4, 4]
    assert model.start.shape == (1, 12, 2, 2)
    assert model.reconstruct(x).shape == model.sample(3).shape == x.shape
    model(x).log_weights.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_fewer_channels_where_maps_are_coarse_are_refused():
    with pytest.raises(LatensError, match="at least channels, which is 8"):
        ladder(coarse_channels=4)


def test_its_network_is_for_its_recipe():
    with pytest.raises(LatensError, match="add --recipe ladder"):
        recipes.build("beta", (1, 8, 8), 2, network="ladder")
