import json

import pytest

from latens import LatensError, MLPEncoder, Part
from latens.model.likelihoods import Gaussian
from latens.model.parts import from_config, to_config
from latens.model.recipes import RECIPES, build


class Scaled(Part):
    """A part that a user might write."""

    def __init__(self, factor: float, inner: Part | None = None):
        super().__init__()
        self.factor = factor
        self.inner = inner


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_composition_survives_json(recipe):
    vae = build(recipe, (3, 17, 23), 5, Gaussian(0.1), labels=3)
    config = json.loads(json.dumps(to_config(vae)))
    again = from_config(config)
    assert to_config(again) == to_config(vae)
    shapes = {name: p.shape for name, p in vae.state_dict().items()}
    assert {name: p.shape for name, p in again.state_dict().items()} == shapes


def test_ones_own_part_is_rebuilt_with_its_parts():
    part = from_config(json.loads(json.dumps(to_config(Scaled(2.0, Scaled(3.0))))))
    assert isinstance(part, Scaled)
    assert isinstance(part.inner, Scaled)
    assert (part.factor, part.inner.factor) == (2.0, 3.0)


def test_the_arguments_are_those_of_the_constructor():
    config = to_config(MLPEncoder((1, 4, 4), (7,)))
    rest = {"image_shape": (1, 4, 4), "hidden": (7,), "dropout": 0.0}
    assert config == {"part": "MLPEncoder"} | rest


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"part": "MLPEncodr", "image_shape": [1, 4, 4]}, "did you mean 'MLPEncoder'"),
        ({"part": "MLPEncoder", "image_shap": [1, 4, 4]}, "did you mean 'image_shape'"),
        ({"part": "MLPEncoder"}, "cannot be built"),
        ({"part": "MLPEncoder", "image_shape": [1, -4, 4]}, "cannot be built"),
        ({"parts": 1}, "no 'part' name"),
        ([], "no 'part' name"),
    ],
)
def test_what_cannot_be_built_is_said(config, words):
    with pytest.raises(LatensError, match=words):
        from_config(config)


def test_latens_own_parts_cannot_be_replaced():
    with pytest.raises(LatensError, match="choose another name"):
        type("MLPEncoder", (Part,), {})


def test_no_module_but_a_part_can_be_named():
    with pytest.raises(LatensError, match="unknown part"):
        from_config({"part": "Linear", "in_features": 1, "out_features": 1})
