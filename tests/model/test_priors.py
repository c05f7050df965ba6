import math

import pytest
import torch
from torch.distributions import Independent, Laplace

import latens
from latens import LatensError

SHAPE = (1, 8, 8)


def vae_with(prior, latent_dim=3, **parts):
    return latens.VAE(
        latens.MLPEncoder(SHAPE, (16,)), latens.MLPDecoder(latent_dim, SHAPE, (16,)), prior=prior,
        **parts,
    )  # fmt: skip


def check_every_parameter_learns(vae, y=None):
    """Also those of the prior, from the ELBO of a few images."""
    latens.ELBO()(vae.draw(torch.rand(6, *SHAPE), y)).per_image.sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def check_it_is_saved_and_loaded(vae, folder, y=None):
    """With its samples and densities to the bit."""
    vae.eval().save_pretrained(folder)
    again = latens.load(folder)
    z = torch.randn(5, *vae.latent_shape)
    one, two = vae.prior_given(y), again.prior_given(y)
    assert torch.equal(one.log_prob(z), two.log_prob(z))
    samples = []
    for model in (vae, again):
        torch.manual_seed(1)
        samples.append(model.sample(5, y))
    assert torch.equal(*samples)


# ---- VampPrior -------------------------------------------------------------------------------


def test_a_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    vae = vae_with(latens.VampPrior((3,), SHAPE, components=7))
    z = torch.randn(4, 5, 3)
    each = [vae.encode(u[None]).log_prob(z) for u in vae.prior.pseudo_inputs]
    expected = torch.stack(each).logsumexp(0) - math.log(7)
    torch.testing.assert_close(vae.prior_given().log_prob(z), expected)


class LaplacePosterior(latens.Posterior):
    """q(z|x) that is no Gaussian."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.features, self.latent_dim, self.event_shape = features, latent_dim, (latent_dim,)
        self.layer = torch.nn.Linear(features, latent_dim)

    def forward(self, features):
        mean = self.layer(features)
        return Independent(Laplace(mean, torch.ones_like(mean)), 1)


def test_a_vamp_prior_takes_any_posterior():
    prior = latens.VampPrior((3,), SHAPE, components=7)
    vae = vae_with(prior, posterior=LaplacePosterior(16, 3))
    z = torch.randn(5, 3)
    each = [vae.encode(u[None]).log_prob(z) for u in vae.prior.pseudo_inputs]
    expected = torch.stack(each).logsumexp(0) - math.log(7)
    torch.testing.assert_close(vae.prior_given().log_prob(z), expected)
    assert vae.sample(4).shape == (4, *SHAPE)


def test_pseudo_inputs_start_as_training_images(digits):
    prior = latens.VampPrior((3,), SHAPE, components=9)
    images = digits.train.unit()[:4]  # fewer than there are pseudo-inputs
    vae_with(prior).start_from(images, images.mean(0))
    distance = torch.cdist(prior.pseudo_inputs.flatten(1), images.flatten(1))
    assert (distance.min(1).values < 0.1).all()
    assert set(distance.argmin(1).tolist()) == {0, 1, 2, 3}


def test_a_vamp_prior_learns_and_is_saved(tmp_path):
    vae = vae_with(latens.VampPrior((3,), SHAPE, components=7))
    check_every_parameter_learns(vae)
    check_it_is_saved_and_loaded(vae, tmp_path / "vae")


def test_a_vamp_prior_of_a_map_of_latents():
    vae = latens.VAE(
        latens.ConvMapEncoder(SHAPE, channels=4),
        latens.ConvMapDecoder((2, 4, 4), SHAPE, channels=4),
        prior=latens.VampPrior((2, 4, 4), SHAPE, components=3),
    )
    assert vae.prior_given().log_prob(torch.randn(5, 2, 4, 4)).shape == (5,)
    assert vae.sample_prior(6).shape == (6, 2, 4, 4)
    latens.ELBO()(vae.draw(torch.rand(6, *SHAPE))).per_image.sum().backward()
    assert vae.prior.logits.grad.abs().sum() > 0


def test_a_vamp_prior_under_a_conditional_encoder():
    """Its pseudo-inputs have no label."""
    labels = latens.LabelEmbedding(10)
    vae = latens.VAE(
        latens.ConditionalEncoder(latens.MLPEncoder(SHAPE, (16,)), labels),
        latens.MLPDecoder(3, SHAPE, (16,)),
        prior=latens.VampPrior((3,), SHAPE, components=7),
    )
    assert vae.sample(4, torch.arange(4)).shape == (4, *SHAPE)


def test_a_vamp_prior_without_pseudo_inputs_is_refused():
    with pytest.raises(LatensError, match="1 or more"):
        latens.VampPrior((3,), SHAPE, components=0)
