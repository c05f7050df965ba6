"""Anomaly detection on MNIST: a model of nine digits is asked for the tenth, for each of the ten.

`python benchmarks/anomaly.py [DIGIT ...]`: AUROC by each score of latens, beside a VAE of pyod with
its own defaults and a PCA of scikit-learn with as many dimensions. Nothing is chosen by the test
images: one model and its scores for all digits.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import latens
from latens.data import Images, load_data
from latens.evaluation.scores import QUICK, displacement, image_scores, typical_elbo

LATENT_DIM, EPOCHS = 10, 20
RESULT = Path(__file__).with_name("anomaly.json")


def by_latens(train: Images, test: Images, digit: int) -> dict[str, np.ndarray]:
    """Every score that is quick."""
    out = Path(tempfile.mkdtemp()) / f"without-{digit}"
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
    parser = argparse.ArgumentParser(description="Find the digit that was left out.")
    parser.add_argument("digit", nargs="*", type=int, default=list(range(10)))
    warnings.simplefilter("ignore")
    data, found = load_data("mnist"), {}
    every = Images(data.split("all").pixels[:60_000], data.split("all").labels[:60_000])
    for digit in parser.parse_args().digit:
        assert every.labels is not None
        train = Images(every.pixels[every.labels != digit])
        scores = by_latens(train, data.test, digit) | by_pca(train, data.test)
        scores |= by_pyod(train, data.test)
        is_left_out = data.test.labels == digit
        found[digit] = {n: float(roc_auc_score(is_left_out, v)) for n, v in scores.items()}
        print(digit, {name: round(value, 3) for name, value in found[digit].items()}, flush=True)
        RESULT.write_text(json.dumps(found, indent=1))
    names = next(iter(found.values()))
    print("| digit left out |", " | ".join(names), "|")
    for digit, row in found.items():
        print(f"| {digit} |", " | ".join(f"{value:.3f}" for value in row.values()), "|")
    means = (np.mean([row[name] for row in found.values()]) for name in names)
    print("| mean |", " | ".join(f"{value:.3f}" for value in means), "|")


if __name__ == "__main__":
    main()
