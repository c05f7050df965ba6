import json

import pytest

from latens import IWAE, LatensError, MLPEncoder, Part
from latens.model.parts import Configurable, from_config, to_config
from latens.model.recipes import RECIPES, build


class Scaled(Part):
    """A part that a user might write."""

    def __init__(self, factor: float, inner: Part | None = None):
        super().__init__()
        self.factor = factor
        self.inner = inner


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_composition_survives_json(recipe):
    options = {"likelihood": {"scale": 0.1}}
    vae = build(recipe, (3, 17, 23), 5, likelihood="gaussian", options=options, labels=3)
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
    rest = {"image_shape": (1, 4, 4), "hidden": (7,), "dropout": 0.0, "gated": False}
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


def test_arguments_of_the_first_release_are_understood():
    described = {"part": "MLPDecoder", "latent_dim": 2, "image_shape": [1, 4, 4], "planes": 3}
    assert from_config(described).out_channels == 3


# ---- names -----------------------------------------------------------------------------------


def defined(module, qualname, base=Part):
    """A class of that name, as a class statement in that module makes it."""
    name = qualname.rpartition(".")[2]
    return type(name, (base,), {"__module__": module, "__qualname__": qualname})


@pytest.mark.parametrize("own", [MLPEncoder, IWAE])
def test_latens_own_parts_cannot_be_replaced(own):
    with pytest.raises(LatensError, match=f"{own.__module__} both have .*choose another name"):
        defined("mine", own.__name__, Configurable)


def test_two_parts_of_one_name_are_refused_where_the_second_is_defined():
    defined("mine", "Blurred")
    with pytest.raises(LatensError, match="both have a part called Blurred"):
        defined("yours", "Blurred")
    with pytest.raises(LatensError, match="both have a part called Blurred"):
        defined("mine", "outer.Blurred")
    assert type(from_config({"part": "Blurred"})).__module__ == "mine"


def test_a_part_that_is_defined_again_takes_the_place_of_the_first():
    """As a notebook's cell does that is run twice."""
    first, second = defined("mine", "Sharpened"), defined("mine", "Sharpened")
    assert first is not second
    assert type(from_config({"part": "Sharpened"})) is second


def test_no_module_but_a_part_can_be_named():
    with pytest.raises(LatensError, match="unknown part"):
        from_config({"part": "Linear", "in_features": 1, "out_features": 1})
