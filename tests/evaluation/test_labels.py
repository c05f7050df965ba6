import json

import pytest
import torch
from torch.distributions import Independent, Normal

from latens import VAE, Encoder, Images, LatensError, MLPDecoder, Posterior
from latens.evaluation.labels import (
    LabelStatistics,
    label_statistics,
    neighbour_accuracy,
    sample_all,
)
from latens.model.posteriors import FullCovarianceGaussian


class FirstPixels(Encoder):
    """The first two pixels are the features."""

    def __init__(self):
        super().__init__()
        self.image_shape, self.features = (1, 4, 4), 2

    def forward(self, x, y=None):
        return x.flatten(1)[:, :2]


class Around(Posterior):
    """q(z|x) is a Gaussian of a fixed width around the features."""

    def __init__(self, scale: float):
        super().__init__()
        self.event_shape, self.scale = (2,), scale

    def forward(self, features):
        return Independent(Normal(features, torch.full_like(features, self.scale)), 1)


@pytest.fixture
def vae():
    return VAE(FirstPixels(), MLPDecoder(2, (1, 4, 4), (8,)), posterior=Around(0.3))


def images(z, labels):
    """Images whose mean z these are, in steps of 1/255."""
    pixels = torch.zeros(len(z), 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, :2] = (z * 255).round().byte()
    return Images(pixels, labels)


def test_the_gaussian_of_a_class_has_the_moments_of_its_latents(vae):
    z, labels = torch.rand(3000, 2), torch.randint(-1, 2, (3000,))
    found = label_statistics(vae, images(z, labels), ("a", "b"), exclusive=True)
    assert found is not None
    drawn = z + 0.3 * torch.randn(3000, 2)  # z ~ q(z|x)
    for label in (0, 1):
        of = labels == label
        torch.testing.assert_close(
            torch.tensor(found.mean[label]), z[of].mean(0), atol=2e-3, rtol=0
        )
        spread = drawn[of].std(0)
        torch.testing.assert_close(torch.tensor(found.scale[label]), spread, atol=0.03, rtol=0)
    share = (labels == 0).sum().item() / (labels >= 0).sum().item()
    assert found.share[0] == pytest.approx(share, abs=1e-4)
    draws = found.gaussians[1].sample(2000)
    torch.testing.assert_close(draws.mean(0), torch.tensor(found.mean[1]), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.tensor(found.scale[1]), atol=0.05, rtol=0)


def test_the_direction_of_an_attribute_is_free_of_the_others(vae):
    """The second attribute goes with the first; only the first moves z along dimension 0."""
    first = torch.randint(0, 2, (4000,))
    second = torch.where(torch.rand(4000) < 0.9, first, 1 - first)
    z = 0.3 + 0.02 * torch.randn(4000, 2) + torch.stack([0.4 * first, 0.2 * second], 1)
    labels = torch.stack([first, second], 1)
    found = label_statistics(vae, images(z, labels), ("one", "two"), exclusive=False)
    assert found is not None
    expected = torch.tensor([[0.4, 0.0], [0.0, 0.2]])
    torch.testing.assert_close(torch.tensor(found.direction), expected, atol=0.01, rtol=0)


def test_no_labels_no_statistics(vae):
    assert label_statistics(vae, images(torch.rand(5, 2), None), (), exclusive=True) is None
    unknown = torch.full((5,), -1)
    assert label_statistics(vae, images(torch.rand(5, 2), unknown), ("a",), exclusive=True) is None
    with pytest.raises(LatensError, match="knows no labels"):
        LabelStatistics.of(vae)


def test_statistics_travel_with_the_model(vae):
    labels = torch.arange(40) % 2
    found = label_statistics(vae, images(torch.rand(40, 2), labels), ("Bald", "Young"), True)
    assert found is not None
    vae.about["labels"] = found.as_dict()
    vae.about = json.loads(json.dumps(vae.about))
    again = LabelStatistics.of(vae)
    assert again == found
    assert again.mixture is not None
    assert again.index("bald") == 0
    with pytest.raises(
        LatensError, match=r"unknown label 'Yung': did you mean 'Young'.*Bald, Young"
    ):
        again.index("Yung")


def test_the_probability_of_a_class_is_bayes_rule(vae):
    """Two classes of Gaussian latents, one three times as common as the other."""
    labels = (torch.rand(6000) < 0.25).long()
    z = 0.3 + 0.05 * torch.randn(6000, 2) + 0.15 * labels[:, None]
    found = label_statistics(vae, images(z, labels), ("a", "b"), exclusive=True)
    assert found is not None
    at = torch.tensor([[0.2, 0.2], [0.4, 0.35], [0.5, 0.6]])
    sigma = (0.05**2 + 0.3**2) ** 0.5  # of z ~ q(z|x)
    log_p = [torch.distributions.Normal(mean, sigma).log_prob(at).sum(1) for mean in (0.3, 0.45)]
    expected = (torch.stack(log_p, 1) + torch.tensor([0.75, 0.25]).log()).softmax(1)
    torch.testing.assert_close(found.probability(at), expected, atol=0.08, rtol=0)
    torch.testing.assert_close(found.probability(at[:, None])[:, 0], found.probability(at))


def test_the_prototype_of_a_class_is_where_it_is_the_likeliest(vae):
    """Half of class 1 lies in class 0; its mean does, too."""
    labels = torch.arange(3000) % 2
    z = 0.2 + 0.03 * torch.randn(3000, 2)
    z[labels == 1] += 0.7 * (torch.rand(1500, 1) < 0.3)
    small = VAE(FirstPixels(), MLPDecoder(2, (1, 4, 4), (8,)), posterior=Around(0.03))
    found = label_statistics(small, images(z.clamp(0, 1), labels), ("a", "b"), exclusive=True)
    assert found is not None
    assert found.probability(torch.tensor(found.mean))[1, 1] < 0.9 or found.mean[1][0] > 0.35
    assert (found.probability(found.prototypes).argmax(1) == torch.arange(2)).all()
    assert found.prototypes[1].mean() > 0.8


def test_a_class_of_one_image_or_none_has_a_gaussian(vae):
    labels = torch.tensor([0] * 30 + [1])
    found = label_statistics(vae, images(torch.rand(31, 2), labels), ("a", "b", "c"), True)
    assert found is not None
    assert found.mixture is not None
    assert [len(density.weight) for density in found.mixture] == [2, 1, 1]
    assert found.mixture[2].mean == [[0.0, 0.0]]
    assert found.probability(torch.rand(4, 2))[:, 2].eq(0).all()  # its share is none


def test_neighbours_agree_with_a_count_by_hand(vae):
    z, labels = torch.rand(200, 2), torch.randint(0, 3, (200,))
    other, truth = torch.rand(50, 2), torch.randint(0, 3, (50,))
    found = neighbour_accuracy(vae, images(z, labels), images(other, truth), 1)
    z, other = images(z, None).unit()[:, 0, 0, :2], images(other, None).unit()[:, 0, 0, :2]
    nearest = torch.cdist(other, z).argmin(1)
    assert found == pytest.approx((labels[nearest] == truth).double().mean().item(), abs=0.021)


@pytest.mark.parametrize("count", [0, 201])
def test_neighbours_that_cannot_be(vae, count):
    some = images(torch.rand(200, 2), torch.randint(0, 3, (200,)))
    with pytest.raises(LatensError, match="1 to 200"):
        neighbour_accuracy(vae, some, some, count)
    with pytest.raises(LatensError, match="have none"):
        neighbour_accuracy(vae, images(torch.rand(5, 2), None), some, 1)
    few = images(torch.rand(200, 2), torch.cat((torch.zeros(20), -torch.ones(180))).long())
    assert neighbour_accuracy(vae, few, few, 20) == 1
    with pytest.raises(LatensError, match="1 to 20 can be asked"):
        neighbour_accuracy(vae, few, few, 21)


def test_z_are_drawn_from_a_q_whose_dimensions_depend_on_each_other():
    torch.manual_seed(0)
    correlated = FullCovarianceGaussian(2, 2)
    correlated.parameters_of_q.bias.data[-1] = 3.0
    full = VAE(FirstPixels(), MLPDecoder(2, (1, 4, 4), (8,)), posterior=correlated)
    same = images(torch.full((5_000, 2), 0.5), None)
    q = full.encode(same.take(slice(0, 1)).unit())
    found = sample_all(full, same)
    torch.testing.assert_close(found.mean(0), q.mean[0], atol=0.2, rtol=0)
    torch.testing.assert_close(found.T.cov(), q.covariance_matrix[0], atol=0.1, rtol=0.1)
    assert found.T.corrcoef()[0, 1].abs() > 0.5
