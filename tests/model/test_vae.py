import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace

import latens
from latens import (
    VAE,
    Bernoulli,
    ConvDecoder,
    Decoder,
    DiscretisedLogistic,
    Gaussian,
    LatensError,
    MLPDecoder,
    MLPEncoder,
    Posterior,
    StandardNormal,
)
from latens.model.likelihoods import Gaussian as GaussianLikelihood
from latens.training.objectives import ELBO
from latens.model.recipes import RECIPES, build, describe

SHAPES = [(1, 28, 28), (3, 64, 64), (2, 17, 23), (1, 8, 8)]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


# ---- one contract for every recipe -----------------------------------------------------------


LABELS = {"classes": torch.tensor([0, 2, -1, 1]), "attributes": torch.randint(-1, 2, (4, 3))}


@pytest.mark.parametrize("likelihood", [Bernoulli, DiscretisedLogistic])
@pytest.mark.parametrize("recipe", RECIPES)
class TestContract:
    """Of every recipe: three classes are known of four images, and a fourth image has none."""

    def test_draw_has_the_documented_shapes(self, recipe, shape, likelihood):
        vae = build(recipe, shape, 5, likelihood(), labels=3)
        draw = vae.draw(torch.rand(4, *shape), LABELS["classes"], samples=3)
        assert draw.z.shape == (3, 4, 5)
        for name in ("log_px_z", "log_pz", "log_qz_x", "log_weights"):
            assert getattr(draw, name).shape == (3, 4), name
        assert draw.kl is not None
        assert draw.kl.shape == (4, 5)
        assert (draw.posterior.batch_shape, draw.posterior.event_shape) == ((4,), (5,))

    def test_every_parameter_gets_a_gradient(self, recipe, shape, likelihood):
        vae = build(recipe, shape, 5, likelihood(), labels=3)
        with torch.no_grad():  # a zero that a residual block starts at hides what is before it
            for parameter in vae.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        draw = vae.draw(torch.rand(8, *shape), LABELS["classes"].repeat(2))
        ELBO(label_weight=1.0)(draw).per_image.mean().backward()
        without = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_saved_and_loaded_it_is_equal_to_the_bit(self, recipe, shape, likelihood, tmp_path):
        vae = build(recipe, shape, 5, likelihood(), labels=3).eval()
        vae.save_pretrained(tmp_path / "model")
        again = latens.load(tmp_path / "model")
        x, y = torch.rand(4, *shape), LABELS["classes"]
        assert torch.equal(again.reconstruct(x, y), vae.reconstruct(x, y))
        for name, value in vae.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        assert not again.training

    @pytest.mark.parametrize("labels", LABELS)
    def test_pictures_are_images(self, recipe, shape, likelihood, labels):
        vae = build(recipe, shape, 2, likelihood(), labels=3, exclusive=labels == "classes")
        x, y = torch.rand(4, *shape), LABELS[labels]
        for images in (vae.sample(4, y), vae.reconstruct(x, y)):
            assert images.shape == (4, *shape)
            assert images.min() >= 0
            assert images.max() <= 1
        assert vae.interpolate(x, x.flip(0), steps=6, y=y).shape == (4, 6, *shape)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_cites_its_source(recipe):
    summary, source = describe(recipe)
    assert summary.endswith(".")
    assert any(character.isdigit() for character in source), "a year"


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(LatensError, match="unknown recipe 'covn': did you mean 'conv'"):
        build("covn", (1, 28, 28), 2, Bernoulli())


# ---- drawing ---------------------------------------------------------------------------------


def small(latent_dim=2, shape=(1, 4, 4), **parts):
    return VAE(
        encoder=MLPEncoder(shape, (16,)), decoder=MLPDecoder(latent_dim, shape, (16,)), **parts
    )


def test_draw_agrees_with_torch_distributions():
    vae, x = small(), torch.rand(5, 1, 4, 4)
    draw = vae.draw(x, samples=7)
    q, p = draw.posterior, torch.distributions.Normal(0, 1)
    torch.testing.assert_close(draw.log_qz_x, q.log_prob(draw.z))
    torch.testing.assert_close(draw.log_pz, p.log_prob(draw.z).sum(-1))
    planes = torch.stack([vae.decoder(z) for z in draw.z]) + vae.offset
    bce = nn.functional.binary_cross_entropy_with_logits(
        planes, x.expand_as(planes), reduction="none"
    )
    torch.testing.assert_close(draw.log_px_z, -bce.sum((2, 3, 4)))


def test_gradients_agree_with_finite_differences():
    vae = small().double()
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    parameter = vae.encoder.layers[0].bias

    def loss():
        torch.manual_seed(3)
        posterior = vae.encode(x)  # float32 inside, so compare at its precision
        z = posterior.base_dist.loc + posterior.base_dist.scale * torch.randn(3, 2)
        kl = torch.distributions.kl_divergence(
            posterior.base_dist, torch.distributions.Normal(0.0, 1.0)
        )
        return (-vae.decode(z.double()).log_prob(x) + kl.sum(1)).sum()

    loss().backward()
    step = 1e-2
    with torch.no_grad():
        for i in range(4):
            parameter[i] += step
            up = loss()
            parameter[i] -= 2 * step
            down = loss()
            parameter[i] += step
            slope = ((up - down) / (2 * step)).item()
            assert parameter.grad[i].item() == pytest.approx(slope, rel=0.02, abs=0.02)


def test_embed_is_the_same_at_every_call_and_the_posterior_mean():
    vae, x = small(), torch.rand(3, 1, 4, 4)
    assert torch.equal(vae.embed(x), vae.embed(x))
    samples = vae.encode(x).sample((20_000,))
    spread = vae.encode(x).stddev / math.sqrt(20_000)
    assert ((samples.mean(0) - vae.embed(x)).abs() < 5 * spread).all()


def test_interpolation_begins_and_ends_with_the_reconstructions():
    vae, a, b = small(), torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    path = vae.interpolate(a, b, steps=5)
    torch.testing.assert_close(path[:, 0], vae.reconstruct(a))
    torch.testing.assert_close(path[:, -1], vae.reconstruct(b))
    middle = vae.decode((vae.embed(a) + vae.embed(b)) / 2).mean
    torch.testing.assert_close(path[:, 2], middle)


def test_temperature_scales_z():
    vae = small()
    at_zero = vae.decode(torch.zeros(1, 2)).mean
    torch.testing.assert_close(vae.sample(2, temperature=1e-9), at_zero.expand(2, 1, 4, 4))


def test_the_start_is_the_mean_image():
    mean = torch.rand(1, 4, 4) * 0.8 + 0.1
    vae = small()
    with torch.no_grad():
        vae.decoder.output.weight.zero_()
        vae.decoder.output.bias.zero_()
    vae.start_from(mean)
    torch.testing.assert_close(vae.sample(1)[0], mean)


def test_importance_samples_are_the_same_in_pieces(monkeypatch):
    vae, x = small(), torch.rand(5, 1, 4, 4)
    monkeypatch.setattr(
        "latens.model.vae.VALUES_AT_ONCE", 15 * 16
    )  # three samples of five images at once
    log_w = vae.log_weights(x, samples=10)
    assert log_w.shape == (10, 5)
    assert len(log_w.unique()) == 50  # all drawn anew
    monkeypatch.setattr("latens.model.vae.VALUES_AT_ONCE", 2 * 16)  # two images at once, one sample
    assert vae.log_weights(x, samples=10).shape == (10, 5)
    rows = []
    decode = vae.decode
    monkeypatch.setattr(
        vae, "decode", lambda z, y=None: rows.append(z[..., 0].numel()) or decode(z, y)
    )
    vae.log_prob(x, samples=3)
    vae.sample(5)
    assert max(rows) == 2
    with pytest.raises(LatensError, match="1 or more"):
        vae.log_prob(x, samples=0)


class Labelled(Decoder):
    """A decoder whose picture is its label, whatever z is."""

    def __init__(self):
        super().__init__()
        self.latent_shape, self.image_shape, self.planes = (2,), (1, 4, 4), 1

    def forward(self, z, y=None):
        return y[:, None, None, None].float().expand(len(z), 1, 4, 4) + 0 * z.sum()


@pytest.mark.parametrize("rows", [1000, 4])
def test_a_label_goes_with_each_of_its_samples(monkeypatch, rows):
    monkeypatch.setattr("latens.model.vae.VALUES_AT_ONCE", rows * 16)
    vae = VAE(MLPEncoder((1, 4, 4), (16,)), Labelled(), likelihood=Gaussian(0.1))
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 0])
    means = vae.decode(torch.randn(5, 3, 2), y).mean
    assert (means == y[None, :, None, None, None]).all()
    assert (vae.reconstruct(x, y) == y[:, None, None, None]).all()
    assert (vae.interpolate(x, x, steps=4, y=y) == y[:, None, None, None, None]).all()
    assert vae.log_prob(x, y, samples=7).shape == (3,)
    assert vae.draw(x, y, samples=7).log_px_z.shape == (7, 3)


# ---- composing one's own ---------------------------------------------------------------------


class LaplacePosterior(Posterior):
    """A posterior whose KL to a Gaussian has no closed form."""

    def __init__(self, features: int, latent_dim: int):
        super().__init__()
        self.features, self.latent_dim = features, latent_dim
        self.event_shape = (latent_dim,)
        self.layer = nn.Linear(features, 2 * latent_dim)

    def forward(self, features):
        mean, log_scale = self.layer(features).chunk(2, -1)
        return Independent(Laplace(mean, log_scale.exp()), 1)


def test_without_a_closed_form_the_kl_is_estimated():
    vae, x = small(posterior=LaplacePosterior(16, 2)), torch.rand(4, 1, 4, 4)
    draw = vae.draw(x, samples=20_000)
    assert draw.kl is None
    difference = draw.log_qz_x - draw.log_pz
    torch.testing.assert_close(draw.kl_per_image, difference.mean(0))
    # KL(Laplace(μ, b) ‖ N(0, 1)) by hand, for each dimension
    mean, b = draw.posterior.base_dist.loc, draw.posterior.base_dist.scale
    exact = (0.5 * math.log(2 * math.pi) - 1 - (2 * b).log() + 0.5 * (mean**2 + 2 * b**2)).sum(1)
    error = difference.std(0) / math.sqrt(20_000)
    assert ((draw.kl_per_image - exact).abs() < 4 * error).all()


class MapDecoder(Decoder):
    """A decoder of a map of latents."""

    def __init__(self):
        super().__init__()
        self.latent_shape, self.image_shape, self.planes = (2, 3, 3), (1, 6, 6), 1
        self.layer = nn.ConvTranspose2d(2, 1, 2, stride=2)

    def forward(self, z, y=None):
        return self.layer(z)


class MapPosterior(Posterior):
    def __init__(self):
        super().__init__()
        self.event_shape = (2, 3, 3)
        self.layer = nn.Linear(16, 36)

    def forward(self, features):
        mean, log_scale = self.layer(features).reshape(-1, 2, 2, 3, 3).unbind(1)
        return latens.distributions.diagonal_normal(mean, log_scale.exp(), 3)


def test_latents_may_be_a_map():
    vae = VAE(MLPEncoder((1, 6, 6), (16,)), MapDecoder(), posterior=MapPosterior())
    x = torch.rand(4, 1, 6, 6)
    draw = vae.draw(x, samples=2)
    assert draw.z.shape == (2, 4, 2, 3, 3)
    assert draw.kl is not None
    assert draw.kl.shape == (4, 2, 3, 3)
    torch.testing.assert_close(draw.kl_per_image, draw.kl.sum((1, 2, 3)))
    assert vae.sample(5).shape == (5, 1, 6, 6)
    assert vae.interpolate(x, x, steps=3).shape == (4, 3, 1, 6, 6)
    assert vae.log_prob(x, samples=3).shape == (4,)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"decoder": MLPDecoder(2, (1, 5, 5))}, "image_shape of encoder and decoder"),
        ({"decoder": ConvDecoder(2, (1, 8, 8), planes=3)}, "image_shape|planes"),
        ({"prior": StandardNormal((3,))}, "latent shape of prior"),
        ({"posterior": LaplacePosterior(16, 3)}, "latent shape of posterior"),
        ({"decoder": MLPDecoder(2, (1, 4, 4), planes=2)}, "planes of likelihood"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, words):
    whole = {"encoder": MLPEncoder((1, 4, 4), (16,)), "decoder": MLPDecoder(2, (1, 4, 4)), **parts}
    with pytest.raises(LatensError, match=words):
        VAE(**whole)


# ---- the Hub ---------------------------------------------------------------------------------


def test_from_pretrained_reads_what_save_pretrained_writes(tmp_path):
    vae = small(likelihood=GaussianLikelihood(0.3)).eval()
    vae.save_pretrained(tmp_path)
    again = VAE.from_pretrained(tmp_path)
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(again.reconstruct(x), vae.reconstruct(x))
    assert again.likelihood.scale == 0.3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["model"]["part"] == "VAE"


def test_a_name_on_the_hub_is_fetched_without_anything_but_config_and_weights(
    monkeypatch, tmp_path
):
    vae = small().eval()
    vae.save_pretrained(tmp_path)
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("latens.model.vae.snapshot_download", download)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(tmp_path / "config.json")
    )
    again = VAE.from_pretrained("someone/model", revision="v1")
    assert torch.equal(again.offset, vae.offset)
    assert (asked["name"], asked["revision"]) == ("someone/model", "v1")
    assert asked["allow_patterns"] == ["config.json", "model.safetensors"]


def test_the_card_tells_training_and_figures(digits_run, tmp_path):
    latens.load(digits_run.path).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    figures = digits_run.figures
    assert f"{-figures['elbo']:.2f}" in card
    assert "grey cross-entropy" in card
    assert digits_run.record["data"]["fingerprint"] in card
    assert "library_name: latens" in card


def test_push_to_hub_uploads_the_whole_model(monkeypatch, tmp_path):
    uploads = {}

    class Api:
        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **kwargs):
            uploads.update({p.name: p.read_bytes() for p in folder_path.iterdir()})

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    vae = small()
    vae.push_to_hub("someone/model")
    for name, content in uploads.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(latens.load(tmp_path).offset, vae.offset)
    assert "README.md" in uploads


def test_a_copy_is_independent():
    vae = small()
    other = copy.deepcopy(vae)
    with torch.no_grad():
        other.offset.add_(1)
    assert not torch.equal(other.offset, vae.offset)
