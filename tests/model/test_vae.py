import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace, Normal

import latens
from latens import (
    VAE,
    ConvDecoder,
    ConvMapDecoder,
    ConvMapEncoder,
    Decoder,
    DiagonalGaussianMap,
    Gaussian,
    LatensError,
    MLPDecoder,
    MLPEncoder,
    Posterior,
    StandardNormal,
    catalogue,
)
from latens.model.distributions import diagonal_normal
from latens.model.recipes import RECIPES, build, describe
from latens.training.objectives import ELBO

# ---- one contract for every recipe and every part --------------------------------------------

# Odd sizes and a number of channels that is neither grey nor colour: a recipe has no others' luck
ODD = (2, 9, 13)
LABELS = {"classes": torch.tensor([0, 2, -1, 1]), "attributes": torch.randint(-1, 2, (4, 3))}
SMALL = {
    "mlp": {"hidden": (16,)},
    "conv": {"channels": 4, "features": 16},
    "unet": {"channels": 4, "features": 16},
    "ladder": {"channels": 4},
}


@dataclass(frozen=True)
class Case:
    """A composition, of three classes."""

    recipe: str = "mlp"
    shape: tuple[int, int, int] = (1, 8, 8)
    choices: Mapping[str, str] = field(default_factory=dict)

    def build(self, latent_dim=5, **choices):
        network = RECIPES[self.recipe].network or "conv"
        options = {"network": SMALL[network]}
        if self.choices.get("posterior") == "grid":  # for few latents
            latent_dim, options = 2, options | {"posterior": {"cells": 16}}
        choices = {"labels": 3, "options": options} | self.choices | choices
        return build(self.recipe, self.shape, latent_dim, **choices)

    @property
    def name(self):
        return "-".join([self.recipe, *self.choices.values(), "x".join(map(str, self.shape))])


CASES = [
    *(Case(recipe, ODD) for recipe in RECIPES),
    *(
        Case(shape=(channels, 8, 8), choices={"likelihood": likelihood})
        for likelihood in catalogue.choices("likelihood")
        for channels in (1, 3)
    ),
    *(
        Case(choices={kind: name})
        for kind in ("prior", "posterior")
        for name in catalogue.choices(kind)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract:
    """Three classes are known of four images, and a fourth image has none."""

    def test_draw_has_the_documented_shapes(self, case):
        vae = case.build()
        draw = vae.draw(torch.rand(4, *case.shape), LABELS["classes"], samples=3)
        latent, *others = draw.latents
        assert [level.z.shape for level in draw.latents] == [(3, 4, *z) for z in vae.level_shapes]
        for name in ("log_px_z", "log_pz", "log_qz_x", "log_weights"):
            assert getattr(draw, name).shape == (3, 4), name
        assert draw.kl.shape == (4,)
        if draw.kl_per_dim is not None:
            assert draw.kl_per_dim.shape == (4, sum(map(math.prod, vae.level_shapes)))
        assert (latent.q.batch_shape, latent.q.event_shape) == ((4,), vae.latent_shape)
        assert all(level.q.batch_shape == level.p.batch_shape == (3, 4) for level in others)
        few = case.choices.get("posterior") == "grid"
        assert case.recipe == "ladder" or vae.level_shapes == [(2,) if few else (5,)]

    def test_every_parameter_gets_a_gradient(self, case):
        vae = case.build()
        with torch.no_grad():  # a zero that a residual block starts at hides what is before it
            for parameter in vae.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        draw = vae.draw(torch.rand(8, *case.shape), LABELS["classes"].repeat(2))
        ELBO(label_weight=1.0)(draw).per_image.mean().backward()
        without = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_saved_and_loaded_it_is_equal_to_the_bit(self, case, tmp_path):
        vae = case.build().eval()
        vae.save_pretrained(tmp_path / "model")
        again = latens.load(tmp_path / "model")
        x, y = torch.rand(4, *case.shape), LABELS["classes"]
        assert torch.equal(again.reconstruct(x, y), vae.reconstruct(x, y))
        assert again.state_dict().keys() == vae.state_dict().keys()
        for name, value in vae.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        assert not again.training

    @pytest.mark.parametrize("labels", LABELS)
    def test_pictures_are_images(self, case, labels):
        vae = case.build(latent_dim=2, exclusive=labels == "classes")
        x, y = torch.rand(4, *case.shape), LABELS[labels]
        for images in (vae.sample(4, y), vae.reconstruct(x, y)):
            assert images.shape == (4, *case.shape)
            assert images.min() >= 0
            assert images.max() <= 1
        assert vae.interpolate(x, x.flip(0), steps=6, y=y).shape == (4, 6, *case.shape)


@pytest.mark.parametrize(
    ("recipe", "shape"), [("conv", (1, 28, 28)), ("unet", (3, 64, 64)), ("conv", (2, 17, 23))]
)
def test_the_networks_in_their_own_size(recipe, shape):
    vae = build(recipe, shape, 5)
    draw = vae.draw(torch.rand(2, *shape))
    ELBO()(draw).per_image.mean().backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())
    assert vae.sample(2).shape == (2, *shape)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_cites_its_source(recipe):
    summary, source = describe(recipe)
    assert summary.endswith(".")
    assert any(character.isdigit() for character in source), "a year"


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(LatensError, match="unknown recipe 'covn': did you mean 'conv'"):
        build("covn", (1, 28, 28), 2)


# ---- drawing ---------------------------------------------------------------------------------


def small(latent_dim=2, shape=(1, 4, 4), **parts):
    return VAE(
        encoder=MLPEncoder(shape, (16,)), decoder=MLPDecoder(latent_dim, shape, (16,)), **parts
    )


def test_draw_agrees_with_torch_distributions():
    vae, x = small(), torch.rand(5, 1, 4, 4)
    draw = vae.draw(x, samples=7)
    (latent,) = draw.latents
    q, p = vae.encode(x).base_dist, Normal(0, 1)
    log_q, log_p = q.log_prob(latent.z).sum(-1), p.log_prob(latent.z).sum(-1)
    torch.testing.assert_close(draw.log_qz_x, log_q)
    torch.testing.assert_close(draw.log_pz, log_p)
    logits = torch.stack([vae.decoder(z) for z in latent.z]) + vae.offset
    bce = nn.functional.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    )
    torch.testing.assert_close(draw.log_px_z, -bce.sum((2, 3, 4)))
    torch.testing.assert_close(draw.log_weights, -bce.sum((2, 3, 4)) + log_p - log_q)
    kl = torch.distributions.kl_divergence(q, p.expand(q.batch_shape))
    torch.testing.assert_close(draw.kl_per_dim, kl)
    torch.testing.assert_close(draw.kl, kl.sum(1))


def test_gradients_agree_with_finite_differences():
    vae = small().double()
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    parameter = vae.encoder.layers[0].bias

    def loss():
        torch.manual_seed(3)
        posterior = vae.encode(x)  # float32 inside, so compare at its precision
        z = posterior.base_dist.loc + posterior.base_dist.scale * torch.randn(3, 2)
        kl = torch.distributions.kl_divergence(posterior.base_dist, Normal(0.0, 1.0))
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
    x = torch.rand(2, 1, 4, 4)
    torch.manual_seed(3)
    drawn = vae.sample(2, temperature=1.0)
    vae.about = {"temperature": [0.0]}  # its own, where none is asked for
    torch.testing.assert_close(vae.sample(2), at_zero.expand(2, 1, 4, 4))
    torch.manual_seed(3)
    torch.testing.assert_close(vae.reconstruct(x, levels=0), drawn)
    vae.about = {"temperature": "hot"}
    with pytest.raises(LatensError, match="temperature is hot: it must be a number"):
        vae.sample(2)


def test_the_start_is_the_mean_image():
    mean = torch.rand(1, 4, 4) * 0.8 + 0.1
    vae = small()
    with torch.no_grad():
        vae.decoder.output.weight.zero_()
        vae.decoder.output.bias.zero_()
    assert vae.is_fresh
    vae.start_from(torch.rand(3, 1, 4, 4), mean)
    torch.testing.assert_close(vae.sample(1)[0], mean)
    assert not vae.is_fresh


def test_importance_samples_are_the_same_in_pieces(monkeypatch):
    vae, x = small(), torch.rand(5, 1, 4, 4)
    at_once = "latens.model.latent_model.VALUES_AT_ONCE"
    monkeypatch.setattr(at_once, 15 * 16)  # three samples of five images
    log_w = vae.log_weights(x, samples=10)
    assert log_w.shape == (10, 5)
    assert len(log_w.unique()) == 50  # all drawn anew
    monkeypatch.setattr(at_once, 2 * 16)  # two images, one sample
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
        self.latent_shape, self.image_shape, self.out_channels = (2,), (1, 4, 4), 1

    def forward(self, z, y=None):
        return y[:, None, None, None].float().expand(len(z), 1, 4, 4) + 0 * z.sum()


@pytest.mark.parametrize("rows", [1000, 4])
def test_a_label_goes_with_each_of_its_samples(monkeypatch, rows):
    monkeypatch.setattr("latens.model.latent_model.VALUES_AT_ONCE", rows * 16)
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
    (latent,) = draw.latents
    assert latent.kl is None
    assert draw.kl_per_dim is None
    difference = draw.log_qz_x - draw.log_pz
    torch.testing.assert_close(draw.kl, difference.mean(0))
    # KL(Laplace(μ, b) ‖ N(0, 1)) by hand, for each dimension
    mean, b = latent.q.base_dist.loc, latent.q.base_dist.scale
    exact = (0.5 * math.log(2 * math.pi) - 1 - (2 * b).log() + 0.5 * (mean**2 + 2 * b**2)).sum(1)
    error = difference.std(0) / math.sqrt(20_000)
    assert ((draw.kl - exact).abs() < 4 * error).all()


# ---- maps of latents -------------------------------------------------------------------------


def with_map(shape, channels=2):
    encoder = ConvMapEncoder(shape, channels=4)
    latent_shape = (channels, *encoder.feature_map)
    decoder = ConvMapDecoder(latent_shape, shape, channels=4)
    return VAE(encoder, decoder, posterior=DiagonalGaussianMap(encoder.features, latent_shape))


@pytest.mark.parametrize(
    ("shape", "coarse"), [((1, 12, 12), (6, 6)), ((3, 9, 13), (5, 7)), ((2, 17, 23), (9, 12))]
)
class TestMap:
    def test_every_latent_has_its_place(self, shape, coarse):
        vae, x = with_map(shape), torch.rand(4, *shape)
        draw = vae.draw(x, samples=3)
        (latent,) = draw.latents
        assert vae.latent_shape == (2, *coarse)
        assert latent.z.shape == (3, 4, 2, *coarse)
        assert (latent.q.batch_shape, latent.q.event_shape) == ((4,), (2, *coarse))
        assert latent.kl.shape == (4, 2, *coarse)
        assert draw.kl_per_dim.shape == (4, 2 * math.prod(coarse))
        torch.testing.assert_close(draw.kl, latent.kl.sum((1, 2, 3)))
        torch.testing.assert_close(
            draw.log_pz, Normal(0, 1).log_prob(latent.z).sum((-3, -2, -1)), rtol=1e-4, atol=1e-4
        )
        assert draw.log_weights.shape == (3, 4)
        assert vae.embed(x).shape == (4, 2, *coarse)
        assert vae.log_prob(x, samples=3).shape == (4,)

    def test_pictures_are_images(self, shape, coarse):
        vae, x = with_map(shape), torch.rand(4, *shape)
        assert vae.sample(5).shape == (5, *shape)
        assert vae.sample_prior(5).shape == (5, 2, *coarse)
        assert vae.decode_images(torch.randn(3, 2, 2, *coarse)).shape == (3, 2, *shape)
        for spherical in (False, True):
            path = vae.interpolate(x, x.flip(0), steps=5, spherical=spherical)
            assert path.shape == (4, 5, *shape)
            torch.testing.assert_close(path[:, 0], vae.reconstruct(x))
            torch.testing.assert_close(path[:, -1], vae.reconstruct(x.flip(0)))

    def test_every_parameter_gets_a_gradient(self, shape, coarse):
        vae = with_map(shape)
        with torch.no_grad():  # a zero that a residual block starts at hides what is before it
            for parameter in vae.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        ELBO()(vae.draw(torch.rand(4, *shape))).per_image.mean().backward()
        without = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_saved_and_loaded_it_is_equal_to_the_bit(self, shape, coarse, tmp_path):
        vae, x = with_map(shape).eval(), torch.rand(4, *shape)
        vae.save_pretrained(tmp_path)
        again = latens.load(tmp_path)
        assert again.latent_shape == vae.latent_shape
        assert torch.equal(again.reconstruct(x), vae.reconstruct(x))
        for name, value in vae.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


class TwiceAsWide(Decoder):
    """A decoder of one's own, of a map of 2x3x3."""

    def __init__(self):
        super().__init__()
        self.latent_shape, self.image_shape, self.out_channels = (2, 3, 3), (1, 6, 6), 1
        self.layer = nn.ConvTranspose2d(2, 1, 2, stride=2)

    def forward(self, z, y=None):
        return self.layer(z)


class Reshaped(Posterior):
    """A map of latents from a vector of features."""

    def __init__(self):
        super().__init__()
        self.event_shape = (2, 3, 3)
        self.layer = nn.Linear(16, 36)

    def forward(self, features):
        mean, log_scale = self.layer(features).reshape(-1, 2, 2, 3, 3).unbind(1)
        return diagonal_normal(mean, log_scale.exp(), 3)


def test_a_map_of_ones_own_parts():
    vae = VAE(MLPEncoder((1, 6, 6), (16,)), TwiceAsWide(), posterior=Reshaped())
    x = torch.rand(4, 1, 6, 6)
    draw = vae.draw(x, samples=2)
    assert draw.latents[0].z.shape == (2, 4, 2, 3, 3)
    assert draw.latents[0].kl.shape == (4, 2, 3, 3)
    torch.testing.assert_close(draw.kl, draw.latents[0].kl.sum((1, 2, 3)))
    assert vae.sample(5).shape == (5, 1, 6, 6)
    assert vae.interpolate(x, x, steps=3).shape == (4, 3, 1, 6, 6)
    assert vae.log_prob(x, samples=3).shape == (4,)


def test_a_map_of_another_resolution_is_refused():
    with pytest.raises(LatensError, match="are no map of 6x6"):
        ConvMapDecoder((2, 5, 6), (1, 12, 12))
    with pytest.raises(LatensError, match="are no map"):
        DiagonalGaussianMap(16, (2,))
    encoder = ConvMapEncoder((1, 12, 12), channels=4)
    with pytest.raises(LatensError, match="latent shape of posterior"):
        VAE(
            encoder,
            ConvMapDecoder((2, 6, 6), (1, 12, 12), channels=4),
            posterior=DiagonalGaussianMap(encoder.features, (3, 6, 6)),
        )


# ---- parts that do not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"decoder": MLPDecoder(2, (1, 5, 5))}, "image_shape of encoder and decoder"),
        ({"decoder": ConvDecoder(2, (1, 8, 8), out_channels=3)}, "image_shape|out_channels"),
        ({"prior": StandardNormal((3,))}, "latent shape of prior"),
        ({"posterior": LaplacePosterior(16, 3)}, "latent shape of posterior"),
        ({"decoder": MLPDecoder(2, (1, 4, 4), out_channels=2)}, "out_channels of likelihood"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, words):
    whole = {"encoder": MLPEncoder((1, 4, 4), (16,)), "decoder": MLPDecoder(2, (1, 4, 4)), **parts}
    with pytest.raises(LatensError, match=words):
        VAE(**whole)


# ---- the Hub ---------------------------------------------------------------------------------


def test_from_pretrained_reads_what_save_pretrained_writes(tmp_path):
    vae = small(likelihood=Gaussian(0.3)).eval()
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

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
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
            uploads.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
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


@pytest.mark.parametrize("labels", LABELS)
def test_a_classifier_learns_classes_or_attributes(labels):
    """Log p(y|z) of known labels alone; of attributes it is summed."""
    y = LABELS[labels]
    exclusive = labels == "classes"
    parts = latens.MLPEncoder((1, 8, 8), (16,)), latens.MLPDecoder(2, (1, 8, 8), (16,))
    vae = VAE(*parts, classifier=latens.MLPClassifier((2,), 3, exclusive))
    draw = vae.draw(torch.rand(4, 1, 8, 8), y, samples=2)
    found = draw.extras["log_py_z"]
    p = vae.classify(draw.latents[0].z)
    for k in range(2):
        for i in range(4):
            if exclusive:
                expected = p.logits[k, i].log_softmax(0)[y[i]] if y[i] >= 0 else torch.tensor(0.0)
            else:
                share = p.base_dist.probs[k, i]
                known = y[i] >= 0
                of = torch.where(y[i] == 1, share, 1 - share).log()
                expected = of[known].sum()
            torch.testing.assert_close(found[k, i], expected, rtol=1e-4, atol=1e-5)


def test_the_lines_of_a_conditional_models_card_run(tmp_path):
    vae = build("conditional", (1, 8, 8), 2, "mlp", labels=3).eval()
    vae.save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text("utf-8").split("```")[1].splitlines()
    assert code[-2:] == [
        "y = vae.label_embedding.draw(16)  # labels at random",
        "images = vae.sample(16, y)  # [16, C, H, W] in [0, 1]",
    ]
    y = vae.label_embedding.draw(16)
    assert vae.sample(16, y).shape == (16, 1, 8, 8)
