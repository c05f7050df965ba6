"""A VAE as a scikit-learn estimator: in a `Pipeline`, a `GridSearchCV`, with pandas columns.

>>> from latens.sklearn import VAETransformer
>>> from sklearn.datasets import load_digits
>>> z = VAETransformer(n_components=2, epochs=5).fit_transform(load_digits().data)  # doctest: +SKIP
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latens import api
from latens.config import section_of
from latens.console import silent
from latens.data import FEWEST_IMAGES, Images
from latens.data.arrays import GREY_OR_RGB
from latens.errors import LatensError
from latens.evaluation.scores import image_scores
from latens.model import recipes
from latens.model.latent_model import LatentModel
from latens.model.noise import forked_rng
from latens.model.parts import from_config, to_config
from latens.training.devices import available_device, resolve_device
from latens.training.setup import decided_by_model

IMAGES_AT_ONCE = 1_000
MODEL = "model_"

Rows = Float[np.ndarray, "N F"]


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Latents of images by a variational autoencoder, as `sklearn.decomposition.PCA` gives them.

    X is a table of an image a row, its pixels channel by channel, or images `[N, H, W]`,
    `[N, C, H, W]`, or `[N, H, W, C]` where C is 1 or 3 and H is neither. Pixels are kept in 8 bits
    while the model learns. Values outside of `value_range` are clipped to it.

    Args:
        n_components: D, the number of latent dimensions; ignored where the recipe is ladder or
            options have a latent_map, which decide it.
        recipe: of the model, such as mlp or conv; see `latens recipes`.
        likelihood: of the pixels.
        beta: weight of the KL; None: that of the objective, 1 for the ELBO.
        epochs: passes over the images; None as `latens train` chooses.
        batch_size, learning_rate: None: as `latens train` chooses.
        hidden: widths of the layers of the recipe mlp, such as "512,256"; None: its own.
        options: further options of `latens train` for the model, the objective and the optimiser,
            such as `{"posterior": "iaf"}`.
        image_shape: (C, H, W) or (H, W) of a row; None: a square of grey pixels, else of three
            channels, else one line.
        value_range: of the pixels, black and white; None: 0 and 1 or 0 and 255 where all values
            lie between these and X is of floats or of integers, else the least and the largest.
        validation_fraction: of the images, by which the weights to keep are chosen; of a dozen
            images none is held out.
        importance_samples: K of `score_samples`.
        device: where to compute.
        random_state: of weights, batches and noise.
        verbose: whether the training prints its progress on stderr.

    Attributes:
        model_: the `latens.LatentModel`.
        image_shape_: (C, H, W).
        value_range_: black and white.
        n_features_in_, feature_names_in_: of X.
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        recipe: str = "mlp",
        likelihood: str = "auto",
        beta: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        hidden: str | None = None,
        options: Mapping[str, Any] | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        validation_fraction: float = 0.1,
        importance_samples: int = 100,
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.n_components = n_components
        self.recipe = recipe
        self.likelihood = likelihood
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.hidden = hidden
        self.options = options
        self.image_shape = image_shape
        self.value_range = value_range
        self.validation_fraction = validation_fraction
        self.importance_samples = importance_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ---- learning ----------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> "VAETransformer":  # noqa: N803 - scikit-learn's name
        """Train a new model on the images of X; y is not used.

        Raises:
            LatensError (a ValueError): fewer than 10 images, or options that cannot be used.
        """
        rows = self._begin(X)
        self._train(rows, self.epochs, None)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "VAETransformer":  # noqa: N803
        """Go on with the model, or begin one, by one pass over the images of X.

        The value range is that of the first call.

        Raises:
            LatensError (a ValueError): as in `fit`.
        """
        if not hasattr(self, MODEL):
            self._train(self._begin(X), 1, None)
            return self
        rows = self._checked(X, ensure_min_samples=FEWEST_IMAGES)
        self._train(rows, 1, self.model_)
        return self

    def _begin(self, images: Any) -> Rows:
        if self.n_components < 1:
            raise LatensError(f"n_components is {self.n_components}: it must be 1 or more")
        if not 0 < self.validation_fraction < 1:
            raise LatensError(
                f"validation_fraction is {self.validation_fraction}: it must be between 0 and 1"
            )
        rows = self._checked(images, reset=True, ensure_min_samples=FEWEST_IMAGES)
        for name in self.options or {}:
            if section_of.get(name, ("",))[0] in ("data", "run"):
                raise LatensError(
                    f"{name} is no option here: X, value_range, validation_fraction, epochs, "
                    "device and random_state decide on it"
                )
        shape = _channels_first(images).shape if len(getattr(images, "shape", ())) > 2 else ()
        given = shape[1:] if shape else self.image_shape
        self.image_shape_ = image_shape_of(rows.shape[1], given)
        self.value_range_ = value_range_of(rows, np.asarray(images).dtype, self.value_range)
        return rows

    def _train(self, rows: Rows, epochs: int | None, model: LatentModel | None) -> None:
        generator = check_random_state(self.random_state)
        images = self._unit(rows)[torch.from_numpy(generator.permutation(len(rows)))]
        held = max(1, round(self.validation_fraction * len(images)))
        if len(images) - held < FEWEST_IMAGES:  # too few to hold any out
            held_out = train = images
        else:
            held_out, train = images[:held], images[held:]
        data = {"train": train, "validation": held_out, "test": held_out}
        options: dict[str, Any] = {"learning_rate": self.learning_rate, "beta": self.beta}
        options["batch_size"] = self.batch_size
        if model is None:
            decided = self.recipe == recipes.LADDER or "latent_map" in (self.options or {})
            options |= {"recipe": self.recipe}
            options |= {"latent_dim": None if decided else self.n_components}
            options |= {"hidden": self.hidden, "likelihood": self.likelihood}
        options = {name: value for name, value in options.items() if value is not None}
        options |= self.options or {}
        if model is not None:  # what decided on the model when it was made
            options = {name: options[name] for name in options.keys() - decided_by_model()}
        with tempfile.TemporaryDirectory() as folder, silent(not self.verbose):
            run = api.train(
                {split: Images((255 * part).round().byte()) for split, part in data.items()},
                model=model,
                out=Path(folder) / "run",
                epochs=epochs,
                device=self.device,
                seed=int(generator.randint(2**31 - 1)),
                report=False,
                film=False,
                **options,
            )
            self.model_ = run.vae.to(resolve_device(self.device))
        self._n_features_out = math.prod(self.model_.latent_shape)

    # ---- using -------------------------------------------------------------------------------

    def transform(self, X: Any) -> Rows:  # noqa: N803
        """The mean of q(z|x) of each image, `[N, D]`."""
        check_is_fitted(self, MODEL)
        return self._in_blocks(self._unit(self._checked(X)), self.model_.embed)

    def inverse_transform(self, X: Any) -> Rows:  # noqa: N803
        """The mean of p(x|z) for each row of z `[N, D]`, in the units of the images, `[N, F]`.

        Raises:
            LatensError (a ValueError): rows of another length.
        """
        check_is_fitted(self, MODEL)
        z = torch.as_tensor(np.asarray(X, np.float32))
        if z.dim() != 2 or z.shape[1] != self._n_features_out:
            raise LatensError(f"latents are rows of {self._n_features_out}, not {tuple(z.shape)}")
        z = z.unflatten(1, self.model_.latent_shape)
        return self._scaled(self._in_blocks(z, self.model_.decode_images))

    def sample(self, n_samples: int = 1) -> Rows:
        """New images, decoded from z ~ p(z), in the units of the images, `[n_samples, F]`."""
        check_is_fitted(self, MODEL)
        if n_samples < 1:
            raise LatensError(f"n_samples is {n_samples}: it must be 1 or more")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with forked_rng(self.model_.device, seed):
            images = self.model_.sample(n_samples)
        return self._scaled(images.flatten(1).cpu().numpy())

    def score_samples(self, X: Any) -> Float[np.ndarray, " N"]:  # noqa: N803
        """An estimate of log p(x) of each image in nats, by importance sampling.

        On average it is a lower bound that rises with K (Burda et al. 2016). Of a Bernoulli on
        grey levels it is no density; see `docs/evaluation.md`.
        """
        check_is_fitted(self, MODEL)
        if self.importance_samples < 1:
            raise LatensError(
                f"importance_samples is {self.importance_samples}: it must be 1 or more"
            )
        x = self._unit(self._checked(X))
        scores = image_scores(self.model_, x, ["nll"], importance_samples=self.importance_samples)
        return -scores["nll"].numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean of `score_samples`: the larger, the better."""
        return float(self.score_samples(X).mean())

    # ---- arrays to images and back -----------------------------------------------------------

    def _checked(self, images: Any, reset: bool = False, **options: Any) -> Rows:
        """X as a table of numbers that scikit-learn has looked at."""
        if len(getattr(images, "shape", ())) in (3, 4):
            images = _channels_first(images)
            images = images.reshape(len(images), -1)
        kinds = [np.float64, np.float32]
        return cast("Rows", validate_data(self, images, reset=reset, dtype=kinds, **options))

    def _unit(self, rows: Rows) -> Float[Tensor, "N C H W"]:
        low, high = self.value_range_
        unit = ((rows - low) / (high - low)).clip(0, 1)
        return torch.from_numpy(unit.astype(np.float32)).unflatten(1, self.image_shape_)

    def _scaled(self, rows: Rows) -> Rows:
        low, high = self.value_range_
        return low + (high - low) * rows

    def _in_blocks(self, rows: Tensor, function: Callable[[Tensor], Tensor]) -> Rows:
        device = self.model_.device
        parts = [function(part.to(device)).flatten(1) for part in rows.split(IMAGES_AT_ONCE)]
        return torch.cat(parts).cpu().numpy()

    # ---- pickling ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(cast("dict[str, Any]", super().__getstate__()))
        if MODEL in state:
            model = state.pop(MODEL)
            state["_config"] = json.dumps(to_config(model))
            state["_weights"] = safetensors.torch.save(model.state_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        config, weights = state.pop("_config", None), state.pop("_weights", b"")
        super().__setstate__(state)
        if config is not None:
            model = cast("LatentModel", from_config(json.loads(config)))
            model.load_state_dict(safetensors.torch.load(weights))
            model.is_fresh = False
            self.model_ = model.eval().to(available_device(self.device))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _channels_first(images: Any) -> np.ndarray:
    """Images `[N, H, W]`, or `[N, C, H, W]` also of those whose channels come last."""
    array = np.asarray(images)
    if array.ndim == 4 and array.shape[3] in GREY_OR_RGB and array.shape[1] not in GREY_OR_RGB:
        return array.transpose(0, 3, 1, 2)
    return array


def image_shape_of(features: int, given: tuple[int, ...] | None) -> tuple[int, int, int]:
    """(C, H, W) of images of so many values.

    Raises:
        LatensError: a shape of another number of values.
    """
    if given is not None:
        shape = (1,) * (3 - len(given)) + tuple(given)
        if len(shape) != 3 or math.prod(shape) != features:
            raise LatensError(f"image_shape is {tuple(given)}, and X has {features} features")
        return shape[0], shape[1], shape[2]
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features:
            return channels, side, side
    return 1, 1, features


def value_range_of(
    rows: Rows, dtype: np.dtype, given: tuple[float, float] | None
) -> tuple[float, float]:
    """Black and white of these images.

    Raises:
        LatensError: a range without width.
    """
    low, high = float(rows.min()), float(rows.max())
    if given is not None:
        low, high = map(float, given)
        if not low < high:
            raise LatensError(f"value_range is {tuple(given)}: black must be below white")
    elif dtype.kind in "ui" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0 if high > 1 else 1.0  # whole numbers of 0 and 1 are bits
    elif dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        high = low + 1.0
    return low, high
