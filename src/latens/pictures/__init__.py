"""Pictures: arrays in, PNG files out."""

from latens.pictures.curves import save_curves, save_kl_per_dim
from latens.pictures.grids import save_grid, save_pairs, save_rows
from latens.pictures.style import DPI

__all__ = ["DPI", "save_curves", "save_grid", "save_kl_per_dim", "save_pairs", "save_rows"]
