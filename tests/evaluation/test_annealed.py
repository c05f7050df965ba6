"""Annealed importance sampling against the exact log p(x) of probabilistic PCA."""

import pytest
import torch
from tests.evaluation.ppca import exact_log_prob, model

from latens import LatensError
from latens.evaluation.annealed import annealed_log_prob, model_samples
from latens.model.recipes import build


def test_it_finds_the_exact_log_p_without_the_encoder():
    vae = model(shift=2.0, stretch=0.1)  # a q that importance sampling fails with
    x, _ = model_samples(vae, 20)
    exact = torch.from_numpy(exact_log_prob(vae, x))
    importance = vae.log_prob(x, samples=1000).double()
    annealed = annealed_log_prob(vae, x, chains=4, temperatures=100)
    assert (exact - importance).mean() > 1
    assert abs((annealed.lower - exact).mean()) < 0.1
    assert 0.4 < annealed.accepted < 0.95


def test_the_two_bounds_bracket_the_truth_and_close_in():
    vae = model(stretch=2.0)
    x, z = model_samples(vae, 80)
    exact = torch.from_numpy(exact_log_prob(vae, x))
    widths = []
    for temperatures in (4, 12, 40):
        found = annealed_log_prob(vae, x, z=z, chains=2, temperatures=temperatures)
        errors = [(bound - exact).std() / len(x) ** 0.5 for bound in (found.lower, found.upper)]
        assert (found.lower - exact).mean() < 4 * errors[0]
        assert (found.upper - exact).mean() > -4 * errors[1]
        widths.append((found.upper - found.lower).mean())
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.4


def test_the_same_seed_gives_the_same_and_leaves_random_numbers_alone():
    vae = model()
    x, _ = model_samples(vae, 3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = (annealed_log_prob(vae, x, temperatures=5, seed=1).lower for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, two)
    assert not torch.equal(one, annealed_log_prob(vae, x, temperatures=5, seed=2).lower)


def test_chains_do_not_start_where_samples_of_the_same_seed_did():
    vae = model()
    _, z = model_samples(vae, 40, seed=3)
    torch.manual_seed(3)
    start = vae.prior_given().sample(torch.Size((2, 40)))  # as the chains draw it
    assert (start[0] - z).abs().mean() > 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"temperatures": 0}, "temperatures is 0"), ({"chains": 0}, "chains is 0")],
)
def test_numbers_that_cannot_be(options, words):
    vae = model()
    with pytest.raises(LatensError, match=words):
        annealed_log_prob(vae, torch.rand(2, *vae.image_shape), **options)


def test_a_hierarchy_is_refused():
    ladder = build("ladder", (1, 8, 8), 1, options={"network": {"channels": 4}})
    with pytest.raises(LatensError, match="one level"):
        annealed_log_prob(ladder, torch.rand(2, 1, 8, 8))
