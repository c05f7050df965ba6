"""The sections of a report in their order: what each draws, and what to look for in it."""

from latens.report.context import Section
from latens.report.sections.curves import training_curves
from latens.report.sections.films import feature_map_films, training_films
from latens.report.sections.findings import latent_space_finding, reconstruction_finding
from latens.report.sections.latent_space import latent_space_pictures
from latens.report.sections.levels import level_pictures
from latens.report.sections.manifolds import manifold_pictures
from latens.report.sections.reconstructions import interpolations, reconstruction_pictures
from latens.report.sections.samples import sample_pictures
from latens.report.sections.transitions import attribute_pictures, transition_pictures
from latens.report.sections.traversals import latent_traversals
from latens.report.sections.worst_cases import costliest, worst_cases

SECTIONS = (
    Section(
        "Reconstructions",
        "Good reconstructions keep the details that matter, such as strokes, colours and faces. "
        "Posterior collapse shows as the same average image everywhere; validation images much "
        "worse than training images show overfitting.",
        reconstruction_pictures,
        reconstruction_finding,
    ),
    Section(
        "Levels",
        "Upper levels should settle what the image is, lower ones its details. A level whose KL is "
        "near zero is not used; where the topmost ones are unused, the hierarchy is shallower than "
        "it looks.",
        level_pictures,
    ),
    Section(
        "Samples",
        "Good samples look like data and differ from each other. Mixtures of several classes, or "
        "samples much worse than the reconstructions, mean that the aggregated posterior is far "
        "from the prior.",
        sample_pictures,
    ),
    Section(
        "Latent space",
        "The aggregated posterior should match the prior: points should fill its contours, each "
        "class as a cluster of its own (of a conditional model all classes alike). Samples never "
        "reach points far outside, and from holes inside they look like no image. Histograms "
        "should follow the prior's density; a dimension that follows it exactly may carry no "
        "information, which its KL shows.",
        latent_space_pictures,
        latent_space_finding,
    ),
    Section(
        "Manifold",
        "Neighbours should differ little, and every point should decode to a plausible image; "
        "large areas of the same blur are regions without data.",
        manifold_pictures,
    ),
    Section(
        "Interpolations",
        "All images between two ends should be plausible; two images superimposed in the middle "
        "are a sign of holes in the aggregated posterior.",
        interpolations,
    ),
    Section(
        "From class to class",
        "The image at the centre of each class should be recognisable as that class, and what is "
        "not of the class, such as slant or width, should change little between them.",
        transition_pictures,
    ),
    Section(
        "Attributes",
        "Each row should change its attribute and leave the rest of the image as it is; far from 0 "
        "images leave what the model was trained on.",
        attribute_pictures,
    ),
    Section(
        "Traversals",
        "In a disentangled representation each row changes one factor of variation, such as "
        "slant or width. Rows in which nothing changes are inactive latent dimensions.",
        latent_traversals,
    ),
    Section(
        "Worst cases",
        "Where a model fails says more than its average. Costly images should be unusual ones; "
        "confident mistakes are often images that people read in two ways; an empty place of the "
        "prior is where samples look like nothing.",
        worst_cases,
        costliest,
    ),
    Section(
        "Curves",
        "A validation loss that rises while the training loss falls is overfitting; a KL that "
        "falls to zero is posterior collapse.",
        training_curves,
    ),
    Section(
        "Films of the training",
        "Reconstructions should go from blur to detail, and clusters separate early; once frames "
        "no longer change, further epochs bring little. Epoch 0 is the untrained model.",
        training_films,
    ),
    Section(
        "Inside the networks",
        "Feature maps of every convolution for one validation image, red above zero and blue "
        "below. Early layers should keep edges and strokes; "
        "channels that stay uniform are inactive.",
        feature_map_films,
    ),
)
