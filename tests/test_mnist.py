"""What the README promises, on the real MNIST."""

import pytest

import latens


@pytest.mark.mnist
@pytest.mark.parametrize(("recipe", "epochs", "bound"), [("mlp", 10, 102.0), ("conv", 4, 98.0)])
def test_a_short_training_reaches_the_bound(recipe, epochs, bound, tmp_path):
    options = {"recipe": recipe, "latent_dim": 20, "epochs": epochs}
    run = latens.train("mnist", out=tmp_path / "run", **options)
    figures = latens.evaluate(run)
    assert figures.kind == "grey cross-entropy"
    assert figures.images == 10_000
    assert -figures.elbo <= bound


@pytest.mark.mnist
def test_static_mnist_has_a_likelihood_in_nats_and_bits(tmp_path):
    options = {"recipe": "mlp", "latent_dim": 20, "epochs": 3, "binarisation": "dynamic"}
    run = latens.train("mnist", out=tmp_path / "run", **options)
    figures = latens.evaluate(run, split="validation", importance_samples=20)
    assert figures.kind == "binary"
    assert 80 < figures.nll < -figures.elbo < 125
    assert figures.bits_per_dim == pytest.approx(figures.nll / 784 / 0.6931472, rel=1e-6)
