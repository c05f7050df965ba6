"""The estimators against a model whose exact log p(x) is known.

With a linear decoder and Gaussian noise p(x) = N(b, W Wᵀ + σ² I): probabilistic PCA (Tipping &
Bishop 1999). Its posterior is Gaussian too, N(M⁻¹ Wᵀ (x − b), σ² M⁻¹) with M = Wᵀ W + σ² I; with
orthogonal columns of W it is diagonal, and the ELBO at the exact posterior is log p(x) itself.
"""

import json
import math

import numpy as np
import pytest
import torch
from tests.evaluation.ppca import (
    SHAPE,
    SIGMA,
    D,
    Flat,
    exact_kl,
    exact_log_prob,
    model,
)

from latens import (
    GaussianMixture,
    Images,
    LatensError,
    load_data,
)
from latens.evaluation.metrics import evaluate
from latens.evaluation.proposals import refined
from latens.model.priors import LEAST_SCALE
from latens.model.recipes import build


@pytest.fixture
def x():
    return torch.rand(287, *SHAPE)


def test_at_the_exact_posterior_elbo_and_nll_are_log_p(x):
    vae = model()
    exact = exact_log_prob(vae, x).mean()
    figures = evaluate(vae, x, importance_samples=3)
    # every importance weight is p(x) exactly, so there is no noise at all
    assert figures.nll == pytest.approx(-exact, abs=1e-4)
    assert figures.nll_stderr == pytest.approx(0, abs=1e-4)
    repeats = [evaluate(vae, x, seed=seed).elbo for seed in range(40)]
    assert abs(np.mean(repeats) - exact) < 4 * np.std(repeats) / math.sqrt(40)
    assert np.std(repeats) > 0


def test_with_a_wrong_posterior_the_estimates_hold_within_their_errors(x):
    vae = model(shift=0.1, stretch=1.3)
    exact = exact_log_prob(vae, x).mean()
    figures = evaluate(vae, x, importance_samples=4000)
    assert 0 < figures.nll_stderr < 0.01
    assert abs(figures.nll + exact) < 4 * figures.nll_stderr
    assert figures.kl == pytest.approx(exact_kl(vae, x), rel=1e-5)
    # log p(x) − ELBO = KL(q ‖ p(z|x)), in closed form between two Gaussians of one M
    scale = (SIGMA / ((vae.decoder.weight**2).sum(0) + SIGMA**2).sqrt()).detach().double()
    gap = (0.5 * (1.3**2 + 0.1**2 / scale**2 - 1) - math.log(1.3)).sum().item()
    repeats = [evaluate(vae, x, seed=seed).elbo for seed in range(40)]
    assert abs(np.mean(repeats) - (exact - gap)) < 4 * np.std(repeats) / math.sqrt(40)


def test_without_a_closed_form_the_kl_is_estimated_and_the_figures_stay(x):
    vae = model(shift=0.1, stretch=1.3)
    closed = evaluate(vae, x, importance_samples=4000)
    vae.prior = GaussianMixture((D,), components=3)
    with torch.no_grad():  # three times N(0, I), so that everything is as before
        vae.prior.mean.zero_()
        vae.prior.log_scale.fill_(math.log(1 - LEAST_SCALE))
    repeats = [evaluate(vae, x, seed=seed).kl for seed in range(40)]
    assert abs(np.mean(repeats) - closed.kl) < 4 * np.std(repeats) / math.sqrt(40)
    assert np.std(repeats) > 0
    estimated = evaluate(vae, x, importance_samples=4000)
    assert estimated.kl_per_dim is None
    assert estimated.nll == pytest.approx(closed.nll, abs=1e-4)  # of the same samples of z


def test_the_standard_error_is_the_spread_of_repeats(x):
    vae = model(shift=0.1, stretch=1.3)
    repeats = [evaluate(vae, x[:50], importance_samples=500, seed=seed) for seed in range(60)]
    spread = np.std([figures.nll for figures in repeats], ddof=1)
    claimed = np.mean([figures.nll_stderr for figures in repeats])
    assert claimed == pytest.approx(spread, rel=0.3)


def test_the_bound_rises_with_the_number_of_samples(x):
    vae = model(shift=0.3, stretch=1.6)
    exact = exact_log_prob(vae, x).mean()
    elbo = np.mean([evaluate(vae, x, seed=seed).elbo for seed in range(20)])
    bounds = [
        np.mean([-evaluate(vae, x, importance_samples=k, seed=s).nll for s in range(20)])
        for k in (2, 5, 20, 100)
    ]
    assert elbo < bounds[0] < bounds[1] < bounds[2] < bounds[3] < exact + 0.01


def test_log_prob_agrees_with_the_exact_one(x):
    vae = model(shift=0.1, stretch=1.2)
    estimate = vae.log_prob(x, samples=5000)
    np.testing.assert_allclose(estimate, exact_log_prob(vae, x), atol=0.1)


def test_a_last_partial_block_counts_as_much_as_its_images(x, monkeypatch):
    vae = model(shift=0.1, stretch=1.3)
    whole = evaluate(vae, x, importance_samples=2000)
    for size in (1, 7, 100, 286):
        monkeypatch.setattr("latens.evaluation.metrics.IMAGES_IN_BLOCK", size)
        blocks = evaluate(vae, x, importance_samples=2000)
        assert blocks.images == len(x)
        assert blocks.kl == pytest.approx(whole.kl, rel=1e-6)
        assert blocks.active_units == whole.active_units
        assert abs(blocks.nll - whole.nll) < 5 * whole.nll_stderr
        assert blocks.reconstruction == pytest.approx(whole.reconstruction, abs=0.5)


def test_the_same_seed_gives_the_same_figures_and_leaves_random_numbers_alone(x):
    vae = model(shift=0.1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = evaluate(vae, x, importance_samples=10, seed=3)
    assert torch.equal(torch.rand(3), expected)
    two = evaluate(vae, x, importance_samples=10, seed=3)
    assert (one.elbo, one.nll) == (two.elbo, two.nll)
    assert evaluate(vae, x, seed=4).elbo != one.elbo


def test_a_training_model_is_measured_in_evaluation_mode_and_given_back(x):
    class Noisy(Flat):
        def forward(self, x, y=None):
            return super().forward(x + self.training)

    vae = model()
    vae.encoder = Noisy()
    vae.train()
    assert evaluate(vae, x).kl == pytest.approx(evaluate(model(), x).kl, rel=1e-6)
    assert vae.training


def test_the_figures_fit_together():
    data = load_data("digits", binarisation="static")
    vae = build("mlp", (1, 8, 8), 3)
    figures = evaluate(vae, data.test, importance_samples=5)
    assert figures.kind == "binary"
    assert figures.elbo == pytest.approx(-figures.reconstruction - figures.kl)
    assert figures.kl == pytest.approx(sum(figures.kl_per_dim), rel=1e-5)
    assert figures.bits_per_dim == pytest.approx(figures.nll / (64 * math.log(2)))
    without = evaluate(vae, data.test)
    assert without.nll is None
    assert without.bits_per_dim == pytest.approx(-without.elbo / (64 * math.log(2)))


def test_a_fair_coin_costs_one_bit_per_pixel():
    vae = build("mlp", (1, 8, 8), 3)
    with torch.no_grad():
        for parameter in vae.decoder.decoder.output.parameters():  # inside of waves of z
            parameter.zero_()
    data = load_data("digits", binarisation="static")
    figures = evaluate(vae, data.test)
    assert figures.reconstruction == pytest.approx(64 * math.log(2), rel=1e-5)


def test_grey_pixels_have_a_cross_entropy_and_no_bits():
    figures = evaluate(build("mlp", (1, 8, 8), 3), load_data("digits").test)
    assert (figures.kind, figures.bits_per_dim) == ("grey cross-entropy", None)
    figures = evaluate(build("mlp", (1, 8, 8), 3, likelihood="gaussian"), load_data("digits").test)
    assert (figures.kind, figures.bits_per_dim) == ("density", None)


def test_active_units_are_those_whose_mean_moves(x):
    vae = model()
    with torch.no_grad():
        vae.decoder.weight[:, 1] = 0  # nothing depends on it, so its posterior is the prior
    assert evaluate(vae, x).active_units == 1


@pytest.mark.parametrize(
    ("images", "k", "words"),
    [
        (torch.rand(3, 1, 4, 3), None, r"\(1, 3, 4\), and these are \(1, 4, 3\)"),
        (torch.rand(0, 1, 3, 4), None, "no images"),
        (torch.rand(3, 1, 3, 4), 0, "1 or more"),
        (Images(torch.zeros(2, 3, 5, 5, dtype=torch.uint8)), None, "these are"),
    ],
)
def test_what_cannot_be_measured_is_said(images, k, words):
    with pytest.raises(LatensError, match=words):
        evaluate(model(), images, k)


# ---- refining --------------------------------------------------------------------------------


def test_a_wrong_posterior_is_refined_to_the_exact_one(x):
    wrong, exact = model(shift=0.3, stretch=1.5), exact_log_prob(model(), x).mean()
    gap = exact - evaluate(wrong, x).elbo
    left = exact - evaluate(wrong, x, refine=100).elbo
    assert gap > 0.5
    assert abs(left) < 0.03 * gap + 0.01
    q, truth = refined(wrong, x, steps=100), model().encode(x)
    assert (q.mean - truth.mean).abs().mean() < 0.03
    assert (q.stddev / truth.stddev).log().abs().mean() < 0.1


def test_the_importance_samples_are_drawn_from_the_refined_posterior(x):
    """Half refined, −elbo stays above nll, which is below what the encoder's q gives."""
    poor = model(shift=0.6, stretch=2.5)
    exact = exact_log_prob(poor, x).mean()
    errors = []
    for refine in (0, 5, 100):
        found = [evaluate(poor, x, 3, seed=seed, refine=refine) for seed in range(5)]
        elbo, nll = (np.mean([getattr(f, name) for f in found]) for name in ("elbo", "nll"))
        errors.append(nll + exact)
        # A mean over 5 x 287 images, of which each has one z with a deviation of about a nat
        assert -elbo >= nll - 4 / math.sqrt(5 * 287), refine
    assert errors[0] > 0.5  # with so few samples of a poor q
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < 0.05 * errors[0]


def test_a_model_that_has_hardly_learned_is_bounded_in_order_after_refining(digits):
    vae = build("mlp", (1, 8, 8), 3)
    vae.start_from(digits.train.take(slice(0, 100)).unit(), digits.train.unit().mean(0))
    for samples in (2, 20):
        figures = evaluate(vae, digits.test, samples, refine=20)
        assert -figures.elbo >= figures.nll


def test_refining_leaves_the_model_alone(x):
    vae = model(shift=0.3)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    evaluate(vae, x[:8], refine=3)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in vae.parameters())
    with pytest.raises(LatensError, match="refine is -1"):
        evaluate(vae, x[:8], refine=-1)


def test_refining_changes_the_bound_and_not_what_the_latents_tell(digits):
    vae = build("semi_supervised", (1, 8, 8), 3, labels=10)
    plain, better = evaluate(vae, digits.test), evaluate(vae, digits.test, refine=5)
    assert better.elbo != plain.elbo
    for figure in ("accuracy", "label", "active_units"):
        assert getattr(better, figure) == getattr(plain, figure), figure


# ---- on the command line ---------------------------------------------------------------------


def test_json_tells_which_images_were_measured(digits_run, run_latens):
    told = json.loads(run_latens("evaluate", digits_run.path, "--json").stdout)
    assert (told["split"], told["images"]) == ("test", 179)
    assert told["elbo"] == pytest.approx(digits_run.figures["elbo"], rel=1e-4)
    split = ["--data", "digits", "--split", "validation"]
    told = json.loads(run_latens("evaluate", digits_run.path, *split, "--json").stdout)
    assert (told["split"], told["images"]) == ("validation", 180)
