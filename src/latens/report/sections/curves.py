"""Curves of the training, and the KL of each latent dimension."""

from collections.abc import Iterator

import numpy as np

from latens import pictures
from latens.pictures.curves import MOST_DIMS
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import TRAINING
from latens.run.directory import best_row

BEFORE = " All of it is of the prior that a mixture has replaced after the training."


def training_curves(context: ReportContext) -> Iterator[Picture]:
    """The terms of the loss over the epochs, and the KL of each latent dimension."""
    image = pictures.learning_curves(context.rows, context.title("training"))
    first = "β" if all("beta" in row for row in context.rows) else "gradient norm"
    yield Picture(
        "curves",
        [image],
        f"Loss, reconstruction, KL, {first}, learning rate and active units over the epochs",
        f"The loss is {_loss_in_words(context)}, in nats per image: blue on training images "
        "during each epoch, orange on validation images with averaged weights."
        + BEFORE
        * context.prior_was_replaced,
        about={"group": TRAINING, "cursors": pictures.places_of_axes(image)},
    )
    per_dim = best_row(context.rows)["validation"]["kl_per_dim"]
    if not per_dim or context.prior_was_replaced:
        return
    names = context.dim_names if len(per_dim) == context.dims else ()  # or of several levels
    which = (
        f" Shown are the {MOST_DIMS} of {len(per_dim):,} with the largest KL."
        if len(per_dim) > MOST_DIMS
        else ""
    )
    of = " of the topmost level" if context.run.levels > 1 else ""
    yield Picture(
        "kl-per-dim",
        [pictures.kl_per_dim(per_dim, context.title("KL of each latent dimension"), names)],
        "Bars: the KL of each latent dimension, largest first",
        f"KL(q(z|x) ‖ p(z)) of each latent dimension{of} on validation images: near zero, the "
        f"dimension is inactive.{which}",
    )
    if len(context.rows) > 1:
        values = np.array([row["validation"]["kl_per_dim"] for row in context.rows])
        epochs = [row["epoch"] for row in context.rows]
        title = context.title("KL of each latent dimension over the training")
        yield Picture(
            "kl-over-training",
            [pictures.kl_over_training(epochs, values, title, names)],
            "A heat map of the KL of each latent dimension over the epochs",
            f"When each latent dimension{of} became active, on validation images.{which}",
        )


def _loss_in_words(context: ReportContext) -> str:
    objective = context.run.config.objective
    if objective.name != "elbo":
        return f"that of the objective {context.run.objective}"
    options = objective.options
    words = f"reconstruction + β · KL, with β {context.run.beta}"
    for name, of in (("free_bits", "dimension"), ("level_free_bits", "level")):
        if options.get(name):
            words += f" and {options[name]:g} nats free per {of}"
    if weight := options.get("label_weight"):
        words += f", + {weight:g} · −log p(y|z) of images with a label"
    return words
