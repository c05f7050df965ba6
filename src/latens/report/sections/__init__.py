"""Every picture and film of a run: what there is to see, in which order, and what to look for."""

from latens.report.context import Section
from latens.report.sections.curves import training_curves
from latens.report.sections.films import feature_map_films, training_films
from latens.report.sections.latent_space import latent_space
from latens.report.sections.manifolds import manifolds
from latens.report.sections.reconstructions import interpolations, reconstructions
from latens.report.sections.samples import samples
from latens.report.sections.transitions import transitions
from latens.report.sections.traversals import latent_traversals

SECTIONS = (
    Section(
        "Reconstructions",
        "Look for strokes, colours and faces that survive; a bad model shows the same average "
        "image everywhere. If validation images look much worse than training ones, the model "
        "overfits.",
        reconstructions,
    ),
    Section(
        "Samples",
        "Good ones could pass for data and differ from each other; blurred mixtures mean that "
        "the aggregated posterior is far from the prior.",
        samples,
    ),
    Section(
        "Latent space",
        "Points should fill the circles of the prior, each class as a cloud of its own (of a "
        "conditional model all classes alike); points far outside are places that samples never "
        "reach, and holes inside are samples that look like nothing. "
        "Histograms should follow the curve: elsewhere the prior draws what no image is. One that "
        "follows it perfectly may hold nothing at all; the bars of the KL tell.",
        latent_space,
    ),
    Section(
        "Manifold",
        "Neighbours should differ little, and every place show an image that could be real; "
        "large areas of the same blur are room that the model does not use.",
        manifolds,
    ),
    Section(
        "Interpolations",
        "The way between two images should lead over images that could be real; two images laid "
        "over each other in the middle are the sign of a latent space with holes.",
        interpolations,
    ),
    Section(
        "From class to class",
        "Each class should be plainly itself at its own place, and the way between short.",
        transitions,
    ),
    Section(
        "Traversals",
        "Each row should change in one way that has a name, such as slant or width; rows in "
        "which nothing changes are latent dimensions that are not used.",
        latent_traversals,
    ),
    Section(
        "Curves",
        "Validation that turns up while training goes down is overfitting; a KL that falls to "
        "zero is posterior collapse.",
        training_curves,
    ),
    Section(
        "Films of the training",
        "Images should come from blur to detail, and clouds part early; where frames no longer "
        "change, more epochs are in vain. Epoch 0 is the model before its first step.",
        training_films,
    ),
    Section(
        "Inside the networks",
        "The outputs of every convolution for the first validation image, dark the lowest and "
        "bright the highest of each frame: early layers should keep edges and strokes; channels "
        "that stay dark do nothing.",
        feature_map_films,
    ),
)
