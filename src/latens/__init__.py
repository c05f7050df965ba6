"""Latens: variational autoencoders on images, to see, to measure and to use.

>>> import latens
>>> run = latens.train("digits", recipe="mlp", latent_dim=2, epochs=30)  # doctest: +SKIP
>>> vae = latens.load(run.path)  # doctest: +SKIP

Everything is imported on first use: `import latens` alone costs almost nothing.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
