from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal

from latens import ELBO, BetaSchedule, Draw, LatensError
from latens.model.distributions import diagonal_normal, kl


def standard_normal(dims):
    return diagonal_normal(torch.zeros(dims), torch.ones(dims), 1)


@pytest.fixture
def draw():
    q = diagonal_normal(torch.randn(6, 3), torch.rand(6, 3) + 0.1, 1)
    p = standard_normal(3)
    return Draw(q, p, q.rsample((2,)), -100 * torch.rand(2, 6), kl(q, p))


def test_a_draw_knows_its_densities_and_its_kl(draw):
    q = draw.posterior.base_dist
    torch.testing.assert_close(draw.log_pz, Normal(0, 1).log_prob(draw.z).sum(-1))
    torch.testing.assert_close(draw.log_qz_x, q.log_prob(draw.z).sum(-1))
    expected = torch.distributions.kl_divergence(q, Normal(0.0, 1.0))
    torch.testing.assert_close(draw.kl, expected)
    torch.testing.assert_close(draw.log_weights, draw.log_px_z + draw.log_pz - draw.log_qz_x)


def test_beta_one_is_minus_the_elbo(draw):
    expected = -draw.log_px_z.mean(0) + draw.kl.sum(1)
    torch.testing.assert_close(ELBO()(draw).per_image, expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_kl_and_nothing_else(draw, beta):
    loss = ELBO(beta=beta)(draw)
    torch.testing.assert_close(loss.per_image, loss.reconstruction + beta * draw.kl.sum(1))
    torch.testing.assert_close(loss.kl, draw.kl.sum(1))  # reported as it is


def test_free_bits_put_a_floor_under_each_dimension(draw):
    means = draw.kl.mean(0)
    floor = means.sort().values[1].item() + 1e-4  # two of three dimensions are below it
    loss = ELBO(free_bits=floor)(draw)
    charged = (loss.per_image - loss.reconstruction).mean()
    torch.testing.assert_close(charged, means.clamp(min=floor).sum())


def test_the_loss_of_mean_terms_is_the_mean_loss(draw):
    for objective in (ELBO(2.0), ELBO(0.5, free_bits=0.7), ELBO(free_bits=3.0)):
        loss = objective(draw)
        means = (loss.reconstruction.mean().item(), loss.kl.mean().item())
        found = objective.of_means(*means, draw.kl.mean(0).tolist())
        assert found == pytest.approx(loss.per_image.mean().item(), rel=1e-5)


def test_free_bits_take_the_pull_off_unused_dimensions():
    mean = torch.tensor([[0.01, 2.0]]).repeat(4, 1).requires_grad_()
    q = diagonal_normal(mean, torch.ones(4, 2), 1)
    p = standard_normal(2)
    draw = Draw(q, p, q.rsample((1,)), torch.zeros(1, 4), kl(q, p))
    ELBO(free_bits=0.5)(draw).per_image.sum().backward()
    assert (mean.grad[:, 0] == 0).all()
    assert (mean.grad[:, 1] == 2.0).all()


def test_free_bits_need_a_closed_form(draw):
    prior = Independent(Laplace(torch.zeros(3), torch.ones(3)), 1)
    without = replace(draw, prior=prior, kl=kl(draw.posterior, prior))
    assert without.kl is None
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
    torch.testing.assert_close(loss.label, label)
    without = ELBO(beta=2.0)(draw).per_image
    torch.testing.assert_close(loss.per_image, without + 10 * label)


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


def test_beta_steps_up_after_each_epoch():
    schedule = BetaSchedule(1.0, step=0.3)
    assert [schedule(0.5, epoch) for epoch in range(4)] == pytest.approx([1, 1.3, 1.6, 1.9])
    assert schedule.last(4) == pytest.approx(1.9)
