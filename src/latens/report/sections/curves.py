"""Curves of the training, and the KL of each latent dimension."""

from collections.abc import Iterator

import numpy as np

from latens import pictures
from latens.report.context import Picture, ReportContext
from latens.run.directory import best_row


def training_curves(context: ReportContext) -> Iterator[Picture]:
    """The terms of the loss over the epochs, and the KL of each latent dimension."""
    yield Picture(
        "curves",
        [pictures.curves(context.rows, context.title("training"))],
        "Loss, reconstruction, KL, β, learning rate and active units over the epochs",
        f"The loss is {_loss_in_words(context)}, in nats per image: blue on training images as "
        "they are learned from, orange on validation images with averaged weights.",
    )
    per_dim = best_row(context.rows)["validation"]["kl_per_dim"]
    if not per_dim:
        return
    yield Picture(
        "kl-per-dim",
        [pictures.kl_per_dim(per_dim, context.title("KL of each latent dimension"))],
        "Bars: the KL of each latent dimension, largest first",
        "The information in each latent dimension about a validation image. Near zero: not used.",
    )
    if len(context.rows) > 1:
        values = np.array([row["validation"]["kl_per_dim"] for row in context.rows])
        epochs = [row["epoch"] for row in context.rows]
        title = context.title("KL of each latent dimension over the training")
        yield Picture(
            "kl-over-training",
            [pictures.kl_over_training(epochs, values, title)],
            "A heat map of the KL of each latent dimension over the epochs",
            "When each latent dimension came into use, on validation images.",
        )


def _loss_in_words(context: ReportContext) -> str:
    objective = context.run.config.objective
    if objective.name != "elbo":
        return f"that of the objective {context.run.objective}"
    bits = objective.options.get("free_bits")
    free = f" and {bits:g} nats free per dimension" if bits else ""
    return f"reconstruction + β · KL, with β {context.run.beta}{free}"
