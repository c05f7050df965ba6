"""The estimator under scikit-learn's own checks, and in its pipelines and searches."""

import pickle

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from latens.errors import LatensError
from latens.sklearn import VAETransformer, value_range_of

SMALL = {"n_components": 2, "hidden": "16", "epochs": 1, "random_state": 0}


@parametrize_with_checks([VAETransformer(**SMALL, importance_samples=2)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="session")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture(scope="session")
def fitted(digits):
    return VAETransformer(n_components=8, hidden="128", epochs=40, random_state=0).fit(digits[0])


def test_latents_come_back_as_images(fitted, digits):
    x, _ = digits
    z = fitted.transform(x)
    again = fitted.inverse_transform(z)
    assert z.shape == (len(x), 8)
    assert fitted.image_shape_ == (1, 8, 8)
    assert fitted.value_range_ == (0, 16)
    assert ((again - x) ** 2).mean() < 0.5 * x.var(0).mean()  # the mean image has 1
    samples = fitted.sample(20)
    assert samples.shape == (20, 64)
    assert 0 <= samples.min() < 1
    assert 12 < samples.max() <= 16


def test_scores_tell_digits_from_noise(fitted, digits):
    x, _ = digits
    noise = np.random.default_rng(0).permuted(x[:100], axis=1)
    assert (fitted.score_samples(x[:100]) > fitted.score_samples(noise).max()).mean() > 0.9
    assert fitted.score(x[:100]) == pytest.approx(fitted.score_samples(x[:100]).mean())


def test_in_a_pipeline_and_a_search(digits):
    x, y = digits
    model = make_pipeline(VAETransformer(hidden="64", random_state=0), LogisticRegression())
    grid = {"vaetransformer__epochs": [1, 20], "vaetransformer__n_components": [8]}
    search = GridSearchCV(model, grid, cv=2).fit(x[:600], y[:600])
    assert search.best_params_["vaetransformer__epochs"] == 20
    assert search.best_score_ > 0.7
    alone = GridSearchCV(VAETransformer(hidden="64", random_state=0), {"epochs": [1, 20]}, cv=2)
    assert alone.fit(x[:600]).best_params_["epochs"] == 20  # by its own score


def test_columns_of_pandas(fitted, digits):
    named = clone(fitted).set_params(epochs=1).set_output(transform="pandas")
    table = named.fit_transform(pandas.DataFrame(digits[0]).add_prefix("pixel"))
    assert list(table.columns) == [f"vaetransformer{d}" for d in range(8)]


def test_a_pickle_is_the_same_model_and_holds_its_weights_as_safetensors(fitted, digits):
    content = pickle.dumps(fitted)
    again = pickle.loads(content)
    assert (again.transform(digits[0]) == fitted.transform(digits[0])).all()
    assert b"torch" not in content
    again.partial_fit(digits[0])  # it goes on


def test_partial_fit_goes_on(digits):
    x, _ = digits
    model = VAETransformer(n_components=8, hidden="128", random_state=0).partial_fit(x)
    first = model.score(x[:200])
    for _ in range(8):
        model.partial_fit(x)
    assert model.score(x[:200]) > first + 1


@pytest.mark.parametrize(
    "options",
    [{"posterior": "full", "prior": "mixture", "components": 3}, {"objective": "iwae"}],
)
def test_partial_fit_goes_on_with_any_options(options, digits):
    x, _ = digits
    model = VAETransformer(n_components=2, hidden="16", options=options, random_state=0)
    first = model.partial_fit(x).model_
    again = model.partial_fit(x).model_
    assert type(again.posterior) is type(first.posterior)
    assert again.embed(torch.zeros(1, 1, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize("shape", [(40, 6, 10), (40, 3, 8, 8)])
def test_images_say_their_shape(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    model = VAETransformer(**SMALL).fit(x)
    assert model.image_shape_[-2:] == shape[-2:]
    assert model.value_range_ == (0, 255)
    assert model.transform(x).shape == (40, 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3), (16, 8, 8)])
def test_images_of_several_channels_stay_what_they_are(shape):
    """A pattern in one channel comes back there, whichever axis the channels are on."""
    rng = np.random.default_rng(0)
    channels = np.zeros((200, min(shape), 8, 8) if 3 in shape else (200, *shape), np.float32)
    channels[:, 1, 2:6, :4] = rng.uniform(0.5, 1, (200, 1, 1))
    x = channels.transpose(0, 2, 3, 1) if shape[-1] == 3 else channels
    model = VAETransformer(n_components=2, hidden="64", epochs=60, random_state=0).fit(x)
    assert model.image_shape_ == model.model_.image_shape == channels.shape[1:]
    again = model.inverse_transform(model.transform(x)).reshape(channels.shape)
    assert np.mean((again - channels) ** 2) < 0.2 * channels.var()


@pytest.mark.parametrize("option", ["epochs", "seed", "size", "range", "binarisation"])
def test_options_that_others_decide_are_refused(option, digits):
    with pytest.raises(LatensError, match=f"{option} is no option here"):
        VAETransformer(**SMALL | {"options": {option: 3}}).fit(digits[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (5, 5)}, "image_shape is"),
        ({"value_range": (1.0, 1.0)}, "black must be below white"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0: it must be between 0 and 1"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"recipe": "gan"}, "unknown recipe"),
        ({"options": {"posterior": "none"}}, "unknown posterior"),
    ],
)
def test_what_cannot_be_is_a_value_error(options, message, digits):
    with pytest.raises(LatensError, match=message):
        VAETransformer(**SMALL | options).fit(digits[0])


def test_numbers_that_cannot_be(fitted, digits):
    with pytest.raises(LatensError, match="n_samples is -1"):
        fitted.sample(-1)
    none = clone(fitted).set_params(importance_samples=0)
    none.__dict__ |= {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    with pytest.raises(LatensError, match="importance_samples is 0"):
        none.score_samples(digits[0][:2])


def test_whole_numbers_of_0_and_1_are_black_and_white():
    bits = np.array([[0, 1, 1], [1, 0, 0]])
    assert value_range_of(bits * 1.0, bits.dtype, None) == (0, 1)
    assert value_range_of(bits * 2.0, bits.dtype, None) == (0, 255)


@pytest.mark.parametrize(
    ("options", "dims"),
    [
        ({"recipe": "ladder", "options": {"levels": "2x1,4x1", "channels": 4}}, 4),
        ({"recipe": "conv", "options": {"latent_map": 2, "channels": 4, "features": 8}}, 32),
    ],
)
def test_what_decides_on_the_dimensions_itself(options, dims, digits):
    images = digits[0][:60].reshape(-1, 8, 8)
    fitted = VAETransformer(epochs=1, random_state=0, **options).fit(images)
    assert fitted.transform(images[:3]).shape == (3, dims)
