"""Train a VAE on a folder of one's own images, and use it.

    python examples/own_images.py my-photos --epochs 20

Images of any size will do, in sub-folders too: they are brought to one size. The run directory,
which latens chooses, gets features.npy (the mean of q(z|x), a row for each image that can be read,
in the order of their paths) and samples.png (new images); the least likely images are printed. The
score of an image is −ELBO, an upper bound on −log p(x) in nats per image: the larger, the stranger.
Of photographs it is that of 8-bit values.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import latens
from latens.data import Target, decode, find_images

LATENT_DIM, CHANNELS = 8, 16
LEAST_LIKELY, SAMPLES, AT_ONCE = 5, 64, 100


def explore(folder: Path, epochs: int) -> None:
    """Train on the folder, then embed, score and draw; print what was found and written."""
    paths = find_images(folder)
    run = latens.train(folder, latent_dim=LATENT_DIM, channels=CHANNELS, epochs=epochs)
    vae = latens.load(run.path)
    torch.manual_seed(0)
    paths, images = read(vae, paths)
    features, scores = embed_and_score(vae, images)
    for i in scores.argsort(descending=True)[:LEAST_LIKELY].tolist():
        print(f"{scores[i]:10.1f} nats per image  {paths[i]}")
    np.save(run.path / "features.npy", features.numpy())
    samples = latens.pictures.grid(vae.sample(SAMPLES), f"samples · {run.title}")
    latens.pictures.save(run.path / "samples.png", samples)
    print(run.path / "features.npy", run.path / "samples.png", run.path / "report.html", sep="\n")


def read(vae: latens.LatentModel, paths: list[Path]) -> tuple[list[Path], latens.Images]:
    """The files that can be read, brought to the size and the channels of the VAE's training."""
    channels, height, width = vae.image_shape
    pixels, bad = decode(paths, Target((height, width), channels))
    good = np.delete(np.arange(len(paths)), bad)
    return [paths[i] for i in good], latens.Images(torch.from_numpy(pixels[good]))


@torch.no_grad()
def embed_and_score(
    vae: latens.LatentModel, images: latens.Images
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of q(z|x) of each image `[N, D]`, and its −ELBO in nats `[N]`."""
    draws = [vae.draw(batch.unit(), samples=10) for batch in images.batches(AT_ONCE)]
    scores = [draw.kl - draw.log_px_z.mean(0) for draw in draws]
    return torch.cat([draw.latents[0].q.mean for draw in draws]), torch.cat(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a VAE on a folder of images, and use it.")
    parser.add_argument("folder", type=Path, help="images; sub-folders are looked into")
    parser.add_argument("--epochs", type=int, default=20, help="passes over them (20)")
    options = parser.parse_args()
    try:
        explore(options.folder.absolute(), options.epochs)
    except latens.LatensError as error:
        print(f"own_images: {error}", file=sys.stderr)
        sys.exit(2)
