"""Analysis: what a trained model can be asked, as arrays."""

from latens.analysis.feature_maps import feature_maps
from latens.analysis.generation import (
    Samples,
    along_attribute,
    draw,
    likeliest_condition,
    towards_class,
)
from latens.analysis.projections import Embedded, Plane, embedded
from latens.analysis.traversals import lattice, manifold, through_classes, traversals

__all__ = [
    "Embedded",
    "Plane",
    "Samples",
    "along_attribute",
    "draw",
    "embedded",
    "feature_maps",
    "lattice",
    "likeliest_condition",
    "manifold",
    "through_classes",
    "towards_class",
    "traversals",
]
