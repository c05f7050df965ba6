"""The way of working of torch's `examples/vae`, written anew: `python example.py FOLDER [EPOCHS]`.

FOLDER holds MNIST's four files as they are distributed. torchvision is not needed: `PillowImages`
does the same work, an image made by Pillow and a tensor of it, one by one.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH, LEARNING_RATE, EPOCHS = 128, 1e-3, 10


class ExampleMLP(nn.Module):
    """784-400-20 and back: the example's network (Kingma & Welling 2014, appendix C)."""

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


class PillowImages(Dataset[tuple[Tensor, int]]):
    """MNIST as torchvision's `MNIST` and `ToTensor` hand it out: one by one, through Pillow."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        self.pixels, self.labels = pixels, labels

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


def mnist(folder: Path, split: str) -> PillowImages:
    """A split from MNIST's own files."""
    images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28).copy()
    return PillowImages(
        torch.from_numpy(pixels), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).copy())
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    contender = Eager(ExampleMLP(), mnist(folder, "train"), mnist(folder, "t10k"))
    for epoch in range(int(sys.argv[2]) if len(sys.argv) > 2 else EPOCHS):
        contender.train()
        print(f"epoch {epoch + 1}: test loss {contender.evaluate():.4f}", flush=True)
