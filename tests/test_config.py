import inspect
import shlex

import numpy as np
import pytest
import yaml

from latens import LatensError, TrainConfig, catalogue
from latens.config import RENAMED, option_names, section_of
from latens.training.setup import prepare


@pytest.mark.parametrize("size", [64, "64", "64x64", (64, 64), [64, 64], "64X64"])
def test_a_size_is_a_number_or_two(size):
    assert TrainConfig.from_options(size=size).data.image_size == (64, 64)
    assert TrainConfig.from_options(size="48x64").data.image_size == (48, 64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latentdim": 3}, "unknown option 'latentdim': did you mean 'latent_dim'"),
        ({"latent_dim": 0}, "above 0"),
        ({"latent_dim": 2.5}, "latent_dim is 2.5: it must be a whole number"),
        ({"latent_dim": True}, "whole number"),
        ({"batch_size": True}, "whole number"),
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
        ({"hidden": "64,x"}, "hidden is 64,x: it must be widths above 0"),
        ({"hidden": []}, "hidden is"),
        ({"components": 5}, "components is an option of the prior mixture"),
        ({"components": 2.5, "prior": "mixture"}, "components is 2.5: it must be a whole number"),
        ({"prior": "mixtur"}, "unknown prior 'mixtur': did you mean 'mixture'"),
        ({"objective": "elbow"}, "unknown objective 'elbow': did you mean 'elbo'"),
    ],
)
def test_what_an_option_cannot_be(options, words):
    with pytest.raises(LatensError, match=words):
        TrainConfig.from_options(**options)


def test_the_command_says_what_differs_from_the_defaults():
    config = TrainConfig.from_options(recipe="mlp", beta=2, grey=True, size=32, hidden="8,4")
    assert shlex.split(config.command("my images")) == [
        "latens", "train", "my images", "--size", "32x32", "--grey", "--recipe", "mlp",
        "--hidden", "8,4", "--beta", "2.0",
    ]  # fmt: skip


def test_a_configuration_survives_its_file():
    options = {"latent_dim": 7, "size": "48x64", "minutes": 0.5, "objective": "iwae", "samples": 3}
    options |= {"prior": "mixture", "components": 9, "hidden": [8, 4], "scale": 0.5}
    config = TrainConfig.from_options(**options, likelihood="gaussian")
    assert TrainConfig.from_record(yaml.safe_load(yaml.safe_dump(config.as_dict()))) == config
    assert TrainConfig.from_options(**config.options()) == config


def test_the_sections_of_a_configuration_are_nested():
    config = TrainConfig.from_options(objective="iwae", samples=3, epochs=4, labels=5)
    assert (config.objective.name, config.objective.options) == ("iwae", {"samples": 3})
    assert (config.run.epochs, config.data.labels) == (4, 5)
    assert list(config.as_dict()) == ["data", "model", "objective", "optimiser", "run"]


def test_options_of_0_1_0_keep_their_meaning():
    config = TrainConfig.from_record({"sigma": 0.3, "likelihood": "gaussian", "hidden": "24"})
    assert config.model.options == {"scale": 0.3, "hidden": (24,)}


def test_an_option_of_a_part_means_one_thing():
    """Its name is no other option's, and belongs to one kind of part."""
    for name, owners in catalogue.part_options().items():
        assert name not in section_of, name
        assert name not in RENAMED, name
        assert len({choice.kind for choice, _ in owners}) == 1, name
        assert len({option.type for _, option in owners}) == 1, name
        assert all(option.help for _, option in owners), name
    assert len(option_names()) == len(set(option_names()))


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_what_is_read_off_the_source_is_what_the_class_takes(kind):
    for choice in catalogue.choices(kind).values():
        cls = choice.load()
        parameters = inspect.signature(cls).parameters
        for option in choice.options.values():
            assert parameters[option.name].default == option.default, (choice.name, option.name)
        assert choice.summary in " ".join((cls.__doc__ or "").split())


def test_what_a_recipe_sets_gives_way_to_what_the_user_says(digits):
    def resolved(**options):
        return prepare(digits, TrainConfig.from_options(channels=4, **options)).config.objective

    assert resolved(recipe="beta").options["beta"] == 4
    assert resolved(recipe="unet").beta_warmup == 0.1
    assert resolved(recipe="unet", objective="iwae").beta_warmup == 0
    assert resolved(recipe="conv").beta_warmup == 0
    assert resolved(recipe="semi_supervised").options["label_weight"] == 20
    for recipe in ("beta", "unet"):
        objective = resolved(recipe=recipe, beta=2.0, beta_warmup=0.0)
        assert (objective.options["beta"], objective.beta_warmup) == (2, 0)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """A loop over np.logspace gives such; YAML cannot write them."""
    given = {"learning_rate": np.float64(1e-3), "latent_dim": np.int64(4), "beta": np.float32(2)}
    config = TrainConfig.from_options(prior="mixture", components=np.int64(5), **given)
    assert yaml.safe_load(yaml.safe_dump(config.as_dict())) == config.as_dict()
    assert config.options()["beta"] == 2.0
