import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latens import ConvDecoder, ConvEncoder, LatensError, MLPDecoder, MLPEncoder

PAIRS = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}
SMALL = {"mlp": {"hidden": (8,)}, "conv": {"channels": 4, "features": 8}}


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=25)
@given(
    channels=st.sampled_from([1, 2, 3, 5]),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    planes=st.sampled_from([None, 4]),
)
def test_any_shape_goes_in_and_comes_out(name, channels, height, width, planes):
    encoder, decoder = PAIRS[name]
    shape = (channels, height, width)
    features = encoder(shape, **SMALL[name])(torch.rand(2, *shape))
    assert features.shape == (2, 8)
    out = decoder(3, shape, planes=planes, **SMALL[name])(torch.randn(2, 3))
    assert out.shape == (2, planes or channels, height, width)


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 100, 3)])
@pytest.mark.parametrize("make", [ConvEncoder, lambda shape: ConvDecoder(2, shape)])
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
