"""Latents brought to two dimensions that keep neighbours together: t-SNE and UMAP.

Importing scikit-learn holds Python's lock for over a second, and t-SNE takes as long again, so a
page has them made in a process of its own: `python -m latens.neighbour_maps tsne < z.npy >
points.npy`. Hence nothing is imported here that such a process need not wait for.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from latens.errors import LatensError, unknown

PROJECTIONS = ("pca", "tsne", "umap")
LEAST_PROJECTED = 4
# Of t-SNE: on 1,000 latents of MNIST at 20 dims as trustworthy (0.980) as the usual 1,000
STEPS = 500


def neighbour_map(z: Float[np.ndarray, "N D"], how: str) -> Float[np.ndarray, "N 2"]:
    """Latents by t-SNE or UMAP.

    Van der Maaten & Hinton 2008, "Visualizing Data using t-SNE"; McInnes et al. 2018, "UMAP".

    Args:
        how: "tsne" or "umap", which needs the package umap-learn.

    Raises:
        LatensError: another name, a package that is missing, or fewer than four latents.
    """
    method = projection_of(how)
    if len(z) < LEAST_PROJECTED:
        raise LatensError(f"{how} needs at least {LEAST_PROJECTED} images, and here are {len(z)}")
    tsne = {"perplexity": min(30.0, (len(z) - 1) / 3), "max_iter": STEPS}
    own = tsne if how == "tsne" else {"n_jobs": 1}
    return np.asarray(method(random_state=0, **own).fit_transform(z), dtype=np.float64)


def neighbour_maps_apart(
    z: Float[np.ndarray, "N D"], ways: Sequence[str]
) -> dict[str, Float[np.ndarray, "N 2"]]:
    """The same in a process of its own, unless scikit-learn is imported here already.

    Raises:
        LatensError: as `neighbour_map`.
    """
    if "sklearn" not in sys.modules:
        sent = io.BytesIO()
        np.save(sent, z)
        # -P: nothing is imported from the folder in which it is called
        command = [sys.executable, "-P", "-m", "latens.neighbour_maps", *ways]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the others are for the drawing
        try:
            done = subprocess.run(  # noqa: S603 - ours
                command, input=sent.getvalue(), capture_output=True, check=True, env=one_thread
            )
            return dict(zip(ways, np.load(io.BytesIO(done.stdout)), strict=True))
        except (OSError, subprocess.CalledProcessError) as error:
            from latens.console import note  # the process of its own need not wait for it

            note(f"{' and '.join(ways)} here, for a process of its own is not available: {error}")
    return {how: neighbour_map(z, how) for how in ways}


def projection_of(how: str) -> Callable[..., Any]:
    """The estimator that `neighbour_map` fits, by its name.

    Raises:
        LatensError: another name, or a package that is missing.
    """
    if how == "tsne":
        from sklearn.manifold import TSNE

        return TSNE
    if how != "umap":
        raise unknown("projection", how, PROJECTIONS)
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LatensError(
            "the projection umap needs the package umap-learn: install it, or take tsne"
        ) from None
    return UMAP


if __name__ == "__main__":
    latents = np.load(io.BytesIO(sys.stdin.buffer.read()))  # a pipe cannot be sought in
    np.save(sys.stdout.buffer, np.stack([neighbour_map(latents, how) for how in sys.argv[1:]]))
