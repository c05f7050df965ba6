import shlex

import pytest

from latens import LatensError, TrainConfig
from latens.api import resolve


@pytest.mark.parametrize("size", [64, "64", "64x64", (64, 64), [64, 64], "64X64"])
def test_a_size_is_a_number_or_two(size):
    assert TrainConfig(size=size).image_size == (64, 64)
    assert TrainConfig(size="48x64").image_size == (48, 64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latentdim": 3}, "unknown option 'latentdim': did you mean 'latent_dim'"),
        ({"latent_dim": 0}, "above 0"),
        ({"latent_dim": 2.5}, "latent_dim is 2.5: it must be a whole number"),
        ({"latent_dim": True}, "whole number"),
        ({"latent_dim": None}, "whole number"),
        ({"beta": -1}, "beta is -1: it must be 0 or more"),
        ({"beta": "much"}, "beta is 'much': it must be a number"),
        ({"beta": float("nan")}, "beta is nan: it must be a number"),
        ({"warmup": 1.0}, r"in \[0, 1\)"),
        ({"ema": 1.5}, r"in \[0, 1\)"),
        ({"grey": "yes"}, "true or false"),
        ({"recipe": 3}, "a text"),
        ({"binarisation": "dinamic"}, "unknown binarisation 'dinamic': did you mean 'dynamic'"),
        ({"device": "gpu"}, "unknown device 'gpu': "),
        ({"size": "big"}, "HEIGHTxWIDTH"),
        ({"size": 0}, "HEIGHTxWIDTH"),
        ({"sigma": 0.0}, "sigma is 0.0"),
    ],
)
def test_what_an_option_cannot_be(options, words):
    with pytest.raises(LatensError, match=words):
        TrainConfig.of(options)


def test_the_command_says_what_differs_from_the_defaults():
    config = TrainConfig(recipe="mlp", beta=2.0, grey=True, size=32)
    command = config.command("my images")
    assert shlex.split(command) == [
        "latens", "train", "my images", "--recipe", "mlp", "--beta", "2.0", "--size", "32x32",
        "--grey",
    ]  # fmt: skip


def test_a_configuration_survives_its_file():
    config = TrainConfig(latent_dim=7, size="48x64", minutes=0.5)
    assert TrainConfig.of(config.as_dict()) == config


def test_what_a_recipe_sets_gives_way_to_what_the_user_says(digits):
    told = {"beta": 2.0, "beta_warmup": 0.0}
    assert resolve(TrainConfig(recipe="beta"), digits).beta == 4
    assert resolve(TrainConfig(recipe="unet"), digits).beta_warmup == 0.1
    assert resolve(TrainConfig(recipe="conv"), digits).beta_warmup == 0
    assert resolve(TrainConfig(recipe="semi_supervised"), digits).label_weight == 20
    for recipe in ("beta", "unet"):
        config = resolve(TrainConfig(recipe=recipe, **told), digits)
        assert (config.beta, config.beta_warmup) == (2, 0)
