"""Pictures: arrays in, images and films out. Each picture is a PIL image, RGB.

A module is imported with the first of its names: grids of images need no matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
