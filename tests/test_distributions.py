import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Independent, Laplace, Normal

from latens.distributions import diagonal_normal, kl


@given(
    mean=st.floats(-3, 3), scale=st.floats(0.05, 3), other=st.floats(-3, 3), width=st.floats(0.1, 3)
)
def test_kl_is_the_integral(mean, scale, other, width):
    q = diagonal_normal(torch.tensor([[mean]]), torch.tensor([[scale]]), 1)
    p = diagonal_normal(torch.tensor([other]), torch.tensor([width]), 1)
    one, two = stats.norm(mean, scale), stats.norm(other, width)
    expected, _ = integrate.quad(
        lambda z: one.pdf(z) * (one.logpdf(z) - two.logpdf(z)),
        mean - 9 * scale,
        mean + 9 * scale,
        limit=200,
    )
    found = kl(q, p)
    assert found is not None
    assert found.shape == (1, 1)
    torch.testing.assert_close(found.item(), expected, rtol=1e-3, atol=1e-4)


def test_kl_agrees_with_sampling():
    q = diagonal_normal(torch.randn(6, 4), torch.rand(6, 4) + 0.2, 1)
    p = diagonal_normal(torch.zeros(4), torch.ones(4), 1)
    z = q.sample((40_000,))
    difference = q.log_prob(z) - p.log_prob(z)  # [K, B]
    error = difference.std(0) / 200
    found = kl(q, p)
    assert found is not None
    assert ((found.sum(1) - difference.mean(0)).abs() < 4 * error).all()


def test_kl_keeps_the_latent_dimensions_of_a_map():
    q = diagonal_normal(torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.1, 3)
    p = diagonal_normal(torch.zeros(3, 4, 5), torch.ones(3, 4, 5), 3)
    found = kl(q, p)
    assert found is not None
    assert found.shape == (2, 3, 4, 5)
    torch.testing.assert_close(
        found.flatten(1).sum(1), torch.distributions.kl_divergence(q, p.expand(q.batch_shape))
    )


def test_kl_without_a_closed_form_is_none():
    q = Independent(Laplace(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    p = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    assert kl(q, p) is None
    assert kl(p, q) is None
