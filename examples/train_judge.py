"""Train the judge of MNIST that comes with latens: a classifier that no VAE has seen.

python examples/train_judge.py --out judge
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latens import Images, load_data
from latens.evaluation.judges import ImageClassifier
from latens.model.serialization import write_model
from latens.training.devices import resolve_precision

BATCH = 128
CARD = """# A judge of MNIST

A small convolutional classifier, which says whether a model's digits show what they claim. It is no
part of any VAE and has seen none of their images: `latens sample`, `edit` and `generate` quote it.

| | |
|---|---|
| parameters | {parameters:,}, as 16-bit floats |
| trained on | {images:,} training images of MNIST, shifted, turned, sheared and scaled at random |
| accuracy | {accuracy:.2%} of the 10,000 test images |
| made by | `python examples/train_judge.py --epochs {epochs} --images {images} --out DIR` |
"""


def main() -> None:
    """Train, measure on the test images, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists already: choose another --out")
    torch.manual_seed(0)
    data = load_data("mnist", validation=1)
    model = ImageClassifier(data.shape, len(data.classes)).to(memory_format=torch.channels_last)
    images = data.train.take(slice(0, args.images))
    train(model, images, args.epochs)
    model.half().float()  # as it is written
    with torch.no_grad():
        found = torch.cat([model(batch.unit()).argmax(1) for batch in data.test.batches(1000)])
    accuracy = (found == data.test.labels).double().mean().item()
    args.out.mkdir(parents=True)
    about = {"accuracy": accuracy, "data": data.name, "classes": list(data.classes)}
    write_model(args.out, model, about, bits=16)
    figures = {"accuracy": accuracy, "epochs": args.epochs, "images": len(images)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = CARD.format(parameters=parameters, **figures)
    (args.out / "README.md").write_text(card)
    print(f"{accuracy:.2%} of the test images right")


def train(model: ImageClassifier, images: Images, epochs: int) -> None:
    """AdamW on a one-cycle schedule, over images that are distorted anew at each step."""
    precision = resolve_precision("auto", "cpu")  # bf16 where the processor computes in it
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1)
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(images)).split(BATCH):
            batch = images.take(rows)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(distort(batch.unit()).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}")
    model.eval()


def distort(x: Tensor) -> Tensor:
    """Each image turned, sheared, scaled and shifted a little."""

    def around(centre: float, by: float, *size: int) -> Tensor:
        return centre + by * (2 * torch.rand(*size, len(x)) - 1)

    turn, shear, scale = around(0, 0.25), around(0, 0.25), around(1, 0.15)
    x_shift, y_shift = around(0, 0.15, 2)
    to_x = torch.stack((scale * turn.cos(), shear - turn.sin(), x_shift), 1)
    to_y = torch.stack((turn.sin(), scale * turn.cos(), y_shift), 1)
    grid = F.affine_grid(torch.stack((to_x, to_y), 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


if __name__ == "__main__":
    main()
