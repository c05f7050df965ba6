"""The peers, on the same network, batch and optimiser, each in its own way of working.

Equivalents written for this comparison, not copies: torch's `examples/vae` reads MNIST through
torchvision, of which `PillowImages` does the same work (an image made by Pillow and turned into a
tensor, one by one); pythae is the library itself.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from latens import VAE, Decoder, Encoder, Run, TrainConfig
from latens.data import DataSet, Images
from latens.evaluation.metrics import evaluate
from latens.training.processes import Processes
from latens.training.setup import options_of_own, prepare
from latens.training.trainer import Trainer

BATCH, LEARNING_RATE = 128, 1e-3


class Contender(Protocol):
    """One way of training a network, and of measuring its loss."""

    def train(self) -> None:
        """See all training images once."""
        ...

    def evaluate(self) -> float:
        """The mean −ELBO of all test images, in nats per image."""
        ...


class ExampleMLP(nn.Module):
    """784-400-20 and back: the network of torch's example (Kingma & Welling 2014, appendix C)."""

    def __init__(self, latent_dim: int = 20):
        super().__init__()
        self.hidden = nn.Linear(784, 400)
        self.mean = nn.Linear(400, latent_dim)
        self.logvar = nn.Linear(400, latent_dim)
        self.unhidden = nn.Linear(latent_dim, 400)
        self.output = nn.Linear(400, 784)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log σ² of q(z|x)."""
        h = F.relu(self.hidden(x.flatten(1)))
        return self.mean(h), self.logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        """Pixels in (0, 1)."""
        return torch.sigmoid(self.output(F.relu(self.unhidden(z))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, mean and log σ²."""
        mean, logvar = self.encode(x)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.decode(z), mean, logvar


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


class PillowImages(Dataset[tuple[Tensor, int]]):
    """MNIST as torchvision's `MNIST` and `ToTensor` hand it out: one by one, through Pillow."""

    def __init__(self, images: Images):
        assert images.labels is not None
        self.pixels, self.labels = images.pixels[:, 0], images.labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self.pixels[index], int(self.labels[index])
        image = Image.fromarray(pixels.numpy(), mode="L")
        values = torch.from_numpy(np.array(image, np.uint8, copy=True))
        values = values.view(*image.size[::-1], len(image.getbands()))
        return values.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255), label


class Eager:
    """The plain loop of tutorials: float32, eager, a DataLoader, the loss read at every step."""

    def __init__(self, network: nn.Module, train: Dataset, test: Dataset):
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        self.batches = DataLoader(train, batch_size=BATCH, shuffle=True)
        self.test_batches = DataLoader(test, batch_size=BATCH)

    def loss(self, x: Tensor) -> Tensor:
        """−ELBO summed over the images of a batch, in nats."""
        pixels, mean, logvar = self.network(x)
        cross_entropy = F.binary_cross_entropy(pixels.flatten(1), x.flatten(1), reduction="sum")
        return cross_entropy - 0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())

    def train(self) -> None:
        """See all training images once."""
        self.network.train()
        total = 0.0
        for x, *_ in self.batches:
            self.optimizer.zero_grad()
            loss = self.loss(x)
            loss.backward()
            total += loss.item()
            self.optimizer.step()

    def evaluate(self) -> float:
        """The mean −ELBO of all test images, in nats per image."""
        self.network.eval()
        with torch.no_grad():
            total = sum(self.loss(x).item() for x, *_ in self.test_batches)
        return total / len(self.test_batches.dataset)  # pyright: ignore[reportArgumentType]


def pytorch_example(data: DataSet) -> Eager:
    """The way of torch's `examples/vae`."""
    return Eager(ExampleMLP(), *(PillowImages(data.split(name)) for name in ("train", "test")))


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
    """latens: its loop, without films; the test images measured in bf16."""

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
        return -evaluate(self.trainer.averaged, self.data.test, precision="bf16").elbo


def trainer(data: DataSet, model: VAE | None = None, **options: Any) -> Trainer:
    """A trainer of latens, in a run directory of its own, on this data in place of MNIST's own."""
    config = TrainConfig.from_options(**options_of_own(model, None, options))
    setup = prepare(data, config, model)
    run = Run.create(Path(tempfile.mkdtemp()) / "run", setup.record())
    return Trainer(run, setup, Processes.launch("cpu", 1))


def part(data: DataSet, images: int) -> DataSet:
    """The data with so many training images."""
    return replace(data, train=data.train.take(slice(0, images)))
