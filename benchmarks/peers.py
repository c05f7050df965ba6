"""The peers, on the same network, batch and optimiser, each in its own way of working.

Equivalents written for this comparison, not copies, the example in `example.py`; pythae is the
library itself. `python peers.py EPOCHS` trains the CNN of tutorials.
"""

import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from example import BATCH, LEARNING_RATE, Eager, ExampleMLP, PillowImages
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import latens
from latens import VAE, Decoder, Encoder, Run, TrainConfig
from latens.data import DataSet, Images
from latens.evaluation.metrics import evaluate
from latens.training.processes import Processes
from latens.training.setup import options_of_own, prepare
from latens.training.trainer import Trainer


class Contender(Protocol):
    """One way of training a network, and of measuring its loss."""

    def train(self) -> None:
        """See all training images once."""
        ...

    def evaluate(self) -> float:
        """The mean −ELBO of all test images, in nats per image."""
        ...


class CNNEncoder(Encoder):
    """Convolutions of 32 and 64 with stride 2, and a dense layer of 512: the CNN of tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.features = (1, 28, 28), 512
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Features."""
        return self.layers(x)


class CNNDecoder(Decoder):
    """Back by transposed convolutions, to logits."""

    def __init__(self, latent_dim: int = 2) -> None:
        super().__init__()
        self.latent_dim, self.latent_shape = latent_dim, (latent_dim,)
        self.image_shape, self.out_channels = (1, 28, 28), 1
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 512),
            nn.ReLU(),
            nn.Linear(512, 64 * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits."""
        return self.layers(z)


class ExampleCNN(nn.Module):
    """The same layers in a plain module."""

    def __init__(self, latent_dim: int = 2):
        super().__init__()
        self.encoder, self.decoder = CNNEncoder(), CNNDecoder(latent_dim)
        self.mean, self.logvar = nn.Linear(512, latent_dim), nn.Linear(512, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, mean and log σ²."""
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return torch.sigmoid(self.decoder(z)), mean, logvar


def pytorch_example(data: DataSet) -> Eager:
    """The way of torch's `examples/vae`."""
    return Eager(ExampleMLP(), *(pillow_images(data.split(name)) for name in ("train", "test")))


def pillow_images(images: Images) -> PillowImages:
    """Images as the example reads them."""
    assert images.labels is not None
    return PillowImages(images.pixels[:, 0], images.labels)


def eager_cnn(data: DataSet) -> Eager:
    """The CNN over pixels that are in memory as floats already."""
    floats = (TensorDataset(data.split(name).unit()) for name in ("train", "test"))
    return Eager(ExampleCNN(), *floats)


class Pythae:
    """pythae's VAE with the example's network, by its own trainer."""

    def __init__(self, data: DataSet):
        import pythae.models
        from pythae.data.datasets import BaseDataset
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        class Encoding(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.network = ExampleMLP()

            def forward(self, x: Tensor) -> Any:
                mean, logvar = self.network.encode(x)
                return ModelOutput(embedding=mean, log_covariance=logvar)

        class Decoding(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.network = ExampleMLP()

            def forward(self, z: Tensor) -> Any:
                pixels = self.network.decode(z).unflatten(1, (1, 28, 28))
                return ModelOutput(reconstruction=pixels)

        logging.getLogger("pythae").setLevel(logging.ERROR)
        config = pythae.models.VAEConfig(
            input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce"
        )
        train, test = (
            BaseDataset(data.split(name).unit(), data.split(name).labels)
            for name in ("train", "test")
        )
        options = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            no_cuda=True,
        )
        model = pythae.models.VAE(config, Encoding(), Decoding())
        self.trainer = BaseTrainer(model, train, test, options)
        self.trainer.prepare_training()
        for callback in list(self.trainer.callback_handler.callbacks):
            self.trainer.callback_handler.callbacks.remove(callback)  # its progress bar

    def train(self) -> None:
        """See all training images once."""
        self.trainer.train_step(1)

    def evaluate(self) -> float:
        """The mean of the batches' mean losses, as the library has it."""
        return float(self.trainer.eval_step(1))


class Latens:
    """latens: its loop, without films."""

    def __init__(self, data: DataSet, model: VAE | None = None, **options: Any):
        options = {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "epochs": 50} | options
        self.trainer = trainer(data, model, film=False, **options)
        self.data = data

    def train(self) -> None:
        """See all training images once."""
        self.trainer.state.begin_epoch()
        for batch in self.trainer.rest_of_epoch():
            self.trainer.step(*batch)
            if self.trainer.due:
                self.trainer.sync_metrics()

    def evaluate(self) -> float:
        """The mean −ELBO of all test images, in nats per image."""
        precision = self.trainer.config.run.precision
        return -evaluate(self.trainer.averaged, self.data.test, precision=precision).elbo


def trainer(data: DataSet, model: VAE | None = None, **options: Any) -> Trainer:
    """A trainer of latens, in a run directory of its own, on this data in place of MNIST's own."""
    config = TrainConfig.from_options(**options_of_own(model, None, options))
    setup = prepare(data, config, model)
    run = Run.create(Path(tempfile.mkdtemp()) / "run", setup.record())
    return Trainer(run, setup, Processes.launch("cpu", 1))


def main(epochs: int) -> None:
    """Train the CNN of tutorials in its own way, and tell its test loss after each epoch."""
    contender = eager_cnn(latens.load_data("mnist", validation=1))
    for epoch in range(epochs):
        contender.train()
        print(f"epoch {epoch + 1}: test loss {contender.evaluate():.4f}", flush=True)


def part(data: DataSet, images: int) -> DataSet:
    """The data with so many training images."""
    return replace(data, train=data.train.take(slice(0, images)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
