"""From class to class, and along attributes."""

from collections.abc import Iterator

import torch

from latens import pictures
from latens.analysis.generation import along_attribute
from latens.analysis.traversals import through_classes
from latens.evaluation.labels import LabelStatistics
from latens.report.context import Picture, ReportContext
from latens.report.sections.common import MOST_ROWS, count_of, same_size, signed

CLASS_STEPS = 8  # from one class to the next
MOST_CLASS_FRAMES = 400


def transition_pictures(context: ReportContext) -> Iterator[Picture]:
    """A film from class to class."""
    statistics = context.statistics
    if statistics is not None and statistics.exclusive and len(statistics.names) > 1:
        images, words = through_classes(context.vae, CLASS_STEPS)
        count = MOST_CLASS_FRAMES // (1 if context.conditional else CLASS_STEPS)
        more = count_of(min(count, len(statistics.names)), len(statistics.names), "classes")
        more = more or " and back"
        frames = [
            pictures.grid(image[None], context.title(word), least_side=280)
            for image, word in zip(images[:MOST_CLASS_FRAMES], words, strict=False)
        ]
        what = "straight lines between the centres of their densities in latent space"
        what = "z = 0 with each label in turn" if context.conditional else what
        yield Picture(
            "transitions",
            same_size(frames),
            "A film of an image that changes from class to class",
            f"From class to class{more}: {what}.",
            seconds=0.6 if context.conditional else 0.12,
            endless=True,
            steps=words[: len(frames)],
        )


def attribute_pictures(context: ReportContext) -> Iterator[Picture]:
    """A table of less and more of each attribute."""
    if context.statistics is not None and not context.statistics.exclusive:
        yield _attributes(context, context.statistics)


def _attributes(context: ReportContext, statistics: LabelStatistics) -> Picture:
    x = context.data.validation.take(slice(0, 1)).unit()
    direction = torch.tensor(statistics.direction).norm(dim=1)
    names = [statistics.names[i] for i in direction.argsort(descending=True)[:MOST_ROWS].tolist()]
    amounts = torch.linspace(-2, 2, 9)
    rows = [along_attribute(context.vae, x, name, amounts)[0] for name in names]
    columns = [signed(amount) for amount in amounts.tolist()]
    more = count_of(len(names), len(statistics.names), "attributes")
    title = context.title(f"attributes{more}")
    return Picture(
        "attributes",
        [pictures.table(torch.stack(rows), title, columns, names)],
        "Rows of one image with less and more of each attribute",
        "One validation image with less and more of each attribute: 0 is its reconstruction, 1 "
        f"adds the attribute's direction in latent space to z{more}.",
    )
