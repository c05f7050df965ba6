"""Pictures: arrays in, images and films out. Each picture is a PIL image, RGB."""

from latens.pictures.curves import (
    curves,
    curves_of,
    kl_over_training,
    kl_per_dim,
    kl_per_level,
    rate_distortion,
)
from latens.pictures.detection import roc_curves, score_histograms
from latens.pictures.films import read_frames, save_film
from latens.pictures.grids import (
    Sheet,
    error_map,
    framed,
    grid,
    in_colours,
    in_rgb,
    pairs,
    table,
    tile,
)
from latens.pictures.planes import histograms, latent_plane, plane_limits, turning
from latens.pictures.style import DPI, places_of_axes, save, svg

__all__ = [
    "DPI",
    "Sheet",
    "curves",
    "curves_of",
    "error_map",
    "framed",
    "grid",
    "histograms",
    "in_colours",
    "in_rgb",
    "kl_over_training",
    "kl_per_dim",
    "kl_per_level",
    "latent_plane",
    "pairs",
    "places_of_axes",
    "plane_limits",
    "rate_distortion",
    "read_frames",
    "roc_curves",
    "save",
    "save_film",
    "score_histograms",
    "svg",
    "table",
    "tile",
    "turning",
]
