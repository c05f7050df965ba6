import pytest
import torch
from scipy import stats

from latens.evaluation.paired import paired_difference


def test_one_training_each_is_the_paired_t_test():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 60, generator=generator, dtype=torch.float64)
    found = paired_difference(a, b)
    interval = stats.ttest_rel(a[0].numpy(), b[0].numpy()).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.mean == pytest.approx((a - b).mean().item())


def test_images_that_are_alike_leave_the_test_of_welch_on_the_seeds():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(5, 1, generator=generator, dtype=torch.float64)
    b = 3 * torch.randn(4, 1, generator=generator, dtype=torch.float64)
    found = paired_difference(a.expand(5, 40), b.expand(4, 40))
    welch = stats.ttest_ind(a[:, 0].numpy(), b[:, 0].numpy(), equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_what_is_hard_for_both_cancels():
    generator = torch.Generator().manual_seed(2)
    hard = 30 * torch.randn(1, 500, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    found = paired_difference(hard + noise[:1] + 1, hard + noise[1:])
    assert found.is_clear
    assert found.high - found.low < 0.4, "of unpaired images it would be above 7"


def test_a_model_and_itself_do_not_differ():
    costs = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    found = paired_difference(costs[:1], costs[:1])
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert not found.is_clear


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_at_95_percent_hold_the_truth(seeds):
    """Of models with so many seeds each, images shared by all: 200 experiments."""
    generator = torch.Generator().manual_seed(seeds)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    held = 0
    for _ in range(200):
        hard, spread = 10 * normal(1, 100), 0.5 if seeds > 1 else 0.0
        a, b = (hard + normal(1, 100) + spread * normal(seeds, 1) for _ in range(2))
        found = paired_difference(a + 0.7, b)
        held += found.low <= 0.7 <= found.high
    assert 180 <= held <= 199
