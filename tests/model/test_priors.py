import math

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal, kl_divergence

import latens
from latens import LatensError
from latens.model import priors, recipes
from latens.model.noise import SeededNoise

SHAPE = (1, 8, 8)


def NO_POSTERIOR(_images):  # noqa: N802
    raise AssertionError("this prior asks for no posterior")


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


class UnitLaplacePosterior(latens.Posterior):
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
    vae = vae_with(prior, posterior=UnitLaplacePosterior(16, 3))
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


@pytest.mark.parametrize("images", [torch.rand(2, *SHAPE), torch.zeros(2, *SHAPE)])
def test_repeated_images_start_as_different_pseudo_inputs(images):
    """The gradients of equal ones would be equal, and K of them no more than one."""
    prior = latens.VampPrior((3,), SHAPE, components=6)
    prior.start_from(images, images.mean(0))
    distances = torch.pdist(prior.pseudo_inputs.flatten(1))
    assert (distances > 0).sum() >= len(distances) - 1  # two images may be equal themselves


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


# ---- a normal for each label -----------------------------------------------------------------


def conditional_vae(exclusive=True):
    return vae_with(latens.ConditionalNormal((3,), 5, exclusive))


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_conditional_prior_starts_at_the_unit_gaussian_and_has_a_kl_in_closed_form(exclusive):
    vae = conditional_vae(exclusive)
    y = torch.arange(4) if exclusive else torch.randint(0, 2, (4, 5))
    p = vae.prior_given(y)
    assert (p.batch_shape, p.event_shape) == ((4,), (3,))
    z = torch.randn(4, 3)
    torch.testing.assert_close(p.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))
    draw = vae.draw(torch.rand(4, *SHAPE), y)
    expected = kl_divergence(draw.latents[0].q.base_dist, p.base_dist)
    torch.testing.assert_close(draw.kl_per_dim, expected)


def test_a_conditional_prior_gives_one_sample_for_each_label():
    vae = conditional_vae()
    with torch.no_grad():
        vae.prior.parameters_of_p.weight.normal_(std=2.0)
    y = torch.tensor([0, 0, 3, -1])
    assert vae.sample(4, y).shape == (4, *SHAPE)
    samples = torch.stack([vae.sample_prior(4, y) for _ in range(4000)])
    p = vae.prior_given(y)
    torch.testing.assert_close(samples.mean(0), p.mean, atol=0.2, rtol=0.1)
    assert torch.equal(p.mean[0], p.mean[1])
    assert torch.equal(p.mean[3], torch.zeros(3)), "an unknown label is N(0, I)"
    assert vae.sample(6).shape == (6, *SHAPE)
    with pytest.raises(LatensError, match="4 images and 3 labels"):
        vae.sample(4, y[:3])


def test_a_conditional_prior_learns_and_is_saved(tmp_path):
    vae = conditional_vae()
    with torch.no_grad():
        vae.prior.parameters_of_p.weight.normal_()
    check_every_parameter_learns(vae, torch.arange(6) % 5)
    check_it_is_saved_and_loaded(vae, tmp_path / "vae", torch.arange(5))


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_conditional_prior_is_in_float32_under_autocast(exclusive):
    vae = conditional_vae(exclusive)
    with torch.no_grad():
        vae.prior.parameters_of_p.weight.normal_()
    y = torch.arange(4) if exclusive else torch.randint(0, 2, (4, 5))
    expected = vae.prior_given(y).mean
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(vae.prior_given(y).mean, expected)


def test_a_conditional_prior_without_labels_is_refused():
    with pytest.raises(LatensError, match="at least one class"):
        latens.ConditionalNormal((3,), 0, True)
    vae = conditional_vae()
    with pytest.raises(LatensError, match="needs a label for each image"):
        vae.draw(torch.rand(2, *SHAPE))


# ---- a flow ----------------------------------------------------------------------------------


def a_flow(event_shape=(2,), learned=True):
    prior = latens.FlowPrior(event_shape, transforms=2, flow_width=16)
    if learned:  # away from the identity
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("event_shape", [(1,), (3,), (2, 2, 2)])
def test_a_flow_starts_at_the_unit_gaussian(event_shape):
    p = a_flow(event_shape, learned=False)(NO_POSTERIOR)
    z = torch.randn(6, 5, *event_shape)
    expected = Normal(0.0, 1.0).log_prob(z).flatten(2).sum(2)
    torch.testing.assert_close(p.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    assert p.sample((4,)).shape == (4, *event_shape)


def test_a_flow_integrates_to_one_and_samples_what_it_says():
    p = a_flow()(NO_POSTERIOR)
    axis = torch.linspace(-12, 12, 801)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        density = p.log_prob(grid).exp()
    cell = (axis[1] - axis[0]) ** 2
    assert (density.sum() * cell).item() == pytest.approx(1, abs=0.01)
    mean = (density[..., None] * grid).sum((0, 1)) * cell
    torch.testing.assert_close(p.sample((20_000,)).mean(0), mean, atol=0.05, rtol=0.05)


def test_the_density_of_a_flow_is_in_float32_under_autocast():
    prior, z = a_flow((3,)), torch.randn(200, 3)
    expected = prior(NO_POSTERIOR).log_prob(z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(prior(NO_POSTERIOR).log_prob(z), expected)


def test_a_flow_learns_and_is_saved(tmp_path):
    vae = vae_with(a_flow((3,)))
    check_every_parameter_learns(vae)
    check_it_is_saved_and_loaded(vae, tmp_path / "vae")


def test_a_flow_without_a_layer_is_refused():
    with pytest.raises(LatensError, match="transforms is 0"):
        latens.FlowPrior((3,), transforms=0)


@pytest.mark.parametrize("dims", [2, 10, 200])
def test_a_mixture_starts_near_the_unit_gaussian_with_all_components_in_use(dims):
    """Of 200 dimensions one component held everything, and samples came from the others."""
    torch.manual_seed(0)
    prior = priors.GaussianMixture((dims,), 50)
    p = prior(lambda x: None)
    z = p.sample((4000,))
    assert z.var(0).mean() == pytest.approx(1, abs=0.08)
    z = torch.randn(4000, dims)
    parts = torch.distributions.Independent(
        torch.distributions.Normal(prior.mean, prior.log_scale.exp()), 1
    )
    shares = parts.log_prob(z[:, None]).softmax(1).mean(0)
    assert shares.max() < 0.2
    assert (-(shares * shares.log()).sum()).exp() > 15, "as many as 15 equal ones"


@pytest.mark.parametrize("posterior", ["gaussian", "full", "iaf"])
def test_a_seed_tells_the_sample_of_a_mixture_of_any_posteriors(posterior):
    torch.manual_seed(0)
    options = {"prior": {"components": 7}}
    vae = recipes.build(
        "mlp", (1, 8, 8), 2, prior="vamp", posterior=posterior, options=options
    ).eval()
    found = []
    for seeds in (torch.arange(40), torch.arange(20, 40)):
        with SeededNoise(seeds):
            found.append(vae.sample_prior(len(seeds)))
    torch.testing.assert_close(found[0][20:], found[1])
    with SeededNoise(torch.arange(4_000)):
        drawn = vae.sample_prior(4_000)
    torch.testing.assert_close(drawn.mean(0), vae.sample_prior(4_000).mean(0), atol=0.1, rtol=0)
