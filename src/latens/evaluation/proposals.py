"""Which q(z|x) figures are of: the encoder's, one refined for each image, or one on a grid."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latens.console import progress
from latens.data import Images, unit_pixels
from latens.errors import LatensError
from latens.model.distributions import diagonal_normal
from latens.model.grid import CELLS, Grid, GridPosterior, grid_posterior
from latens.model.latent_model import LatentModel
from latens.model.posteriors import Tabulated
from latens.model.vae import VAE

PosteriorName = Literal["encoder", "grid"]
GRID_IMAGES = 10_000  # for which a grid is decoded once
REFINING_RATE, REFINING_SAMPLES = 0.03, 4  # in units of z; z for each image and step

# From rows of the images, the images and their labels to a q(z|x) in place of the encoder's
Propose = Callable[[slice, Tensor, Tensor | None], Distribution]


def proposal_of(
    vae: LatentModel,
    images: Images | Tensor,
    labels: Tensor | None,
    refine: int,
    posterior: PosteriorName,
    cells: int | None,
) -> Propose | None:
    """The q(z|x) that is asked for; None is that of the model's own draws.

    Raises:
        LatensError: choices that do not fit together, or the model.
    """
    if posterior == "grid":
        if refine:
            raise LatensError("refine is for the encoder's q(z|x), and posterior is grid")
        if not isinstance(vae, VAE):
            raise LatensError("a grid over z is for models of one level of latents")
        return _GridProposal(vae, images, labels, Grid.over_prior(vae, cells))
    if cells is not None:
        raise LatensError("cells are for the posterior grid: add --posterior grid")
    if refine:
        return lambda _rows, x, y: refined(vae, x, y, refine)
    return None


def name_of_q(
    vae: LatentModel, refine: int, posterior: PosteriorName, cells: int | None, training: bool
) -> str:
    """What the figures say of their q."""
    dims = math.prod(vae.latent_shape)
    if training and isinstance(vae, VAE) and isinstance(vae.posterior, Tabulated):
        posterior, cells = "grid", vae.posterior.cells
    if posterior == "grid":
        return f"grid of {cells or CELLS[dims]}{('', '²', '³')[dims - 1]} cells"
    return f"encoder, refined by {refine} steps" if refine else posterior


class _GridProposal:
    """Tabulates q(z|x) of many images at a time: the grid is decoded once for all of them."""

    def __init__(self, vae: VAE, images: Images | Tensor, labels: Tensor | None, grid: Grid):
        self.vae, self.images, self.labels, self.grid = vae, images, labels, grid
        self.first, self.table = 0, None

    def __call__(self, rows: slice, x: Tensor, y: Tensor | None) -> GridPosterior:
        if isinstance(self.images, Images) and self.images.stochastic_binarize:
            return self._tabulate(x, y)  # its bits are drawn anew each time
        if self.table is None or rows.stop > self.first + len(self.table.index):
            self.first = rows.start
            many = slice(rows.start, min(rows.start + GRID_IMAGES, len(self.images)))
            self.table = self._tabulate(*rows_of(self.images, self.labels, many, self.vae.device))
        return self.table.rows(slice(rows.start - self.first, rows.stop - self.first, rows.step))

    def _tabulate(self, x: Tensor, y: Tensor | None) -> GridPosterior:
        count = self.grid.count
        with progress("cells") as bar:
            task = bar.add_task("tabulating q(z|x)", total=count)
            return grid_posterior(
                self.vae,
                x,
                y,
                self.grid,
                lambda share: bar.update(task, completed=round(share * count)),
            )


def _is_diagonal(q: Distribution) -> bool:
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)


@torch.no_grad()
def can_be_refined(vae: LatentModel) -> bool:
    """Whether the model's q(z|x) is a diagonal Gaussian, so that `refined` applies."""
    x = torch.zeros(1, *vae.image_shape, device=vae.device)
    embedding = vae.label_embedding
    return _is_diagonal(vae.encode(x, None if embedding is None else embedding.unknown(1)))


@torch.enable_grad()
def refined(
    vae: LatentModel,
    x: Float[Tensor, "B C H W"],
    y: Int64[Tensor, "B *A"] | None = None,
    steps: int = 50,
) -> Distribution:
    """q(z|x) with mean and scale of each image moved up its own ELBO, from where the encoder left.

    The rise of the ELBO is the amortisation gap: what one encoder for all images loses against a
    posterior for each (Cremer et al. 2018, "Inference Suboptimality in Variational Autoencoders",
    section 3; Kim et al. 2018, "Semi-Amortized Variational Autoencoders").

    Args:
        steps: of Adam.

    Raises:
        LatensError: a posterior that is no diagonal Gaussian.
    """
    q = vae.encode(x, y)
    if not _is_diagonal(q):
        raise LatensError("only a diagonal Gaussian q(z|x) can be refined")
    mean = q.mean.detach().clone().requires_grad_()
    log_scale = q.stddev.detach().log().clone().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_scale], lr=REFINING_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = REFINING_RATE * (1 - step / steps)
        posterior = diagonal_normal(mean, log_scale.exp(), len(vae.latent_shape))
        draw = vae.draw(x, y, REFINING_SAMPLES, posterior)
        loss = (draw.kl - draw.log_px_z.mean(0)).sum()
        mean.grad, log_scale.grad = torch.autograd.grad(loss, (mean, log_scale))
        optimizer.step()
    return diagonal_normal(mean.detach(), log_scale.detach().exp(), len(vae.latent_shape))


def rows_of(
    images: Images | Tensor, labels: Tensor | None, rows: slice, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Images as floats in [0, 1], and their labels; random bits are drawn anew each time."""
    if isinstance(images, Images):
        batch = images.take(rows)
        x, y = unit_pixels(batch.pixels.to(device), batch.stochastic_binarize), batch.labels
    else:
        x, y = images[rows].to(device), None if labels is None else labels[rows]
    return x, None if y is None else y.to(device)
