"""q(z|x) of up to three latents, tabulated on a grid: nearly the true posterior of a model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latens.errors import LatensError
from latens.model.distributions import BernoulliImage
from latens.model.noise import forked_rng
from latens.model.posteriors import MOST_TABULATED
from latens.model.vae import VAE

CELLS = {1: 4096, 2: 512, 3: 128}  # along each axis, by the number of latents
# Cells of an image that hold the most mass, at least, and of all images: the others have none
KEPT, KEPT_OF_ALL = 1024, 2**24
RANGE_SAMPLES, MARGIN = 20_000, 1.25  # of p(z): the grid spans so many times what they do
AT_ONCE = 2**23  # log p(x|z) of cells and images
VALUES = 2**24  # pixels of decoded centres at a time


@dataclass(frozen=True)
class Grid:
    """Cells of one size.

    Attributes:
        low: the corner of the first cell, `[D]`.
        size: of a cell along each axis, `[D]`.
        cells: n, along each axis.
    """

    low: Float[Tensor, " D"]
    size: Float[Tensor, " D"]
    cells: int

    @classmethod
    def over_prior(cls, vae: VAE, cells: int | None = None) -> "Grid":
        """A grid over what samples of p(z), or of p(z|y) for all y, span, and a quarter more.

        Args:
            cells: along each axis; None: 4,096 of one latent, 512 of two, 128 of three.

        Raises:
            LatensError: more than three latents, or no cells.
        """
        dims = math.prod(vae.latent_shape)
        if dims > MOST_TABULATED:
            raise LatensError(
                f"a grid over z is for up to {MOST_TABULATED} latents, and these are {dims}"
            )
        cells = CELLS[dims] if cells is None else cells
        if cells < 1:
            raise LatensError(f"{cells} cells: 1 or more are needed")
        with forked_rng(vae.device, 0):  # the same grid at each call
            z = vae.draw_prior(RANGE_SAMPLES).flatten(1)
            labels = vae.label_embedding
            if labels is not None and vae.prior_given(labels.unknown(1)).batch_shape:
                of_labels = vae.draw_prior(RANGE_SAMPLES, labels.draw(RANGE_SAMPLES))
                z = torch.cat((z, of_labels.flatten(1)))
        centre = (z.amin(0) + z.amax(0)) / 2
        half = MARGIN * (z.amax(0) - z.amin(0)) / 2
        return cls(centre - half, 2 * half / cells, cells)

    @property
    def count(self) -> int:
        """How many cells."""
        return self.cells ** len(self.low)

    def corners(self, index: Int64[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The lowest corner of cells."""
        axes = [index // self.cells**d % self.cells for d in range(len(self.low))]
        return self.low + torch.stack(axes, -1) * self.size

    def centres(self, index: Int64[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The middle of cells."""
        return self.corners(index) + self.size / 2

    def cell_of(self, z: Float[Tensor, "*N D"]) -> Int64[Tensor, "*N"]:
        """The cell that z is in; −1 outside of the grid."""
        axes = ((z - self.low) / self.size).floor().long()
        inside = ((axes >= 0) & (axes < self.cells)).all(-1)
        places = self.cells ** torch.arange(len(self.low), device=z.device)
        return torch.where(inside, (axes * places).sum(-1), -1)


class GridPosterior(Distribution):
    """q(z|x): uniform within each of M cells of a grid. Its density is known exactly.

    Args:
        grid: the cells.
        index: which of them an image has, `[B, M]`.
        log_mass: q of each, up to a constant, `[B, M]`.
        event_shape: Z.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self,
        grid: Grid,
        index: Int64[Tensor, "B M"],
        log_mass: Float[Tensor, "B M"],
        event_shape: tuple[int, ...],
    ):
        self.grid, self.index = grid, index
        self.log_mass = log_mass.log_softmax(1)
        super().__init__(index.shape[:1], torch.Size(event_shape), validate_args=False)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Samples `[*S, B, *Z]`, through which no gradient flows, and their density `[*S, B]`."""
        count, shape = math.prod(sample_shape), torch.Size(sample_shape)
        chosen = torch.multinomial(self.log_mass.exp(), count, replacement=True)  # [B, count]
        corner = self.grid.corners(self.index.gather(1, chosen))
        z = (corner + self.grid.size * torch.rand_like(corner)).transpose(0, 1)
        log_q = self.log_mass.gather(1, chosen).T - self.grid.size.log().sum()
        lead = (*shape, *self.batch_shape)
        return z.reshape(*lead, *self.event_shape), log_q.reshape(lead)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Z ~ q(z|x), `[*sample_shape, B, *Z]`."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log q(z|x) of z `[*N, B, *Z]` in nats, `[*N, B]`; −∞ outside of the cells."""
        cell = self.grid.cell_of(value.flatten(value.dim() - len(self.event_shape)))
        in_cell = torch.where(cell[..., None] == self.index, self.log_mass, -math.inf)
        return in_cell.logsumexp(-1) - self.grid.size.log().sum()

    @property
    def mean(self) -> Tensor:
        """E z, `[B, *Z]`."""
        z = (self.log_mass.exp()[..., None] * self.grid.centres(self.index)).sum(1)
        return z.reshape(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of each latent, `[B, *Z]`."""
        away = (self.grid.centres(self.index) - self.mean.flatten(1)[:, None]) ** 2
        of_cells = (self.log_mass.exp()[..., None] * away).sum(1)
        return (of_cells + self.grid.size**2 / 12).reshape(*self.batch_shape, *self.event_shape)

    def rows(self, which: slice) -> "GridPosterior":
        """Of some of the images."""
        return type(self)(self.grid, self.index[which], self.log_mass[which], self.event_shape)


@torch.no_grad()
def grid_posterior(
    vae: VAE,
    x: Float[Tensor, "B C H W"],
    y: Int64[Tensor, "B *A"] | None = None,
    grid: Grid | None = None,
    tell: Callable[[float], None] = lambda _share: None,
) -> GridPosterior:
    """q(z|x) of images: uniform within a cell, of the mass p(x|centre) p(centre).

    −ELBO under it is a bound on −log p(x) like any other, and comes the nearer to it the smaller
    the cells. The exact expectation step of Bishop et al. 1998, "GTM: The Generative Topographic
    Mapping", section 2, with cells in the place of points. Each centre is decoded once for all
    images (of a conditional model once for each label).

    Args:
        grid: over z; None: one over p(z), of the usual number of cells.
        tell: called with the share that is done.

    Raises:
        LatensError: more than three latents.
    """
    grid = grid or Grid.over_prior(vae)
    if y is None or vae.label_embedding is None:
        groups = [(torch.arange(len(x)), None)]
    else:
        kinds, kind = y.unique(dim=0, return_inverse=True)
        groups = [((kind == i).nonzero()[:, 0].cpu(), kinds[i : i + 1]) for i in range(len(kinds))]
    kept = min(grid.count, max(KEPT, KEPT_OF_ALL // len(x)))
    index = torch.zeros(len(x), kept, dtype=torch.int64, device=x.device)
    log_mass = torch.zeros(len(x), kept, device=x.device)
    done = 0
    for rows, label in groups:
        found = None
        for cells in _blocks(grid, len(rows), vae):
            new = _log_joint(vae, x[rows], label, grid, cells).T  # [B, cells]
            every = cells.expand_as(new)
            if found is not None:
                every, new = torch.cat((found[0], every), 1), torch.cat((found[1], new), 1)
            if new.shape[1] > kept:
                best = new.topk(kept, dim=1, sorted=False)
                every, new = every.gather(1, best.indices), best.values
            found = every, new
            done += len(cells)
            tell(done / (len(groups) * grid.count))
        index[rows], log_mass[rows] = found or (index[rows], log_mass[rows])
    return GridPosterior(grid, index, log_mass, vae.latent_shape)


def _blocks(grid: Grid, images: int, vae: VAE) -> Iterator[Int64[Tensor, " J"]]:
    at_once = max(1, min(AT_ONCE // images, VALUES // math.prod(vae.image_shape)))
    yield from torch.arange(grid.count, device=vae.device).split(at_once)


def _log_joint(
    vae: VAE, x: Tensor, label: Tensor | None, grid: Grid, cells: Int64[Tensor, " J"]
) -> Float[Tensor, "J B"]:
    """Log p(x|centre) + log p(centre), of each cell and image."""
    z = grid.centres(cells).reshape(-1, *vae.latent_shape)
    y = None if label is None else label.expand(len(z), *label.shape[1:])
    log_pz = vae.prior_given(y).log_prob(z)
    return log_prob_of_each(vae.decode(z, y), x) + log_pz[:, None]


def log_prob_of_each(p: Distribution, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "J B"]:
    """Log p_j(x_b) of J distributions over images and B images, by matrix products where it can."""
    flat = x.flatten(1)
    if isinstance(p, BernoulliImage):
        logits = p.base_dist.logits.flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            return logits @ flat.T - F.softplus(logits).sum(1, keepdim=True)
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        # Products of large, nearly equal terms: in float64
        mean, scale = (v.flatten(1).double() for v in (p.base_dist.loc, p.base_dist.scale))
        precision, flat = scale**-2, flat.double()
        squares = precision @ (flat**2).T - 2 * (mean * precision) @ flat.T
        squares = squares + (mean**2 * precision).sum(1, keepdim=True)
        log_norm = scale.log().sum(1, keepdim=True) + mean.shape[1] * math.log(2 * math.pi) / 2
        return (-0.5 * squares - log_norm).float()
    return torch.stack([p.log_prob(image) for image in x], 1)
