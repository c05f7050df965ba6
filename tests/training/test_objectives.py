import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import latens
from latens import ELBO, IWAE, BetaSchedule, BetaTC, Draw, InfoVAE, LatensError, Latent
from latens.model.aggregated import stratified_log_weights
from latens.model.distributions import diagonal_normal, kl
from latens.model.parts import from_config, to_config
from latens.training.objectives import mmd


def standard_normal(dims):
    return diagonal_normal(torch.zeros(dims), torch.ones(dims), 1)


@pytest.fixture
def draw():
    q = diagonal_normal(torch.randn(6, 3), torch.rand(6, 3) + 0.1, 1)
    p = standard_normal(3)
    return Draw((Latent.sample(q, p, 2),), -100 * torch.rand(2, 6))


def test_a_draw_knows_its_densities_and_its_kl(draw):
    latent = draw.latents[0]
    q = latent.q.base_dist
    torch.testing.assert_close(draw.log_pz, Normal(0, 1).log_prob(latent.z).sum(-1))
    torch.testing.assert_close(draw.log_qz_x, q.log_prob(latent.z).sum(-1))
    expected = torch.distributions.kl_divergence(q, Normal(0.0, 1.0))
    torch.testing.assert_close(draw.kl_per_dim, expected)
    torch.testing.assert_close(draw.kl, expected.sum(1))
    torch.testing.assert_close(draw.log_weights, draw.log_px_z + draw.log_pz - draw.log_qz_x)


def test_levels_add_up(draw):
    """Two levels, the second with a q for each sample, `[K, B]`."""
    second = diagonal_normal(torch.randn(2, 6, 4), torch.rand(2, 6, 4) + 0.1, 1)
    lower = Latent.sample(second, standard_normal(4))
    both = replace(draw, latents=(*draw.latents, lower))
    torch.testing.assert_close(both.log_pz, draw.log_pz + lower.log_p)
    torch.testing.assert_close(both.log_qz_x, draw.log_qz_x + lower.log_q)
    expected = torch.distributions.kl_divergence(second.base_dist, Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(both.kl_per_dim, torch.cat((draw.kl_per_dim, expected), 1))
    torch.testing.assert_close(both.kl, draw.kl + expected.sum(1))


def test_beta_one_is_minus_the_elbo(draw):
    expected = -draw.log_px_z.mean(0) + draw.kl
    torch.testing.assert_close(ELBO()(draw).per_image, expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_kl_and_nothing_else(draw, beta):
    loss = ELBO(beta=beta)(draw)
    torch.testing.assert_close(loss.per_image, loss.terms["reconstruction"] + beta * draw.kl)
    torch.testing.assert_close(loss.terms["kl"], draw.kl)  # reported as it is


def test_free_bits_put_a_floor_under_each_dimension(draw):
    means = draw.kl_per_dim.mean(0)
    floor = means.sort().values[1].item() + 1e-4  # two of three dimensions are below it
    loss = ELBO(free_bits=floor)(draw)
    charged = (loss.per_image - loss.terms["reconstruction"]).mean()
    torch.testing.assert_close(charged, means.clamp(min=floor).sum())


def test_free_bits_take_the_pull_off_unused_dimensions():
    mean = torch.tensor([[0.01, 2.0]]).repeat(4, 1).requires_grad_()
    q = diagonal_normal(mean, torch.ones(4, 2), 1)
    p = standard_normal(2)
    draw = Draw((Latent.sample(q, p, 1),), torch.zeros(1, 4))
    ELBO(free_bits=0.5)(draw).per_image.sum().backward()
    assert (mean.grad[:, 0] == 0).all()
    assert (mean.grad[:, 1] == 2.0).all()


def test_free_bits_need_a_closed_form(draw):
    prior = Independent(Laplace(torch.zeros(3), torch.ones(3)), 1)
    without = replace(draw, latents=(replace(draw.latents[0], p=prior),))
    assert kl(without.latents[0].q, prior) is None
    assert without.kl_per_dim is None
    with pytest.raises(LatensError, match="closed form"):
        ELBO(free_bits=1.0)(without)


@pytest.mark.parametrize("option", ["beta", "free_bits"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(option, value):
    with pytest.raises(LatensError, match=f"{option} is"):
        ELBO(**{option: value})


def test_the_label_has_its_own_weight(draw):
    labelled = replace(draw, extras={"log_py_z": -torch.rand(2, 6)})
    loss = ELBO(beta=2.0, label_weight=10.0)(labelled)
    label = -labelled.extras["log_py_z"].mean(0)
    torch.testing.assert_close(loss.terms["label"], label)
    without = ELBO(beta=2.0)(draw).per_image
    torch.testing.assert_close(loss.per_image, without + 10 * label)


def test_an_objective_is_written_down_and_built_again():
    for objective in (ELBO(2.0, free_bits=0.5), IWAE(samples=3), BetaTC(4.0, dataset_size=10)):
        assert from_config(json.loads(json.dumps(to_config(objective)))) == objective


# ---- importance-weighted ---------------------------------------------------------------------


def gaussian_draw(mean, log_scale, weight, images=1, samples=5):
    """x ~ N(wz, 1) at x = 1, z ~ N(0, 1), q(z) = N(mean, scale²), in one dimension."""
    q = diagonal_normal(mean.expand(images, 1), log_scale.exp().expand(images, 1), 1)
    latent = Latent.sample(q, standard_normal(1), samples)
    log_px_z = Normal(weight * latent.z[..., 0], 1.0).log_prob(torch.ones(()))
    return Draw((latent,), log_px_z)


def test_iwae_is_the_log_of_the_mean_weight(draw):
    expected = -(draw.log_weights.logsumexp(0) - math.log(2))
    torch.testing.assert_close(IWAE()(draw).per_image, expected)


def test_iwae_with_one_sample_is_the_elbo_of_that_sample(draw):
    one = replace(
        draw,
        latents=(replace(draw.latents[0], z=draw.latents[0].z[:1]),),
        log_px_z=draw.log_px_z[:1],
    )
    torch.testing.assert_close(IWAE()(one).per_image, -one.log_weights[0])


def test_the_gradient_of_iwae_is_without_bias():
    """Held to the usual gradient of the same bound, both averaged over many samples."""
    torch.manual_seed(0)
    parameters = [torch.tensor(v, requires_grad=True) for v in (0.8, -0.3, 0.7)]
    found = []
    for trick in (False, True):
        torch.manual_seed(1)
        draw = gaussian_draw(*parameters, images=200_000)
        plain = -(draw.log_weights.logsumexp(0) - math.log(5))
        loss = IWAE()(draw).per_image if trick else plain
        found.append(torch.stack(torch.autograd.grad(loss.mean(), parameters)))
    torch.testing.assert_close(*found, atol=0.01, rtol=0.03)


def test_the_gradient_for_the_encoder_is_the_doubly_reparameterised_one():
    """Tucker et al. 2019, equation 8, written out for one image; the decoder's is the usual one."""
    mean, log_scale = torch.tensor(0.8, requires_grad=True), torch.tensor(-0.3, requires_grad=True)
    weight = torch.tensor(0.7, requires_grad=True)
    draw = gaussian_draw(mean, log_scale, weight)
    z = draw.latents[0].z.detach()[..., 0]
    found = torch.autograd.grad(IWAE()(draw).per_image.sum(), (mean, log_scale, weight))
    scale = log_scale.detach().exp()
    noise = (z - mean.detach()) / scale
    log_w = draw.log_weights.detach()
    share = log_w.softmax(0)
    by_z = weight.detach() * (1 - weight.detach() * z) - z + noise / scale  # ∂ log w / ∂z
    expected_mean = -(share**2 * by_z).sum()
    expected_scale = -(share**2 * by_z * noise * scale).sum()
    expected_weight = -(share * (1 - weight.detach() * z) * z).sum()
    for one, other in zip(found, (expected_mean, expected_scale, expected_weight), strict=True):
        torch.testing.assert_close(one, other)


# ---- the KL taken apart ----------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 8])
def test_iwae_leaves_the_gradient_of_the_classifier(samples):
    """It weighs what flows through z into the encoder, and that of log p(y|z) stays whole."""
    torch.manual_seed(0)
    parts = latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(2, (1, 8, 8), (16,))
    vae = latens.VAE(*parts, classifier=latens.MLPClassifier((2,), 3))
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, -1, 1])

    def gradient(weight):
        vae.zero_grad()
        torch.manual_seed(1)
        IWAE(samples=samples, label_weight=weight)(
            vae.draw(x, y, samples)
        ).per_image.sum().backward()
        return torch.cat([p.grad.flatten() for p in vae.encoder.parameters()])

    torch.manual_seed(1)
    vae.zero_grad()
    (-vae.draw(x, y, samples).extras["log_py_z"].mean(0).sum()).backward()
    alone = torch.cat([p.grad.flatten() for p in vae.encoder.parameters()])
    torch.testing.assert_close(gradient(3.0) - gradient(0.0), 3 * alone, rtol=1e-3, atol=1e-5)
    assert alone.norm() > 0.01


def test_a_weight_of_one_is_the_elbo(draw):
    """By one sample of z, for which the three parts add up to log q(z|x) − log p(z)."""
    loss = BetaTC(beta=1.0, dataset_size=100)(draw)
    latent = draw.latents[0]
    expected = -draw.log_px_z.mean(0) + latent.log_q[0] - latent.log_p[0]
    torch.testing.assert_close(loss.per_image, expected)


def test_each_part_has_its_weight(draw):
    loss = BetaTC(beta=5.0, mi_weight=2.0, dimension_weight=3.0, dataset_size=60)(draw)
    terms = loss.terms
    expected = (
        terms["reconstruction"]
        + 2 * terms["mutual_information"]
        + 5 * terms["total_correlation"]
        + 3 * terms["dimension_kl"]
    )
    torch.testing.assert_close(loss.per_image, expected)


def test_the_parts_are_those_of_the_whole_data_set():
    """The batch is all data, so that q(z) is known; the parts by Monte Carlo over its mixture."""
    torch.manual_seed(3)
    mean, scale = torch.randn(4, 2) * torch.tensor([1.0, 2.0]), torch.rand(4, 2) + 0.3
    q, p = diagonal_normal(mean, scale, 1), standard_normal(2)
    draws = [Draw((Latent.sample(q, p, 1),), torch.zeros(1, 4)) for _ in range(1000)]
    names = ("mutual_information", "total_correlation", "dimension_kl")
    terms = [BetaTC(dataset_size=4)(d).terms for d in draws]
    found = [torch.stack([t[name].mean() for t in terms]).mean() for name in names]
    mixture = MixtureSameFamily(Categorical(torch.ones(4)), q)
    z = mixture.sample((20000,))
    log_qz = mixture.log_prob(z)
    marginals = [
        MixtureSameFamily(Categorical(torch.ones(4)), Normal(mean[:, d], scale[:, d]))
        for d in range(2)
    ]
    log_qz_d = sum(m.log_prob(z[:, d]) for d, m in enumerate(marginals))
    tc = (log_qz - log_qz_d).mean()
    dimension_kl = (log_qz_d - p.log_prob(z)).mean()
    kl_all = torch.distributions.kl_divergence(q.base_dist, Normal(0.0, 1.0)).sum(1).mean()
    mi = kl_all - (log_qz - p.log_prob(z)).mean()
    for one, other in zip(found, (mi, tc, dimension_kl), strict=True):
        assert one.item() == pytest.approx(other.item(), abs=0.08)


def test_stratified_weights_estimate_the_aggregated_density_without_bias():
    """Over all batches of 3 of 5 images that hold the image z is from, in each order."""
    density = torch.rand(5)  # q(z|x_j) of one z, which is from image 0
    found = []
    for others in itertools.permutations(range(1, 5), 2):
        for place in range(3):
            batch = [*others]
            batch.insert(place, 0)
            weights = stratified_log_weights(3, 5, density)[place].exp()
            assert weights.sum().item() == pytest.approx(1)
            found.append((weights * density[batch]).sum())
    torch.testing.assert_close(torch.stack(found).mean(), density.mean())


def test_a_posterior_that_is_no_diagonal_gaussian_is_refused(draw):
    q = MultivariateNormal(torch.zeros(6, 3), torch.eye(3).expand(6, 3, 3))
    full = replace(draw, latents=(Latent.sample(q, standard_normal(3), 2),))
    with pytest.raises(LatensError, match="needs a diagonal Gaussian"):
        BetaTC(dataset_size=10)(full)


# ---- maximum mean discrepancy ----------------------------------------------------------------


def test_mmd_is_that_of_its_definition():
    """Gretton et al. 2012, equation 3, written out with loops; squared width D = 3."""
    a, b = torch.randn(5, 3), torch.randn(5, 3) + 1

    def k(u, v):
        return math.exp(-float((u - v).square().sum()) / (2 * 3))

    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    within = sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs) / 20
    between = sum(k(u, v) for u in a for v in b) / 25
    assert mmd(a, b).item() == pytest.approx(within - 2 * between, rel=1e-4)


def test_mmd_between_gaussians_is_the_closed_form():
    """E k(u, v) of u, v ~ N(0, 1), N(m, s²) in one dimension is a Gaussian integral."""
    m, s = 1.0, 0.5

    def expected(difference, variance):
        return math.exp(-(difference**2) / (2 * (1 + variance))) / math.sqrt(1 + variance)

    exact = expected(0, 2) + expected(0, 2 * s**2) - 2 * expected(m, 1 + s**2)
    found = [mmd(torch.randn(500, 1), m + s * torch.randn(500, 1)).item() for _ in range(20)]
    assert sum(found) / 20 == pytest.approx(exact, abs=0.01)


def test_info_vae_adds_the_discrepancy_to_every_image(draw):
    torch.manual_seed(5)
    loss = InfoVAE(beta=0.5, mmd_weight=10.0)(draw)
    terms = loss.terms
    expected = terms["reconstruction"] + 0.5 * terms["kl"] + 10 * terms["mmd"]
    torch.testing.assert_close(loss.per_image, expected)
    torch.manual_seed(5)
    latent = draw.latents[0]
    torch.testing.assert_close(terms["mmd"][0], mmd(latent.z[0], latent.p.sample((6,))))


# ---- schedules of β --------------------------------------------------------------------------


def test_beta_is_constant_unless_told():
    assert {BetaSchedule(1.5)(tenth / 10, tenth) for tenth in range(11)} == {1.5}


def test_beta_warms_up_linearly_and_stays():
    schedule = BetaSchedule(4.0, warmup=0.5)
    found = [schedule(share, 0) for share in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0, 1, 2, 4, 4, 4])


def test_beta_goes_through_cycles():
    """Fu et al. 2019, figure 1: four cycles, rising over the first half of each."""
    schedule = BetaSchedule(1.0, warmup=0.5, cycles=4)
    cycle = [schedule(share, 0) for share in (0.0, 0.0625, 0.125, 0.2)]
    assert cycle == pytest.approx([0, 0.5, 1, 1])
    assert [schedule(0.25 + share, 0) for share in (0.0, 0.0625, 0.125, 0.2)] == pytest.approx(
        cycle
    )
    assert schedule(1.0, 0) == 1


def test_beta_at_the_end_of_a_cycle_is_that_of_the_cycle():
    schedule = BetaSchedule(1.0, warmup=0.5, cycles=2)
    assert schedule(0.5, 2) == 0
    assert schedule(0.5, 2, ended=True) == 1
    assert schedule(0.25, 1, ended=True) == schedule(0.25, 1) == 1
    assert schedule(0.0, 0, ended=True) == 0
    for cycles in (3, 7, 10):
        ends = [BetaSchedule(2.0, 1.0, cycles)(k / cycles, k, ended=True) for k in range(1, cycles)]
        assert ends == pytest.approx([2.0] * (cycles - 1))


def test_beta_steps_up_after_each_epoch():
    schedule = BetaSchedule(1.0, step=0.3)
    assert [schedule(0.5, epoch) for epoch in range(4)] == pytest.approx([1, 1.3, 1.6, 1.9])
    assert schedule.last(4) == pytest.approx(1.9)
