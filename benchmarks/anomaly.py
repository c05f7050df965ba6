"""Anomaly detection: a digit that a model of the nine others has not seen, clothes among digits.

`python benchmarks/anomaly.py [TASK ...]`: AUROC by each score of latens, beside a VAE of pyod with
its own defaults and a PCA of scikit-learn with as many dimensions. One model and its scores for all
tasks; the score displacement was devised on four of the digits.
"""

import argparse
import json
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import latens
from latens.data import Images, load_data
from latens.evaluation.scores import QUICK, displacement, image_scores, typical_elbo

LATENT_DIM, EPOCHS = 10, 20
RESULT = Path(__file__).with_name("anomaly.json")


def without(digit: int) -> tuple[Images, Images, np.ndarray]:
    """Training images of the nine other digits; all test images, and which are of this one."""
    mnist = load_data("mnist")
    every, labels = train_images("mnist"), mnist.split("all").labels
    assert labels is not None
    assert mnist.test.labels is not None
    others = (labels[: len(every)] != digit).nonzero().flatten()
    return every.take(others), mnist.test, (mnist.test.labels == digit).numpy()


def between(good: str, bad: str) -> tuple[Images, Images, np.ndarray]:
    """Training images of one data set; the test images of both, and which are of the other."""
    both = [load_data(name).test.pixels for name in (good, bad)]
    is_bad = np.repeat([False, True], [len(pixels) for pixels in both])
    return train_images(good), Images(torch.cat(both)), is_bad


def train_images(name: str) -> Images:
    """The 60,000, validation images included."""
    return Images(load_data(name).split("all").pixels[:60_000])


TASKS = {str(digit): partial(without, digit) for digit in range(10)}
# Fashion-MNIST's files; Debian's package dataset-fashion-mnist brings some, gzipped anew
CLOTHES = os.environ.get("FASHION_MNIST", "fashion-mnist")
TASKS |= {
    "digits among clothes": partial(between, CLOTHES, "mnist"),
    "clothes among digits": partial(between, "mnist", CLOTHES),
}


def by_latens(train: Images, test: Images) -> dict[str, np.ndarray]:
    """Every score that is quick."""
    out = Path(tempfile.mkdtemp()) / "run"
    options = {"recipe": "mlp", "latent_dim": LATENT_DIM, "epochs": EPOCHS, "validation": 1_000}
    run = latens.train(train.pixels.numpy(), out=out, report=False, film=False, **options)
    typical = typical_elbo(run.vae, train)
    found = image_scores(run.vae, Images(test.pixels), QUICK, typical)
    return {f"latens {name}": values.numpy() for name, values in found.items()}


def by_pca(train: Images, test: Images) -> dict[str, np.ndarray]:
    """The squared error of the projection; and displacement, which is no invention of VAEs."""
    rows, x = (images.unit().flatten(1).numpy() for images in (train, test))
    pca = PCA(LATENT_DIM, random_state=0).fit(rows)
    again = pca.inverse_transform(pca.transform(x))
    as_images = [test.unit().new_tensor(each).reshape(-1, *test.shape) for each in (x, again)]
    return {
        "PCA error": ((x - again) ** 2).sum(1),
        "PCA displacement": displacement(*as_images).numpy(),
    }


def by_pyod(train: Images, test: Images) -> dict[str, np.ndarray]:
    """Its VAE as it comes: 2 latents, 30 epochs, and its score."""
    from pyod.models.vae import VAE

    rows, x = (images.unit().flatten(1).numpy() for images in (train, test))
    return {"pyod VAE": VAE(verbose=0).fit(rows).decision_function(x)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Find images of a kind that was left out.")
    parser.add_argument("task", nargs="*", help=f"none: all of {', '.join(TASKS)}")
    warnings.simplefilter("ignore")
    found = {}
    for task in parser.parse_args().task or TASKS:
        train, test, is_bad = TASKS[task]()
        scores = by_latens(train, test) | by_pca(train, test) | by_pyod(train, test)
        found[task] = {n: float(roc_auc_score(is_bad, v)) for n, v in scores.items()}
        print(task, {name: round(value, 3) for name, value in found[task].items()}, flush=True)
        RESULT.write_text(json.dumps(found, indent=1))
    names = next(iter(found.values()))
    print("| bad |", " | ".join(names), "|")
    for task, row in found.items():
        print(f"| {task} |", " | ".join(f"{value:.3f}" for value in row.values()), "|")
    means = (np.mean([row[name] for row in found.values()]) for name in names)
    print("| mean |", " | ".join(f"{value:.3f}" for value in means), "|")


if __name__ == "__main__":
    main()
