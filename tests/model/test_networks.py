import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latens import (
    ConditionalDecoder,
    ConditionalEncoder,
    ConvDecoder,
    ConvEncoder,
    FourierDecoder,
    LabelEmbedding,
    LatensError,
    MLPDecoder,
    MLPEncoder,
    UNetDecoder,
    UNetEncoder,
    catalogue,
)
from latens.model import recipes

NETWORKS = [*catalogue.choices("decoder")]  # of a vector of latents
SMALL = {
    "mlp": {"hidden": (8,)},
    "conv": {"channels": 4, "features": 8, "depth": 2},
    "unet": {"channels": 4, "features": 8, "depth": 3},
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25)
@given(
    channels=st.sampled_from([1, 2, 3, 5]),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    out_channels=st.sampled_from([None, 4]),
)
def test_any_shape_goes_in_and_comes_out(name, channels, height, width, out_channels):
    encoder, decoder = (catalogue.find(side, name).load() for side in ("network", "decoder"))
    shape = (channels, height, width)
    features = encoder(shape, **SMALL[name])(torch.rand(2, *shape))
    assert features.shape == (2, 8)
    out = decoder(3, shape, out_channels=out_channels, **SMALL[name])(torch.randn(2, 3))
    assert out.shape == (2, out_channels or channels, height, width)


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 100, 3)])
@pytest.mark.parametrize(
    "make",
    [
        ConvEncoder,
        lambda shape: ConvDecoder(2, shape),
        UNetEncoder,
        lambda shape: UNetDecoder(2, shape),
    ],
)
def test_conv_refuses_what_is_too_small(make, shape):
    with pytest.raises(LatensError, match="network mlp"):
        make(shape)


def test_mlp_takes_a_single_pixel():
    assert MLPEncoder((1, 1, 1))(torch.rand(2, 1, 1, 1)).shape == (2, 512)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 23)])
def test_every_pixel_reaches_the_features_and_every_output_depends_on_z(shape):
    x = torch.rand(1, *shape, requires_grad=True)
    ConvEncoder(shape, channels=8)(x).sum().backward()
    assert (x.grad != 0).all()
    decoder = ConvDecoder(2, shape, channels=8)
    a, b = decoder(torch.tensor([[0.0, 1.0]])), decoder(torch.tensor([[1.0, 0.0]]))
    assert (a != b).float().mean() > 0.99


def test_nothing_bypasses_z_in_the_unet():
    """What is decoded of a z is the same whatever image was encoded before it."""
    vae = recipes.build("unet", (1, 28, 28), 2, options={"network": {"channels": 8}}).eval()
    z, images = torch.randn(3, 2), []
    for x in (torch.zeros(3, 1, 28, 28), torch.rand(3, 1, 28, 28)):
        vae.encode(x)
        images.append(vae.decode(z).mean)
    assert torch.equal(*images)
    assert not torch.equal(images[0], vae.decode(z + 1).mean)


def test_a_unet_treats_each_image_by_itself():
    encoder = UNetEncoder((1, 16, 16), channels=8, features=16)
    x = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))


# ---- waves of z ------------------------------------------------------------------------------


def test_the_decoder_sees_z_and_its_waves():
    seen = {}

    class Spy(MLPDecoder):
        def forward(self, z, y=None):
            seen["z"] = z
            return super().forward(z, y)

    decoder = FourierDecoder(Spy(2 * 7, (1, 4, 4), (8,)), octaves=3)
    z = torch.randn(5, 2)
    decoder(z)
    assert decoder.latent_shape == (2,)
    waves = [f(z[:, d] * 2**k) for f in (torch.sin, torch.cos) for d in range(2) for k in range(3)]
    torch.testing.assert_close(seen["z"], torch.stack([z[:, 0], z[:, 1], *waves], dim=1))


@pytest.mark.parametrize(("inputs", "octaves"), [(13, 3), (14, 0), (14, 2)])
def test_waves_that_do_not_fit_are_refused(inputs, octaves):
    with pytest.raises(LatensError, match="cannot take z"):
        FourierDecoder(MLPDecoder(inputs, (1, 4, 4), (8,)), octaves)


# ---- labels ----------------------------------------------------------------------------------


def test_an_unknown_class_is_the_zero_vector_and_others_are_rows():
    embedding = LabelEmbedding(3, width=4)
    found = embedding(torch.tensor([2, -1, 0]))
    expected = torch.stack([embedding.weight[2], torch.zeros(4), embedding.weight[0]])
    torch.testing.assert_close(found, expected)


def test_attributes_add_up_and_unknown_ones_add_nothing():
    embedding = LabelEmbedding(3, exclusive=False, width=4)
    has, lacks, unknown = 1, 0, -1
    found = embedding(torch.tensor([[has, lacks, unknown]]))
    torch.testing.assert_close(found, (embedding.weight[0] - embedding.weight[1])[None])


@pytest.mark.parametrize("y", [None, torch.zeros(2, 3, dtype=torch.long)])
def test_labels_that_are_missing_or_of_another_sort(y):
    encoder = ConditionalEncoder(MLPEncoder((1, 4, 4), (8,)), LabelEmbedding(3))
    with pytest.raises(LatensError, match=r"is conditional|one class for each"):
        encoder(torch.rand(2, 1, 4, 4), y)


def test_the_label_reaches_features_and_images():
    labels, x, y = LabelEmbedding(3), torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    encoder = ConditionalEncoder(MLPEncoder((1, 4, 4), (8,)), labels)
    same = x[:1].expand(3, -1, -1, -1)
    assert len(encoder(same, y).unique(dim=0)) == 3
    decoder = ConditionalDecoder(MLPDecoder(2 + labels.width, (1, 4, 4), (8,)), labels)
    assert decoder.latent_shape == (2,)
    assert len(decoder(torch.zeros(3, 2), y).unique(dim=0)) == 3


def test_a_decoder_without_room_for_the_label():
    with pytest.raises(LatensError, match="no room"):
        ConditionalDecoder(MLPDecoder(32, (1, 4, 4), (8,)), LabelEmbedding(3, width=32))


def test_no_labels_at_all():
    with pytest.raises(LatensError, match="no labels"):
        LabelEmbedding(0)
